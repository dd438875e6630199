"""Who is measured: peers with their defaults, the native pools that anypool runs on, and anypool on each of them.

A subject is started, maps, calls once, and is stopped. The class says what it needs to be installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar, Literal

__all__ = ["PEERS", "RAW", "AnypoolSubject", "Subject", "anypool_subjects", "make_subject"]

BACKENDS = ("serial", "threads", "processes", "loky", "joblib", "dask")
"""The backends of anypool that are measured unless the command line says which."""


class Subject:
    """One pool, as its documentation says to use it.

    Attributes
    ----------
    name : str
        Of the command line and the report.
    place : {"caller", "threads", "processes"}
        Where its calls run. Subjects are compared with peers of the same place.
    modules : tuple of str
        What a program that uses it imports; the workload *import* measures these.
    distributions : tuple of str
        Whose versions are reported.
    """

    name: ClassVar[str] = ""
    place: ClassVar[Literal["caller", "threads", "processes"]] = "processes"
    modules: ClassVar[tuple[str, ...]] = ()
    distributions: ClassVar[tuple[str, ...]] = ()

    def start(self, workers: int) -> None:
        """Start the pool."""
        raise NotImplementedError

    def map(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """All results of one map, in order."""
        raise NotImplementedError

    def call(self, fn: Callable[[Any], Any], item: Any) -> Any:
        """The result of one call."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop the pool."""

    def load(self) -> None:
        """Import all that starting it would import."""
        for module in self.modules:
            importlib.import_module(module)

    def missing(self) -> str | None:
        """The module without which it cannot be measured; None if all are here."""
        return next((name for name in self.modules if not _is_installed(name)), None)

    def versions(self) -> dict[str, str]:
        """The versions of its libraries."""
        from importlib.metadata import version

        return {name: version(name) for name in self.distributions}


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a parent package
        return False


# --- the standard library -----------------------------------------------------------------------------


class Loop(Subject):
    """No pool: the loop that `serial` stands for."""

    name = "loop"
    place = "caller"

    def start(self, workers: int) -> None:
        """Nothing to start."""

    def map(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return list(map(fn, items))

    def call(self, fn: Callable[[Any], Any], item: Any) -> Any:
        return fn(item)


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


class _FuturesSubject(Subject):
    """A `concurrent.futures.Executor` in `_executor`."""

    _executor: Any

    def map(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return list(self._executor.map(fn, items))

    def call(self, fn: Callable[[Any], Any], item: Any) -> Any:
        return self._executor.submit(fn, item).result()

    def stop(self) -> None:
        self._executor.shutdown()


class StdlibExecutor(_FuturesSubject):
    """`concurrent.futures.ProcessPoolExecutor`."""

    name = "stdlib-executor"
    modules = ("concurrent.futures.process",)

    def start(self, workers: int) -> None:
        from concurrent.futures import ProcessPoolExecutor

        self._executor = ProcessPoolExecutor(workers)


class StdlibThreads(_FuturesSubject):
    """`concurrent.futures.ThreadPoolExecutor`."""

    name = "stdlib-threads"
    place = "threads"
    modules = ("concurrent.futures.thread",)

    def start(self, workers: int) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self._executor = ThreadPoolExecutor(workers)


# --- peers --------------------------------------------------------------------------------------------


class LokyPeer(_FuturesSubject):
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


# --- native pools that no other library offers --------------------------------------------------------


class LocalPoolRaw(Subject):
    """The pool under the backend `processes`, given one call at a time without the core."""

    name = "local-pool"
    modules = ("anypool", "anypool._pool")
    distributions = ("anypool",)

    def start(self, workers: int) -> None:
        from anypool.backends.processes import Processes

        self._backend = Processes(max_workers=workers)
        self._backend.start()

    def map(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        futures = [self._backend.submit(fn, item) for item in items]
        return [future.result() for future in futures]

    def call(self, fn: Callable[[Any], Any], item: Any) -> Any:
        return self._backend.submit(fn, item).result()

    def stop(self) -> None:
        self._backend.stop(cancel=False)


# --- anypool ------------------------------------------------------------------------------------------


class AnypoolSubject(_FuturesSubject):
    """anypool on one backend, with the settings given and the defaults for all else."""

    distributions = ("anypool",)
    _PLACES: ClassVar[dict[str, Literal["caller", "threads", "processes"]]] = {
        "serial": "caller",
        "threads": "threads",
    }
    _REQUIRES: ClassVar[dict[str, str]] = {"loky": "loky", "joblib": "joblib", "dask": "distributed"}

    def __init__(self, backend: str, **settings: Any) -> None:
        self.backend = backend
        self.settings = settings
        self.name = f"anypool/{backend}"  # type: ignore[misc]
        self.place = self._PLACES.get(backend, "processes")  # type: ignore[misc]
        # The executor, as a program that uses it has it; a backend's library is imported when it starts.
        self.modules = ("anypool", "anypool._executor")  # type: ignore[misc]

    def missing(self) -> str | None:
        needed = self._REQUIRES.get(self.backend)
        return super().missing() or (needed if needed and not _is_installed(needed) else None)

    def load(self) -> None:
        super().load()
        if self.backend in self._REQUIRES:
            importlib.import_module(self._REQUIRES[self.backend])

    def start(self, workers: int) -> None:
        import anypool

        self._executor = anypool.get_executor(self.backend, max_workers=workers, **self.settings)


PEERS: dict[str, type[Subject]] = {
    each.name: each
    for each in (
        StdlibPool,
        StdlibExecutor,
        StdlibThreads,
        LokyPeer,
        JoblibPeer,
        JoblibPoolPeer,
        MpirePeer,
        PebblePeer,
        DaskPeer,
        DaskExecutorPeer,
        RayPeer,
    )
}
"""The peers by name."""

RAW: dict[str, type[Subject]] = {
    "serial": Loop,
    "threads": StdlibThreads,
    "processes": LocalPoolRaw,
    "loky": LokyPeer,
    "joblib": JoblibPeer,
    "dask": DaskExecutorPeer,
}
"""What runs below each backend of anypool, used without it."""


def anypool_subjects(backends: Iterable[str]) -> dict[str, Callable[[], Subject]]:
    """How to make anypool on each of `backends`, by name of the subject."""
    return {f"anypool/{backend}": partial(AnypoolSubject, backend) for backend in backends}


def make_subject(name: str) -> Subject:
    """The subject of that name: a peer, a native pool, or ``anypool/<backend>``."""
    if name.startswith("anypool/"):
        return AnypoolSubject(name.removeprefix("anypool/"))
    native = {each.name: each for each in RAW.values()}
    return {**native, **PEERS}[name]()
