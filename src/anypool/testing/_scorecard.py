"""The score card of a run: clause by executor, counted from the tests that carry clauses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anypool.testing._clauses import CLAUSES, clause_of

__all__ = ["ScoreCard"]

_OUTCOMES = ("passed", "failed", "not offered")


class ScoreCard:
    """A pytest plugin that writes what it saw when the run ends.

    The file holds ``{"clauses": {clause: {executor: {outcome: count}}}, "tests": {executor: {test: outcome}}}``;
    the executors go by the names of their test classes, without ``Test``.

    Parameters
    ----------
    path : str
        Where to write.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._homes: dict[str, tuple[str, str]] = {}  # node id -> (executor, clause)
        self._outcomes: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Note what each test is about."""
        for item in items:
            if isinstance(item, pytest.Function) and item.cls is not None:
                clause = clause_of(item.function, item.cls)
                if clause is not None:
                    self._homes[item.nodeid] = (item.cls.__name__.removeprefix("Test"), clause)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note an outcome; an error before or after a test is its failure."""
        if report.nodeid not in self._homes:
            return
        if report.failed:
            self._outcomes[report.nodeid] = "failed"
        elif report.skipped:
            self._outcomes.setdefault(report.nodeid, "not offered")
        elif report.when == "call":
            self._outcomes.setdefault(report.nodeid, "passed")

    def pytest_sessionfinish(self) -> None:
        """Write the file."""
        executors = sorted({executor for executor, _ in self._homes.values()})
        clauses = {clause: {executor: dict.fromkeys(_OUTCOMES, 0) for executor in executors} for clause in CLAUSES}
        tests: dict[str, dict[str, str]] = {executor: {} for executor in executors}
        for node, outcome in self._outcomes.items():
            executor, clause = self._homes[node]
            clauses[clause][executor][outcome] += 1
            tests[executor][node.rpartition("::")[2]] = outcome
        self._path.write_text(json.dumps({"clauses": clauses, "tests": tests}, indent=1) + "\n", encoding="utf-8")
