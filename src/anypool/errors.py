"""The errors that anypool raises. What a call raises is never one of these: it arrives as itself.

::

    AnypoolError
    ├── ConfigError (ValueError)            a choice that cannot be carried out as written
    │   ├── UnknownBackend                  no backend of that name; names the known and the nearest
    │   └── UnknownOption                   no option of that name; names the known and the nearest
    ├── MissingExtra (ImportError)          a backend whose library is not installed
    ├── BackendError (RuntimeError)         the backend itself failed
    │   ├── StartError                      it could not start, or did not answer in time
    │   │   └── VersionMismatch             a worker without anypool, or with another version
    │   ├── WorkerLost (BrokenExecutor)     the worker that ran the call is gone
    │   └── InitializerFailed (BrokenExecutor)  `initializer` raised on a worker
    ├── ExecutorClosed (RuntimeError)       used after shutdown, or in a forked child
    ├── SendError (TypeError)               a function, argument or result that cannot travel
    ├── CallTimeout (TimeoutError)          one call ran longer than its `call_timeout`
    ├── JournalError (RuntimeError)         a journal of another map or user, or one that cannot be written
    ├── Unsupported (TypeError)             asked for what this backend's traits do not offer
    ├── StandIn                             mixed into the stand-in of an exception that cannot be rebuilt
    └── NotPortable                         `verify` or `compare` found results that differ
"""

from __future__ import annotations

from concurrent.futures import BrokenExecutor

__all__ = [
    "AnypoolError",
    "BackendError",
    "CallTimeout",
    "ConfigError",
    "ExecutorClosed",
    "InitializerFailed",
    "JournalError",
    "MissingExtra",
    "NotPortable",
    "SendError",
    "StandIn",
    "StartError",
    "UnknownBackend",
    "UnknownOption",
    "Unsupported",
    "VersionMismatch",
    "WorkerLost",
]


class AnypoolError(Exception):
    """The base of every error of ours."""


class ConfigError(AnypoolError, ValueError):
    """A backend, an option or a setting that cannot be carried out as written."""


class UnknownBackend(ConfigError):
    """No backend has that name."""


class UnknownOption(ConfigError):
    """The backend has no option of that name."""


class MissingExtra(AnypoolError, ImportError):
    """The backend is known, but its library is not installed."""


class BackendError(AnypoolError, RuntimeError):
    """The backend itself failed; no call of the user's did."""


class StartError(BackendError):
    """The backend could not start, or did not answer in time."""


class VersionMismatch(StartError):
    """A worker has no anypool, or another version of it."""


class WorkerLost(BackendError, BrokenExecutor):
    """The worker that ran the call is gone.

    Attributes
    ----------
    exitcode : int or None
        The exit code of its process, negative for a signal; None where the backend cannot know.
    pid : int or None
        Its process id, where known.
    host : str or None
        Its host, where known.
    """

    def __init__(
        self,
        message: str,
        *,
        exitcode: int | None = None,
        pid: int | None = None,
        host: str | None = None,
    ) -> None:
        super().__init__(message)
        self.exitcode = exitcode
        self.pid = pid
        self.host = host

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), self.args, self.__dict__)


class InitializerFailed(BackendError, BrokenExecutor):
    """`initializer` raised on a worker; its exception is the cause. The executor is broken."""


class ExecutorClosed(AnypoolError, RuntimeError):
    """The executor was used after its shutdown, or in a forked child of its process."""


class SendError(AnypoolError, TypeError):
    """A function, an argument or a result that cannot be sent to or from a worker."""


class CallTimeout(AnypoolError, TimeoutError):
    """One call ran longer than its `call_timeout` and was stopped."""


class JournalError(AnypoolError, RuntimeError):
    """The journal of a map is of another map or of another user, is in use, or cannot be written."""


class Unsupported(AnypoolError, TypeError):
    """Asked for what this backend cannot do; its traits say so."""


class StandIn(AnypoolError):
    """Mixed into the class that stands in for an exception that cannot be rebuilt here.

    The stand-in is also an instance of the nearest base of the original that can be imported, so
    that `except` clauses of the caller still catch it.

    Attributes
    ----------
    original : str
        Dotted name of the original class.
    """

    original: str = ""


class NotPortable(AnypoolError):
    """The same call gave different answers on two backends."""
