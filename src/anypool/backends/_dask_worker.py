"""What a Dask worker needs so that the global `random` is a call's own: generators of their own for its libraries.

distributed and tornado draw from the global generator in the worker's event loop, while a call runs in a thread
beside it: `dask.sizeof` to estimate sizes, the scheduler's shuffles, the jitter of periodic callbacks. A call with
`seed=` would get other numbers than elsewhere, and one without would be reported for draws that are not its own.

The name of this module is also given to workers as a preload, which is how distributed runs `dask_setup`.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import random
from typing import Any

from anypool._trackers import leave_trackers
from anypool.backends._dask_fork import begin_as_fork

__all__ = ["FAULTS", "dask_setup", "keep_random_for_calls", "log_note"]

FAULTS = "ANYPOOL_DASK_FAULTS"
"""The variable by which a worker learns where to write its last words; it is gone at once."""

_DRAW_BESIDE_CALLS = (
    "dask.sizeof",
    "distributed.comm.core",
    "distributed.scheduler",
    "distributed.utils_comm",
    "distributed.worker",
    "distributed.worker_state_machine",
    "tornado.ioloop",
)


class _OwnRandom(random.Random):
    """Stands in for the module `random`: its functions, and the classes of it that these libraries use."""

    Random = random.Random
    SystemRandom = random.SystemRandom


def keep_random_for_calls() -> None:
    """Give the libraries of this worker a generator of their own in place of the global one."""
    own = _OwnRandom()
    for name in _DRAW_BESIDE_CALLS:
        module: Any = importlib.import_module(name)
        if getattr(module, "random", None) is random:
            module.random = own


def log_note(topic: str, line: str) -> None:
    """Bring `line` to those who subscribe to `topic`, from inside of a call on this worker."""
    worker: Any = importlib.import_module("distributed").get_worker()
    worker.log_event(topic, line)


def dask_setup(_worker: Any) -> None:
    """Called by distributed in each worker that has this module as a preload."""
    keep_random_for_calls()
    faults = os.environ.pop(FAULTS, None)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=leave_trackers)
    if faults is not None:
        faulthandler.enable(os.open(faults, os.O_WRONLY | os.O_APPEND))  # for good
        begin_as_fork()
