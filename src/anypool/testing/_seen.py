"""Progress and receipts: items are counted one by one, and what a running call reports is seen while it runs."""

from __future__ import annotations

import itertools
import os
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from anypool._notes import report
from anypool._progress import Progress
from anypool.testing import _calls
from anypool.testing._clauses import clause, needs
from anypool.testing._effects import LIMIT, Gate, poll
from anypool.testing._subject import SubjectFixtures

__all__ = ["SeenTests"]

_SIZES = (None, 1, 4, 100)


def _fail_at_odd(item: int) -> int:
    if item % 2:
        raise LookupError(item)
    return item


def _report_until(gate: Gate, item: int) -> int:
    """Report again and again until the gate is open, which whoever sees it opens."""
    deadline = time.monotonic() + LIMIT
    while not gate.is_open:
        report(f"working on {item}", 0.25)
        if time.monotonic() > deadline:
            raise TimeoutError("nobody saw the report")
        time.sleep(0.005)
    return item


def _tell_pid(item: int) -> tuple[int, int]:
    time.sleep(0.001 * (item % 3))
    return item, os.getpid()


@clause("progress and receipts")
class SeenTests(SubjectFixtures):
    """Clause "progress and receipts"."""

    @needs("progress")
    @pytest.mark.parametrize("chunksize", _SIZES)
    def test_progress_counts_each_item_whatever_the_chunk_size(self, executor: Any, chunksize: int | None) -> None:
        seen: list[Progress] = []
        results = list(executor.map(_calls.double, range(23), chunksize=chunksize, progress=seen.append))
        assert results == [2 * item for item in range(23)]
        done = [each.done for each in seen]
        assert done == sorted(done)
        assert (done[0], done[-1]) == (0, 23)
        assert {each.total for each in seen} == {23}
        assert [each.is_over for each in seen] == [False] * (len(seen) - 1) + [True]

    @needs("progress")
    def test_progress_learns_an_unknown_length_at_the_end(self, executor: Any) -> None:
        seen: list[Progress] = []
        assert len(list(executor.map(_calls.double, iter(range(50)), progress=seen.append))) == 50
        assert seen[0].total is None
        assert (seen[-1].done, seen[-1].total) == (50, 50)

    @needs("progress", "unordered")
    def test_progress_counts_unordered_results(self, executor: Any) -> None:
        seen: list[Progress] = []
        results = executor.map(_calls.double, range(30), ordered=False, progress=seen.append)
        assert sorted(results) == [2 * item for item in range(30)]
        assert (seen[-1].done, seen[-1].total) == (30, 30)

    @needs("progress", "errors")
    @pytest.mark.parametrize("chunksize", _SIZES)
    def test_progress_counts_what_failed(self, executor: Any, chunksize: int | None) -> None:
        seen: list[Progress] = []
        results = executor.map(_fail_at_odd, range(9), errors="return", chunksize=chunksize, progress=seen.append)
        assert [type(each) for each in results] == [int, LookupError] * 4 + [int]
        assert (seen[-1].done, seen[-1].failed) == (9, 4)

    @needs("progress")
    def test_progress_ends_with_an_error(self, executor: Any) -> None:
        seen: list[Progress] = []
        with pytest.raises(LookupError):
            list(executor.map(_fail_at_odd, range(9), progress=seen.append))
        assert seen[-1].is_over
        assert 2 <= seen[-1].done <= 9

    @needs("progress", "lazy")
    def test_progress_ends_when_nobody_reads_on(self, executor: Any) -> None:
        seen: list[Progress] = []
        results: Iterator[Any] = executor.map(_calls.double, itertools.count(), progress=seen.append)
        assert next(results) == 0
        assert not seen[-1].is_over
        results.close()  # type: ignore[attr-defined]
        assert seen[-1].is_over
        assert seen[-1].done >= 1

    @needs("progress")
    def test_what_a_call_reports_is_seen_while_it_runs(self, executor: Any, place: Path) -> None:
        gate = Gate(place / "gate")
        notes: list[tuple[int, str, float | None]] = []

        def look(progress: Progress) -> None:
            notes.extend((note.item, note.text, note.fraction) for note in progress.notes)
            if progress.notes:
                gate.open()

        assert list(executor.map(partial(_report_until, gate), [7], progress=look)) == [7]
        assert notes[0] == (0, "working on 7", 0.25)

    @needs("progress")
    def test_a_report_that_nobody_shows_does_nothing(self, executor: Any, place: Path) -> None:
        gate = Gate(place / "gate")
        gate.open()
        assert list(executor.map(partial(_report_until, gate), range(3))) == [0, 1, 2]

    @needs("progress")
    def test_a_progress_callable_that_raises_harms_nothing(self, executor: Any) -> None:
        calls: list[int] = []

        def fail(progress: Progress) -> None:
            calls.append(progress.done)
            raise ZeroDivisionError("of the display")

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert list(executor.map(_calls.double, range(30), progress=fail)) == [2 * item for item in range(30)]
        assert [each.category for each in caught] == [RuntimeWarning]
        assert "ZeroDivisionError('of the display')" in str(caught[0].message)
        assert calls == [0]

    @needs("trace")
    @pytest.mark.parametrize("chunksize", _SIZES)
    def test_each_call_has_a_receipt(self, executor: Any, chunksize: int | None) -> None:
        results = list(executor.map(_tell_pid, range(20), chunksize=chunksize, trace=True))
        report = executor.report()
        receipts = _of_last_map(report)
        assert [(each.item, each.worker.pid) for each in receipts] == results
        assert all(each.seconds >= 0.001 * (each.item % 3) for each in receipts)
        assert all(0 <= each.started <= report.seconds for each in receipts)
        assert {(each.attempts, each.error) for each in receipts} == {(1, None)}
        assert 0 < report.efficiency <= 1.01
        assert sum(report.parts.values()) == pytest.approx(report.workers * report.seconds, rel=0.05)

    @needs("trace", "errors")
    def test_receipts_tell_what_failed(self, executor: Any) -> None:
        list(executor.map(_fail_at_odd, range(9), errors="return", trace=True))
        errors = {each.item: each.error for each in _of_last_map(executor.report())}
        assert errors == {item: "LookupError" if item % 2 else None for item in range(9)}

    @needs("progress", "options")
    def test_progress_counts_submitted_calls(self, executor: Any) -> None:
        seen: list[Progress] = []
        view = executor.options(progress=seen.append)
        futures = [view.submit(_fail_at_odd, item) for item in range(9)]
        assert [type(each.exception(timeout=LIMIT)) for each in futures] == [type(None), LookupError] * 4 + [type(None)]
        poll(lambda: bool(seen) and seen[-1].done == 9, "all of them are counted")
        assert (seen[-1].total, seen[-1].failed, seen[-1].is_over) == (9, 4, False)
        done = [each.done for each in seen]
        assert done == sorted(done)

    @needs("progress", "options")
    def test_what_a_submitted_call_reports_is_seen_while_it_runs(self, executor: Any, place: Path) -> None:
        gate = Gate(place / "gate")
        notes: list[tuple[str, float | None]] = []

        def look(progress: Progress) -> None:
            notes.extend((note.text, note.fraction) for note in progress.notes)
            if progress.notes:
                gate.open()

        assert executor.options(progress=look).submit(_report_until, gate, 7).result(timeout=LIMIT) == 7
        assert notes[0] == ("working on 7", 0.25)

    @needs("trace", "options")
    def test_each_submitted_call_has_a_receipt(self, executor: Any) -> None:
        view = executor.options(trace=True)
        futures = [view.submit(_tell_pid, item) for item in range(9)]
        results = [each.result(timeout=LIMIT) for each in futures]
        failed = view.submit(_fail_at_odd, 1)
        assert type(failed.exception(timeout=LIMIT)) is LookupError
        receipts = _of_last_map(executor.report())
        assert [(each.item, each.worker.pid) for each in receipts[:-1]] == results
        assert all(each.seconds >= 0.001 * (each.item % 3) for each in receipts[:-1])
        assert [each.error for each in receipts] == [None] * 9 + ["LookupError"]


def _of_last_map(report: Any) -> list[Any]:
    """The receipts of the last map that was traced, in the order of its items; others of the class came before it."""
    receipts = sorted(report.receipts(), key=lambda receipt: (receipt.map, receipt.item))
    return [each for each in receipts if each.map == receipts[-1].map]
