"""One lane: a loky pool of one worker, with the tokens that say which of its calls have begun. See `_lanes`."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from importlib import import_module
from multiprocessing import util
from multiprocessing.connection import Connection
from typing import Any, Final

from anypool._adopted import adopt, run_if_ours
from anypool._process_tree import KNOWS_CHILDREN, kill_tree
from anypool._worker_end import WorkerDied, fault_file, post_mortem, read_faults

__all__ = ["CALLS_PER_LANE", "Lane", "NoLane"]

_HAS_TOKENS: Final = sys.platform != "win32"
CALLS_PER_LANE: Final = 2 if _HAS_TOKENS else 1
"""One to run and one to follow it, which must be possible to take back."""

_ENDS_WITHIN: Final = 5.0
"""Seconds. What is waited for takes milliseconds; a bound, so that `end` never hangs on it."""
_DIES_WITHIN: Final = 0.5


class Token:
    """A pipe with one byte in it, or none."""

    def __init__(self) -> None:
        self.reader, self._writer = multiprocessing.Pipe(duplex=False)
        os.set_blocking(self.reader.fileno(), False)

    def put(self) -> None:
        os.write(self._writer.fileno(), b"\0")

    def take(self) -> bool:
        try:
            return bool(os.read(self.reader.fileno(), 1))
        except BlockingIOError:
            return False

    def is_there(self) -> bool:
        poll = select.poll()
        poll.register(self.reader.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        self.reader.close()
        self._writer.close()


class Lane:
    """A native pool of one worker."""

    def __init__(self, library: str, new_pool: Callable[..., Any]) -> None:
        self._library = library
        self._starting = threading.RLock()  # a callback of what is cancelled at the end may send a call
        self._process: Any = None
        self._manager: threading.Thread | None = None
        self._died: WorkerDied | None = None
        self.sendings: list[Any] = []  # in the order of their sending
        self.has_answered = False  # then its worker is up
        self.tokens = [Token() for _ in range(CALLS_PER_LANE)] if _HAS_TOKENS else []
        self._faults = fault_file() if _HAS_TOKENS else None
        readers = [token.reader for token in self.tokens]
        faults = Connection(os.dup(self._faults.fileno()), readable=False) if self._faults is not None else None
        try:
            self._pool = new_pool(
                initializer=adopt, initargs=(os.getpid(), readers, faults, f"{library}.process_executor")
            )
        except BaseException:
            self._close_files()
            raise
        self._queue = self._pool._call_queue  # its `shutdown` forgets it

    def submit(self, slot: int | None, fn: Callable[[Any], Any], payload: Any) -> Future[Any]:
        """Hand a call to the native pool, whose worker starts with the first."""
        if self._process is not None:
            native: Future[Any] = self._pool.submit(run_if_ours, slot, fn, payload)
            return native
        with self._starting, _sigint_blocked():
            native = self._pool.submit(run_if_ours, slot, fn, payload)
            if self._process is None:
                self._note_start()
        return native

    def _note_start(self) -> None:
        self._manager = self._pool._executor_manager_thread
        # Ours would hide the end of a worker that dies in the middle of a reply, which would be waited for for ever.
        self._pool._result_queue._writer.close()
        self._process = next(iter(self._pool._processes.copy().values()), None)
        if self._process is not None and _watch_itself(self._process):
            with self._pool._shutdown_lock:
                self._pool._executor_manager_thread_wakeup.wakeup()  # it waits for the pipe as yet
        # loky means to register its hook for the end of the interpreter once, but keeps the None that it gets, and so
        # registers one with each pool. A later one would end the pools before our hook has finished the queue.
        native: Any = import_module(f"{self._library}.process_executor")
        if getattr(native, "process_pool_executor_at_exit", True) is None:
            native.process_pool_executor_at_exit = True

    def kill(self) -> None:
        """Kill the worker, and what it started."""
        if self._process is None or self._process.exitcode is not None:
            return
        if not KNOWS_CHILDREN:
            import_module(f"{self._library}.backend.utils").kill_process_tree(self._process)
            return
        # loky's way gives up before it comes to the worker if a program has become another user's, as by sudo.
        with contextlib.suppress(ProcessLookupError):
            kill_tree(self._process.pid)

    def post_mortem(self, complaint: str) -> WorkerDied:
        """How its worker ended."""
        process = self._process
        if self._died is None and process is None:
            self._died = WorkerDied(complaint)
        if self._died is None:
            process.join(_DIES_WITHIN)  # it ends when the pool is broken by something else
            self._died = post_mortem(
                process.name, pid=process.pid, exitcode=process.exitcode, words=read_faults(self._faults)
            )
        return self._died

    @property
    def is_over(self) -> bool:
        """Whether nothing of the native pool runs any more."""
        return not self.sendings and (self._manager is None or not self._manager.is_alive())

    def begin_end(self, *, kill: bool) -> None:
        """Have the worker end, without waiting for it.

        Another thread may be about to start it, for a call that was taken back and has ended elsewhere: that one first
        notes what it has started, which would be forgotten here.
        """
        with self._starting:
            if kill:
                _cancel_pending(self._pool)
                if self._process is not None:
                    _halt(self._process)
            self._pool.shutdown(wait=False, kill_workers=kill)

    def end(self) -> None:
        """Wait for the end of the worker and of the threads of the pool, and close what is left."""
        if self._manager is not None:
            self._manager.join(_ENDS_WITHIN)
            self.kill()  # unless it has left, or was killed
            self._manager.join()
        _close(self._queue)
        self._close_files()
        self._pool = self._queue = self._process = None  # whoever keeps a future must not keep its semaphores

    def _close_files(self) -> None:
        for token in self.tokens:
            token.close()
        if self._faults is not None:
            self._faults.close()


class NoLane:
    """Stands in for a lane that cannot be made: what is sent to it fails by the reason."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.sendings: list[Any] = []
        self.has_answered = False
        self.tokens: list[Token] = []

    def submit(self, *_task: Any) -> Future[Any]:
        raise self._error

    def kill(self) -> None:
        """There is nothing to kill."""


def _watch_itself(process: Any) -> bool:
    """Have loky wait for the end of the process in place of that of a pipe, which a child of it may hold open.

    Whether that is done: the system may have no way to, and the process may be gone.
    """
    popen = process._popen
    if not (hasattr(os, "pidfd_open") and hasattr(process, "_sentinel") and hasattr(popen, "sentinel")):
        return False
    try:
        file = os.pidfd_open(process.pid)
    except OSError:
        return False
    if process.exitcode is not None:  # the number may be another's
        os.close(file)
        return False
    util.Finalize(popen, os.close, (file,))  # as loky does with its pipe
    process._sentinel = popen.sentinel = file
    return True


def _halt(process: Any) -> None:
    """Have a worker that is about to be killed run no further.

    loky ends what it has started first: without the program that it waits for, its call could go on, and return.
    """
    if hasattr(signal, "SIGSTOP") and process.exitcode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGSTOP)


@contextlib.contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Have processes that are started here begin without SIGINT, until they ignore it: no Ctrl-C hits them before."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _cancel_pending(pool: Any) -> None:
    """Cancel what `pool` has not handed to its workers, and wait until it took note.

    Its `shutdown(kill_workers=True)` must find nothing of it: it would give an error to each call that has not
    begun, which fails for one that was cancelled; and before loky 3.7 (joblib 1.6 brings 3.6) it forgets such calls
    but not their numbers, and fails at the next number. Either way its managing thread dies with all that it holds.
    It takes note as long as its queue has room, which is for one call more than the core sends: 2 for each worker.
    """
    items: dict[Any, Any] = getattr(pool, "_pending_work_items", {})
    futures = [each.future for each in items.copy().values()]
    wait([future for future in futures if future.cancel()], _ENDS_WITHIN)


def _close(queue: Any) -> None:
    """End the thread that feeds `queue` of a pool that was shut down, and close the pipe that it writes to.

    loky leaves the thread to end when it likes, which is never where it writes more than a pipe holds to workers that
    were killed. The reading end is this process's too, and nobody reads it; when it is closed, the write fails, which
    loky expects. It closes the other end only if the thread ends in peace.
    """
    reader, writer = getattr(queue, "_reader", None), getattr(queue, "_writer", None)
    if reader is None or writer is None:
        return
    reader.close()
    feeder: threading.Thread | None = getattr(queue, "_thread", None)
    if feeder is not None:
        feeder.join(_ENDS_WITHIN)
        if feeder.is_alive():  # it pickles something long, and would write to whatever gets the number of the pipe
            return
    writer.close()
