"""Whether a call on its way has run longer than it may."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from concurrent.futures import Future

    from anypool._tickets import Ticket

__all__ = ["Limit"]

_LOOKS = 0.25
"""Seconds between looks at a call of which the pool knows whether it runs, and nobody since when."""


class Watched(Protocol):
    """A task, as far as its time goes."""

    native: Future[Any] | None
    ticket: Ticket | None


class Limit:
    """The limit of each call of one task: an alarm that looks when the running one may be overdue.

    A ticket tells which call of a chunk runs, and since when. Without one the backend tells whether the chunk runs:
    its time counts from when it was first seen to.

    Parameters
    ----------
    task : Watched
        A task that was sent.
    seconds : float
        How long a call of it may run.
    end_overdue : callable
        Ends the task, one of whose calls is overdue.
    """

    def __init__(self, task: Watched, seconds: float, end_overdue: Callable[[], object]) -> None:
        self._task = task
        self._seconds = seconds
        self._end_overdue = end_overdue
        self._seen_running: float | None = None

    def __call__(self) -> float | None:
        """Look now; when to look again, None if the task is done."""
        native = self._task.native
        if native is None or native.done():
            return None
        now = monotonic()
        since, looks = self._since(native, now)
        if since is None:
            return now + min(self._seconds, _LOOKS)
        if now - since < self._seconds:
            return min(since + self._seconds, now + looks)
        self._end_overdue()
        return now + _LOOKS

    def _since(self, native: Future[Any], now: float) -> tuple[float | None, float]:
        """Since when the current call runs, and how soon that may be another; None: none runs, as far as one knows."""
        ticket = self._task.ticket
        if ticket is not None:
            current = ticket.current()
            return (None if current is None else current[1]), self._seconds
        if self._seen_running is None and native.running():
            self._seen_running = now
        return self._seen_running, _LOOKS
