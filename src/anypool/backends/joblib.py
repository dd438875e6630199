"""Calls on any backend that joblib knows: its own ones, and those that others register with it."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, ClassVar

from anypool._adopted import adopt
from anypool._bridge import Outstanding, settle, stop_unused_trackers, without_frames
from anypool._cpus import available_cpus
from anypool._imported import import_without_traces, start_method_kept
from anypool._lanes import Lanes
from anypool._worker_end import WorkerDied, post_mortem
from anypool.backend import Traits
from anypool.backends._joblib_pool import Watch, forget_folders, take_apart
from anypool.errors import ConfigError, ExecutorClosed, StartError

__all__ = ["Joblib"]

_ON_THIS_MACHINE = frozenset({"loky", "multiprocessing", "sequential", "threading"})


@dataclass(kw_only=True)
class Joblib:
    """Drives a backend of joblib's directly: its `Parallel` looks for results every 10 ms only.

    Parameters
    ----------
    max_workers : int, optional
        `n_jobs` of the native backend. Default: the CPUs that this process may use. For one worker joblib's
        own backends run calls in the caller, and so does this one.
    native : str
        Name that the backend is registered with in joblib.
    native_options : mapping
        What it is created with.

    Notes
    -----
    With ``native="loky"`` the workers are this executor's own, each in a pool of joblib's loky for itself, so that
    one that dies takes only the call that it ran. joblib shares one pool in the process, which it resizes or shuts
    down whenever somebody asks for another size: two users would stop each other's calls.

    With ``native="multiprocessing"`` workers are started by loky's start method unless
    ``JOBLIB_START_METHOD`` or ``native_options["context"]`` says otherwise: joblib's default forks, which
    hangs where there are threads. Its workers cannot start processes. It does not notice a worker that dies, so it
    is watched: the pool is replaced then, and the calls that ran on its other workers are lost with it. With
    ``native_options["maxtasksperchild"]`` workers end all the time, and nobody watches.
    """

    name: ClassVar[str] = "joblib"
    requires: ClassVar[str] = "joblib"

    max_workers: int | None = None
    native: str = "loky"
    native_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._outstanding = Outstanding()
        self._backend: Any = None
        self._own_loky: Lanes | None = None
        self._new_pool: Callable[[], object] | None = None  # of a pool that is watched
        self._watch: Watch | None = None
        self._in_caller = False
        self._synchronous = False
        self._stopped = False

    @classmethod
    def from_url(cls, rest: str, /) -> dict[str, Any]:
        """Options from what follows ``joblib://``: the name of the native backend."""
        return {"native": rest} if rest else {}

    def start(self) -> tuple[int, Traits]:
        """Configure the native backend.

        Raises
        ------
        ConfigError
            joblib knows no backend of that name, or the backend refuses an option.
        StartError
            It does not offer what is needed to learn of results without waiting for them.
        """
        import_without_traces("joblib")
        from joblib.parallel import FallbackToBackend, Parallel

        backend = self._find()
        size = self.max_workers or available_cpus()
        try:
            with start_method_kept():
                size = self._configure(backend, Parallel(n_jobs=size, backend=backend), size)
        except FallbackToBackend as fallback:  # how joblib says: with one worker, the caller runs the calls
            backend, size = fallback.backend, 1
        self._synchronous = type(backend).__name__ == "SequentialBackend"
        self._in_caller = bool(getattr(backend, "supports_sharedmem", False))
        if not self._synchronous and not backend.supports_retrieve_callback:
            raise StartError(f"joblib's backend {self.native!r} cannot report results by callback")
        self._backend = backend
        return size, self._traits(size)

    def _find(self) -> Any:
        from joblib import parallel_config
        from joblib.parallel import get_active_backend

        try:
            with parallel_config(backend=self.native, prefer=None, require=None, **self.native_options):
                return get_active_backend()[0]
        except (AssertionError, TypeError, ValueError) as exc:
            raise ConfigError(f"joblib's backend {self.native!r}: {exc}") from exc

    def _configure(self, backend: Any, parallel: Any, size: int) -> int:
        from joblib.parallel import DEFAULT_MP_CONTEXT

        if self.native == "loky" and backend.effective_n_jobs(size) > 1:
            self._own_loky = _new_loky(backend, size)
            return size
        options: dict[str, Any] = {}
        if self.native == "multiprocessing":
            context = self.native_options.get("context") or DEFAULT_MP_CONTEXT or _safe_context()
            # Workers that the caller itself starts can tell when it is gone, and go.
            if "initializer" not in self.native_options and _method_of(context) != "forkserver":
                options |= {"initializer": adopt, "initargs": (os.getpid(),)}
            if "context" not in self.native_options:
                options["context"] = context
        configured: int = backend.configure(n_jobs=size, parallel=parallel, **options)
        if self.native == "multiprocessing" and not self.native_options.get("maxtasksperchild"):
            self._new_pool = functools.partial(backend.configure, n_jobs=size, parallel=parallel, **options)
            self._watch = Watch(backend._pool, self._pool_died)
        return configured

    def _pool_died(self, process: Any) -> None:
        """Fail what a pool had that has lost a worker, on the thread that watched it. The next call makes another."""
        with self._lock:
            if self._stopped:
                return
            pool, self._backend._pool = self._backend._pool, None
            watch, self._watch = self._watch, None
            lost = self._outstanding.snapshot()
        take_apart(pool)
        if watch is not None:
            watch.stop()
        error = post_mortem(process.name, pid=process.pid, exitcode=process.exitcode)
        for future in lost:
            settle(future, error=error)

    def _traits(self, size: int) -> Traits:
        own_loky = self._own_loky is not None
        return Traits(
            concurrent_in_process=bool(getattr(self._backend, "uses_threads", False)) and size > 1,
            in_caller=self._in_caller,
            synchronous=self._synchronous,
            remote=self.native not in _ON_THIS_MACHINE,
            notices_lost_workers=own_loky or self._watch is not None,
            loses_only_running=own_loky,
            stops_running_calls=own_loky,
            starts_processes=own_loky or self._in_caller,
            lost=(WorkerDied,) if own_loky or self._watch is not None else (),
        )

    def submit(self, call: Callable[[Any], Any], payload: Any, /) -> Future[Any]:
        """Run the call; `cancel` is exact where workers are threads, and refused where joblib has none."""
        if self._stopped or self._backend is None:
            raise ExecutorClosed("the backend 'joblib' is not running")
        if self._own_loky is not None:
            return self._own_loky.submit(call, payload)
        future: Future[Any] = Future()
        task: Callable[[], Any] = functools.partial(call, payload)
        if self._in_caller:
            task = functools.partial(_unless_cancelled, future, task)
        else:
            future.set_running_or_notify_cancel()
        if self._synchronous:
            _run_here(self._outstanding.add(future), task)
        else:
            # joblib makes its thread pool at the first call, and for two at once makes two.
            with self._lock, start_method_kept():
                if self._new_pool is not None and self._watch is None:
                    self._new_pool()
                    self._watch = Watch(self._backend._pool, self._pool_died)
                self._outstanding.add(future)
                self._backend.submit(task, functools.partial(self._finish, self._backend, future))
        return future

    def stop_call(self, future: Future[Any], /) -> bool:
        """Kill the worker that runs the call of `future`. False if it does not run, or is not loky's."""
        return self._own_loky is not None and self._own_loky.stop_call(future)

    @staticmethod
    def _finish(backend: Any, future: Future[Any], out: Any) -> None:
        try:
            value = backend.retrieve_result_callback(out)
        except BaseException as exc:  # SystemExit of a worker too: it ended the call, not us
            settle(future, error=without_frames(exc))
        else:
            settle(future, value)

    def stop(self, *, cancel: bool) -> None:
        """End the native pool; with `cancel`, without waiting for calls in other processes."""
        self._stopped = True
        if self._backend is None:
            return
        if cancel:
            self._outstanding.cancel()
        if self._in_caller or not cancel:
            self._outstanding.wait()
        if self._own_loky is not None:
            self._own_loky.stop(cancel=cancel)
        else:
            self._stop_native(cancel=cancel)
        self._backend = None
        if self.native in {"loky", "multiprocessing"}:
            stop_unused_trackers()

    def _stop_native(self, *, cancel: bool) -> None:
        if self._new_pool is not None:
            self._stop_watched()
            return
        pool = getattr(self._backend, "_pool", None)
        if cancel and not self._synchronous:
            self._backend.abort_everything(ensure_ready=False)
        self._backend.terminate()
        if pool is not None:
            pool.join()
            forget_folders(pool)
        self._fail_forgotten()

    def _stop_watched(self) -> None:
        with self._lock:  # after which no worker's end is of interest
            watch, self._watch = self._watch, None
            pool, self._backend._pool = self._backend._pool, None
        if watch is not None:
            watch.stop()
        if pool is not None:
            take_apart(pool)
        self._backend.terminate()
        self._fail_forgotten()

    def _fail_forgotten(self) -> None:
        error = ExecutorClosed("the backend 'joblib' was stopped while the call was running")
        for future in self._outstanding.snapshot():  # the native pool forgot them
            settle(future, error=error)


def _new_loky(backend: Any, size: int) -> Lanes:
    """Workers of joblib's loky, with the environment that joblib's `backend` gives them."""
    from joblib.externals.loky.process_executor import ProcessPoolExecutor

    env = backend._prepare_worker_env(n_jobs=size)
    return Lanes(size, "joblib.externals.loky", functools.partial(ProcessPoolExecutor, 1, timeout=None, env=env))


def _safe_context() -> Any:
    """A start method that neither forks nor runs the caller's main script again."""
    from joblib.externals.loky.backend import get_context

    return get_context("loky")


def _method_of(context: Any) -> str | None:
    return context if isinstance(context, str) else context.get_start_method()


def _unless_cancelled(future: Future[Any], task: Callable[[], Any]) -> Any:
    return task() if future.set_running_or_notify_cancel() else None


def _run_here(future: Future[Any], task: Callable[[], Any]) -> None:
    try:
        value = task()
    except Exception as exc:
        settle(future, error=exc)
    except BaseException as exc:  # Ctrl-C: for whoever waits, and for this thread
        settle(future, error=exc)
        raise
    else:
        settle(future, value)
