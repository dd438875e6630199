"""Chunks are invisible: any chunk size gives the same results, errors and identity of arguments."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from anypool.testing import _calls
from anypool.testing._clauses import clause, needs, offers
from anypool.testing._subject import SubjectFixtures

__all__ = ["ChunksTests"]

_SIZES = (None, 1, 2, 3, 7, 1000)


def _check_for_all(check: Callable[..., None], *strategies: Any) -> None:
    """Check few examples, which may take their time; they are shrunk a little, and none is kept."""
    hypothesis = pytest.importorskip("hypothesis")
    phase = hypothesis.Phase
    settings = hypothesis.settings(
        max_examples=15, deadline=None, database=None, phases=(phase.explicit, phase.generate, phase.shrink)
    )
    settings(hypothesis.given(*strategies)(check))()


def _is_same(first: Any, second: Any) -> bool:
    return first is second


@clause("chunks are invisible")
class ChunksTests(SubjectFixtures):
    """Clause "chunks are invisible"."""

    def test_any_chunk_size_gives_the_same_results(self, executor: Any) -> None:
        strategies = pytest.importorskip("hypothesis.strategies")

        def check(items: list[Any], chunksize: int) -> None:
            expected = [item * 2 for item in items]
            assert list(executor.map(_calls.double, items, chunksize=chunksize)) == expected

        item = strategies.integers() | strategies.text("a\0\u00e9\U0001f600", max_size=5)
        _check_for_all(check, strategies.lists(item, max_size=12), strategies.integers(1, 15))

    def test_any_chunk_size_gives_the_same_error_at_the_same_item(self, executor: Any) -> None:
        strategies = pytest.importorskip("hypothesis.strategies")

        def check(length: int, failing: set[int], chunksize: int) -> None:
            fails_at = min((item for item in failing if item < length), default=None)
            expected = [2 * item for item in range(length if fails_at is None else fails_at)]
            call = partial(_calls.fail_at, tuple(failing))
            got = []
            error = None
            try:
                for result in executor.map(call, range(length), chunksize=chunksize):
                    got.append(result)
            except LookupError as exc:
                error = exc.args[0]
            assert (got, error) == (expected, fails_at)

        failing = strategies.sets(strategies.integers(0, 11), min_size=1, max_size=3)
        _check_for_all(check, strategies.integers(1, 12), failing, strategies.integers(1, 15))

    @needs("errors")
    @pytest.mark.parametrize("chunksize", _SIZES)
    def test_errors_stay_in_their_places(self, executor: Any, chunksize: int | None) -> None:
        call = partial(_calls.fail_at, (0, 3, 4, 9))
        got = list(executor.map(call, range(10), chunksize=chunksize, errors="return"))
        assert [each.args[0] if isinstance(each, LookupError) else each for each in got] == [
            0, 2, 4, 3, 4, 10, 12, 14, 16, 9
        ]  # fmt: skip

    @offers(shares_memory=False)
    @pytest.mark.parametrize("chunksize", [1, 2, 6])
    def test_a_changed_argument_is_changed_for_its_own_call_only(self, executor: Any, chunksize: int) -> None:
        shared: list[Any] = []
        assert list(executor.map(_calls.append_and_count, [shared] * 6, chunksize=chunksize)) == [1] * 6
        assert shared == []

    @needs("lazy")
    @offers(shares_memory=False)
    def test_a_changed_argument_is_changed_for_its_own_call_only_in_adapted_chunks(self, executor: Any) -> None:
        shared: list[Any] = []
        assert set(executor.map(_calls.append_and_count, [shared] * 300)) == {1}
        assert shared == []

    @offers(shares_memory=True)
    @pytest.mark.parametrize("chunksize", [1, 2, 6])
    def test_calls_get_the_callers_own_objects(self, executor: Any, chunksize: int) -> None:
        shared: list[Any] = []
        got = list(executor.map(_calls.append_and_count, [shared] * 6, chunksize=chunksize))
        assert sorted(got) == [1, 2, 3, 4, 5, 6]
        assert len(shared) == 6

    @pytest.mark.parametrize("chunksize", [1, 2, 6])
    def test_one_object_in_two_iterables_is_one_in_the_call(self, executor: Any, chunksize: int) -> None:
        items = [[item] for item in range(6)]
        assert list(executor.map(_is_same, items, items, chunksize=chunksize)) == [True] * 6

    @pytest.mark.parametrize("chunksize", [1, 4])
    def test_results_of_a_chunk_share_nothing_they_did_not_share(self, executor: Any, chunksize: int) -> None:
        got = list(executor.map(list, [()] * 4, chunksize=chunksize))
        got[0].append(1)
        assert got == [[1], [], [], []]

    @needs("checked_arguments")
    @pytest.mark.parametrize("chunksize", [0, -1])
    def test_a_chunk_size_below_one_is_refused_at_once(self, executor: Any, chunksize: int) -> None:
        with pytest.raises(ValueError, match="chunksize"):
            executor.map(_calls.double, [1], chunksize=chunksize)
