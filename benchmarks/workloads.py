"""What is measured: each workload has a function, an input, a limit that no pool can beat, and a check of its results.

The limits are measured in the same run, on the same machine, without any pool: see the function named by `limit`.
"""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pipe
from statistics import median
from threading import Thread
from typing import Any, Literal

__all__ = ["WORKLOADS", "Case", "Scale", "Workload"]

_MEGABYTE = 1_000_000
_LIMIT_REPEATS = 3
_MESSAGE = b"x" * 64


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
    kind : {"map", "call", "cold", "import"}
        One map; calls there and back, one after the other; the start and the first map in a fresh interpreter;
        the import in one.
    unit : str
        Of what is reported.
    factor : float
        From seconds to `unit`.
    is_per_item : bool
        Report the time divided by the number of items. Such a workload is cut short for the slowest.
    full, quick : Scale
        Of a run whose figures count, and of one that only shows that it works.
    build : callable
        ``build(scale)`` makes the `Case`.
    needs : str
        A module without which there is no such case.
    """

    name: str
    description: str
    kind: Literal["map", "call", "cold", "import"] = "map"
    unit: str = "s"
    factor: float = 1.0
    is_per_item: bool = False
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
    import numpy as np

    return np.full(megabytes * _MEGABYTE // 8, float(value))


def ends(array: Any) -> tuple[float, float]:
    """The first and the last number of a large array."""
    return float(array[0]), float(array[-1])


# --- the cases ----------------------------------------------------------------------------------------


def _is_squares(results: Sequence[Any], items: Sequence[Any]) -> bool:
    return list(results) == [item * item for item in items]


def _is_same(results: Sequence[Any], items: Sequence[Any]) -> bool:
    return list(results) == list(items)


def _tiny(scale: Scale) -> Case:
    return Case(fn=square, items=range(scale.items), is_right=_is_squares, limit=_pickled_and_run)


def _spinning(seconds: Sequence[float]) -> Case:
    # A nanosecond more for each: equal in effect, distinct as arguments.
    items = [each + 1e-9 * index for index, each in enumerate(seconds)]
    return Case(fn=spin, items=items, is_right=_is_same, limit=_shared_evenly)


def _millis(scale: Scale) -> Case:
    return _spinning([0.001] * scale.items)


def _skew(scale: Scale) -> Case:
    share = scale.items / 303
    return _spinning([0.4 * share] + [0.002] * (scale.items - 3) + [0.2 * share] * 2)


def _tail(scale: Scale) -> Case:
    long = max(1, scale.items // 101)
    return _spinning([0.0005] * (scale.items - long) + [0.05] * long)


def _broadcast(scale: Scale) -> Case:
    import numpy as np

    data = np.arange(scale.megabytes * _MEGABYTE // 8, dtype=float)
    step = len(data) // scale.items
    items = [index * step for index in range(scale.items)]
    limit = partial(_written, scale.megabytes * _MEGABYTE)
    return Case(fn=partial(element, data), items=items, is_right=_is_same, limit=limit)


def _results(scale: Scale) -> Case:
    import numpy as np

    length = scale.megabytes * _MEGABYTE // 8

    def is_right(results: Sequence[Any], items: Sequence[Any]) -> bool:
        return len(results) == len(items) and all(
            np.shape(result) == (length,) and result[0] == item and result[-1] == item
            for result, item in zip(results, items, strict=True)
        )

    limit = partial(_written, scale.items * scale.megabytes * _MEGABYTE)
    return Case(fn=partial(filled, scale.megabytes), items=range(scale.items), is_right=is_right, limit=limit)


def _arguments(scale: Scale) -> Case:
    items = [filled(scale.megabytes, index) for index in range(scale.items)]

    def is_right(results: Sequence[Any], arrays: Sequence[Any]) -> bool:
        return [tuple(result) for result in results] == [ends(array) for array in arrays]

    limit = partial(_copied, scale.items * scale.megabytes * _MEGABYTE)
    return Case(fn=ends, items=items, is_right=is_right, limit=limit)


def _latency(scale: Scale) -> Case:
    return Case(fn=square, items=range(scale.items), is_right=_is_squares, limit=_round_trip)


def _cold(scale: Scale) -> Case:
    return Case(fn=square, items=range(scale.items), is_right=_is_squares, limit=_bare_interpreter)


def _import(scale: Scale) -> Case:
    return Case(fn=square, items=(), is_right=_is_same, limit=lambda workers, items: None)


# --- the limits ---------------------------------------------------------------------------------------


def _pickled_and_run(workers: int, items: Sequence[Any]) -> float:
    """The calls, and a pickle of items and results there and back, on all workers at once."""

    def once() -> float:
        started = time.perf_counter()
        arrived = pickle.loads(pickle.dumps(list(items), pickle.HIGHEST_PROTOCOL))
        results = list(map(square, arrived))
        pickle.loads(pickle.dumps(results, pickle.HIGHEST_PROTOCOL))
        return time.perf_counter() - started

    return min(once() for _ in range(_LIMIT_REPEATS)) / workers


def _shared_evenly(workers: int, items: Sequence[float]) -> float:
    """The work that the items ask for, shared evenly, but not below the longest of them."""
    return max(math.fsum(items) / workers, max(items))


def _written(length: int, workers: int, items: Sequence[Any]) -> float:
    """`length` bytes written once into memory that another process can read."""
    data = memoryview(bytearray(length))

    def once() -> float:
        with tempfile.TemporaryFile(dir=_shared_directory(), buffering=0) as file:
            started = time.perf_counter()
            file.write(data)
            return time.perf_counter() - started

    return min(once() for _ in range(_LIMIT_REPEATS))


def _copied(length: int, workers: int, items: Sequence[Any]) -> float:
    """`length` bytes copied into pages that were touched before, as shared memory that is used again has."""
    source, target = memoryview(bytearray(length)), memoryview(bytearray(length))

    def once() -> float:
        started = time.perf_counter()
        target[:] = source
        return time.perf_counter() - started

    once()
    return min(once() for _ in range(_LIMIT_REPEATS))


def _shared_directory() -> str | None:
    """Where files are memory, on Linux; elsewhere where temporary files are."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _round_trip(workers: int, items: Sequence[Any]) -> float:
    """A message of 64 bytes over a pipe to a process and back, for each item."""
    here, there = Pipe()
    with (
        subprocess.Popen(
            [sys.executable, "-I", "-c", _ECHO, str(there.fileno()), str(len(items))], pass_fds=[there.fileno()]
        )
        if os.name == "posix"
        else _EchoThread(there, len(items))
    ):
        here.send_bytes(_MESSAGE)
        here.recv_bytes()  # it is up
        times = []
        for _ in items:
            started = time.perf_counter()
            here.send_bytes(_MESSAGE)
            here.recv_bytes()
            times.append(time.perf_counter() - started)
    here.close()
    there.close()
    return median(times) * len(items)


_ECHO = """
import sys
from multiprocessing.connection import Connection
there = Connection(int(sys.argv[1]))
for _ in range(int(sys.argv[2]) + 1):
    there.send_bytes(there.recv_bytes())
"""


class _EchoThread:
    """The echo where a process cannot inherit one end of a pipe: a thread, which is quicker, so a lower limit."""

    def __init__(self, there: Any, count: int) -> None:
        self._thread = Thread(target=self._run, args=(there, count))

    @staticmethod
    def _run(there: Any, count: int) -> None:
        for _ in range(count + 1):
            there.send_bytes(there.recv_bytes())

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._thread.join()


def _bare_interpreter(workers: int, items: Sequence[Any]) -> float:
    """One interpreter that starts without `site` and ends. A pool that forks its caller can be below this."""

    def once() -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True)
        return time.perf_counter() - started

    return min(once() for _ in range(_LIMIT_REPEATS))


WORKLOADS = {
    each.name: each
    for each in (
        Workload(
            name="tiny",
            description="calls of a tenth of a microsecond: what the pool itself costs",
            unit="µs an item",
            factor=1e6,
            is_per_item=True,
            full=Scale(items=100_000),
            quick=Scale(items=2_000),
            build=_tiny,
        ),
        Workload(
            name="millis",
            description="calls that take 1 ms of CPU each",
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
            name="broadcast",
            description="50 calls of a partial that holds 80 MB",
            full=Scale(items=50, megabytes=80),
            quick=Scale(items=5, megabytes=2),
            build=_broadcast,
            needs="numpy",
        ),
        Workload(
            name="results",
            description="30 arrays of 8 MB come back",
            full=Scale(items=30, megabytes=8),
            quick=Scale(items=4, megabytes=2),
            build=_results,
            needs="numpy",
        ),
        Workload(
            name="arguments",
            description="30 distinct arrays of 8 MB go out",
            full=Scale(items=30, megabytes=8),
            quick=Scale(items=4, megabytes=2),
            build=_arguments,
            needs="numpy",
        ),
        Workload(
            name="latency",
            description="one call there and back, then the next",
            kind="call",
            unit="µs a call",
            factor=1e6,
            is_per_item=True,
            full=Scale(items=500),
            quick=Scale(items=20),
            build=_latency,
        ),
        Workload(
            name="cold",
            description="start and first map of 8 items, in a fresh interpreter that has imported the library",
            kind="cold",
            full=Scale(items=8),
            quick=Scale(items=8),
            build=_cold,
        ),
        Workload(
            name="import",
            description="import in a fresh interpreter",
            kind="import",
            unit="ms",
            factor=1e3,
            full=Scale(items=0),
            quick=Scale(items=0),
            build=_import,
        ),
    )
}
"""Every workload by name, in the order of the report."""
