"""A hook of this process that is put in its place, and taken off again, around every call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Hook"]


class Hook:
    """Stands in for an attribute of a module or class while it is in its place.

    What it made of the last thing that it stood in for serves again while that is the same.

    Parameters
    ----------
    holder, name : object, str
        Where the attribute is.
    wrap : callable
        Given what is there, what is to stand in for it, and what is put back after it.
    """

    __slots__ = ("_before", "_holder", "_name", "_ours", "_put_back", "_wrap")

    def __init__(self, holder: Any, name: str, wrap: Callable[[Any], tuple[Any, Any]]) -> None:
        self._holder = holder
        self._name = name
        self._wrap = wrap
        self._before: Any = self  # which is never there
        self._ours: Any = None
        self._put_back: Any = None

    def put(self) -> None:
        """Put it in its place."""
        before = getattr(self._holder, self._name)
        if before is not self._before:
            self._ours, self._put_back = self._wrap(before)
            self._before = before
        setattr(self._holder, self._name, self._ours)

    def take_off(self) -> None:
        """Put back what was there, unless somebody has replaced it meanwhile."""
        if getattr(self._holder, self._name) is self._ours:
            setattr(self._holder, self._name, self._put_back)
