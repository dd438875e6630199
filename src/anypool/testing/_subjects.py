"""What can be held against the contract by name: every backend, executors of other libraries, and anybody's factory."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from anypool import _registry
from anypool.backend import Traits
from anypool.errors import ConfigError, MissingExtra
from anypool.testing._subject import end
from anypool.testing.suite import ExecutorTests

__all__ = ["FOREIGN", "Foreign", "tests_of"]

_WORKERS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Foreign:
    """An executor of another library, and what it is believed to be.

    Parameters
    ----------
    module : str
        Must be installed.
    make : callable
        Returns a new executor; takes the options of its constructor.
    traits : Traits
        As its documentation has it.
    features : collection of str
        What of `FEATURES` its documentation offers.
    """

    module: str
    make: Callable[..., Any]
    traits: Traits
    features: Collection[str]


def _stdlib_threads(**options: Any) -> Any:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(_WORKERS, **options)


def _stdlib_processes(**options: Any) -> Any:
    from concurrent.futures import ProcessPoolExecutor

    return ProcessPoolExecutor(_WORKERS, **options)


def _loky(**options: Any) -> Any:
    from loky import ProcessPoolExecutor

    return ProcessPoolExecutor(_WORKERS, **options)


def _mpi4py(**options: Any) -> Any:
    return importlib.import_module("mpi4py.futures").MPIPoolExecutor(_WORKERS, **options)


def _dask(**options: Any) -> Any:
    return DaskTests.client.get_executor(**options)


# Not "initializer", which they have too: the tests of it ask for more, that its error is told.
_OF_THE_STDLIB = ("finishes",)

FOREIGN = {
    "stdlib-threads": Foreign(
        module="concurrent.futures",
        make=_stdlib_threads,
        traits=Traits(shares_memory=True, in_caller=True, concurrent_in_process=True),
        features=("any_function", *_OF_THE_STDLIB),
    ),
    "stdlib-processes": Foreign(
        module="concurrent.futures",
        make=_stdlib_processes,
        traits=Traits(notices_lost_workers=True),
        features=_OF_THE_STDLIB,
    ),
    "loky-raw": Foreign(
        module="loky",
        make=_loky,
        traits=Traits(notices_lost_workers=True),
        features=("any_function", *_OF_THE_STDLIB),
    ),
    "dask-raw": Foreign(
        module="distributed",
        make=_dask,
        traits=Traits(starts_processes=False),
        features=("any_function",),
    ),
    "mpi4py": Foreign(
        module="mpi4py",
        make=_mpi4py,
        traits=Traits(),
        features=_OF_THE_STDLIB,
    ),
}
"""Executors that are not ours, by the name that `anypool check` knows them by."""


class DaskTests(ExecutorTests):
    """The contract on Dask's own executor, which ends without the client that it is of: that is the class's."""

    client: ClassVar[Any] = None

    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls) -> Iterator[Any]:
        """The shared executor, in a cluster of two processes of one thread each."""
        distributed = importlib.import_module("distributed")
        with distributed.LocalCluster(n_workers=_WORKERS, threads_per_worker=1, dashboard_address=None) as cluster:
            with distributed.Client(cluster) as DaskTests.client:
                executor = cls.make_executor()
                list(executor.map(abs, range(10)))  # opens connections, which are the client's and stay
                yield executor
                end(executor)


def tests_of(spec: str) -> type[ExecutorTests]:
    """The contract as a test class for what `spec` names.

    Parameters
    ----------
    spec : str
        A name or URL of a backend; a name in `FOREIGN`; or ``"module:factory"``, ``"path/to/file.py:factory"``, of
        which the factory returns a new executor of any library. A factory may have attributes `traits` (`Traits`)
        and `features` (names of `FEATURES`) that say what its executors offer beyond `submit`, `map` and
        `shutdown`; it is then called with options such as `initializer=`.

    Raises
    ------
    UnknownBackend, ConfigError
        It is none of them.
    MissingExtra
        Its library is not installed.
    """
    foreign = FOREIGN.get(spec)
    if foreign is not None:
        if importlib.util.find_spec(foreign.module.partition(".")[0]) is None:
            raise MissingExtra(f"{spec!r} needs: pip install {foreign.module}")
        base = DaskTests if foreign.make is _dask else ExecutorTests
        return _foreign_tests(base, foreign.make, foreign.traits, foreign.features)
    if ":" in spec and "://" not in spec:
        return _factory_tests(spec)
    _registry.find(_registry.canonical(spec))

    class TestContract(ExecutorTests):
        backend: ClassVar[Any] = spec
        options: ClassVar[Any] = {} if _says_its_size(spec) else {"max_workers": _WORKERS}

    return TestContract


def _says_its_size(spec: str) -> bool:
    return "max_workers=" in spec or "://" in spec


def _factory_tests(spec: str) -> type[ExecutorTests]:
    from anypool._calls_from import load_named

    factory = load_named(spec)
    if not callable(factory):
        raise ConfigError(f"{spec!r} is no factory of executors: it cannot be called")
    traits = getattr(factory, "traits", None) or Traits()
    return _foreign_tests(ExecutorTests, factory, traits, getattr(factory, "features", None))


def _foreign_tests(
    base: type[ExecutorTests], make: Callable[..., Any], traits_: Traits, features_: Collection[str] | None
) -> type[ExecutorTests]:
    class TestContract(base):  # type: ignore[misc, valid-type]
        traits: ClassVar[Any] = traits_
        features: ClassVar[Any] = features_

        @classmethod
        def make_executor(cls, **options: Any) -> Any:
            return make(**options)

    return TestContract
