"""Sharing: what `share` gives a handle on is the same object in every call, once on each worker, and read-only."""

from __future__ import annotations

import array
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from anypool import Shared
from anypool.errors import ExecutorClosed
from anypool.testing import _calls
from anypool.testing._clauses import clause, needs
from anypool.testing._effects import LIMIT, Tally
from anypool.testing._subject import Subject, SubjectFixtures

__all__ = ["SharingTests"]

_SMALL = 4096  # bytes, of a handle that is pickled
_LARGE = 300_000  # items


class _Table:
    """Leaves a mark each time that it is rebuilt."""

    def __init__(self, tally: Tally, content: Any) -> None:
        self.tally = tally
        self.content = content

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.tally, self.content)


def _rebuild(tally: Tally, content: Any) -> _Table:
    tally.mark("rebuilt")
    return _Table(tally, content)


def _item_of(handle: Shared[Any], index: int) -> Any:
    return handle.get()[index]


def _content_of(handle: Shared[Any], index: int) -> Any:
    return handle.get().content[index]


def _item_of_nested(nested: dict[str, list[Shared[Any]]], index: int) -> Any:
    return nested["handles"][0].get()[index]


def _write(handle: Shared[Any]) -> str:
    try:
        handle.get()[0] = 7
    except ValueError as exc:
        return type(exc).__name__
    return "written"


def _write_nested(handle: Shared[Any]) -> list[str]:
    found = []
    for each in handle.get()["arrays"]:
        try:
            each[0] = 7
        except ValueError as exc:
            found.append(type(exc).__name__)
        else:
            found.append("written")
    return found


@clause("values")
class SharingTests(SubjectFixtures):
    """Shared objects, which belong to the clause "values"."""

    @needs("share")
    @pytest.mark.parametrize("size", [3, _LARGE])
    def test_a_shared_object_is_there_in_every_call(self, executor: Any, size: int) -> None:
        with executor.share(list(range(size))) as handle:
            expected = [0, 1, 2]
            assert list(executor.map(_item_of, [handle] * 3, range(3))) == expected
            assert list(executor.map(partial(_item_of, handle), range(3), chunksize=2)) == expected
            assert executor.submit(_item_of, index=2, handle=handle).result(timeout=LIMIT) == 2
            assert executor.submit(_item_of_nested, {"handles": [handle]}, 1).result(timeout=LIMIT) == 1

    @needs("share", "any_function")
    def test_a_closure_may_hold_a_handle(self, executor: Any) -> None:
        with executor.share("abc" * 100_000) as handle:
            assert list(executor.map(lambda index: handle.get()[index], range(3))) == list("abc")

    @needs("share")
    def test_a_handle_arrives_as_a_handle(self, executor: Any) -> None:
        with executor.share(list(range(1000))) as handle:
            assert executor.submit(_calls.type_name, handle).result(timeout=LIMIT) == "Shared"
            assert list(executor.map(_calls.type_name, [handle])) == ["Shared"]

    @needs("share")
    def test_a_handle_comes_home_as_a_handle(self, executor: Any) -> None:
        with executor.share(list(range(_LARGE))) as handle:
            home = executor.submit(_calls.identity, handle).result(timeout=LIMIT)
            assert home.get()[5] == 5

    @needs("share")
    def test_a_handle_is_small_when_pickled(self, executor: Any) -> None:
        with executor.share(array.array("d", range(_LARGE))) as handle:
            assert len(pickle.dumps(handle)) < _SMALL

    @needs("share")
    def test_a_shared_object_is_rebuilt_once_on_each_worker(self, executor: Any, subject: Subject, place: Path) -> None:
        tally = Tally(place / "tally")
        with executor.share(_Table(tally, list(range(_LARGE)))) as handle:
            for _ in range(3):
                assert list(executor.map(partial(_content_of, handle), range(6), chunksize=1)) == list(range(6))
            assert len(tally) <= subject.workers

    @needs("share")
    def test_what_is_shared_cannot_be_written_to(self, executor: Any) -> None:
        numpy = pytest.importorskip("numpy")
        for size in (3, _LARGE):
            original = numpy.arange(size)
            with executor.share(original) as handle:
                assert list(executor.map(_write, [handle] * 3)) == ["ValueError"] * 3
                assert _write(handle) == "ValueError"
            original[0] = 0  # it is the caller's all the same
            with executor.share({"arrays": [numpy.arange(size), numpy.arange(size)]}) as handle:
                assert executor.submit(_write_nested, handle).result(timeout=LIMIT) == ["ValueError"] * 2

    @needs("share")
    def test_equal_content_is_shared_once_and_freed_last(self, executor: Any) -> None:
        first, second = (executor.share(list(range(_LARGE))) for _ in range(2))
        first.close()
        assert executor.submit(_item_of, second, 4).result(timeout=LIMIT) == 4
        second.close()

    @needs("share")
    def test_a_closed_handle_says_so_here_and_in_a_call(self, executor: Any) -> None:
        handle = executor.share(list(range(_LARGE)))
        handle.close()
        with pytest.raises(ExecutorClosed, match="closed"):
            handle.get()
        with pytest.raises(ExecutorClosed, match="closed"):
            executor.submit(_item_of, handle, 0).result(timeout=LIMIT)

    @needs("share")
    def test_the_end_of_the_executor_is_the_end_of_what_it_shared(self, fresh_executor: Any) -> None:
        handle = fresh_executor.share(list(range(_LARGE)))
        assert fresh_executor.submit(_item_of, handle, 1).result(timeout=LIMIT) == 1
        fresh_executor.shutdown()
        with pytest.raises(ExecutorClosed, match="shut down"):
            handle.get()
        with pytest.raises(ExecutorClosed):
            fresh_executor.share(1)
