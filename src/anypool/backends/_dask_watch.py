"""Whether anybody is left to run the calls of a Dask cluster: where nobody is, Dask itself waits for ever."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sized
from time import monotonic
from typing import Any

__all__ = ["SchedulerLostError", "Watch"]

_LOOKS = 5.0
"""Seconds between looks, at most; nobody looks while no call is on its way."""

_CLOSED = ("closing", "closed")


class Watch:
    """Gives up calls once no worker has been there, or no scheduler has answered, for a while; on the client's loop.

    Parameters
    ----------
    client : distributed.Client
    seconds : float or None
        How long that while is; None: it has no end. A client that is closed is given up at once: it will not connect
        again, and would wait for ever.
    calls : sized
        Those that are on their way.
    give_up : callable
        Fails those that are.
    """

    def __init__(self, client: Any, seconds: float | None, calls: Sized, give_up: Callable[[], object]) -> None:
        self._client = client
        self._seconds = math.inf if seconds is None else seconds
        self._calls = calls
        self._give_up = give_up
        self._task: asyncio.Task[None] | None = None
        self._is_stopped = False
        self.trouble: str | None = None

    def start(self) -> None:
        """Begin to look."""
        self._client.loop.add_callback(self._begin)

    def stop(self) -> None:
        """Look no more."""
        self._is_stopped = True
        self._client.loop.add_callback(self._end)

    def _begin(self) -> None:
        if not self._is_stopped:
            self._task = asyncio.ensure_future(self._run())

    def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        step = min(_LOOKS, self._seconds / 4)
        seen = monotonic()
        while True:
            await asyncio.sleep(step)
            if self.trouble is None and not self._calls:
                seen = monotonic()
                continue
            if self._client.status in _CLOSED:
                self.trouble = "the cluster was given up: the connection to its scheduler is closed"
                self._give_up()
                continue
            trouble = await self._look(step)
            if trouble is None:
                seen, self.trouble = monotonic(), None
            elif monotonic() - seen >= self._seconds:
                self.trouble = f"the cluster was given up: {trouble} for {self._seconds:g} s"
                self._give_up()

    async def _look(self, limit: float) -> str | None:
        """What is wrong with the cluster now."""
        try:
            found = await asyncio.wait_for(self._client.scheduler.identity(n_workers=0), limit)
        except Exception as exc:  # of the connection, or of a client that is being closed
            logging.getLogger("anypool").debug("the Dask scheduler did not answer: %r", exc)
            return "its scheduler has not answered"
        workers = found.get("n_workers", len(found["workers"]))  # before 2025.4 all workers were listed
        return None if workers else "it has had no worker"


class SchedulerLostError(ConnectionError):
    """The scheduler, or the connection to it, or every worker, is gone, and with it each call that Dask had."""
