"""How many bytes an item or a value is, roughly and quickly: what bounds a chunk, and what a map holds. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

__all__ = ["AT_HAND", "HEAVIEST_CHUNK", "read_weighing", "weigh", "weigh_all"]

HEAVIEST_CHUNK = 8 << 20
"""Bytes. A chunk of more gains nothing: to copy so much takes far longer than to send a chunk."""

AT_HAND = frozenset({range, list, tuple, str, bytes, bytearray, dict, set, frozenset})
"""Containers whose items are there, or cost nothing: to read from them takes neither time nor memory."""

_LIGHT = frozenset({int, float, complex, bool, type(None)})
_LOOKED_AT = 100  # items of a container that are weighed; the others are taken to be like them
_DEEPEST = 2
_LIGHT_AT_ONCE = 16


def weigh(item: Any, deepest: int = _DEEPEST) -> int:
    """The bytes of what is plainly large: text, buffers, what says `nbytes`, and containers of such. Else 0.

    Nothing of the user's is run but a property `nbytes`. What it overlooks is found when it is pickled.
    """
    kind = type(item)
    if kind in _LIGHT:
        return 0
    if kind in (bytes, str, bytearray):
        return len(item)
    if kind in (tuple, list, dict):
        return _weigh_container(item.values() if kind is dict else item, deepest)
    if not hasattr(kind, "nbytes"):
        return 0
    try:
        return int(item.nbytes)
    except Exception:  # the user's own idea of such an attribute
        return 0


def _weigh_container(parts: Sequence[Any] | Iterable[Any], deepest: int) -> int:
    count = len(parts)  # type: ignore[arg-type]
    if not count or not deepest:
        return 0
    looked_at = min(count, _LOOKED_AT)
    return sum(weigh(part, deepest - 1) for part in islice(parts, looked_at)) * count // looked_at


def weigh_all(items: Sequence[Any]) -> int:
    """The bytes of all `items`: ten nanoseconds an item where there are only numbers."""
    if set(map(type, items)) <= _LIGHT:
        return 0
    return sum(map(weigh, items))


def read_weighing(items: Iterator[Any], size: int, into: list[Any]) -> Iterator[int]:
    """Add the next `size` items to `into`, in steps, each with the bytes that were read; to be left when they are many.

    The steps are so small that neither a slow input nor a large item comes after many others unnoticed: an item at a
    time, of numbers several, once there are many. What `items` raises is raised; `into` then has what came before.
    """
    step, weight = 1, 0
    while size > 0:
        before = len(into)
        into.extend(islice(items, min(step, size)))
        count = len(into) - before
        if not count:
            return
        new = into[before:]
        if set(map(type, new)) <= _LIGHT:
            step = min(1 + len(into) // _LIGHT_AT_ONCE, _LIGHT_AT_ONCE)
        else:
            step = 1
            weight += sum(map(weigh, new))
        yield weight
        size -= count
