"""The futures of pools of our own, which have no lock until somebody waits for one.

The core never waits for the future of a backend: it is called back. A condition, and its being entered at each step,
would be a twelfth of what a submitted call costs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures._base import LOGGER
from typing import Any

__all__ = ["NativeFuture"]

_ENDED = frozenset({"CANCELLED", "CANCELLED_AND_NOTIFIED", "FINISHED"})


class NativeFuture(Future[Any]):
    """A `Future` for a pool that lets one thread at a time begin, settle or cancel it.

    Whoever waits makes the condition first and looks at the state then; whoever settles it changes the state first and
    looks for a condition then. So neither misses the other.
    """

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
        self._done_callbacks.append(fn)
        if self._state in _ENDED:
            self._invoke_callbacks()

    def _invoke_callbacks(self) -> None:
        """Call each of them once: whoever takes it out, the thread that settles this or the one that added it."""
        while self._done_callbacks:
            try:
                callback = self._done_callbacks.pop(0)
            except IndexError:  # the other thread was quicker
                return
            try:
                callback(self)
            except Exception:
                LOGGER.exception("exception calling callback for %r", self)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """See `concurrent.futures.Future`."""
        return self._exception if self._state == "FINISHED" else super().exception(timeout)

    def result(self, timeout: float | None = None) -> Any:
        """See `concurrent.futures.Future`."""
        if self._state == "FINISHED" and self._exception is None:
            return self._result
        return super().result(timeout)
