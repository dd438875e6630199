"""`register_joblib`: everything that has an `n_jobs` runs on any backend.

joblib keeps its loop (batches, order, generators, timeouts), and gets futures from an executor.
"""

from __future__ import annotations

import contextvars
import operator
import threading
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import cache
from typing import Any

from anypool._cpus import available_cpus
from anypool._executor import PoolExecutor
from anypool._futures import CallFuture
from anypool.errors import ConfigError, MissingExtra

__all__ = ["register_joblib"]

_OF_JOBLIB = frozenset({"context", "max_nbytes", "mmap_mode", "prefer", "require", "temp_folder", "verbose"})
"""What joblib passes to `configure` of every backend, and concerns its own pools."""


def register_joblib() -> None:
    """Make ``"anypool"`` a backend of joblib's, for everything with an `n_jobs`: scikit-learn and others.

    Then ``joblib.parallel_config(backend="anypool")`` runs it on the backend that the configuration says, and
    ``joblib.parallel_config(backend="anypool", anypool_backend="dask", ...)`` on that one, with its options and with
    settings. `anypool_backend` is what `get_executor` takes, or an executor, which stays open.

    `n_jobs` is how many workers are used, at most: there are never more than `max_workers` says, or the CPU budget
    where nothing says it (`available_cpus`). Without `n_jobs` all of them are used. One is the caller itself, as always
    in joblib.

    Notes
    -----
    Workers stay for half a minute for the next call (the setting `reuse`), because estimators make many. A call
    inside a call gets the plan for nested levels (the setting `nested`): ``serial``, unless it says otherwise.

    Raises
    ------
    MissingExtra
        joblib is not installed.

    Examples
    --------
    >>> import anypool, joblib
    >>> anypool.register_joblib()
    >>> with joblib.parallel_config(backend="anypool", anypool_backend="threads", max_workers=2):
    ...     joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(x) for x in [-1, -2, -3])
    [1, 2, 3]
    """
    try:
        from joblib import register_parallel_backend
    except ModuleNotFoundError as exc:
        raise MissingExtra("register_joblib() needs: pip install 'anypool[joblib]'", name="joblib") from exc
    register_parallel_backend("anypool", _backend_class())


def _nested(nesting_level: int) -> Any:
    """The backend for calls inside calls; made on the worker, where the plan for nested levels is known."""
    register_joblib()
    return _backend_class()(nesting_level=nesting_level)


class _Calls:
    """The calls of one `joblib.Parallel`, in order, so that what they print is shown in order."""

    def __init__(self, executor: PoolExecutor) -> None:
        self._executor = executor
        self._lock = threading.Lock()
        self._unshown: deque[CallFuture] = deque()
        # Results are taken by threads of the pool. What calls print belongs to the caller, also if that is a call.
        self._context = contextvars.copy_context()

    def submit(self, batch: Callable[[], Any]) -> CallFuture:
        # As an argument: large arrays inside of it travel as those of any argument do.
        future = self._executor.submit(operator.call, batch)
        with self._lock:
            self._unshown.append(future)
        return future

    def show(self) -> None:
        """Show what the calls have printed whose turn it is."""
        with self._lock:
            while self._unshown and self._unshown[0].done():
                self._context.run(self._unshown.popleft()._show)

    def cancel(self) -> None:
        """Cancel them all, also those that run where the backend can."""
        with self._lock:
            left = list(self._unshown)
        for future in left:
            self._executor.cancel(future, running=True)


class _Source:
    """Where the executor of a joblib backend comes from."""

    def __init__(self, choice: Any, options: Mapping[str, Any]) -> None:
        self.given = choice if isinstance(choice, PoolExecutor) else None
        self.choice = choice
        self.options = {"reuse": True, **options}
        if self.given is not None and options:
            raise ConfigError(f"options beside an executor: {', '.join(sorted(options))}; give them where it is made")
        if "executor" in options:  # a good guess
            raise ConfigError("the executor for joblib is named by anypool_backend=, and not by executor=")

    def open(self, n_jobs: int, settings: Mapping[str, Any]) -> tuple[PoolExecutor, int]:
        """An executor for so many jobs, and how many it runs at once."""
        if self.given is not None:
            executor = self.given.options(**settings)
            return executor, _wanted(n_jobs, executor.max_workers)
        plain = PoolExecutor(self.choice, **{**self.options, **settings})
        backend = plain._backend
        if any(getattr(backend, name, None) is not None for name in ("address", "client", "cluster")):
            executor = plain.clone()  # a cluster has the size that it has
            return executor, _wanted(n_jobs, executor.max_workers)
        size = _wanted(n_jobs, getattr(backend, "max_workers", None) or available_cpus())
        executor = plain.clone(max_workers=size)
        return executor, executor.max_workers

    def close(self, executor: PoolExecutor) -> None:
        if self.given is None:
            executor.shutdown()


def _wanted(n_jobs: int, size: int) -> int:
    return min(n_jobs, size) if n_jobs > 0 else max(1, size + 1 + n_jobs)


@cache
def _backend_class() -> Any:
    """The class that joblib is told of. Made when joblib is there: its base is joblib's."""
    from joblib.parallel import (
        AutoBatchingMixin,
        FallbackToBackend,
        ParallelBackendBase,
        SequentialBackend,
    )

    class AnypoolBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
        """One `joblib.Parallel` after another on executors of anypool."""

        supports_retrieve_callback = True  # hence timeouts and generators
        supports_inner_max_num_threads = True
        default_n_jobs = -1

        def __init__(
            self,
            nesting_level: int | None = None,
            inner_max_num_threads: int | None = None,
            anypool_backend: Any = None,
            **options: Any,
        ) -> None:
            super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
            self._source = _Source(anypool_backend, options)
            self._executor: PoolExecutor | None = None
            self._calls: _Calls | None = None
            self._n_jobs = 1

        @property
        def supports_sharedmem(self) -> bool:
            given = self._source.given
            return given is not None and given.traits.shares_memory

        def effective_n_jobs(self, n_jobs: int | None) -> int:
            if n_jobs == 0:
                raise ValueError("n_jobs == 0 in Parallel has no meaning")
            if self._executor is not None:
                return self._n_jobs
            if n_jobs == 1:
                return 1
            executor, size = self._source.open(n_jobs or -1, self._settings())
            self._source.close(executor)
            return size

        def configure(self, n_jobs: int | None = 1, parallel: Any = None, **options: Any) -> int:
            options = {name: value for name, value in options.items() if name not in _OF_JOBLIB}
            if options:  # of joblib.Parallel(backend="anypool", ...)
                self._source = _Source(options.pop("anypool_backend", self._source.choice), options)
            if self.effective_n_jobs(n_jobs) == 1:
                raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
            self.parallel = parallel
            self._executor, self._n_jobs = self._source.open(n_jobs or -1, self._settings())
            self._calls = _Calls(self._executor)
            return self._n_jobs

        def _settings(self) -> dict[str, Any]:
            return {} if self.inner_max_num_threads is None else {"inner_threads": self.inner_max_num_threads}

        def submit(self, func: Callable[[], Any], callback: Callable[[Any], object] | None = None) -> Future[Any]:
            assert self._calls is not None
            future = self._calls.submit(func)
            if callback is not None:
                future.add_done_callback(callback)
            return future

        def retrieve_result_callback(self, out: Future[Any]) -> Any:
            if self._calls is not None:
                self._calls.show()
            error = Future.exception(out)  # not CallFuture's, which shows what the call printed before its turn
            if error is None:
                return Future.result(out)
            # joblib drops the traceback of an error that it keeps.
            frames = "".join(traceback.format_tb(error.__traceback__)).rstrip()
            error.add_note(f"anypool: raised by a worker:\n{frames}")
            raise error

        def abort_everything(self, ensure_ready: bool = True) -> None:  # noqa: ARG002 - it is always ready
            if self._calls is not None:
                self._calls.cancel()

        def terminate(self) -> None:
            calls, self._calls = self._calls, None
            executor, self._executor = self._executor, None
            try:
                if calls is not None:
                    calls.show()
            finally:
                if executor is not None:
                    self._source.close(executor)
                self.reset_batch_stats()

        def get_nested_backend(self) -> tuple[Any, int | None]:
            return type(self)(nesting_level=(self.nesting_level or 0) + 1), None

        def __reduce__(self) -> tuple[Any, ...]:
            return _nested, (self.nesting_level,)

    return AnypoolBackend
