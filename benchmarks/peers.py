"""The peers: pools of the standard library and of others, as their documentation says to use them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from subject import RUNNING, FuturesSubject, Subject

# --- the standard library -----------------------------------------------------------------------------


class StdlibPool(Subject):
    """`multiprocessing.Pool`."""

    name = "stdlib-pool"
    modules = ("multiprocessing", "multiprocessing.pool")

    def start(self, workers: int) -> None:
        from multiprocessing import Pool

        self._pool = Pool(workers)

    def map(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return self._pool.map(fn, items)

    def call(self, fn: Callable[[Any], Any], item: Any) -> Any:
        return self._pool.apply(fn, (item,))

    def stop(self) -> None:
        self._pool.terminate()
        self._pool.join()


class StdlibExecutor(FuturesSubject):
    """`concurrent.futures.ProcessPoolExecutor`."""

    name = "stdlib-executor"
    modules = ("concurrent.futures.process",)

    def start(self, workers: int) -> None:
        from concurrent.futures import ProcessPoolExecutor

        self._executor = ProcessPoolExecutor(workers)


class StdlibForkserver(FuturesSubject):
    """`concurrent.futures.ProcessPoolExecutor` whose workers are not forks of the caller."""

    name = "stdlib-forkserver"
    kinds = frozenset({"cold"})
    modules = ("concurrent.futures.process",)

    def start(self, workers: int) -> None:
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        self._executor = ProcessPoolExecutor(workers, mp_context=get_context("forkserver"))


class StdlibThreads(FuturesSubject):
    """`concurrent.futures.ThreadPoolExecutor`."""

    name = "stdlib-threads"
    place = "threads"
    modules = ("concurrent.futures.thread",)

    def start(self, workers: int) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self._executor = ThreadPoolExecutor(workers)


# --- peers --------------------------------------------------------------------------------------------


class LokyPeer(FuturesSubject):
    """`loky.ProcessPoolExecutor`."""

    name = "loky"
    modules = ("loky",)
    distributions = ("loky",)

    def start(self, workers: int) -> None:
        from loky import ProcessPoolExecutor

        self._executor = ProcessPoolExecutor(workers)


class JoblibPeer(Subject):
    """`joblib.Parallel`, kept open between maps."""

    name = "joblib"
    modules = ("joblib",)
    distributions = ("joblib",)
    backend: ClassVar[str] = "loky"

    def start(self, workers: int) -> None:
        from joblib import Parallel

        self._parallel = Parallel(n_jobs=workers, backend=self.backend)
        self._parallel.__enter__()

    def map(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        from joblib import delayed

        return list(self._parallel(delayed(fn)(item) for item in items))

    def call(self, fn: Callable[[Any], Any], item: Any) -> Any:
        return self.map(fn, [item])[0]

    def stop(self) -> None:
        # joblib keeps loky's workers for the next Parallel, and has no public way to end them; but the next start
        # must be one, and nobody else may be measured beside them.
        workers = getattr(self._parallel._backend, "_workers", None)
        self._parallel.__exit__(None, None, None)
        if self.backend == "loky" and workers is not None:
            workers.terminate(kill_workers=True)


class JoblibPoolPeer(JoblibPeer):
    """`joblib.Parallel` on its pool of `multiprocessing`."""

    name = "joblib-mp"
    kinds = RUNNING
    backend = "multiprocessing"


class MpirePeer(Subject):
    """`mpire.WorkerPool`."""

    name = "mpire"
    modules = ("mpire",)
    distributions = ("mpire",)

    def start(self, workers: int) -> None:
        from mpire import WorkerPool  # type: ignore[attr-defined, unused-ignore]

        self._pool = WorkerPool(n_jobs=workers)

    def map(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return list(self._pool.map(fn, items))

    def call(self, fn: Callable[[Any], Any], item: Any) -> Any:
        return self._pool.apply(fn, (item,))

    def stop(self) -> None:
        self._pool.stop_and_join()
        self._pool.terminate()


class PebblePeer(Subject):
    """`pebble.ProcessPool`."""

    name = "pebble"
    modules = ("pebble",)
    distributions = ("Pebble",)

    def start(self, workers: int) -> None:
        from pebble import ProcessPool

        self._pool: Any = ProcessPool(max_workers=workers)

    def map(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return list(self._pool.map(fn, items).result())

    def call(self, fn: Callable[[Any], Any], item: Any) -> Any:
        return self._pool.schedule(fn, args=(item,)).result()

    def stop(self) -> None:
        self._pool.stop()
        self._pool.join()


class DaskPeer(Subject):
    """Dask's own `Client.map` and `submit`, on a cluster of processes."""

    name = "dask"
    modules = ("distributed",)
    distributions = ("distributed", "dask")

    def start(self, workers: int) -> None:
        from distributed import Client

        # One thread each, as for every other subject; no dashboard, which would need a free port.
        make: Any = Client
        self._client: Any = make(n_workers=workers, threads_per_worker=1, dashboard_address=None)

    def map(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        with warnings.catch_warnings():  # it advises to scatter large functions
            warnings.simplefilter("ignore")
            return list(self._client.gather(self._client.map(fn, list(items))))

    def call(self, fn: Callable[[Any], Any], item: Any) -> Any:
        return self._client.submit(fn, item).result()

    def stop(self) -> None:
        cluster = self._client.cluster
        self._client.close()
        if cluster is not None:
            cluster.close()


class DaskExecutorPeer(DaskPeer):
    """`Client.get_executor()`, Dask as an executor."""

    name = "dask-executor"
    kinds = RUNNING

    def start(self, workers: int) -> None:
        super().start(workers)
        self._executor = self._client.get_executor()

    def map(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return list(self._executor.map(fn, items))

    def call(self, fn: Callable[[Any], Any], item: Any) -> Any:
        return self._executor.submit(fn, item).result()

    def stop(self) -> None:
        self._executor.shutdown()
        super().stop()


class RayPeer(Subject):
    """`ray.util.multiprocessing.Pool`."""

    name = "ray"
    modules = ("ray", "ray.util.multiprocessing")
    distributions = ("ray",)

    def start(self, workers: int) -> None:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # one machine, one user; else it writes a token
        from ray.util.multiprocessing import Pool

        self._pool = Pool(workers)

    def map(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return list(self._pool.map(fn, items))

    def call(self, fn: Callable[[Any], Any], item: Any) -> Any:
        return self._pool.apply(fn, (item,))

    def stop(self) -> None:
        import ray

        self._pool.terminate()
        self._pool.join()
        ray.shutdown()
