"""What becomes of the workers of a local Dask cluster: asked by the caller, known to the process that holds it.

distributed tells only which address a lost worker had. Its exit code is known to its nanny, which in a local cluster
lives in the process of the scheduler. The name of this module is given to nannies as a preload; the caller runs its
other functions on the scheduler.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any

from anypool._process_tree import kill_tree
from anypool._worker_end import fault_file, read_faults
from anypool.backends._dask_worker import FAULTS

__all__ = ["dask_setup", "end_of_worker", "kill_worker_of", "replacement_of_worker"]

_KEPT = 1024
"""Workers that are remembered; those that live are the youngest."""

_REPLACED_WITHIN = 30.0
"""Seconds that a new worker is waited for."""

_KNOWN_WITHIN = 2.0
"""Seconds until a nanny has noticed the end of a worker that its scheduler missed."""


@dataclass
class _Life:
    """Of one worker process, from its nanny's point of view."""

    pid: int | None
    exitcode: int | None = None
    words: str = ""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    replaced: asyncio.Event = field(default_factory=asyncio.Event)


# State of the cluster's process, which has one cluster.
_lives: dict[str, _Life] = {}


def dask_setup(nanny: Any) -> None:
    """Called by distributed for each nanny that has this module as a preload."""
    faults = fault_file()
    if sys.platform == "linux":
        nanny.env[FAULTS] = f"/proc/{os.getpid()}/fd/{faults.fileno()}"
    nanny.instantiate = partial(_instantiate, nanny, nanny.instantiate, faults)
    nanny._on_worker_exit_sync = partial(_note_end, nanny, nanny._on_worker_exit_sync, faults)


async def _instantiate(nanny: Any, instantiate: Any, faults: IO[bytes]) -> Any:
    faults.seek(0)
    faults.truncate()
    before = _lives.get(nanny.worker_address)
    status = await instantiate()
    if nanny.worker_address is not None:
        _lives[nanny.worker_address] = _Life(nanny.pid)
        while len(_lives) > _KEPT:
            del _lives[next(iter(_lives))]
    if before is not None:
        before.replaced.set()
    return status


def _note_end(nanny: Any, go_on: Any, faults: IO[bytes], exitcode: int) -> None:
    life = _lives.get(nanny.worker_address)
    if life is not None:
        # 255 is how distributed says that it does not know.
        life.exitcode, life.words = (None if exitcode == 255 else exitcode), read_faults(faults)
        life.ended.set()
    go_on(exitcode)


async def end_of_worker(address: str) -> tuple[int | None, int | None, str]:
    """Process id, exit code and last words of the worker that was at `address`, as far as they are known."""
    life = _lives.get(address)
    if life is None:
        return None, None, ""
    try:
        await asyncio.wait_for(life.ended.wait(), _KNOWN_WITHIN)
    except TimeoutError:
        return life.pid, None, ""
    return life.pid, life.exitcode, life.words


async def replacement_of_worker(address: str) -> None:
    """Wait until there is another worker in place of the one that was at `address`."""
    life = _lives.get(address)
    if life is not None:
        with contextlib.suppress(TimeoutError):  # it cannot be started; the others have to do
            await asyncio.wait_for(life.replaced.wait(), _REPLACED_WITHIN)


def kill_worker_of(key: str, dask_scheduler: Any) -> bool:
    """Kill the worker that runs the task, and what it started; its nanny starts another. False if it does not run."""
    task = dask_scheduler.tasks.get(key)
    worker = getattr(task, "processing_on", None)
    life = _lives.get(getattr(worker, "address", ""))
    if life is None or life.pid is None or life.ended.is_set():
        return False
    with contextlib.suppress(ProcessLookupError):
        kill_tree(life.pid)
    return True
