"""The futures that the core and the pools of our own settle, which have no lock until somebody waits for one.

The core never waits for the future of a backend: it is called back. Of a submitted call's own, somebody waits while
the call runs, or looks when it has ended. A condition, made and entered at each step, would be a tenth of what such a
call costs.
"""

from __future__ import annotations

import threading
from _thread import LockType, allocate_lock
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures._base import LOGGER
from typing import Any

__all__ = ["NativeFuture"]

_ENDED = frozenset({"CANCELLED", "CANCELLED_AND_NOTIFIED", "FINISHED"})


class NativeFuture(Future[Any]):
    """A `Future` that one thread at a time begins, settles or cancels: whoever makes it sees to that.

    Whoever waits for this one alone hangs up a bell, a lock that is held until it is rung; `wait` and `as_completed` of
    the stdlib ask for the condition. Both first leave what they wait for and look at the state then; whoever settles it
    changes the state first and looks for them then. So neither misses the other.
    """

    _bells: list[LockType] | None = None  # of those that wait

    def __init__(self) -> None:  # instead of the stdlib's, which makes the condition
        self._state = "PENDING"
        self._result = None
        self._exception = None
        self._waiters = []
        self._done_callbacks: list[Callable[[Future[Any]], object]] = []

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]  # the stdlib's attribute
        made: threading.Condition | None = self.__dict__.get("_made")
        return made or self.__dict__.setdefault("_made", threading.Condition())

    def done(self) -> bool:
        """See `concurrent.futures.Future`."""
        return self._state in _ENDED

    def set_running_or_notify_cancel(self) -> bool:
        """See `concurrent.futures.Future`."""
        if self._state == "PENDING":
            self._state = "RUNNING"
            return True
        return super().set_running_or_notify_cancel()

    def set_result(self, result: Any) -> None:
        """See `concurrent.futures.Future`."""
        if self._state == "RUNNING":
            self._result = result
            self._end()
        else:
            super().set_result(result)

    def set_exception(self, exception: BaseException | None) -> None:
        """See `concurrent.futures.Future`."""
        if self._state == "RUNNING":
            self._exception = exception
            self._end()
        else:
            super().set_exception(exception)

    def _end(self) -> None:
        self._state = "FINISHED"
        condition = self.__dict__.get("_made")
        if condition is not None:
            with condition:
                for waiter in self._waiters:
                    waiter.add_result(self) if self._exception is None else waiter.add_exception(self)
                condition.notify_all()
        self._invoke_callbacks()

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """See `concurrent.futures.Future`."""
        if self._state in _ENDED:
            self._call(fn)
            return
        self._done_callbacks.append(fn)
        if self._state in _ENDED:
            self._call_back_each()

    def _invoke_callbacks(self) -> None:  # the stdlib's, called when it has ended in whatever way
        self._ring()
        self._call_back_each()

    def _ring(self) -> None:
        while self._bells:
            try:
                self._bells.pop().release()
            except IndexError:  # another thread was quicker
                return

    def _call_back_each(self) -> None:
        """Call each of them once: whoever takes it out, the thread that settles this or the one that added it."""
        while self._done_callbacks:
            try:
                callback = self._done_callbacks.pop(0)
            except IndexError:  # the other thread was quicker
                return
            self._call(callback)

    def _call(self, callback: Callable[[Future[Any]], object]) -> None:
        try:
            callback(self)
        except Exception:
            LOGGER.exception("exception calling callback for %r", self)

    def forget_others(self) -> None:
        """Leave to the parent of this forked child what threads wait for that are there, and what they may hold.

        A bell may be this thread's own, which a signal's handler interrupted.
        """
        self.__dict__.pop("_made", None)
        self._waiters.clear()
        self._done_callbacks.clear()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """See `concurrent.futures.Future`."""
        if self._state != "FINISHED":
            self._wait(timeout)
        return self._exception

    def result(self, timeout: float | None = None) -> Any:
        """See `concurrent.futures.Future`."""
        if self._state != "FINISHED":
            self._wait(timeout)
        if self._exception is None:
            return self._result
        try:
            raise self._exception
        finally:
            self = None  # type: ignore[assignment]  # break the cycle future -> exception -> frame -> future

    def _wait(self, timeout: float | None) -> None:
        if self._state not in _ENDED:
            bell = allocate_lock()
            bell.acquire()
            self.__dict__.setdefault("_bells", []).append(bell)
            if self._state not in _ENDED:
                bell.acquire(True, -1 if timeout is None else max(0.0, timeout))
        if self._state != "FINISHED":
            raise CancelledError if self._state in _ENDED else TimeoutError
