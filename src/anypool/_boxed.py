"""A function whose results can be told from its errors, where both travel as values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Boxed"]


class Boxed:
    """Calls `fn` and returns ``(result,)``, so that a returned exception is no raised one.

    Its name is `fn`'s: errors and notes speak of the user's function.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        self._fn = fn
        self.__qualname__ = getattr(fn, "__qualname__", None) or type(fn).__qualname__

    def __call__(self, item: Any) -> tuple[Any]:
        return (self._fn(item),)
