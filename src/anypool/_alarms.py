"""The thread of an executor that sleeps until something is due: a look at a call with a limit, a call to run again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from time import monotonic

__all__ = ["Alarms"]


class Alarms:
    """Runs what is due in a thread of its own, which starts with the first and ends with `close`. Thread-safe."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], float | None]]] = []
        self._numbers = count()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def set(self, due: float, alarm: Callable[[], float | None]) -> None:
        """Call `alarm` at `due`, by `time.monotonic`; it returns when to call it again, or None."""
        with self._changed:
            if self._is_closed:
                return
            heappush(self._due, (due, next(self._numbers), alarm))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="anypool-alarms", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Drop what is not due yet, and wait for the thread to end, unless this is it."""
        with self._changed:
            self._is_closed = True
            self._due.clear()
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while (alarm := self._next()) is not None:
            again = alarm()
            if again is not None:
                self.set(again, alarm)
            del alarm

    def _next(self) -> Callable[[], float | None] | None:
        with self._changed:
            while not self._is_closed and (not self._due or self._due[0][0] > monotonic()):
                self._changed.wait(self._due[0][0] - monotonic() if self._due else None)
            return None if self._is_closed else heappop(self._due)[2]
