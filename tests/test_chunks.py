"""Chunk sizes: what is asked for is obeyed; what is adapted stays between too many sends and too long a wait."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

import anypool
from anypool import _chunks
from anypool._chunks import ChunkSizes, read
from anypool._flow import Part

_SECONDS = st.floats(0, 100, allow_nan=False)
_OBSERVED = st.lists(st.tuples(st.integers(0, 10_000), _SECONDS, st.floats(-1, 10)), max_size=20)
_REMAINING = st.none() | st.integers(1, 10**9)


def _after(sizes: ChunkSizes, observed: list[tuple[int, float, float]]) -> ChunkSizes:
    for items, run, overhead in observed:
        sizes.observe(items, run, overhead)
    return sizes


@given(workers=st.integers(1, 512), chunksize=st.integers(1, 10**6), observed=_OBSERVED, remaining=_REMAINING)
def test_a_chunksize_that_is_given_is_obeyed_whatever_the_times(
    workers: int, chunksize: int, observed: list[tuple[int, float, float]], remaining: int | None
) -> None:
    plan = _after(ChunkSizes(workers, chunksize), observed).plan(remaining)
    assert plan.size == chunksize
    assert plan.budget is None, "an explicit chunk is never handed back"


@given(workers=st.integers(1, 512), remaining=_REMAINING)
def test_nothing_is_known_at_first_so_the_first_chunk_is_one_item(workers: int, remaining: int | None) -> None:
    assert ChunkSizes(workers).plan(remaining).size == 1


@given(workers=st.integers(1, 512), observed=_OBSERVED, remaining=_REMAINING)
def test_a_plan_has_an_item_a_budget_and_a_look_at_the_clock(
    workers: int, observed: list[tuple[int, float, float]], remaining: int | None
) -> None:
    sizes = _after(ChunkSizes(workers), observed)
    plan = sizes.plan(remaining)
    assert plan.size >= 1
    assert 1 <= plan.look_every <= plan.size
    if plan.size > 1:
        assert plan.budget is not None
        assert plan.budget >= _chunks._PATIENCE * _chunks._SOONEST


@pytest.mark.parametrize(("remaining", "size"), [(2, 1), (3, 2), (5, 3), (8, 4), (400, 100)])
def test_what_is_left_goes_to_all_workers_whatever_it_costs_to_send(remaining: int, size: int) -> None:
    sizes = ChunkSizes(2)
    sizes.observe(100, 0.2, 0.01)
    assert sizes.plan(remaining).size == size


@pytest.mark.parametrize(("remaining", "budget"), [(None, 0.2), (60, 0.03), (12, 0.016)])
def test_a_chunk_is_handed_back_when_it_takes_twice_what_it_was_to_take(remaining: int | None, budget: float) -> None:
    sizes = ChunkSizes(2)
    sizes.observe(100, 0.1, 1e-4)
    assert sizes.plan(remaining).budget == pytest.approx(budget)


@given(workers=st.integers(1, 512), observed=_OBSERVED)
def test_a_size_grows_by_a_bounded_factor(workers: int, observed: list[tuple[int, float, float]]) -> None:
    largest = max((items for items, _, _ in observed), default=0)
    assert _after(ChunkSizes(workers), observed).plan(None).size <= max(1, 256 * largest)
    at_no_cost = [(items, run, 0.0) for items, run, _ in observed]
    assert _after(ChunkSizes(workers), at_no_cost).plan(None).size <= max(1, 16 * largest)


def test_what_runs_no_longer_than_it_costs_to_send_may_grow_more() -> None:
    assert _after(ChunkSizes(2), [(1, 1e-5, 0.002)]).plan(None).size == 200
    assert _after(ChunkSizes(2), [(1, 1e-5, 0.0001)]).plan(None).size == 16


@given(workers=st.integers(1, 512), observed=_OBSERVED, remaining=st.integers(1, 10**9))
def test_the_end_of_an_input_is_shared_among_the_workers_where_sending_costs_little(
    workers: int, observed: list[tuple[int, float, float]], remaining: int
) -> None:
    free_to_send = [(items, run, 0.0) for items, run, _ in observed]
    size = _after(ChunkSizes(workers), free_to_send).plan(remaining).size
    assert size <= math.ceil(remaining / workers)


@given(workers=st.integers(1, 64), seconds=st.floats(1e-6, 10), items=st.integers(1, 1000))
def test_a_chunk_is_planned_to_run_no_longer_than_its_target(workers: int, seconds: float, items: int) -> None:
    sizes = ChunkSizes(workers)
    sizes.observe(items, seconds * items, 0.0)
    size = sizes.plan(None).size
    assert size == 1 or size * seconds <= sizes.target * 1.000001


@given(observed=_OBSERVED)
def test_the_target_is_bounded(observed: list[tuple[int, float, float]]) -> None:
    assert 0.001 <= _after(ChunkSizes(2), observed).target <= 1.0


def test_sizes_shrink_when_calls_turn_slow() -> None:
    sizes = ChunkSizes(2)
    for _ in range(6):
        sizes.observe(sizes.plan(None).size, sizes.plan(None).size * 1e-6, 1e-4)
    assert sizes.plan(None).size > 100
    for _ in range(12):
        sizes.observe(1, 1.0, 1e-4)
    assert sizes.plan(None).size == 1


def test_a_million_quick_items_take_few_steps_to_reach_a_good_size() -> None:
    sizes = ChunkSizes(2)
    for _ in range(5):
        size = sizes.plan(None).size
        sizes.observe(size, size * 1e-7, 1e-4)
    assert sizes.plan(None).size == _chunks._MOST_ITEMS < sizes.target / 1e-7


@pytest.mark.parametrize(("unread", "expected"), [(1000, 12), (0, 3)])
def test_what_is_handed_back_is_cut_by_what_is_left_of_the_whole_map(unread: int, expected: int) -> None:
    with anypool.get_executor("serial", max_workers=2) as ex:
        begun = ex._make_map(abs, iter(()), (range(12 + unread),), False, True, "raise")
        begun._workers, begun._sizes = 2, ChunkSizes(2)
        begun._sizes.observe(16, 0.016, 1e-4)
        begun._flow.read(12)
        begun._flow.hand_back(Part(0, list(range(12))))
        chunk = begun._next_again()
    assert chunk is not None
    assert len(chunk[1]) == expected


def test_waiting_for_a_worker_is_no_cost_of_sending() -> None:
    sizes = ChunkSizes(2)
    sizes.observe(1, 0.001, 0.0001)
    before = sizes.target
    sizes.observe(1, 0.001, 5.0)
    assert sizes.target == before


@given(length=st.integers(0, 300), size=st.integers(0, 300))
def test_read_takes_the_next_items_and_no_more(length: int, size: int) -> None:
    items = iter(range(length))
    got: list[int] = []
    lengths = [len(got) for _ in read(items, size, got)]
    assert got == list(range(min(length, size)))
    assert list(items) == list(range(min(length, size), length))
    assert lengths == sorted(set(lengths)), "a look at the clock with nothing read since the last"


def test_read_looks_up_after_the_first_item() -> None:
    got: list[int] = []
    next(read(itertools.count(), 1000, got))
    assert got == [0]


def test_read_keeps_what_came_before_an_error_of_the_input() -> None:
    def failing() -> Iterator[int]:
        yield from range(6)
        raise LookupError("midway")

    got: list[int] = []
    with pytest.raises(LookupError, match="midway"):
        list(read(failing(), 100, got))
    assert got == [0, 1, 2, 3, 4, 5]
