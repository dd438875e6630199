"""Which call this is, and who runs it."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from anypool._envelope import Job, Worker

__all__ = ["Running", "current_worker", "running", "this_worker"]


@dataclass(slots=True, eq=False)
class Running:
    """The chunk that this context is a part of; `position` gives the offset of the current item."""

    job: Job
    start: int
    position: Callable[[], int]


running: contextvars.ContextVar[Running | None] = contextvars.ContextVar("anypool_running", default=None)


def current_worker() -> Worker:
    """The worker that runs this call; outside any call, this process and thread with no backend.

    Examples
    --------
    >>> import anypool
    >>> anypool.current_worker().backend
    ''
    >>> with anypool.get_executor("serial") as ex:
    ...     ex.submit(lambda: anypool.current_worker().backend).result()
    'serial'
    """
    now = running.get()
    return this_worker(now.job.around.backend if now else "")


def this_worker(backend: str) -> Worker:
    """This process and thread, as a worker of `backend`."""
    return _worker(backend, os.getpid(), threading.current_thread().name)


@lru_cache(maxsize=64)
def _worker(backend: str, pid: int, thread: str) -> Worker:
    return Worker(backend, _host(), pid, thread)


@lru_cache(maxsize=1)
def _host() -> str:
    # A system call; a process does not change its host.
    if hasattr(os, "uname"):
        return os.uname().nodename
    import socket  # two milliseconds

    return socket.gethostname()
