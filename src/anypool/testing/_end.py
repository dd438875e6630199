"""End: leaving `with` leaves no process, thread or file behind; what was begun is finished."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from anypool.testing import _calls
from anypool.testing._clauses import clause, needs, offers
from anypool.testing._effects import LIMIT, Gate, Tally, poll
from anypool.testing._leftovers import Existing, existing
from anypool.testing._subject import Subject, SubjectFixtures

__all__ = ["EndTests"]


def _check_nothing_left(before: Existing) -> None:
    gc.collect()
    try:
        poll(lambda: not existing().beyond(before), "everything of the executor is gone")
    except TimeoutError:
        pytest.fail(f"left behind: {', '.join(existing().beyond(before))}")


@clause("end")
class EndTests(SubjectFixtures):
    """Clause "end"."""

    def test_leaving_with_leaves_nothing_behind(self, executor: Any, make_fresh: Callable[..., Any]) -> None:
        list(executor.map(_calls.double, range(4)))  # what the library keeps for good is there now
        before = existing()
        with make_fresh() as fresh:
            assert list(fresh.map(_calls.double, range(8))) == [2 * item for item in range(8)]
            fresh.submit(_calls.double, 1).result(timeout=LIMIT)
        _check_nothing_left(before)

    def test_leaving_with_by_an_exception_leaves_nothing_behind(
        self, executor: Any, make_fresh: Callable[..., Any]
    ) -> None:
        list(executor.map(_calls.double, range(4)))
        before = existing()
        with pytest.raises(LookupError, match="the caller's"), make_fresh() as fresh:
            results = fresh.map(_calls.double, range(1000))
            next(results)
            raise LookupError("the caller's own")
        del results
        _check_nothing_left(before)

    @offers(synchronous=False)
    def test_an_executor_that_nobody_can_reach_ends(self, executor: Any) -> None:
        list(executor.map(_calls.double, range(4)))
        before = existing()
        fresh = self.make_executor()
        assert list(fresh.map(_calls.double, range(4))) == [0, 2, 4, 6]
        del fresh
        _check_nothing_left(before)

    def test_an_executor_that_was_shut_down_takes_no_call_and_can_be_shut_down_again(self, fresh_executor: Any) -> None:
        for _ in range(2):
            fresh_executor.shutdown()
        with pytest.raises(RuntimeError):
            fresh_executor.submit(_calls.double, 1)
        with pytest.raises(RuntimeError):
            list(fresh_executor.map(_calls.double, [1]))
        fresh_executor.shutdown(wait=False)
        fresh_executor.shutdown(wait=True, cancel_futures=True)

    def test_submitted_calls_are_finished_by_leaving_with(self, make_fresh: Callable[..., Any]) -> None:
        with make_fresh() as executor:
            futures = [executor.submit(_calls.double, item) for item in range(12)]
        assert all(future.done() for future in futures)
        assert [future.result() for future in futures] == [2 * item for item in range(12)]

    @needs("finishes")
    def test_results_can_be_read_after_with(self, make_fresh: Callable[..., Any]) -> None:
        with make_fresh() as executor:
            untouched = executor.map(_calls.double, range(50))
            begun = executor.map(_calls.double, list(range(50)))
            assert next(begun) == 0
        assert list(untouched) == [2 * item for item in range(50)]
        assert list(begun) == [2 * item for item in range(1, 50)]

    @needs("finishes")
    def test_a_map_that_nobody_reads_is_run_by_leaving_with(self, make_fresh: Callable[..., Any], place: Path) -> None:
        tally = Tally(place / "tally")
        with make_fresh() as executor:
            executor.map(partial(_calls.mark, tally), range(40))
        assert sorted(map(int, tally.labels())) == list(range(40))

    @needs("lazy")
    def test_an_endless_map_is_not_read_on_by_leaving_with(self, make_fresh: Callable[..., Any]) -> None:
        read: list[None] = []

        def items() -> Any:
            while True:
                read.append(None)
                yield len(read)

        with make_fresh() as executor:
            results = executor.map(_calls.identity, items(), buffersize=4)
            assert next(results) == 1
        assert len(read) <= 6
        results.close()

    def test_shutdown_without_waiting_finishes_what_was_submitted(
        self, fresh_executor: Any, subject: Subject, place: Path
    ) -> None:
        gate = Gate(place / "gate")
        if subject.traits.synchronous:
            gate.open()
        futures = [fresh_executor.submit(_calls.wait_at, gate, item) for item in range(6)]
        fresh_executor.shutdown(wait=False)
        gate.open()
        assert [future.result(timeout=LIMIT) for future in futures] == list(range(6))
