"""The score card: clause by executor, from one run of the suite on each. ``python -m anypool.testing.scorecard``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from anypool.errors import AnypoolError, MissingExtra
from anypool.testing._check import Checked, TestOutcome, check_executor
from anypool.testing._clauses import CLAUSES

__all__ = ["main", "render"]

OURS = ("serial", "threads", "processes", "loky", "joblib", "dask")
OTHERS = ("stdlib-threads", "stdlib-processes", "loky-raw", "dask-raw")
_TITLES = {
    "stdlib-threads": "stdlib `ThreadPoolExecutor`",
    "stdlib-processes": "stdlib `ProcessPoolExecutor`",
    "loky-raw": "loky's executor",
    "dask-raw": "Dask's `get_executor()`",
}
_MARKS = {"passed": "passed", "failed": "**failed**", "hang": "**failed** (hang)", "not offered": "not offered"}

_HEAD = """\
# The score card

What of the contract holds on which executor, from one run of the conformance suite on each. The first columns are
anypool on its backends; beside them the executors of other libraries, as they are, by the same tests.

A cell is **passed / failed / not offered**. Not offered is what an executor does not claim: a test that asks for a
feature of anypool's own (`seed=`, output that comes home) or for a trait (workers that can be lost) that it does not
have. A call that did not come back in time counts as failed, and is listed as a hang.

Written by `python -m anypool.testing.scorecard --write docs/scorecard.md`; by hand, `anypool check BACKEND` shows one
column.
"""


def render(columns: Sequence[Checked]) -> str:
    """Return the card as Markdown; nothing in it tells which machine it was made on."""
    titles = [_title(each.subject) for each in columns]
    lines = [_HEAD, "| clause | " + " | ".join(titles) + " |", "|---" * (len(columns) + 1) + "|"]
    clauses = [clause for clause in CLAUSES if any(any(each.counts(clause)) for each in columns)]
    lines += [f"| {clause} | {' | '.join(_cell(each.counts(clause)) for each in columns)} |" for clause in clauses]
    lines.append(f"| *all* | {' | '.join(_cell(_all(each)) for each in columns)} |")
    lines += ["", "## Test by test"]
    for clause in clauses:
        lines += ["", f"<details><summary>{clause}</summary>", "", *_fold(clause, columns), "", "</details>"]
    return "\n".join(lines) + "\n"


def _title(subject: str) -> str:
    return _TITLES.get(subject, f"`{subject}`")


def _cell(counts: tuple[int, int, int]) -> str:
    passed, failed, absent = counts
    return f"{passed} / {f'**{failed}**' if failed else 0} / {absent}"


def _all(column: Checked) -> tuple[int, int, int]:
    each = [column.counts(clause) for clause in CLAUSES]
    return tuple(map(sum, zip(*each, strict=True)))  # type: ignore[return-value]


def _fold(clause: str, columns: Sequence[Checked]) -> list[str]:
    by_test: dict[str, dict[str, TestOutcome]] = {}
    for column in columns:
        for each in column.outcomes:
            if each.clause == clause:
                by_test.setdefault(each.test, {})[column.subject] = each
    lines = ["| test | " + " | ".join(_title(each.subject) for each in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for test in sorted(by_test):
        found = [by_test[test].get(column.subject) for column in columns]
        cells = [_MARKS[each.outcome] if each else "" for each in found]
        lines.append(f"| `{test.replace('|', chr(92) + '|')}` | {' | '.join(cells)} |")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run the suite on each executor and write the card; return 1 if one of ours failed a test, else 0."""
    parser = argparse.ArgumentParser(prog="python -m anypool.testing.scorecard", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE", help="default: the standard output")
    parser.add_argument("--on", default=",".join((*OURS, *OTHERS)), metavar="A,B,...", help="default: %(default)s")
    parser.add_argument("--clause", action="append", default=[], metavar="CLAUSE", help="only this one; repeatable")
    parser.add_argument("--limit", type=float, default=60.0, metavar="SECONDS", help="for each test")
    arguments = parser.parse_args(argv)
    columns = []
    for spec in arguments.on.split(","):
        try:
            columns.append(check_executor(spec, clauses=arguments.clause, limit=arguments.limit))
        except MissingExtra as exc:
            sys.stderr.write(f"left out: {exc}\n")
        except AnypoolError as exc:
            sys.stderr.write(f"{spec}: {exc}\n")
            return 2
        else:
            sys.stderr.write(f"{spec}: {_cell(_all(columns[-1]))}\n")
    card = render(columns)
    if arguments.write is None:
        sys.stdout.write(card)
    else:
        arguments.write.write_text(card, encoding="utf-8")
    return int(not all(each.holds for each in columns if each.subject not in OTHERS))


if __name__ == "__main__":
    sys.exit(main())
