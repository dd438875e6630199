"""Runs the tests as pytest does, and gives the few that failed a second chance that nobody can overlook.

    python tests/run.py -q -m "not soak" -n 4 --dist loadscope

A test that fails on a busy machine and passes alone is unsteady: a defect, of the test or of what it tests, which is to
be mended, but not one of the change that happened to be tried. So at most `MOST` tests that failed run once more,
alone, in one process of their own; the run ends well only if all of them pass then, and its last words are their names
and how they failed. They are also appended to the file that the variable ``UNSTEADY`` names, for whoever runs several
suites. CPython's own tests are run so (``--rerun`` of `test.libregrtest`).

There is no second chance after more failures, after anything but a failed test (a worker process that crashed or was
ended for its time, a file that cannot be imported), nor for the tests of lost workers: what fails there once in a
hundred runs is a hang or a lost result of somebody's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

__all__ = ["MOST", "Record", "headline", "main", "why_not_again"]

MOST = 3
"""How many tests may be unsteady in one run: more of them have a common cause, and it is no chance."""

NEVER_AGAIN = ("tests/faults/test_core.py",)
_ONCE = "--once"
_RULE = "!" * 100


@dataclass(eq=False)  # as a plugin it must be hashable
class Record:
    """What a run came to, noted by pytest as it goes on."""

    passed: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    """The names of tests, and how each failed first."""
    trouble: list[str] = field(default_factory=list)
    """What went wrong besides tests that failed."""

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note what a test, or a fixture of it, came to."""
        if report.failed:
            if report.when not in {"setup", "call", "teardown"}:  # xdist's report of a worker that crashed
                self.trouble.append(f"{report.nodeid}: {report.longreprtext}")
            self.failed.setdefault(report.nodeid, report.longreprtext)
        elif report.when == "call" and report.passed:
            self.passed.add(report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        """Note a file that cannot be collected."""
        if report.failed:
            self.trouble.append(f"{report.nodeid}: {report.longreprtext}")

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Note the end of a worker process of xdist's that nobody asked for."""
        if error:
            self.trouble.append(f"the worker process {node.gateway.id} ended: {error}")


def why_not_again(status: int, record: Record) -> str | None:
    """Why the tests that failed have no second chance; None: they have one."""
    if status != pytest.ExitCode.TESTS_FAILED or not record.failed:
        return "more went wrong than tests"
    if record.trouble:
        return record.trouble[0].strip().splitlines()[0]
    if len(record.failed) > MOST:
        return f"{len(record.failed)} tests failed, more than {MOST}"
    for name in record.failed:
        if name.startswith(NEVER_AGAIN):
            return f"{name} must pass each time"
    return None


def headline(failed: dict[str, str]) -> str:
    """The last words of a run that passed only at its second try."""
    told = [_RULE]
    told += [f"unsteady: {name}" for name in failed]
    told.append("failed, and passed when run alone: a defect that is to be mended. The first failure:")
    for name, how in failed.items():
        told += ["", f"---- {name}", how.strip()]
    return "\n".join([*told, _RULE])


def main(arguments: Sequence[str]) -> int:
    """The status that pytest ends with; 0 also if what failed passed when it ran again."""
    status, record = _run(arguments)
    if status in {pytest.ExitCode.OK, pytest.ExitCode.INTERRUPTED, pytest.ExitCode.USAGE_ERROR}:
        return status
    refusal = why_not_again(status, record)
    if refusal is not None:
        print(f"no second chance: {refusal}")
        return status
    print(f"once more, alone: {', '.join(record.failed)}", flush=True)
    again = subprocess.run([sys.executable, __file__, _ONCE, *record.failed], check=False)
    if again.returncode:
        return status
    words = headline(record.failed)
    print(words)
    notes = os.environ.get("UNSTEADY")
    if notes:
        with Path(notes).open("a", encoding="utf-8") as file:
            file.write(words + "\n")
    return 0


def once(names: Sequence[str]) -> int:
    """0 if each of these tests ran, and passed."""
    status, record = _run(["-q", *names])
    missing = set(names) - record.passed
    if missing:
        print(f"did not pass: {', '.join(sorted(missing))}")
    return status or bool(missing)


def _run(arguments: Sequence[str]) -> tuple[int, Record]:
    record = Record()
    return int(pytest.main(list(arguments), plugins=[record])), record


if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(once(words[1:]) if words[:1] == [_ONCE] else main(words))
