"""A future that has no lock until somebody waits is a `Future` all the same: nobody is missed, nobody is told twice."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, InvalidStateError, as_completed, wait
from typing import Any

import pytest

from anypool._native_future import NativeFuture
from anypool.testing._effects import poll

_TRIES = 500


@pytest.fixture
def switches_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def begun() -> NativeFuture:
    future = NativeFuture()
    assert future.set_running_or_notify_cancel()
    return future


def together(*calls: Any) -> None:
    """Run `calls` in threads that begin as nearly at once as can be."""
    start = threading.Barrier(len(calls))

    def run(call: Any) -> None:
        start.wait(20)
        call()

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def test_it_has_the_states_of_a_future() -> None:
    future = NativeFuture()
    assert (future.running(), future.done(), future.cancelled()) == (False, False, False)
    assert future.set_running_or_notify_cancel()
    assert (future.running(), future.cancel()) == (True, False)
    future.set_result(None)
    assert (future.done(), future.result(), future.exception()) == (True, None, None)
    with pytest.raises(InvalidStateError):
        future.set_result(1)
    with pytest.raises(InvalidStateError):
        future.set_exception(ValueError())


def test_it_fails_and_is_cancelled_like_one() -> None:
    failed, error = begun(), ValueError("no")
    failed.set_exception(error)
    assert failed.exception() is error
    with pytest.raises(ValueError, match="no"):
        failed.result()
    cancelled = NativeFuture()
    assert cancelled.cancel()
    assert not cancelled.set_running_or_notify_cancel()
    with pytest.raises(CancelledError):
        cancelled.result()
    with pytest.raises(TimeoutError):
        begun().result(0)


@pytest.mark.parametrize("end", ["cancel", "set_result", "set_exception"])
def test_several_who_wait_are_told_however_it_ends(end: str) -> None:
    future, got = NativeFuture(), list[str]()

    def look() -> None:
        try:
            got.append(repr(future.result(20)))
        except (CancelledError, ValueError) as exc:
            got.append(type(exc).__name__)

    def look_for_an_error() -> None:
        try:
            got.append(type(future.exception()).__name__)
        except CancelledError:
            got.append("CancelledError")

    threads = [threading.Thread(target=each) for each in (look, look, look_for_an_error)]
    for thread in threads:
        thread.start()
    poll(lambda: len(future._bells or ()) == len(threads), "all wait")
    getattr(future, end)(*{"cancel": [], "set_result": [1], "set_exception": [ValueError()]}[end])
    for thread in threads:
        thread.join(20)
    told = {"cancel": ["CancelledError"] * 3, "set_result": ["1", "1", "NoneType"], "set_exception": ["ValueError"] * 3}
    assert sorted(got) == told[end]
    assert future.done()


def test_whoever_waited_for_too_short_a_time_can_wait_again() -> None:
    future = begun()
    for timeout in (0.01, 0, -1):
        with pytest.raises(TimeoutError):
            future.result(timeout)
    future.set_result(1)
    assert future.result(0) == 1


def test_a_callback_that_fails_is_logged_and_the_next_is_called(caplog: pytest.LogCaptureFixture) -> None:
    future, seen = begun(), list[Future[Any]]()
    future.add_done_callback(lambda _: 1 / 0)
    future.add_done_callback(seen.append)
    future.set_result(1)
    future.add_done_callback(seen.append)
    assert seen == [future, future]
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.usefixtures("switches_often")
def test_whoever_waits_while_it_is_settled_is_told() -> None:
    for number in range(_TRIES):
        future, got = begun(), list[Any]()
        together(
            lambda future=future, number=number: future.set_result(number),  # type: ignore[misc]
            lambda future=future, got=got: got.append(future.result(10)),  # type: ignore[misc]
            lambda future=future, got=got: got.append(len(wait([future], 10, FIRST_COMPLETED).done)),  # type: ignore[misc]
            lambda future=future, got=got: got.append(next(as_completed([future], 10)).result()),  # type: ignore[misc]
        )
        assert sorted(got) == sorted([number, 1, number])


@pytest.mark.usefixtures("switches_often")
def test_a_callback_that_is_added_while_it_is_settled_is_called_once() -> None:
    for number in range(_TRIES):
        future, seen = begun(), list[Any]()
        together(
            lambda future=future, number=number: future.set_result(number),  # type: ignore[misc]
            lambda future=future, seen=seen: future.add_done_callback(seen.append),  # type: ignore[misc]
            lambda future=future, seen=seen: future.add_done_callback(seen.append),  # type: ignore[misc]
        )
        assert seen == [future, future]
