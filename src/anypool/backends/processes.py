"""Calls in worker processes of anypool's own pool: the default for local work."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from anypool._cpus import available_cpus
from anypool.backend import Traits
from anypool.errors import ConfigError, ExecutorClosed, StartError

if TYPE_CHECKING:
    from anypool._pool import LocalPool

__all__ = ["Processes"]


@dataclass(kw_only=True)
class Processes:
    """Runs calls in processes on this machine. No `__main__` guard is needed; a lost worker loses only its call.

    Parameters
    ----------
    max_workers : int, optional
        How many workers; by default as many as this process may use CPUs.
    start_method : {"forkserver", "spawn", "fork"}, optional
        By default "forkserver" where there is one, else "spawn". With "fork" workers inherit the caller's memory,
        which is unsafe while other threads run.
    env : mapping of str to str
        Environment variables that workers have from their start, as numerical libraries read theirs when imported.
    """

    name: ClassVar[str] = "processes"

    max_workers: int | None = None
    start_method: Literal["forkserver", "spawn", "fork"] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    _pool: LocalPool | None = field(default=None, init=False, repr=False, compare=False)

    def start(self) -> tuple[int, Traits]:
        """Start the pool; its workers come up while the first calls are prepared."""
        from anypool._pool import LocalPool, WorkerDied

        size = available_cpus() if self.max_workers is None else self.max_workers
        method = self.start_method or ("spawn" if sys.platform == "win32" else "forkserver")
        try:
            self._pool = LocalPool(size, start_method=method, environment=self.env)
        except ValueError as exc:
            raise ConfigError(f"backend 'processes': {exc}") from exc
        except OSError as exc:
            raise StartError(f"backend 'processes' cannot start: {exc}") from exc
        return size, Traits(
            notices_lost_workers=True,
            loses_only_running=True,
            stops_running_calls=True,
            lost=(WorkerDied,),
        )

    def submit(self, call: Callable[[Any], Any], payload: Any, /) -> Future[Any]:
        """Run `call(payload)` on a worker."""
        return self._started().submit(call, payload)

    def stop_call(self, future: Future[Any], /) -> bool:
        """Kill the worker that runs the call of `future`, and replace it. False if the call is not running."""
        return self._started().stop_call(future)

    def stop(self, *, cancel: bool) -> None:
        """Stop the pool; nothing of it is left."""
        if self._pool is not None:
            self._pool.stop(cancel=cancel)

    def _started(self) -> LocalPool:
        if self._pool is None:
            raise ExecutorClosed("backend 'processes' has not been started")
        return self._pool
