"""joblib's pool of multiprocessing, under watch: it is noticed when one of its workers dies, and it can be ended then.

multiprocessing replaces a worker that has died, and forgets the call that it ran. One that dies while it waits for a
call takes the lock of the queue along, and one that dies in a reply leaves half a message: the pool is of no more use,
and its own `terminate` may wait for ever. So a pool that has lost a worker is taken apart here, step by step.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections.abc import Callable
from multiprocessing import connection
from typing import Any

from anypool._process_tree import kill_tree

__all__ = ["Watch", "forget_folders", "take_apart"]

_TERMINATE = "TERMINATE"  # multiprocessing.pool's
_ENDS_WITHIN = 5.0
"""Seconds for a thread of the pool to end; a bound, so that nobody waits for ever."""

_CODE_WITHIN = 1.0
_SENT_WITHIN = 0.2
"""Seconds for a worker to send the rest of a reply."""


class Watch:
    """A thread that tells of the first worker that ends.

    Parameters
    ----------
    pool : multiprocessing.pool.Pool
        Just started.
    died : callable
        ``died(process)`` is called by the thread.
    """

    def __init__(self, pool: Any, died: Callable[[Any], object]) -> None:
        self._processes = list(pool._pool)
        self._died = died
        self._files: dict[Any, Any] = {}
        for process in self._processes:
            end: Any = process.sentinel
            if hasattr(os, "pidfd_open"):  # a child that the worker forks may hold the pipe of its sentinel open
                with contextlib.suppress(ProcessLookupError):
                    end = os.pidfd_open(process.pid)
            self._files[end] = process
        self._stop_reader, self._stop_writer = connection.Pipe(duplex=False)
        self._thread = threading.Thread(target=self._run, name="anypool-watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        ready = connection.wait([*self._files, self._stop_reader])
        if self._stop_reader in ready:
            return
        process = self._files[ready[0]]
        process.join(_CODE_WITHIN)
        self._died(process)

    def stop(self) -> None:
        """Tell of nothing more; return when the thread has ended, unless this is it."""
        self._stop_writer.send_bytes(b"stop")
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._stop_reader.close()
        self._stop_writer.close()
        for file, process in self._files.items():
            if file != process.sentinel:
                os.close(file)
        self._files.clear()


def take_apart(pool: Any) -> None:
    """End a pool as `terminate` does, but so that it needs no lock and no message of workers that have died."""
    _let_replies_in(pool)
    pool._terminate.cancel()
    pool._state = _TERMINATE
    handlers = (pool._worker_handler, pool._task_handler, pool._result_handler)
    for handler in handlers:
        handler._state = _TERMINATE
    pool._change_notifier.put(None)
    pool._worker_handler.join(_ENDS_WITHIN)  # from here on it starts no worker
    for process in pool._pool:
        if process.exitcode is None:  # loky's cannot be killed by a method
            with contextlib.suppress(ProcessLookupError):
                kill_tree(process.pid)
    for process in pool._pool:
        process.join()
    for lock in (pool._inqueue._rlock, pool._outqueue._wlock):
        if lock is not None:  # where nobody else can have it any more
            lock.acquire(block=False)
            lock.release()
    pool._inqueue._reader.close()  # ends a write that waits for room
    pool._task_handler.join(_ENDS_WITHIN)
    pool._outqueue._writer.close()  # ends a read of what is only half there
    pool._result_handler.join(_ENDS_WITHIN)
    pool._temp_folder_manager._clean_temporary_resources()
    forget_folders(pool)


def forget_folders(pool: Any) -> None:
    """Take from joblib's tracker the folders of a pool that has ended, which joblib does at the end of the interpreter.

    Until then it leaves those that no large array has used; and the tracker, a process, would stay for them.
    """
    manager = getattr(pool, "_temp_folder_manager", None)  # threads have none
    finalizers: dict[Any, Any] = getattr(manager, "_finalizers", {})
    while finalizers:
        _, finalize = finalizers.popitem()
        finalize()
        atexit.unregister(finalize)


def _let_replies_in(pool: Any) -> None:
    """Wait until what workers have sent is read, so that it is not lost with one that died afterwards.

    Nobody sends more from here on: the lock that a worker needs for it is kept until there are no workers.
    """
    replies = pool._outqueue
    if replies._wlock is not None and not replies._wlock.acquire(timeout=_SENT_WITHIN):
        # It was lost with a worker that died in the middle of a reply, after which nothing can be read. Or one that
        # lives has more to send than was read in this time; it is not told from the other, and what is unread is lost.
        return
    last = _LastReply()
    pool._cache[last.job] = last
    replies._writer.send((last.job, 0, None))
    last.is_read.wait(_ENDS_WITHIN)
    pool._cache.pop(last.job)


class _LastReply:
    """Stands among the results that the pool waits for, and is told when all that was sent before has come to them."""

    job = "anypool's last"  # multiprocessing's are numbers

    def __init__(self) -> None:
        self.is_read = threading.Event()

    def _set(self, _place: int, _value: None) -> None:
        self.is_read.set()
