"""A runner of pymoo: calls a function for each of many points, and survives copying and pickling."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["Runner"]


class Runner:
    """``runner(f, X)`` is the list of ``f(x)`` for each `x`, in order. Made by `PoolExecutor.as_runner`.

    pymoo copies and pickles problems and algorithms with all that they hold. A copy in this process uses the same
    workers; one that was pickled has an executor of the same specification, which starts with its first use.
    """

    def __init__(self, executor: Any) -> None:
        self._executor = executor

    def __call__(self, f: Callable[[Any], Any], X: Iterable[Any]) -> list[Any]:  # noqa: N803 - pymoo's name
        return list(self._executor.map(f, X))

    def __deepcopy__(self, memo: dict[int, Any]) -> Runner:
        return self
