"""Time: one meaning of timeout, and a cancelled call never runs."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, as_completed, wait
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from anypool.testing import _calls
from anypool.testing._clauses import clause, needs, offers
from anypool.testing._effects import LIMIT, Gate, Tally, poll
from anypool.testing._subject import Subject, SubjectFixtures

__all__ = ["TimeTests"]


def _raise_timeout(item: int) -> int:
    if item == 1:
        raise TimeoutError("the function's own")
    return item


def _took_until_timeout(executor: Any, gate: Gate, limit: float) -> float:
    """Seconds from the call of a map to its `TimeoutError`; its fourth call waits for the gate."""

    def call(item: int) -> int:
        if item >= 3:
            gate.wait()
        return item

    began = time.monotonic()
    results = executor.map(call, itertools.count(), timeout=limit, chunksize=1)
    try:
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(TimeoutError):
            next(results)
        return time.monotonic() - began
    finally:
        gate.open()


def _hold(executor: Any, subject: Subject, place: Path) -> tuple[Gate, Tally, list[Any]]:
    """Keep every worker busy until the gate is opened; (gate, what began, futures)."""
    gate, tally = Gate(place / "gate"), Tally(place / "held")
    held = [executor.submit(_calls.mark_and_wait, tally, gate, item) for item in range(subject.workers)]
    poll(lambda: len(tally) == subject.workers, "every worker is busy")
    return gate, tally, held


@clause("time")
class TimeTests(SubjectFixtures):
    """Clause "time"."""

    @offers(synchronous=False)
    def test_a_map_that_takes_too_long_raises_timeout_error(self, executor: Any, place: Path) -> None:
        gate = Gate(place / "gate")
        results = executor.map(partial(_calls.wait_at, gate), range(2), timeout=0.05)
        try:
            with pytest.raises(TimeoutError):
                next(results)
        finally:
            gate.open()
        assert executor.submit(_calls.double, 1).result(timeout=LIMIT) == 2

    @needs("lazy")
    @offers(synchronous=False)
    def test_the_timeout_counts_from_the_call_of_map(self, executor: Any, place: Path) -> None:
        limit = 1.0
        for attempt in range(3):  # a busy machine may be late, but not each time
            took = _took_until_timeout(executor, Gate(place / f"gate-{attempt}"), limit)
            if took < limit + 2:
                break
        assert limit * 0.95 <= took < limit + 2

    def test_results_in_time_are_not_disturbed_by_a_timeout(self, executor: Any) -> None:
        assert list(executor.map(_calls.double, range(10), timeout=LIMIT)) == [2 * item for item in range(10)]

    def test_a_timeout_error_of_the_function_is_the_functions_own(self, executor: Any) -> None:
        results = executor.map(_raise_timeout, range(3), timeout=LIMIT)
        assert next(results) == 0
        with pytest.raises(TimeoutError, match="the function's own"):
            next(results)

    @offers(synchronous=False)
    def test_waiting_for_a_result_can_be_given_up(self, executor: Any, place: Path) -> None:
        gate = Gate(place / "gate")
        future = executor.submit(_calls.wait_at, gate, "late")
        try:
            with pytest.raises(TimeoutError):
                future.result(timeout=0.02)
            assert not future.done()
        finally:
            gate.open()
        assert future.result(timeout=LIMIT) == "late"

    @offers(synchronous=False)
    def test_a_cancelled_call_never_runs(self, executor: Any, subject: Subject, place: Path) -> None:
        gate, _, held = _hold(executor, subject, place)
        ran = Tally(place / "ran")
        try:
            queued = [executor.submit(_calls.mark, ran, item) for item in range(3 * subject.workers + 10)]
            cancelled = [item for item, future in enumerate(queued) if future.cancel()]
            assert cancelled[-10:] == list(range(len(queued) - 10, len(queued)))
            assert all(queued[item].cancelled() for item in cancelled)
        finally:
            gate.open()
        wait([*held, *queued], timeout=LIMIT)
        assert executor.submit(_calls.double, 1).result(timeout=LIMIT) == 2
        assert sorted(map(int, ran.labels())) == [i for i in range(len(queued)) if i not in cancelled]
        with pytest.raises(CancelledError):
            queued[-1].result(timeout=LIMIT)

    @needs("prompt_cancel")
    @offers(synchronous=False)
    def test_cancelled_futures_end_at_once_for_those_who_wait(
        self, executor: Any, subject: Subject, place: Path
    ) -> None:
        gate, _, held = _hold(executor, subject, place)
        try:
            queued = [executor.submit(_calls.double, item) for item in range(3 * subject.workers + 5)]
            last = queued[-5:]
            assert [future.cancel() for future in last] == [True] * 5
            done, pending = wait(last, timeout=LIMIT)
            assert (len(done), len(pending)) == (5, 0)
            assert set(as_completed(last, timeout=LIMIT)) == set(last)
        finally:
            gate.open()
        wait([*held, *queued], timeout=LIMIT)

    @offers(synchronous=False)
    def test_a_call_that_has_begun_is_not_cancelled(self, executor: Any, subject: Subject, place: Path) -> None:
        gate, tally, held = _hold(executor, subject, place)
        try:
            assert [future.cancel() for future in held] == [False] * len(held)
            assert not any(future.cancelled() for future in held)
        finally:
            gate.open()
        assert [future.result(timeout=LIMIT) for future in held] == list(range(len(held)))
        assert len(tally) == len(held)

    @offers(synchronous=False)
    def test_a_shutdown_that_cancels_runs_nothing_more(
        self, make_fresh: Callable[..., Any], subject: Subject, place: Path
    ) -> None:
        executor = make_fresh()
        gate, _, held = _hold(executor, subject, place)
        ran = Tally(place / "ran")
        queued = [executor.submit(_calls.mark, ran, item) for item in range(3 * subject.workers + 10)]
        executor.shutdown(wait=False, cancel_futures=True)
        gate.open()
        executor.shutdown(wait=True)
        assert [future.result(timeout=LIMIT) for future in held] == list(range(len(held)))
        assert all(future.done() for future in queued)
        assert all(future.cancelled() for future in queued[-10:])
        assert sorted(map(int, ran.labels())) == [i for i, f in enumerate(queued) if not f.cancelled()]

    @needs("lazy")
    @offers(synchronous=False)
    @pytest.mark.parametrize("make_input", [lambda: range(500), itertools.count], ids=["known length", "endless"])
    def test_closing_the_iterator_stops_what_is_queued(
        self, executor: Any, subject: Subject, place: Path, make_input: Any
    ) -> None:
        gate, tally = Gate(place / "gate"), Tally(place / "tally")
        results = executor.map(partial(_mark_and_wait_but_first, tally, gate), make_input(), chunksize=1)
        assert next(results) == 0
        results.close()
        gate.open()
        # Two rounds: a worker that had a second call waiting takes the first of these after it.
        for _ in range(2):
            wait([executor.submit(_calls.double, 1) for _ in range(2 * subject.workers)], timeout=LIMIT)
        assert len(tally) <= 1 + 4 * subject.workers


def _mark_and_wait_but_first(tally: Tally, gate: Gate, item: int) -> int:
    tally.mark(item)
    if item:
        gate.wait()
    return item
