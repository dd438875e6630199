"""What is measured is a subject: a pool that is started, maps, calls once, and is stopped."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal

__all__ = ["RUNNING", "FuturesSubject", "Subject", "is_installed"]

RUNNING = frozenset({"map", "again", "call", "cold"})
"""The kinds of workloads that run calls."""


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
    kinds : frozenset of str
        The kinds of workloads that it is measured on.
    """

    name: ClassVar[str] = ""
    place: ClassVar[Literal["caller", "threads", "processes"]] = "processes"
    modules: ClassVar[tuple[str, ...]] = ()
    distributions: ClassVar[tuple[str, ...]] = ()
    kinds: ClassVar[frozenset[str]] = RUNNING | {"import"}

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
        return next((name for name in self.modules if not is_installed(name)), None)

    def versions(self) -> dict[str, str]:
        """The versions of its libraries."""
        from importlib.metadata import version

        return {name: version(name) for name in self.distributions}


def is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a parent package
        return False


class FuturesSubject(Subject):
    """A `concurrent.futures.Executor` in `_executor`."""

    _executor: Any

    def map(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return list(self._executor.map(fn, items))

    def call(self, fn: Callable[[Any], Any], item: Any) -> Any:
        return self._executor.submit(fn, item).result()

    def stop(self) -> None:
        self._executor.shutdown()
