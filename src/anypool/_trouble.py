"""The pool's own trouble with a payload as an error of ours: what is seen where no call of the user's raised."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anypool._current import this_worker
from anypool._refused import BegunBefore
from anypool.errors import AnypoolError, BackendError, WorkerLost

if TYPE_CHECKING:
    from anypool._task import Task

__all__ = ["own_error"]


def own_error(error: BaseException, task: Task, backend: str, lost: tuple[type[BaseException], ...]) -> BaseException:
    """`error`, which a backend's future raised, as ours; raised from it.

    Of a lost worker `task` then has what its ticket tells.

    Parameters
    ----------
    error : exception
        What the native pool raised.
    task : Task
        What it was running.
    backend : str
        Name of the backend.
    lost : tuple of exception classes
        Those that mean that a worker vanished; see `Traits`.
    """
    if isinstance(error, AnypoolError):
        return error
    own: Exception
    if task.ended_by is None and not isinstance(error, (BegunBefore, *lost)):
        own = BackendError(f"backend {backend!r} failed: {type(error).__name__}: {error}")
    else:
        if task.ticket is not None:
            task.seen = task.ticket.read()
        own = task.ended_by or _worker_lost(error, task, backend)
    own.__cause__ = error
    return own


def _worker_lost(error: BaseException, task: Task, backend: str) -> WorkerLost:
    pid, host = getattr(error, "pid", None), getattr(error, "host", None)
    if task.seen is not None:  # a ticket is of this machine
        pid = task.seen.pid if pid is None else pid
        host = host or this_worker("").host
    return WorkerLost(
        f"the worker of backend {backend!r} that ran the call is gone: {error}",
        exitcode=getattr(error, "exitcode", None),
        pid=pid,
        host=host,
    )
