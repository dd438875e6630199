"""Threads on which the callbacks of futures run, so that a callback may wait for other calls.

A native pool calls back on the thread that brings home its results. Whoever waits there for another call of the same
pool waits for ever: the thread that would bring it home is the one that waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

from anypool._task import LOOKS_UP_AFTER

__all__ = ["Callbacks"]

_STAYS = 1.0
"""Seconds that a thread stays for another callback."""


class Callbacks:
    """The callbacks of one executor. Thread-safe.

    There is a thread for each that has not returned yet; one that has, serves the next.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._idle: list[SimpleQueue[Callable[[], object] | None]] = []
        self._threads: set[threading.Thread] = set()
        self._busy = 0  # callbacks that have not returned
        self._is_closed = False

    def run(self, action: Callable[[], object]) -> None:
        """Have `action` run soon, on another thread; after `close`, on this one."""
        with self._changed:
            is_late = self._is_closed
            if not is_late:
                inbox = self._idle.pop() if self._idle else self._start()
                self._busy += 1
                inbox.put(action)
        if is_late:
            action()

    def close(self, *, wait: bool) -> None:
        """End the threads as soon as they are idle; with `wait`, return then. Idempotent.

        A callback that calls it does not wait for itself.
        """
        with self._changed:
            self._is_closed = True
            idle, self._idle = self._idle, []
            for inbox in idle:
                inbox.put(None)
            threads = self._threads - {threading.current_thread()}
            own = len(self._threads) - len(threads)
            while wait and self._busy > own:
                self._changed.wait(LOOKS_UP_AFTER)
        for thread in threads if wait else ():
            thread.join()

    def _start(self) -> SimpleQueue[Callable[[], object] | None]:
        inbox: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        thread = threading.Thread(target=self._serve, args=(inbox,), name="anypool-callbacks", daemon=True)
        thread.start()
        self._threads.add(thread)
        return inbox

    def _serve(self, inbox: SimpleQueue[Callable[[], object] | None]) -> None:
        while (action := self._next(inbox)) is not None:
            goes_on = False
            try:
                action()
                goes_on = True
            finally:  # the stdlib logs what a callback raises; SystemExit and its like end this thread
                del action
                goes_on = self._returned(inbox, goes_on=goes_on)
            if not goes_on:
                return

    def _next(self, inbox: SimpleQueue[Callable[[], object] | None]) -> Callable[[], object] | None:
        """The next callback for a thread; None: it ends, as there was none for a while."""
        while True:
            try:
                return inbox.get(timeout=_STAYS)
            except Empty:
                with self._changed:
                    if inbox in self._idle:  # else one is being put there
                        self._idle.remove(inbox)
                        self._threads.discard(threading.current_thread())
                        return None

    def _returned(self, inbox: SimpleQueue[Callable[[], object] | None], *, goes_on: bool) -> bool:
        """Note that a callback has returned; whether its thread waits for another, if it could."""
        with self._changed:
            self._busy -= 1
            self._changed.notify_all()
            if goes_on and not self._is_closed:
                self._idle.append(inbox)
                return True
            self._threads.discard(threading.current_thread())
            return False
