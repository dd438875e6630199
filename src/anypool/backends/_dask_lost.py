"""The caller's side of a Dask worker's end: how it came, when there is another, and how to bring it about."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from anypool._bridge import without_frames
from anypool._worker_end import WorkerDied, post_mortem
from anypool.backends._dask_nanny import end_of_worker, kill_worker_of, replacement_of_worker

__all__ = ["LocalWorkers"]


class LocalWorkers:
    """The worker processes of a local cluster, as far as its process tells of them.

    Parameters
    ----------
    client : distributed.Client or None
        None for a cluster that is not ours: nobody tells anything, and nothing is killed.
    are_killed_for_one : bool
        Whether a worker may be killed to end one call, as it runs no other.
    """

    def __init__(self, client: Any, *, are_killed_for_one: bool = False) -> None:
        self._client = client
        self._are_killed = are_killed_for_one
        self._killings: set[asyncio.Task[Any]] = set()

    async def explain(self, lost: Any, error: Exception) -> WorkerDied:
        """How the worker `lost`, of Dask's `error`, ended."""
        pid, exitcode, words = await self._ask(end_of_worker, lost.address) or (None, None, "")
        died = post_mortem(
            f"{lost.name} of Dask",
            pid=pid,
            exitcode=exitcode,
            words=words,
            host=lost.host if self._client is None else None,
            where=str(lost.address),
        )
        died.__cause__ = without_frames(error)
        return died

    async def replacement(self, lost: Any) -> None:
        """Wait until there is another worker in the place of `lost`."""
        await self._ask(replacement_of_worker, lost.address)

    async def _ask(self, function: Callable[..., Any], *args: Any) -> Any:
        if self._client is None:
            return None
        try:
            return await self._client.run_on_scheduler(function, *args, asynchronous=True)
        except Exception as exc:  # the cluster is on its way out, in one of many ways
            logging.getLogger("anypool").debug("the Dask cluster did not answer: %r", exc)
            return None

    def kill_worker_of(self, key: str) -> bool:
        """Kill the worker that runs the task `key`; Dask replaces it. False if none is killed."""
        if not self._are_killed:
            return False
        killing = self._ask(kill_worker_of, key)
        if self._client.loop.asyncio_loop is _running_loop():  # in a callback: the answer comes after it
            self._killings.add(task := asyncio.ensure_future(killing))
            task.add_done_callback(self._killings.discard)
            return True
        return bool(asyncio.run_coroutine_threadsafe(killing, self._client.loop.asyncio_loop).result())


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
