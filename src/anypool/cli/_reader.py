"""Notices that whoever reads the results has gone, also while there is none to write: during a long call."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["ReaderGone", "reader_watched"]


class ReaderGone(Exception):
    """Whoever read the results has closed the pipe: `| head` has seen what it wanted."""


@contextmanager
def reader_watched(descriptor: int | None, may_raise: Callable[[], bool]) -> Iterator[None]:
    """Raise `ReaderGone` in the block, soon after the pipe has no reader any more.

    A thread waits for that, and wakes this one by the signal that a write into such a pipe would bring. Where there
    is no such thing (Windows, another thread than the main one), the next write tells.

    Parameters
    ----------
    descriptor : int or None
        The pipe, or whatever the results go to; None: nothing that could be watched.
    may_raise : callable
        Whether the block can be left now. Otherwise, too, the next write tells.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if descriptor is None or not in_main or not (hasattr(select, "poll") and hasattr(signal, "pthread_kill")):
        yield
        return

    def handle(*_: object) -> None:
        if may_raise():
            raise ReaderGone

    before = signal.signal(signal.SIGPIPE, handle)
    wake, waker = os.pipe()
    thread = threading.Thread(target=_wait, args=(descriptor, wake, threading.get_ident()), name="anypool-reader")
    thread.start()
    try:
        yield
    finally:
        os.close(waker)  # which is what the thread waits for, too
        thread.join()
        os.close(wake)
        signal.signal(signal.SIGPIPE, before)


def _wait(descriptor: int, wake: int, main: int) -> None:
    poll = select.poll()
    poll.register(descriptor, 0)  # only that it is broken: POLLERR
    poll.register(wake, select.POLLIN)
    if any(ready == descriptor for ready, _ in poll.poll()):
        signal.pthread_kill(main, signal.SIGPIPE)
