"""Bad payloads: what cannot be sent fails only its own call, saying what it was; the pool goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from anypool.errors import SendError
from anypool.testing import _calls
from anypool.testing._clauses import clause, needs, offers
from anypool.testing._effects import LIMIT
from anypool.testing._subject import Subject, SubjectFixtures

__all__ = ["PayloadsTests"]


def _generate() -> Iterator[int]:
    yield 1


class _Unloadable:
    """Can be pickled, and not rebuilt."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _refuse, ("never again",)


def _refuse(why: str) -> None:
    raise LookupError(why)


def _make_lock(_: Any = None) -> Any:
    return threading.Lock()


def _make_unloadable(_: Any = None) -> Any:
    return _Unloadable()


def _lock_for_two(item: int) -> Any:
    return threading.Lock() if item == 2 else item


@clause("bad payloads")
class PayloadsTests(SubjectFixtures):
    """Clause "bad payloads"."""

    @needs("send_errors")
    @offers(shares_memory=False)
    @pytest.mark.parametrize(
        ("argument", "name"),
        [(threading.Lock(), "lock"), ({"held": threading.Lock()}, "held"), (_generate(), "generator")],
        ids=["lock", "lock in a dict", "generator"],
    )
    def test_an_argument_that_cannot_be_sent_is_named(self, executor: Any, argument: Any, name: str) -> None:
        exc = executor.submit(_calls.identity, argument).exception(timeout=LIMIT)
        assert isinstance(exc, SendError)
        assert name in str(exc)
        assert executor.submit(_calls.identity, 1).result(timeout=LIMIT) == 1

    @needs("send_errors", "errors")
    @offers(shares_memory=False)
    @pytest.mark.parametrize("chunksize", [None, 1, 5])
    def test_an_item_that_cannot_be_sent_fails_alone(self, executor: Any, chunksize: int | None) -> None:
        items = [0, 1, threading.Lock(), 3, 4]
        got = list(executor.map(_calls.identity, items, chunksize=chunksize, errors="return"))
        assert [got[0], got[1], got[3], got[4]] == [0, 1, 3, 4]
        assert isinstance(got[2], SendError)
        assert "item 2" in str(got[2])
        assert "lock" in str(got[2])

    @needs("send_errors", "any_function")
    @offers(shares_memory=False)
    def test_a_function_that_cannot_be_sent_names_what_it_holds(self, executor: Any) -> None:
        treasure = threading.Lock()

        def call(item: int) -> int:
            with treasure:
                return item

        with pytest.raises(SendError, match="treasure"):
            list(executor.map(call, [1]))
        with pytest.raises(SendError, match="treasure"):
            executor.submit(call, 1).result(timeout=LIMIT)
        assert executor.submit(_calls.identity, 1).result(timeout=LIMIT) == 1

    @needs("send_errors")
    @offers(shares_memory=False)
    @pytest.mark.parametrize(
        ("fn", "name"),
        [(_make_lock, "lock"), (_make_unloadable, "never again")],
        ids=["cannot be pickled", "cannot be rebuilt"],
    )
    def test_a_result_that_cannot_be_sent_is_named(self, executor: Any, fn: Any, name: str) -> None:
        exc = executor.submit(fn).exception(timeout=LIMIT)
        assert isinstance(exc, SendError)
        assert "result" in str(exc)
        assert name in str(exc)
        assert executor.submit(_calls.identity, 1).result(timeout=LIMIT) == 1

    @needs("send_errors", "errors")
    @offers(shares_memory=False)
    @pytest.mark.parametrize("chunksize", [None, 1, 5])
    def test_a_result_that_cannot_be_sent_fails_its_item_alone(self, executor: Any, chunksize: int | None) -> None:
        got = list(executor.map(_lock_for_two, range(5), chunksize=chunksize, errors="return"))
        assert [got[0], got[1], got[3], got[4]] == [0, 1, 3, 4]
        assert isinstance(got[2], SendError)

    @needs("send_errors")
    @offers(shares_memory=False)
    @pytest.mark.parametrize("chunksize", [1, 5])
    def test_the_results_before_one_that_cannot_be_sent_are_delivered(self, executor: Any, chunksize: int) -> None:
        results = executor.map(_lock_for_two, range(5), chunksize=chunksize)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(SendError, match="result"):
            next(results)

    @needs("send_errors")
    @offers(shares_memory=False)
    def test_an_argument_that_cannot_be_rebuilt_fails_its_call_only(self, executor: Any) -> None:
        exc = executor.submit(_calls.identity, _Unloadable()).exception(timeout=LIMIT)
        assert isinstance(exc, SendError)
        assert "never again" in str(exc)
        assert executor.submit(_calls.identity, 1).result(timeout=LIMIT) == 1

    @offers(shares_memory=True)
    def test_where_memory_is_shared_anything_goes(self, executor: Any, subject: Subject) -> None:
        assert subject.traits.in_caller
        lock = threading.Lock()
        assert executor.submit(_calls.identity, lock).result(timeout=LIMIT) is lock
        assert list(executor.map(_calls.identity, [lock])) == [lock]
