"""Lazy and bounded: the input is read as results are taken, never further ahead than the window."""

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from anypool.testing import _calls
from anypool.testing._clauses import clause, needs
from anypool.testing._effects import Gate, Tally, poll
from anypool.testing._subject import Subject, SubjectFixtures

__all__ = ["LazyTests"]

_READ_AHEAD_PER_WORKER = 50_000
"""Items that a map without `buffersize` may be ahead, a worker, for calls of a fraction of a millisecond: four
chunks of at most a quarter of a second each."""


class _Input:
    """Counts what was read of it, and by which thread."""

    def __init__(self, items: Any) -> None:
        self._items = iter(items)
        self.count = 0
        self.threads: set[int] = set()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        item = next(self._items)
        self.count += 1
        self.threads.add(threading.get_ident())
        return item


class _Item:
    """An argument that can be watched."""

    def __init__(self, number: int) -> None:
        self.number = number


def _some_work(item: int) -> int:
    return sum(range(2000)) and item


def _wait_if_first(gate: Gate, item: int) -> int:
    if item == 0:
        gate.wait()
    return _some_work(item)


@clause("lazy and bounded")
class LazyTests(SubjectFixtures):
    """Clause "lazy and bounded"."""

    @needs("lazy", "buffersize")
    @pytest.mark.parametrize("chunksize", [None, 1, 3, 50])
    @pytest.mark.parametrize("buffersize", [1, 4])
    def test_no_more_than_the_buffer_is_read_ahead(self, executor: Any, chunksize: int | None, buffersize: int) -> None:
        source = _Input(range(40))
        results = executor.map(_calls.double, source, chunksize=chunksize, buffersize=buffersize)
        assert source.count <= buffersize
        for taken, result in enumerate(results):
            assert result == 2 * taken
            assert source.count <= taken + 1 + buffersize
        assert source.count == 40

    @needs("lazy")
    def test_without_a_buffersize_reading_ahead_is_bounded_too(
        self, executor: Any, subject: Subject, place: Path
    ) -> None:
        gate = Gate(place / "gate")
        if subject.traits.synchronous:
            gate.open()
        source = _Input(itertools.count())
        results = executor.map(partial(_wait_if_first, gate), source)
        opener = threading.Thread(target=_open_when_still, args=(gate, source))
        opener.start()
        try:
            assert next(results) == 0
        finally:
            opener.join()
        results.close()
        assert source.count <= _READ_AHEAD_PER_WORKER * max(1, subject.workers)

    @needs("lazy")
    def test_nothing_is_read_after_close(self, executor: Any) -> None:
        source = _Input(itertools.count())
        results = executor.map(_calls.double, source)
        assert [next(results) for _ in range(3)] == [0, 2, 4]
        results.close()
        count = source.count
        assert executor.submit(_calls.double, 4).result() == 8
        assert list(results) == []
        assert source.count == count

    @needs("lazy")
    def test_nothing_is_read_after_the_iterator_is_dropped(self, executor: Any) -> None:
        source = _Input(itertools.count())
        for result in executor.map(_calls.double, source, chunksize=1):
            if result == 4:
                break
        gc.collect()
        count = source.count
        assert executor.submit(_calls.double, 4).result() == 8
        assert source.count == count

    @needs("lazy")
    def test_the_input_is_read_by_the_thread_that_asks(self, executor: Any) -> None:
        source = _Input(range(200))
        assert len(list(executor.map(_calls.double, source))) == 200
        assert source.threads == {threading.get_ident()}

    def test_calls_start_before_the_first_result_is_asked_for(self, executor: Any, place: Path) -> None:
        tally = Tally(place / "tally")
        results = executor.map(partial(_calls.mark, tally), range(4))
        poll(lambda: "0" in tally.labels(), "the first call starts at once")
        assert list(results) == [0, 1, 2, 3]

    @needs("lazy")
    def test_a_result_that_went_out_is_dropped(self, executor: Any) -> None:
        last: weakref.ref[Any] | None = None
        for result in executor.map(_Item, range(30)):
            if last is not None:
                poll(partial(_is_dead, last), "the result before is dropped")
            last = weakref.ref(result)
            del result

    @needs("lazy", "buffersize")
    @pytest.mark.parametrize("chunksize", [None, 1, 5])
    def test_items_are_dropped_as_their_results_go_out(self, executor: Any, chunksize: int | None) -> None:
        alive: weakref.WeakSet[_Item] = weakref.WeakSet()

        def items() -> Iterator[_Item]:
            for number in itertools.count():
                item = _Item(number)
                alive.add(item)
                yield item
                del item

        results = executor.map(_number_of, items(), chunksize=chunksize, buffersize=20)
        most = 0
        for number in itertools.islice(results, 150):
            most = max(most, len(alive))
            del number
        results.close()
        # Those in the buffer, one in the generator's hand, and the chunk that is going out.
        assert most <= 20 + 1 + 20

    @needs("lazy")
    def test_an_error_of_the_input_comes_in_its_place(self, executor: Any) -> None:
        def items() -> Iterator[int]:
            yield from range(5)
            raise LookupError("the input ends here")

        results = executor.map(_calls.double, items())
        assert [next(results) for _ in range(5)] == [0, 2, 4, 6, 8]
        with pytest.raises(LookupError, match="the input ends here"):
            next(results)
        assert executor.submit(_calls.double, 1).result() == 2

    @needs("lazy")
    def test_a_map_can_feed_a_map(self, executor: Any) -> None:
        inner = executor.map(_calls.double, itertools.count())
        outer = executor.map(_calls.double, inner)
        assert list(itertools.islice(outer, 20)) == [4 * item for item in range(20)]
        outer.close()
        inner.close()


def _is_dead(reference: weakref.ref[Any]) -> bool:
    return reference() is None


def _number_of(item: _Item) -> int:
    return item.number


def _open_when_still(gate: Gate, source: _Input) -> None:
    """Open the gate when nothing was read for a while: reading ahead has come to its end."""
    seen = [-1] * 100

    def is_still() -> bool:
        seen.append(source.count)
        del seen[0]
        return seen[0] == seen[-1]

    try:
        poll(is_still, "reading ahead ends")
    finally:
        gate.open()
