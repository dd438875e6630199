"""What chaos is made of in the caller: futures that are held back, a clock that does it, and a killer."""

from __future__ import annotations

import heapq
import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

__all__ = ["Clock", "HeldFuture", "Killer"]


class HeldFuture(Future[Any]):
    """A future whose call may not have been sent yet, or whose reply is held back."""

    def __init__(self) -> None:
        super().__init__()
        self.native: Future[Any] | None = None
        self._was_sent = False
        self._sending = threading.Lock()

    def hand_over(self, send: Callable[[], Future[Any]]) -> Future[Any] | None:
        """Send the call, unless it was cancelled."""
        with self._sending:
            if self.cancelled():
                return None
            self._was_sent = True
            self.native = send()
            return self.native

    def replied(self) -> None:
        """Forget the inner future, which has a callback that holds this one: a cycle that keeps the reply."""
        self.native = None

    def cancel(self) -> bool:
        """Cancel the call unless it has begun."""
        with self._sending:
            native = self.native
            if not self._was_sent:
                self._be_cancelled()
        if native is not None and native.cancel():
            self.settle_cancelled()
        return self.cancelled()

    def settle_cancelled(self) -> None:
        """Be cancelled, and tell who waits."""
        with self._sending:
            self._be_cancelled()

    def _be_cancelled(self) -> None:
        if not self.cancelled() and super().cancel():
            self.set_running_or_notify_cancel()

    def running(self) -> bool:
        """Whether the call has begun, as far as the inner backend knows; a reply that is held back counts."""
        native = self.native
        return self._was_sent and not self.done() and (native is None or native.running() or native.done())


class Clock:
    """Does things later, in one thread; in the order in which they were asked for unless `reorder`."""

    def __init__(self, reorder: bool) -> None:
        self._reorder = reorder
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._last = 0.0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="anypool-chaos", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Have `action` done in so many seconds; at once, and here, if nothing is held back any more."""
        with self._changed:
            if not self._stopping:
                at = time.monotonic() + seconds
                if not self._reorder:
                    self._last = at = max(at, self._last)
                heapq.heappush(self._due, (at, next(self._numbers), action))
                self._changed.notify()
                return
        action()  # a reply, to a call that the end of the inner pool has cut short

    def _run(self) -> None:
        while (action := self._next()) is not None:
            action()
            del action  # it holds a payload, which must not stay while this thread waits

    def _next(self) -> Callable[[], object] | None:
        with self._changed:
            while True:
                if self._due and (self._stopping or self._due[0][0] <= time.monotonic()):
                    return heapq.heappop(self._due)[2]
                if self._stopping:
                    return None
                self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)

    def stop(self) -> None:
        """Do at once what is left, and end. Idempotent."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()


_OWED = 1.0
"""Seconds: kills that were due so long ago are made up for, as soon as there is anybody to kill."""


class Killer:
    """Kills processes that have run calls, at random moments that are `every` seconds apart on average."""

    def __init__(self, every: float, dice: int) -> None:
        self._every = every
        self._dice = random.Random(f"killer/{dice}")
        self._changed = threading.Condition()
        self._alive: dict[int, int] = {}  # pid -> descriptor of the process: a pid may be another's by now
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="anypool-chaos-killer", daemon=True)
        self.kills = 0

    def start(self) -> None:
        """Begin, if there is anything to do."""
        if self._every:
            self._thread.start()

    def saw(self, pid: int) -> None:
        """Take note of a process that ran a call."""
        if not self._every:
            return
        with self._changed:
            if pid not in self._alive and not self._is_stopped:
                try:
                    self._alive[pid] = os.pidfd_open(pid)
                except ProcessLookupError:
                    return  # it was lost since
                self._changed.notify()

    def _run(self) -> None:
        began = time.monotonic()
        with self._changed:
            for moment in self._moments():
                # From the beginning on, not from the last kill: on a busy machine that is late again and again.
                began = max(began, time.monotonic() - _OWED - moment)
                while (left := began + moment - time.monotonic()) > 0 and not self._is_stopped:
                    self._changed.wait(left)
                # Each has run a call before it is killed, so a pool gets on, however often it happens.
                while not self._is_stopped and not self._kill_one():
                    self._changed.wait()
                if self._is_stopped:
                    return

    def _moments(self) -> Iterator[float]:
        """When kills are due, in seconds from the beginning: one in each period, so that few keep to the mean, too."""
        for number in itertools.count():
            yield self._every * (number + self._dice.random())

    def _kill_one(self) -> bool:
        """Kill one of those that live; whether there was one."""
        while self._alive:
            pid = self._dice.choice(sorted(self._alive))
            file = self._alive.pop(pid)
            try:
                signal.pidfd_send_signal(file, signal.SIGKILL)
                self.kills += 1
                return True
            except ProcessLookupError:
                continue  # its last reply came after its end
            finally:
                os.close(file)
        return False

    def stop(self) -> None:
        """Kill nothing more. Idempotent."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()
        with self._changed:
            while self._alive:
                os.close(self._alive.popitem()[1])
