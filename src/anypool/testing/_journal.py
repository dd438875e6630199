"""The inner half of a check: runs the suite on one executor, and notes each test in a file as it begins and ends.

``python -m anypool.testing._journal TESTFILE JOURNAL``; `_check` is the outer half, which reads the journal, ends
a run that hangs, and starts another for the rest. What the journal holds an outcome of already is not run again.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from anypool.testing._scorecard import ScoreCard

__all__ = ["Journal"]


class Journal(ScoreCard):
    """A score card that is written line by line, so that nothing is lost when the process is killed.

    Each line is a JSON object: ``{"test", "clause"}`` where a test begins, with ``"outcome"`` and ``"why"`` where it
    ends; a later line of the same test counts. ``{"end": true}`` is the last.

    Parameters
    ----------
    path : Path
        Where to write, at the end of what is there.
    clauses : collection of str
        Only tests of these; empty: all.
    """

    def __init__(self, path: Path, clauses: frozenset[str] = frozenset()) -> None:
        super().__init__(str(path))
        self._clauses = clauses

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep what was asked for and has no outcome yet."""
        super().pytest_collection_modifyitems(items)
        settled = {line["test"] for line in read(self._path) if "outcome" in line}
        items[:] = [item for item in items if self._is_wanted(item.nodeid) and _test(item.nodeid) not in settled]

    def _is_wanted(self, node: str) -> bool:
        return node in self._homes and (not self._clauses or self._homes[node][1] in self._clauses)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note that a test begins: if nothing follows, it hangs."""
        self._write(test=_test(nodeid), clause=self._homes[nodeid][1])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note an outcome, and after a failure its last line."""
        super().pytest_runtest_logreport(report)
        if report.nodeid in self._outcomes and (report.when == "teardown" or report.failed):
            why = _reason(report) if report.failed else ""
            outcome = self._outcomes[report.nodeid]
            line = {"test": _test(report.nodeid), "clause": self._homes[report.nodeid][1], "outcome": outcome}
            if why or outcome != "failed":  # the teardown after a failure has nothing to add
                self._write(**line, why=why)

    def pytest_sessionfinish(self) -> None:
        """Note that nothing is missing: what comes now is the end of the process."""
        self._write(end=True)

    def _write(self, **line: Any) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a journal; one that is half written is left out."""
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def _test(node: str) -> str:
    return node.partition("::")[2].partition("::")[2]


def _reason(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = str(crash.message if crash else report.longrepr or "").strip().splitlines()
    return lines[0][:200] if lines else ""


def main() -> int:
    """Run the tests in the file named first; the journal is named second, the clauses after it."""
    tests, journal, *clauses = sys.argv[1:]
    options = ["-q", "--tb=short", "--noconftest", "-c", os.devnull, "--rootdir", str(Path(tests).parent)]
    # Ours only: what else is installed must not change what the suite finds.
    options += ["-p", "no:cacheprovider", "-p", "no:anypool", "-p", "no:timeout", "-p", "no:randomly"]
    return int(pytest.main([*options, tests], plugins=[Journal(Path(journal), frozenset(clauses))]))


if __name__ == "__main__":
    sys.exit(main())
