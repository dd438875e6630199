"""The iterator that `map` returns."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from itertools import chain
from typing import Any, NoReturn

__all__ = ["Results"]


class Results(chain[Any]):
    """The values of chunk after chunk; between two of one chunk, no code of ours runs.

    Dropping it closes it.
    """

    _close: Callable[[], None]

    @classmethod
    def of(cls, chunks: Generator[Iterable[Any], None, None], close: Callable[[], None]) -> Results:
        """The values of `chunks`, which `close` ends."""
        results = cls.from_iterable(chunks)
        assert isinstance(results, cls)
        results._close = close
        return results

    def close(self) -> None:
        """Give no further result, and cancel what has not begun. Idempotent."""
        self._close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("the results of a map cannot be copied or pickled")

    def __repr__(self) -> str:
        return "<results of a map>"
