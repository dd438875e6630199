"""Who is measured: peers with their defaults, the native pools that anypool runs on, and anypool on each of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import peers
from subject import RUNNING, FuturesSubject, Subject, is_installed

__all__ = ["BACKENDS", "PEERS", "RAW", "AnypoolSubject", "Bare", "Subject", "anypool_subjects", "make_subject"]

BACKENDS = ("serial", "threads", "processes", "loky", "joblib", "dask")
"""The backends of anypool that are measured unless the command line says which."""


# --- no pool ------------------------------------------------------------------------------------------


class Loop(Subject):
    """No pool: the loop that `serial` stands for."""

    name = "loop"
    kinds = RUNNING
    place = "caller"

    def start(self, workers: int) -> None:
        """Nothing to start."""

    def map(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return list(map(fn, items))

    def call(self, fn: Callable[[Any], Any], item: Any) -> Any:
        return fn(item)


class Bare(Subject):
    """No pool either: processes with a pipe each, that share the items out evenly beforehand, knowing their lengths.

    What a pool cannot know: so it is reported as a limit that was reached, and is nobody's peer.
    """

    name = "bare-processes"
    modules = ("multiprocessing",)
    kinds = frozenset({"map"})

    def start(self, workers: int) -> None:
        from multiprocessing import get_context

        context = get_context("fork")
        self._pipes, self._processes = [], []
        for _ in range(workers):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there,))
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)

    def map(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        shares = _shares(list(items), len(self._pipes))
        for pipe, share in zip(self._pipes, shares, strict=True):
            pipe.send((fn, [item for _, item in share]))
        results: list[Any] = [None] * sum(map(len, shares))
        for pipe, share in zip(self._pipes, shares, strict=True):
            for (index, _), result in zip(share, pipe.recv(), strict=True):
                results[index] = result
        return results

    def call(self, fn: Callable[[Any], Any], item: Any) -> Any:
        self._pipes[0].send((fn, [item]))
        return self._pipes[0].recv()[0]

    def stop(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.terminate()
            process.join()


def _serve(pipe: Any) -> None:
    while True:
        fn, items = pipe.recv()
        pipe.send(list(map(fn, items)))


def _shares(items: list[Any], count: int) -> list[list[tuple[int, Any]]]:
    """The items with their indexes: the longest first to whom has least, where an item is its length in seconds."""
    numbered = list(enumerate(items))
    if not all(isinstance(item, float) for item in items):
        return [numbered[first::count] for first in range(count)]
    shares: list[list[tuple[int, Any]]] = [[] for _ in range(count)]
    loads = [0.0] * count
    for index, item in sorted(numbered, key=lambda pair: -pair[1]):
        least = loads.index(min(loads))
        shares[least].append((index, item))
        loads[least] += item
    return shares


class Imported(Subject):
    """Nothing but modules, for what an import costs."""

    kinds = frozenset({"import"})

    def __init__(self, *modules: str) -> None:
        self.modules = modules  # type: ignore[misc]
        self.name = f"import {modules[0]}"  # type: ignore[misc]


# --- native pools that no other library offers --------------------------------------------------------


class LocalPoolRaw(Subject):
    """The pool under the backend `processes`, given one call at a time without the core."""

    name = "local-pool"
    modules = ("anypool", "anypool._pool")
    distributions = ("anypool",)
    kinds = RUNNING

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


class AnypoolSubject(FuturesSubject):
    """anypool on one backend, with the settings given and the defaults for all else."""

    distributions = ("anypool",)
    kinds = RUNNING
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
        return super().missing() or (needed if needed and not is_installed(needed) else None)

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
        peers.StdlibPool,
        peers.StdlibExecutor,
        peers.StdlibThreads,
        peers.LokyPeer,
        peers.JoblibPeer,
        peers.JoblibPoolPeer,
        peers.MpirePeer,
        peers.PebblePeer,
        peers.DaskPeer,
        peers.DaskExecutorPeer,
        peers.RayPeer,
    )
}
"""The peers by name."""

RAW: dict[str, tuple[type[Subject], ...]] = {
    "serial": (Loop,),
    "threads": (peers.StdlibThreads,),
    # No other library offers the local pool; what starts its workers in the same way is the standard library's.
    "processes": (LocalPoolRaw, peers.StdlibForkserver),
    "loky": (peers.LokyPeer,),
    "joblib": (peers.JoblibPeer,),
    "dask": (peers.DaskPeer, peers.DaskExecutorPeer),
}
"""What runs below each backend of anypool, used without it; the best of them counts."""

IMPORTS = {each.name: each for each in (Imported("concurrent.futures"), Imported("anypool"))}
"""What only the workload *import* measures."""


def anypool_subjects(backends: Iterable[str]) -> dict[str, Callable[[], Subject]]:
    """How to make anypool on each of `backends`, by name of the subject."""
    return {f"anypool/{backend}": partial(AnypoolSubject, backend) for backend in backends}


def make_subject(name: str) -> Subject:
    """The subject of that name: a peer, a native pool, ``anypool/<backend>``, or ``import <module>``."""
    if name.startswith("anypool/"):
        return AnypoolSubject(name.removeprefix("anypool/"))
    if name in IMPORTS:
        return IMPORTS[name]
    known: Sequence[type[Subject]] = (Bare, *PEERS.values(), *(each for row in RAW.values() for each in row))
    return next(each for each in known if each.name == name)()
