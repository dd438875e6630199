"""Once: each call's function runs once. Counted by the files that the calls leave, not by the executor."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from anypool.testing import _calls
from anypool.testing._clauses import clause, needs
from anypool.testing._effects import LIMIT, Tally
from anypool.testing._subject import SubjectFixtures

__all__ = ["OnceTests"]


def _mark_and_fail(tally: Tally, item: int) -> int:
    tally.mark(item)
    if item == 2:
        raise LookupError(item)
    return item


def _mark_and_work(tally: Tally, item: int) -> int:
    """Quick at first, then a thousand times slower: a chunk planned by the first calls is too large."""
    tally.mark(item)
    if 100 <= item < 108:
        sum(range(300_000))
    return item


@clause("once")
class OnceTests(SubjectFixtures):
    """Clause "once"."""

    def test_each_item_of_a_map_runs_once(self, executor: Any, place: Path) -> None:
        tally = Tally(place / "tally")
        assert list(executor.map(partial(_calls.mark, tally), range(30))) == list(range(30))
        assert sorted(map(int, tally.labels())) == list(range(30))

    @pytest.mark.parametrize("chunksize", [1, 3, 100])
    def test_each_item_runs_once_in_chunks(self, executor: Any, place: Path, chunksize: int) -> None:
        tally = Tally(place / "tally")
        results = executor.map(partial(_calls.mark, tally), range(20), chunksize=chunksize)
        assert list(results) == list(range(20))
        assert sorted(map(int, tally.labels())) == list(range(20))

    def test_each_item_runs_once_when_calls_turn_slow(self, executor: Any, place: Path) -> None:
        tally = Tally(place / "tally")
        results = list(executor.map(partial(_mark_and_work, tally), range(300)))
        assert results == list(range(300))
        assert sorted(map(int, tally.labels())) == list(range(300))

    def test_equal_items_are_not_merged(self, executor: Any, place: Path) -> None:
        tally = Tally(place / "tally")
        assert list(executor.map(partial(_calls.mark, tally), [7] * 12)) == [7] * 12
        assert tally.labels() == ["7"] * 12

    def test_equal_submits_are_not_merged(self, executor: Any, place: Path) -> None:
        tally = Tally(place / "tally")
        futures = [executor.submit(_calls.mark, tally, 1) for _ in range(6)]
        assert [future.result(timeout=LIMIT) for future in futures] == [1] * 6
        assert len(tally) == 6

    def test_equal_calls_give_results_of_their_own(self, executor: Any) -> None:
        first, second = list(executor.map(list, [(1,), (1,)]))
        assert first == second == [1]
        assert first is not second

    def test_nothing_is_run_again_after_an_error(self, executor: Any, place: Path) -> None:
        tally = Tally(place / "tally")
        with pytest.raises(LookupError):
            list(executor.map(partial(_mark_and_fail, tally), range(5), chunksize=1))
        assert executor.submit(_calls.identity, 1).result(timeout=LIMIT) == 1
        assert tally.labels().count("2") == 1
        assert len(set(tally.labels())) == len(tally)

    @needs("errors")
    def test_nothing_is_run_again_when_errors_are_returned(self, executor: Any, place: Path) -> None:
        tally = Tally(place / "tally")
        got = list(executor.map(partial(_mark_and_fail, tally), range(8), chunksize=4, errors="return"))
        assert [type(each) for each in got] == [int, int, LookupError, int, int, int, int, int]
        assert sorted(map(int, tally.labels())) == list(range(8))

    def test_asking_twice_for_a_result_runs_the_call_once(self, executor: Any, place: Path) -> None:
        tally = Tally(place / "tally")
        future = executor.submit(_calls.mark, tally, 1)
        assert [future.result(timeout=LIMIT) for _ in range(3)] == [1] * 3
        assert len(tally) == 1
