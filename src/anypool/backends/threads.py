"""`threads`: calls run in threads of the caller's process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, ClassVar

from anypool._cpus import available_cpus
from anypool.backend import Traits
from anypool.errors import ExecutorClosed

__all__ = ["Threads"]

_Call = tuple[Future[Any], Callable[[Any], Any], Any]


@dataclass(kw_only=True)
class Threads:
    """Threads of its own. They are daemons: the stdlib's would hold up the end of a program that was interrupted.

    Parameters
    ----------
    max_workers : int, optional
        How many threads. Default: what the CPU budget allows, as for processes; calls that wait for a network
        or a disk gain from more.
    strict : bool
        Send functions, arguments and results through the wire, so that calls share nothing, as in processes.
    """

    name: ClassVar[str] = "threads"

    max_workers: int | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        self._size = 0
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._busy: set[threading.Thread] = set()
        self._stopped = False

    def start(self) -> tuple[int, Traits]:
        """How many threads there will be; they start with the first calls."""
        self._size = self.max_workers or available_cpus()
        return self._size, Traits(shares_memory=not self.strict, in_caller=True, concurrent_in_process=True)

    def submit(self, call: Callable[[Any], Any], payload: Any, /) -> Future[Any]:
        """Run the call in a thread."""
        future: Future[Any] = Future()
        with self._lock:
            if self._stopped:
                raise ExecutorClosed("the backend 'threads' was stopped")
            self._calls.put((future, call, payload))
            if self._idle:
                self._idle -= 1
            elif len(self._threads) < self._size:
                name = f"anypool_{len(self._threads)}"
                self._threads.append(threading.Thread(target=self._work, name=name, daemon=True))
                self._threads[-1].start()
        return future

    def _work(self) -> None:
        thread = threading.current_thread()
        while (each := self._next()) is not None:
            self._busy.add(thread)
            _run(*each)
            del each  # what it holds must not stay while this thread waits
            self._busy.discard(thread)

    def _next(self) -> _Call | None:
        with self._lock:  # as for `submit`: a thread counts as idle only if nothing waits for it
            try:
                return self._calls.get_nowait()
            except Empty:
                self._idle += 1
        return self._calls.get()

    def stop(self, *, cancel: bool) -> None:
        """Wait for the threads; with `cancel`, not for one whose call still runs, as it cannot be ended."""
        with self._lock:
            self._stopped = True
        if cancel:
            self._cancel_queued()
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread() and not (cancel and thread in self._busy):
                thread.join()

    def _cancel_queued(self) -> None:
        while True:
            try:
                each = self._calls.get_nowait()
            except Empty:
                return
            if each is not None and each[0].cancel():
                each[0].set_running_or_notify_cancel()


def _run(future: Future[Any], call: Callable[[Any], Any], payload: Any) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        value = call(payload)
    except BaseException as exc:  # for whoever waits; this thread goes on
        future.set_exception(exc)
    else:
        future.set_result(value)
