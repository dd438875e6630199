"""What is measured: each workload has a function, an input, a limit that no pool can beat, and a check of its results.

The limits are measured in the same run, on the same machine, without any pool: see `limits`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

from limits import bare_interpreter, copied, pickled_and_run, round_trip, shared_evenly, written

__all__ = ["WORKLOADS", "Case", "Scale", "Workload", "ends", "filled_items", "spin", "square"]

_MEGABYTE = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How big a workload is: `items` calls, and arrays of `megabytes` where it moves data."""

    items: int
    megabytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Case:
    """One workload at one scale.

    Parameters
    ----------
    fn : callable
        Importable on the workers.
    items : sequence
        Its input. No two items are equal: Dask's `Client.map` merges equal calls unless told not to.
    is_right : callable
        ``is_right(results, items)``: whether these are the results of these items.
    limit : callable
        ``limit(workers, items)``: the seconds below which no pool of `workers` can be, measured when called.
        None where nothing bounds it.
    """

    fn: Callable[[Any], Any]
    items: Sequence[Any]
    is_right: Callable[[Sequence[Any], Sequence[Any]], bool]
    limit: Callable[[int, Sequence[Any]], float | None]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A kind of work.

    Parameters
    ----------
    name, description : str
        What it is called, and what it asks of a pool.
    kind : {"map", "again", "call", "cold", "import"}
        One map; one on a pool that has run the same function once; calls there and back, one after the other; the
        start and the first map in a fresh interpreter; the import in one.
    group : {"calls", "data", "fresh"}
        Works of one group are measured one after the other on the same pool.
    unit : str
        Of what is reported.
    factor : float
        From seconds to `unit`.
    is_per_item : bool
        Report the time divided by the number of items. Such a workload is cut short for the slowest.
    is_held_to_raw : bool
        What anypool does is held against the native pool below it, so that one is measured in every round.
    rivals : tuple of str
        Peers that it is held against by name, so that they are, too.
    full, quick : Scale
        Of a run whose figures count, and of one that only shows that it works.
    build : callable
        ``build(scale)`` makes the `Case`.
    needs : str
        A module without which there is no such case.
    """

    name: str
    description: str
    kind: Literal["map", "again", "call", "cold", "import"] = "map"
    group: Literal["calls", "data", "fresh"] = "calls"
    unit: str = "s"
    factor: float = 1.0
    is_per_item: bool = False
    is_held_to_raw: bool = False
    rivals: tuple[str, ...] = ()
    full: Scale
    quick: Scale
    build: Callable[[Scale], Case]
    needs: str = "pickle"


# --- what the workers run: importable by name, by every peer ------------------------------------------


def square(x: int) -> int:
    """The smallest call."""
    return x * x


def spin(seconds: float) -> float:
    """Use `seconds` of one CPU.

    Not by the clock on the wall, on which two threads that share one interpreter lock would seem to run at once.
    """
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return seconds


def element(data: Any, index: int) -> float:
    """One number of a large array that came with the function."""
    return float(data[index])


def filled(megabytes: int, value: int) -> Any:
    """An array of so many megabytes."""
    return filled_items(megabytes * _MEGABYTE // 8, value)


def filled_items(length: int, value: int) -> Any:
    """An array of so many numbers."""
    import numpy as np

    return np.full(length, float(value))


def ends(array: Any) -> tuple[float, float]:
    """The first and the last number of a large array."""
    return float(array[0]), float(array[-1])


# --- the cases ----------------------------------------------------------------------------------------


def _is_squares(results: Sequence[Any], items: Sequence[Any]) -> bool:
    return list(results) == [item * item for item in items]


def _is_same(results: Sequence[Any], items: Sequence[Any]) -> bool:
    return list(results) == list(items)


def _tiny(scale: Scale) -> Case:
    limit = partial(pickled_and_run, square)
    return Case(fn=square, items=range(scale.items), is_right=_is_squares, limit=limit)


def _spinning(seconds: Sequence[float]) -> Case:
    # A nanosecond more for each: equal in effect, distinct as arguments.
    items = [each + 1e-9 * index for index, each in enumerate(seconds)]
    return Case(fn=spin, items=items, is_right=_is_same, limit=shared_evenly)


def _millis(scale: Scale) -> Case:
    return _spinning([0.001] * scale.items)


def _skew(scale: Scale) -> Case:
    share = scale.items / 303
    return _spinning([0.4 * share] + [0.002] * (scale.items - 3) + [0.2 * share] * 2)


def _tail(scale: Scale) -> Case:
    long = max(1, scale.items // 101)
    return _spinning([0.0005] * (scale.items - long) + [0.05] * long)


@cache
def _numbers(megabytes: int) -> Callable[[int], float]:
    """The function that holds an array: the same one for the first map and the one after it."""
    import numpy as np

    return partial(element, np.arange(megabytes * _MEGABYTE // 8, dtype=float))


def _broadcast(scale: Scale, *, offset: int = 0) -> Case:
    step = scale.megabytes * _MEGABYTE // 8 // scale.items
    items = [index * step + offset for index in range(scale.items)]
    limit = partial(written, scale.megabytes * _MEGABYTE)
    return Case(fn=_numbers(scale.megabytes), items=items, is_right=_is_same, limit=limit)


def _results(scale: Scale) -> Case:
    import numpy as np

    length = scale.megabytes * _MEGABYTE // 8

    def is_right(results: Sequence[Any], items: Sequence[Any]) -> bool:
        return len(results) == len(items) and all(
            np.shape(result) == (length,) and result[0] == item and result[-1] == item
            for result, item in zip(results, items, strict=True)
        )

    limit = partial(written, scale.items * scale.megabytes * _MEGABYTE)
    return Case(fn=partial(filled, scale.megabytes), items=range(scale.items), is_right=is_right, limit=limit)


def _arguments(scale: Scale) -> Case:
    items = [filled(scale.megabytes, index) for index in range(scale.items)]

    def is_right(results: Sequence[Any], arrays: Sequence[Any]) -> bool:
        return [tuple(result) for result in results] == [ends(array) for array in arrays]

    limit = partial(copied, scale.items * scale.megabytes * _MEGABYTE)
    return Case(fn=ends, items=items, is_right=is_right, limit=limit)


def _latency(scale: Scale) -> Case:
    return Case(fn=square, items=range(scale.items), is_right=_is_squares, limit=round_trip)


def _cold(scale: Scale) -> Case:
    return Case(fn=square, items=range(scale.items), is_right=_is_squares, limit=bare_interpreter)


def _import(scale: Scale) -> Case:
    return Case(fn=square, items=(), is_right=_is_same, limit=lambda workers, items: None)


WORKLOADS = {
    each.name: each
    for each in (
        Workload(
            name="tiny",
            description="calls of a tenth of a microsecond: what the pool itself costs",
            unit="µs an item",
            factor=1e6,
            is_per_item=True,
            rivals=("stdlib-pool",),
            full=Scale(items=100_000),
            quick=Scale(items=2_000),
            build=_tiny,
        ),
        Workload(
            name="millis",
            description="1,000 calls that take 1 ms of CPU each",
            full=Scale(items=1_000),
            quick=Scale(items=40),
            build=_millis,
        ),
        Workload(
            name="skew",
            description="one call of 0.4 s, then 300 of 2 ms, then two of 0.2 s: chunks must stay small",
            full=Scale(items=303),
            quick=Scale(items=33),
            build=_skew,
        ),
        Workload(
            name="tail",
            description="1,000 calls of 0.5 ms, then 10 of 50 ms: chunks that grew must shrink again",
            full=Scale(items=1_010),
            quick=Scale(items=101),
            build=_tail,
        ),
        Workload(
            name="latency",
            description="one call there and back, then the next",
            kind="call",
            unit="µs a call",
            factor=1e6,
            is_per_item=True,
            is_held_to_raw=True,
            full=Scale(items=500),
            quick=Scale(items=20),
            build=_latency,
        ),
        Workload(
            name="broadcast",
            description="50 calls of a partial that holds 80 MB",
            group="data",
            full=Scale(items=50, megabytes=80),
            quick=Scale(items=5, megabytes=2),
            build=_broadcast,
            needs="numpy",
        ),
        Workload(
            name="broadcast again",
            description="50 more calls of that partial, in a second map",
            kind="again",
            group="data",
            full=Scale(items=50, megabytes=80),
            quick=Scale(items=5, megabytes=2),
            build=partial(_broadcast, offset=1),
            needs="numpy",
        ),
        Workload(
            name="results",
            description="30 arrays of 8 MB come back",
            group="data",
            rivals=("ray",),
            full=Scale(items=30, megabytes=8),
            quick=Scale(items=4, megabytes=2),
            build=_results,
            needs="numpy",
        ),
        Workload(
            name="arguments",
            description="30 distinct arrays of 8 MB go out",
            group="data",
            rivals=("ray",),
            full=Scale(items=30, megabytes=8),
            quick=Scale(items=4, megabytes=2),
            build=_arguments,
            needs="numpy",
        ),
        Workload(
            name="cold",
            description="start and first map of 8 items, in a fresh interpreter that has imported the library",
            kind="cold",
            group="fresh",
            is_held_to_raw=True,
            full=Scale(items=8),
            quick=Scale(items=8),
            build=_cold,
        ),
        Workload(
            name="import",
            description="import in a fresh interpreter",
            kind="import",
            group="fresh",
            unit="ms",
            factor=1e3,
            full=Scale(items=0),
            quick=Scale(items=0),
            build=_import,
        ),
    )
}
"""Every workload by name, in the order of the report."""
