"""Write ``ex.map(square, data)`` once, choose by config where it runs, get the same answer everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Where each public name lives. Loaded when it is first asked for, so that `import anypool` costs a millisecond,
# reads no configuration, loads no library and starts nothing.
_HOMES = {
    "Executor": "_executor",
    "PoolExecutor": "_executor",
    "get_executor": "_executor",
    "Pool": "_as_pool",
    "register_joblib": "_as_joblib",
    "Settings": "_settings",
    "Backend": "backend",
    "Traits": "backend",
    "Shared": "_share",
    "Worker": "_envelope",
    "current_worker": "_current",
    "explain": "_config",
    "use": "_config",
    "backend_names": "_registry",
    "register_backend": "_registry",
    "Comparison": "_compare",
    "available_cpus": "_cpus",
    "close_idle": "_reuse",
    "compare": "_compare",
    "Finding": "_verify",
    "Verification": "_verify",
    "verify": "_verify",
    "register_context": "_context_extensions",
    "report": "_notes",
    "Note": "_progress",
    "Progress": "_progress",
    "Receipt": "_report",
    "Report": "_report",
    "Retry": "_retry",
    "random": "_seeds",
    "rng": "_seeds",
    "AnypoolError": "errors",
    "BackendError": "errors",
    "CallTimeout": "errors",
    "ConfigError": "errors",
    "ExecutorClosed": "errors",
    "InitializerFailed": "errors",
    "JournalError": "errors",
    "MissingExtra": "errors",
    "NotPortable": "errors",
    "SendError": "errors",
    "StandIn": "errors",
    "StartError": "errors",
    "UnknownBackend": "errors",
    "UnknownOption": "errors",
    "Unsupported": "errors",
    "VersionMismatch": "errors",
    "WorkerLost": "errors",
}

if TYPE_CHECKING:
    from anypool._as_joblib import register_joblib as register_joblib
    from anypool._as_pool import Pool as Pool
    from anypool._compare import Comparison as Comparison
    from anypool._compare import compare as compare
    from anypool._config import explain as explain
    from anypool._config import use as use
    from anypool._context_extensions import register_context as register_context
    from anypool._cpus import available_cpus as available_cpus
    from anypool._current import current_worker as current_worker
    from anypool._envelope import Worker as Worker
    from anypool._executor import Executor as Executor
    from anypool._executor import PoolExecutor as PoolExecutor
    from anypool._executor import get_executor as get_executor
    from anypool._notes import report as report
    from anypool._progress import Note as Note
    from anypool._progress import Progress as Progress
    from anypool._registry import backend_names as backend_names
    from anypool._registry import register_backend as register_backend
    from anypool._report import Receipt as Receipt
    from anypool._report import Report as Report
    from anypool._retry import Retry as Retry
    from anypool._reuse import close_idle as close_idle
    from anypool._seeds import random as random
    from anypool._seeds import rng as rng
    from anypool._settings import Settings as Settings
    from anypool._share import Shared as Shared
    from anypool._verify import Finding as Finding
    from anypool._verify import Verification as Verification
    from anypool._verify import verify as verify
    from anypool.backend import Backend as Backend
    from anypool.backend import Traits as Traits
    from anypool.errors import AnypoolError as AnypoolError
    from anypool.errors import BackendError as BackendError
    from anypool.errors import CallTimeout as CallTimeout
    from anypool.errors import ConfigError as ConfigError
    from anypool.errors import ExecutorClosed as ExecutorClosed
    from anypool.errors import InitializerFailed as InitializerFailed
    from anypool.errors import JournalError as JournalError
    from anypool.errors import MissingExtra as MissingExtra
    from anypool.errors import NotPortable as NotPortable
    from anypool.errors import SendError as SendError
    from anypool.errors import StandIn as StandIn
    from anypool.errors import StartError as StartError
    from anypool.errors import UnknownBackend as UnknownBackend
    from anypool.errors import UnknownOption as UnknownOption
    from anypool.errors import Unsupported as Unsupported
    from anypool.errors import VersionMismatch as VersionMismatch
    from anypool.errors import WorkerLost as WorkerLost

__all__ = [*sorted(_HOMES), "__version__"]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'anypool' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"anypool.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
