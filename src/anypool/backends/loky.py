"""Calls in worker processes of loky: spawned afresh, robust against deadlocks, no `__main__` guard needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, ClassVar

from anypool._bridge import RenewingPool, stop_unused_trackers
from anypool._cpus import available_cpus
from anypool.backend import Traits
from anypool.errors import ExecutorClosed, StartError

__all__ = ["Loky"]


@dataclass(kw_only=True)
class Loky:
    """Runs calls on a loky pool of its own, never on the reusable one that the process may share.

    Parameters
    ----------
    max_workers : int, optional
        Number of processes. Default: the CPUs that this process may use.
    env : mapping of str to str, optional
        Environment variables of the workers, set before they load any module.
    context : str, optional
        Start method, by the name loky gives it. Default: "loky", which starts a fresh interpreter and does
        not run the main script again; "loky_init_main" and "spawn" do.

    Notes
    -----
    A worker that dies breaks the whole native pool: the calls outstanding at that moment fail with it. The
    next `submit` starts a new pool.
    """

    name: ClassVar[str] = "loky"
    requires: ClassVar[str] = "loky"

    max_workers: int | None = None
    env: Mapping[str, str] | None = None
    context: str | None = None

    def __post_init__(self) -> None:
        self._pool: RenewingPool | None = None

    def start(self) -> tuple[int, Traits]:
        """The size of the pool; its workers start with the first calls."""
        from loky.process_executor import BrokenProcessPool, ShutdownExecutorError

        size = self.max_workers or available_cpus()
        self._pool = RenewingPool(lambda: self._new_pool(size), BrokenProcessPool)
        return size, Traits(
            notices_lost_workers=True,
            stops_running_calls=True,
            lost=(BrokenProcessPool, ShutdownExecutorError),
        )

    def _new_pool(self, size: int) -> Any:
        from loky import ProcessPoolExecutor
        from loky.backend import get_context

        env = None if self.env is None else dict(self.env)
        try:
            # timeout=None: idle workers stay, else a pause would cost the next call a cold start.
            return ProcessPoolExecutor(size, timeout=None, context=get_context(self.context), env=env)
        except (NotImplementedError, OSError, RuntimeError, ValueError) as exc:
            # No semaphores on this system, nested too deep (LokyRecursionError), an unknown context.
            raise StartError(f"loky could not start: {exc}") from exc

    def submit(self, call: Callable[[Any], Any], payload: Any, /) -> Future[Any]:
        """Run the call in a worker process."""
        if self._pool is None:
            raise ExecutorClosed("the backend 'loky' is not running")
        return self._pool.submit(call, payload)

    def stop(self, *, cancel: bool) -> None:
        """End the workers; with `cancel`, kill them and what they started."""
        if self._pool is None:
            return
        self._pool.stop(cancel=cancel)
        stop_unused_trackers()
