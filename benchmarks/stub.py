"""Backends without workers: what the core alone costs in the caller, and a cluster of any size to try it on."""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, ClassVar

from anypool.backend import Traits

__all__ = ["AtOnce", "Simulated"]


@dataclass(kw_only=True)
class AtOnce:
    """Answers each chunk inside `submit`, as the first chunk was answered: all chunks must be equal.

    It looks like a cluster: what it is given has gone through the wire, and so has what it answers.
    """

    name: ClassVar[str] = "at once"

    max_workers: int | None = None

    def start(self) -> tuple[int, Traits]:
        """As many workers as asked for; there is none."""
        self._reply: Any = None
        self.chunks = 0
        return self.max_workers or 1, Traits(remote=True)

    def submit(self, call: Callable[[Any], Any], payload: Any, /) -> Future[Any]:
        """A future that is done."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        self.chunks += 1
        future.set_result(self.answer(call, payload))
        return future

    def answer(self, call: Callable[[Any], Any], payload: Any) -> Any:
        """The reply to a chunk; the first is worked out."""
        if self._reply is None:
            self._reply = call(payload)
        return self._reply

    def stop(self, *, cancel: bool) -> None:
        """Nothing runs."""


@dataclass(kw_only=True)
class Simulated(AtOnce):
    """Answers each chunk when a worker would have, from a thread of its own, as a cluster's client does.

    Parameters
    ----------
    seconds : float
        How long each worker takes for a chunk.
    """

    name: ClassVar[str] = "simulated"

    seconds: float = 0.001

    def start(self) -> tuple[int, Traits]:
        """As many workers as asked for, all idle."""
        size, traits = super().start()
        self._free_at = [0.0] * size
        self._due: deque[tuple[float, Future[Any], Any]] = deque()
        self._changed = threading.Condition()
        self._is_over = False
        self._thread = threading.Thread(target=self._answer_when_due, name="simulated workers")
        self._thread.start()
        return size, traits

    def submit(self, call: Callable[[Any], Any], payload: Any, /) -> Future[Any]:
        """Give the chunk to the worker that is free first."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        reply = self.answer(call, payload)
        with self._changed:
            self.chunks += 1
            due = max(time.perf_counter(), self._free_at[0]) + self.seconds
            heapq.heapreplace(self._free_at, due)
            self._due.append((due, future, reply))
            if len(self._due) == 1:
                self._changed.notify()
        return future

    def _answer_when_due(self) -> None:
        while True:
            with self._changed:
                while not self._due and not self._is_over:
                    self._changed.wait()
                if not self._due:
                    return
                due, future, reply = self._due.popleft()
            early = due - time.perf_counter()
            if early > 0:
                time.sleep(early)
            future.set_result(reply)

    def stop(self, *, cancel: bool) -> None:
        """End the thread."""
        with self._changed:
            self._is_over = True
            self._changed.notify()
        self._thread.join()
