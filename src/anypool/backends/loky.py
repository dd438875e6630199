"""Calls in worker processes of loky: spawned afresh, robust against deadlocks, no `__main__` guard needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, ClassVar

from anypool._cpus import available_cpus
from anypool.backend import Traits
from anypool.errors import ExecutorClosed, StartError

__all__ = ["Loky"]

_FEEDER_ENDS_WITHIN = 5.0
"""Seconds. It ends when its pipe is closed, in milliseconds; a bound, so that `stop` never hangs on it."""


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
        Start method, by the name loky gives it. Default: "loky", which starts a fresh interpreter and does not
        run the main script again; "loky_init_main" and "spawn" do.

    Notes
    -----
    A worker that dies breaks the whole native pool: the calls outstanding at that moment fail with it. The next
    `submit` starts a new pool.
    """

    name: ClassVar[str] = "loky"
    requires: ClassVar[str] = "loky"

    max_workers: int | None = None
    env: Mapping[str, str] | None = None
    context: str | None = None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._size = 0
        self._pool: Any = None
        # Pools that a lost worker broke. Their manager threads end by themselves, but `submit` may be called
        # from one of them (a future's callback), which cannot join itself: `stop` joins them.
        self._broken: list[Any] = []
        self._stopped = False

    def start(self) -> tuple[int, Traits]:
        from loky.process_executor import BrokenProcessPool, ShutdownExecutorError

        self._size = self.max_workers or available_cpus()
        with self._lock:
            self._pool = self._new_pool()
            self._size = self._pool._max_workers  # loky caps it on Windows
        traits = Traits(
            notices_lost_workers=True,
            stops_running_calls=True,
            lost=(BrokenProcessPool, ShutdownExecutorError),
        )
        return self._size, traits

    def _new_pool(self) -> Any:
        from loky import ProcessPoolExecutor
        from loky.backend import get_context

        env = None if self.env is None else dict(self.env)
        try:
            # timeout=None: idle workers stay, else a pause would cost the next call a cold start.
            return ProcessPoolExecutor(self._size, timeout=None, context=get_context(self.context), env=env)
        except (NotImplementedError, OSError, RuntimeError, ValueError) as exc:
            # No semaphores on this system, nested too deep (LokyRecursionError), an unknown context.
            raise StartError(f"loky could not start: {exc}") from exc

    def submit(self, call: Callable[[Any], Any], payload: Any, /) -> Future[Any]:
        from loky.process_executor import BrokenProcessPool

        with self._lock:
            if self._stopped or self._pool is None:
                raise ExecutorClosed("the backend 'loky' is not running")
            try:
                future: Future[Any] = self._pool.submit(call, payload)
            except BrokenProcessPool:
                self._broken.append(self._pool)
                self._pool = self._new_pool()
                future = self._pool.submit(call, payload)
            return future

    def stop(self, *, cancel: bool) -> None:
        with self._lock:
            self._stopped = True
            pools, self._broken = [*self._broken, self._pool], []
            self._pool = None
        for pool in filter(None, pools):
            # After kill_workers loky leaves the thread that feeds its queue to end when it likes.
            feeder = getattr(getattr(pool, "_call_queue", None), "_thread", None)
            pool.shutdown(wait=True, kill_workers=cancel)
            if feeder is not None and feeder is not threading.current_thread():
                feeder.join(_FEEDER_ENDS_WITHIN)
        pools.clear()
        _stop_unused_tracker()


def _stop_unused_tracker() -> None:
    """End loky's resource tracker, a process, if no semaphore of loky's is left in this process.

    loky starts it with the first semaphore and leaves it until the interpreter ends. When it stops it unlinks
    the semaphores that are still in use, so it must stay as long as there is one, whoever made it. loky has no
    public way to ask for either; where these names are gone, the tracker stays, which costs one idle process.
    The tracker of `multiprocessing` itself, which loky starts too, is never stopped here: shared memory of the
    caller's may be registered there.
    """
    from multiprocessing import util

    from loky.backend import resource_tracker, synchronize

    registry = getattr(util, "_finalizer_registry", None)
    cleanup = getattr(getattr(synchronize, "SemLock", None), "_cleanup", None)
    tracker_stop = getattr(getattr(resource_tracker, "_resource_tracker", None), "_stop", None)
    if registry is None or cleanup is None or tracker_stop is None:
        return
    if not any(getattr(each, "_callback", None) is cleanup for each in list(registry.values())):
        tracker_stop()  # loky starts it again when it next needs it
