"""Runs the suite on one executor in a process of its own, test by test under a limit, and says what holds.

::

    check_executor ── starts ──► python -m anypool.testing._journal ── a line for each begin and end ──► journal
          ▲                                                                                                │
          └── no new line within the limit: kills it, notes the test as hanging, starts one for the rest ◄─┘
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anypool.errors import ConfigError, MissingExtra
from anypool.testing._clauses import CLAUSES

__all__ = ["Checked", "TestOutcome", "check_executor"]

_LIMIT = 60.0
_STARTS_WITHIN = 60.0
_STEP = 0.05
_FAILED = ("failed", "hang")


@dataclass(frozen=True, kw_only=True, slots=True)
class TestOutcome:
    """What came of one test.

    Parameters
    ----------
    test : str
        Its name, with its parameters.
    clause : str
        What of the contract it is about.
    outcome : str
        "passed"; "failed"; "hang", which is a failure too; "not offered", where the executor does not claim it.
    why : str
        The first line of a failure.
    """

    __test__ = False  # its name does not make it a test

    test: str
    clause: str
    outcome: str
    why: str = ""

    @property
    def has_failed(self) -> bool:
        """Whether the executor claims what it does not do."""
        return self.outcome in _FAILED


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What the suite found of one executor. ``str()`` of it is a table of clauses.

    Parameters
    ----------
    subject : str
        As it was asked for.
    outcomes : tuple of TestOutcome
        In the order in which they ran.
    """

    subject: str
    outcomes: tuple[TestOutcome, ...]

    @property
    def holds(self) -> bool:
        """Whether no test failed."""
        return not any(each.has_failed for each in self.outcomes)

    def counts(self, clause: str) -> tuple[int, int, int]:
        """How many tests of a clause passed, failed, and are not offered."""
        found = Counter(each.outcome for each in self.outcomes if each.clause == clause)
        return found["passed"], sum(found[each] for each in _FAILED), found["not offered"]

    def __str__(self) -> str:
        return self.render()

    def render(self, width: int | None = None) -> str:
        """Return the table for a terminal of `width` columns, and below it what failed."""
        from anypool._table import table

        header = ["clause", "passed", "failed", "not offered", "verdict"]
        rows = []
        for clause in CLAUSES:
            counts = self.counts(clause)
            if any(counts):
                verdict = "fails" if counts[1] else "holds" if counts[0] else "not offered"
                rows.append([clause, *map(str, counts), verdict])
        lines = [self.subject, table(header, rows, width=width, right={"passed", "failed", "not offered"})]
        for each in self.outcomes:
            if each.has_failed:
                lines.append(f"{each.outcome}: {each.test} ({each.clause})" + (f": {each.why}" if each.why else ""))
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it."""
        clauses = {clause: dict(zip(("passed", "failed", "not offered"), self.counts(clause), strict=True))
                   for clause in CLAUSES}  # fmt: skip
        return {
            "subject": self.subject,
            "holds": self.holds,
            "clauses": {clause: counts for clause, counts in clauses.items() if any(counts.values())},
            "tests": [asdict(each) for each in self.outcomes],
        }


def check_executor(spec: str, *, clauses: Iterable[str] = (), limit: float = _LIMIT) -> Checked:
    """Return what the conformance suite finds of an executor.

    Parameters
    ----------
    spec : str
        A backend's name or URL; the name of an executor of another library (``"stdlib-threads"``,
        ``"stdlib-processes"``, ``"loky-raw"``, ``"dask-raw"``, ``"mpi4py"``); ``"module:factory"``.
    clauses : iterable of str
        Only these. Default: all.
    limit : float
        Seconds for each test, its fixtures included; after it, the test counts as hanging, and the process and what
        it started are killed.

    Raises
    ------
    ConfigError
        No such backend or clause, a factory that cannot be imported; nothing ran.
    MissingExtra
        pytest, psutil, or the executor's library is not installed.
    """
    wanted = list(clauses)
    for clause in wanted:
        if clause not in CLAUSES:
            raise ConfigError(f"there is no clause {clause!r}; the clauses are {', '.join(CLAUSES)}")
    for library in ("pytest", "psutil"):
        if importlib.util.find_spec(library) is None:
            raise MissingExtra(f"anypool.testing needs: pip install {library}")
    from anypool._calls_from import local_imports
    from anypool.testing._subjects import tests_of

    with local_imports():  # as the process that runs the tests has them, and leaving nothing of them here
        tests_of(spec)  # so that what cannot be is said here, before anything runs
    with tempfile.TemporaryDirectory(prefix="anypool-check-") as place:
        return Checked(subject=spec, outcomes=tuple(_Run(spec, wanted, limit, Path(place)).outcomes()))


class _Run:
    """The processes that run the suite for one executor, one after the other."""

    def __init__(self, spec: str, clauses: Sequence[str], limit: float, place: Path) -> None:
        self._limit = limit
        self._journal = place / "journal.jsonl"
        self._output = place / "output.txt"
        tests = place / "test_contract.py"
        tests.write_text(
            f"from anypool.testing._subjects import tests_of\n\nTestContract = tests_of({spec!r})\n", encoding="utf-8"
        )
        self._command = [sys.executable, "-m", "anypool.testing._journal", str(tests), str(self._journal), *clauses]

    def outcomes(self) -> list[TestOutcome]:
        from anypool.testing._journal import read

        before = -1
        while before < (now := len(read(self._journal))):  # each process settles one test at least
            before = now
            if self._run_once():
                break
        lines = read(self._journal)
        found: dict[str, TestOutcome] = {}
        for line in lines:
            if "outcome" in line:
                found[line["test"]] = TestOutcome(**line)
        if not found:
            raise ConfigError(f"no test ran: {self._said()}")
        return list(found.values())

    def _run_once(self) -> bool:
        """Run what is left; return whether that is all of it."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), os.getcwd()])}
        environment.setdefault("PYTEST_ANYPOOL_LIMIT", str(self._limit / 4))
        with self._output.open("ab") as output:
            process = subprocess.Popen(
                self._command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
            try:
                ended = self._watch(process)
            finally:
                _kill(process)
        return self._note_how_it_ended(ended, process.returncode)

    def _watch(self, process: subprocess.Popen[bytes]) -> bool:
        """Return True when the process has ended, False when it has written nothing for too long."""
        size, since = self._journal_size(), time.monotonic()
        limit = max(self._limit, _STARTS_WITHIN)  # until the first line: the libraries are being imported
        while process.poll() is None:
            now = self._journal_size()
            if now != size:
                size, since, limit = now, time.monotonic(), self._limit
            if time.monotonic() - since > limit:
                return False
            time.sleep(_STEP)
        return True

    def _journal_size(self) -> int:
        try:
            return self._journal.stat().st_size
        except FileNotFoundError:  # no test has begun
            return 0

    def _note_how_it_ended(self, ended: bool, code: int | None) -> bool:
        import json

        from anypool.testing._journal import read

        lines = read(self._journal)
        if not lines or "end" in lines[-1]:
            return True
        last = lines[-1]
        outcome, why = (
            ("hang", f"not within {self._limit:g} s") if not ended else ("failed", f"its process died: {code}")
        )
        if "outcome" in last and last["outcome"] == "failed":
            why = last["why"]
        with self._journal.open("a", encoding="utf-8") as journal:
            line = {"test": last["test"], "clause": last["clause"], "outcome": outcome, "why": why}
            journal.write(json.dumps(line) + "\n")
        return False

    def _said(self) -> str:
        lines = [line for line in self._output.read_text("utf-8", "replace").splitlines() if line.strip()]
        return " / ".join(lines[-3:])


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, if it has not ended itself."""
    import psutil

    if process.poll() is not None:
        return
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()
    process.wait()
