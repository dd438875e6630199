"""One payload on its way through a backend: what the queue knows of it, and what of an open map."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from anypool._outbox import Outbox
    from anypool._tickets import Seen, Ticket

__all__ = ["DONE", "LOOKS_UP_AFTER", "QUEUED", "SENT", "WITHDRAWN", "OpenMap", "Task"]

QUEUED, SENT, WITHDRAWN, DONE = range(4)

# A wait is left and taken up again after so many seconds. A signal that is handled in the moment before a thread
# begins to wait for a lock does not end that wait, and Ctrl-C would not be seen until something else did.
LOOKS_UP_AFTER = 1.0


class Task:
    """One payload on its way through a backend; `outbox` holds its large buffers.

    Attributes
    ----------
    limit : float or None
        Seconds that one call in it may run.
    seen : Seen or None
        What its ticket told when its worker was lost.
    is_wanted : bool
        Somebody may still ask for what comes of it.
    """

    native: Future[Any] | None = None
    state = QUEUED
    sent_at = 0.0
    ticket: Ticket | None = None
    seen: Seen | None = None
    is_wanted = True
    ended_by: Exception | None = None  # what the call failed with that was stopped

    def __init__(self, payload: Any, outbox: Outbox | None = None, limit: float | None = None) -> None:
        self.payload = payload
        self._outbox = outbox
        self.limit = limit

    def deliver(self, reply: Any, error: BaseException | None) -> None:
        """Take the reply, or the pool's own trouble. Called once, by the thread that completes the call."""
        raise NotImplementedError

    def withdrawn(self) -> None:
        """Take note that the call was cancelled with its executor, and will never run."""
        raise NotImplementedError

    def abandon(self, error: BaseException) -> None:
        """Let whoever waits for it have `error`, in a forked child, where no lock can be relied on."""
        self.deliver(None, error)

    def renew(self) -> None:
        """Be as before it was sent, for another run."""
        self.native = None
        self.state = QUEUED
        self.ticket = self.seen = self.ended_by = None

    def free(self) -> None:
        """Give back the memory of the payload: the call has ended, or will never run."""
        self.payload = None
        outbox, self._outbox = self._outbox, None
        if outbox is not None:
            outbox.close()


class OpenMap(Protocol):
    """What the dispatcher knows of a map that is not exhausted."""

    def finish(self) -> None:
        """Run what it promised to run although nobody asked for it yet."""
        ...

    def cancel(self) -> None:
        """Send nothing more."""
        ...

    def leave_forked_child(self) -> None:
        """Wait for no thread of the parent, in a child that was forked just now."""
        ...
