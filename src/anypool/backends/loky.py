"""Calls in worker processes of loky: spawned afresh, robust against deadlocks, no `__main__` guard needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, ClassVar

from anypool._bridge import stop_unused_trackers
from anypool._cpus import available_cpus
from anypool._lanes import Lanes
from anypool._worker_end import WorkerDied
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
    Each worker is a native pool of its own, since one that dies breaks its whole pool: so it takes only the call
    that it ran. loky replaces a worker that has grown; here it stays.
    """

    name: ClassVar[str] = "loky"
    requires: ClassVar[str] = "loky"

    max_workers: int | None = None
    env: Mapping[str, str] | None = None
    context: str | None = None

    def __post_init__(self) -> None:
        self._lanes: Lanes | None = None

    def start(self) -> tuple[int, Traits]:
        """The size of the pool; its workers start with the first calls."""
        size = self.max_workers or available_cpus()
        self._lanes = Lanes(size, "loky", self._new_pool)
        return size, Traits(
            notices_lost_workers=True,
            loses_only_running=True,
            stops_running_calls=True,
            lost=(WorkerDied,),
        )

    def _new_pool(self, **initializer: Any) -> Any:
        from loky import ProcessPoolExecutor
        from loky.backend import get_context

        env = None if self.env is None else dict(self.env)
        try:
            # timeout=None: idle workers stay, else a pause would cost the next call a cold start.
            return ProcessPoolExecutor(1, timeout=None, context=get_context(self.context), env=env, **initializer)
        except (NotImplementedError, OSError, RuntimeError, ValueError) as exc:
            # No semaphores on this system, nested too deep (LokyRecursionError), an unknown context.
            raise StartError(f"loky could not start: {exc}") from exc

    def submit(self, call: Callable[[Any], Any], payload: Any, /) -> Future[Any]:
        """Run the call in a worker process."""
        if self._lanes is None:
            raise ExecutorClosed("the backend 'loky' is not running")
        return self._lanes.submit(call, payload)

    def stop_call(self, future: Future[Any], /) -> bool:
        """Kill the worker that runs the call of `future`, and what it started. False if the call is not running."""
        return self._lanes is not None and self._lanes.stop_call(future)

    def stop(self, *, cancel: bool) -> None:
        """End the workers; with `cancel`, kill them and what they started."""
        if self._lanes is None:
            return
        self._lanes.stop(cancel=cancel)
        stop_unused_trackers()
