"""What it costs to pickle a chunk as one, and item by item: why `_wire` does both.

    python benchmarks/wire.py

Prints microseconds an item, there and back, medians of 15 rounds taken in turn.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from anypool import _wire

ITEMS = 20_000
ROUNDS = 15


def as_one(items: Sequence[Any]) -> list[Any]:
    return list(_wire.unpack_column(_wire.pack_column(items, refuse)))


def each(items: Sequence[Any]) -> list[Any]:
    return [_wire.loads(parcel) for parcel in [_wire.dumps(item) for item in items]]


def refuse(_offset: int, why: Exception) -> bytes:
    raise why


def seconds(call: Callable[[Sequence[Any]], list[Any]], items: Sequence[Any]) -> float:
    started = time.perf_counter()
    result = call(items)
    taken = time.perf_counter() - started
    assert result == list(items)
    return taken


def main() -> None:
    items = list(range(ITEMS))
    rounds = [(seconds(as_one, items), seconds(each, items)) for _ in range(ROUNDS)]
    one, many = (median(column) / ITEMS * 1e6 for column in zip(*rounds, strict=True))
    print(f"CPython {platform.python_version()}, {ITEMS:,} ints")
    print(f"as one     {one:.3f} us an item")
    print(f"each alone {many:.3f} us an item")


if __name__ == "__main__":
    main()
