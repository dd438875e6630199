"""One thing varied at a time: how long calls are, how many go in a chunk, how large the data is, how many calls.

Each sweep gives curves; the plots of `plots.py` are made from them.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

from measure import warm_up
from memory import measure_tiny
from report import align, figures
from subject import Subject
from workloads import ends, filled_items, spin, square

__all__ = ["AUTOMATIC", "MEMORY", "SWEEPS", "Sweep", "SweepReport", "measure_sweep"]

AUTOMATIC = " automatic"
"""Ends the name of a curve with one point: the mean size of the chunks that the core chose."""

MEMORY = " memory"
"""Ends the name of a curve of bytes."""

_ENOUGH = 0.4
"""Seconds that a point may take, as far as the point before it tells."""

_MOST_CHUNKS = 1_500

Make = Callable[[], Subject]
Point = tuple[str, float, float]
"""The name of a curve, and where it goes through."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A quantity that is varied.

    Parameters
    ----------
    name, varied, measured : str
        What it is called, and what the two axes are.
    subjects : tuple of str
        Who is measured.
    points, quick_points : tuple of float
        Of a run whose figures count, and of one that only shows that it works.
    run : callable
        ``run(name, make, workers, points)`` measures one subject once, and gives points of its curves.
    rounds : int
        How often each subject is measured, in turn with the others.
    """

    name: str
    varied: str
    measured: str
    subjects: tuple[str, ...]
    points: tuple[float, ...]
    quick_points: tuple[float, ...]
    run: Callable[[str, Make, int, Sequence[float]], Iterator[Point]]
    rounds: int = 3


@dataclass(kw_only=True)
class SweepReport:
    """What was measured: of each curve, for each x the values of the rounds; and who failed."""

    sweep: Sweep
    curves: dict[str, dict[float, list[float]]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For the record."""
        return {
            "varied": self.sweep.varied,
            "measured": self.sweep.measured,
            "curves": {name: [[x, values] for x, values in curve.items()] for name, curve in self.curves.items()},
            "problems": self.problems,
        }

    def text(self) -> str:
        """The medians as a table."""
        known = {name: curve for name, curve in self.curves.items() if not name.endswith(AUTOMATIC)}
        columns = sorted({x for curve in known.values() for x in curve})
        rows = [[self.sweep.varied, *(f"{x:g}" for x in columns), ""]]
        for name, curve in known.items():
            cells = [figures(median(curve[x])) if x in curve else "" for x in columns]
            chosen = self.curves.get(name + AUTOMATIC, {})
            note = "; ".join(f"automatic: {figures(median(values))} at {x:.0f}" for x, values in chosen.items())
            rows.append([name, *cells, note])
        rows += [[name, *[""] * len(columns), problem] for name, problem in self.problems.items()]
        return f"{self.sweep.name}: {self.sweep.measured}\n{align(rows)}"


def measure_sweep(
    sweep: Sweep,
    makers: Mapping[str, Make],
    *,
    workers: int,
    quick: bool,
    seconds: float = math.inf,
    say: Callable[[str], None] = lambda text: None,
) -> SweepReport:
    """Every subject at every point, the subjects in turn; no round is begun that would end after so many seconds."""
    report = SweepReport(sweep=sweep)
    began = before = time.monotonic()
    for number in range(1 if quick else sweep.rounds):
        started = time.monotonic()
        if number and 2 * started - before > began + seconds:
            break
        before = started
        for name, make in makers.items():
            if name in report.problems:
                continue
            say(f"{sweep.name}, round {number + 1}: {name}")
            try:
                for curve, x, value in sweep.run(name, make, workers, sweep.quick_points if quick else sweep.points):
                    report.curves.setdefault(curve, {}).setdefault(x, []).append(value)
            except Exception as exc:  # a peer that fails is a result
                report.problems[name] = f"{type(exc).__name__}: {exc}".splitlines()[0]
    return report


@contextlib.contextmanager
def _started(make: Make, workers: int) -> Iterator[Any]:
    subject = make()
    subject.start(workers)
    try:
        warm_up(subject, workers)
        yield subject
    finally:
        subject.stop()


def _seconds(call: Callable[[], Sequence[Any]], length: int) -> float:
    started = time.perf_counter()
    results = call()
    seconds = time.perf_counter() - started
    if len(results) != length:
        raise ValueError("wrong results")
    return seconds


# --- how long calls are -------------------------------------------------------------------------------


def _overhead(name: str, make: Make, workers: int, points: Sequence[float]) -> Iterator[Point]:
    """Seconds of a worker that each call costs beyond itself, from short calls to long ones."""
    with _started(make, workers) as subject:
        lost = _seconds(lambda: subject.map(square, range(100)), 100) / 100
        for length in points:
            per_item = max(lost, 1e-7) + length / workers
            count = int(min(100_000, max(12, _ENOUGH / per_item)))
            count = min(count, max(12, int(0.3 * workers / length)) if length else count)
            # A nanosecond more for each: equal in effect, distinct as arguments.
            items: Sequence[Any] = [length + 1e-9 * index for index in range(count)] if length else range(count)
            seconds = _seconds(partial(subject.map, spin if length else square, items), count)
            lost = max(0.0, seconds / count - length / workers)
            yield name, length, workers * lost


# --- how many calls go in a chunk ---------------------------------------------------------------------


def _even(scale: int) -> list[float]:
    return [50e-6 + 1e-9 * index for index in range(8_000 // scale)]


def _uneven(scale: int) -> list[float]:
    lengths = [0.0005] * (1_000 // scale) + [0.05] * (10 // scale)
    return [each + 1e-9 * index for index, each in enumerate(lengths)]


def _efficiency(
    lengths: Callable[[int], list[float]], name: str, make: Make, workers: int, points: Sequence[float]
) -> Iterator[Point]:
    """The limit by the time, with chunks of each size, and with those that the core chooses."""
    all_items = lengths(1 if len(points) > 2 else 10)
    with _started(make, workers) as subject:
        executor = subject._executor
        for size in points:
            items = all_items[-_MOST_CHUNKS * int(size) :]
            call = partial(executor.map, spin, items, chunksize=int(size))
            seconds = _seconds(lambda call=call: list(call()), len(items))  # type: ignore[misc]
            yield name, size, _limit(items, workers) / seconds
        with _counted(executor) as chunks:
            seconds = _seconds(lambda: list(executor.map(spin, all_items)), len(all_items))
        yield name + AUTOMATIC, len(all_items) / max(1, len(chunks)), _limit(all_items, workers) / seconds


def _limit(items: Sequence[float], workers: int) -> float:
    return max(sum(items) / workers, max(items))


@contextlib.contextmanager
def _counted(executor: Any) -> Iterator[list[None]]:
    """An item in the list for each chunk that goes to the backend."""
    backend, chunks = executor._backend, list[None]()
    submit = backend.submit

    def count(*args: Any) -> Any:
        chunks.append(None)
        return submit(*args)

    backend.submit = count
    try:
        yield chunks
    finally:
        del backend.submit


# --- how large the data is ----------------------------------------------------------------------------


def _count_of(size: float) -> int:
    return int(min(300, max(8, 64e6 / size)))


def _arguments(name: str, make: Make, workers: int, points: Sequence[float]) -> Iterator[Point]:
    """Bytes a second of arrays of each size that go out."""
    with _started(make, workers) as subject:
        for size in points:
            count = _count_of(size)
            arrays = [filled_items(int(size) // 8, index) for index in range(count)]
            yield name, size, count * size / _seconds(partial(subject.map, ends, arrays), count)


def _results(name: str, make: Make, workers: int, points: Sequence[float]) -> Iterator[Point]:
    """Bytes a second of arrays of each size that come back."""
    with _started(make, workers) as subject:
        for size in points:
            count = _count_of(size)
            fn = partial(filled_items, int(size) // 8)
            yield name, size, count * size / _seconds(partial(subject.map, fn, range(count)), count)


# --- how many calls -----------------------------------------------------------------------------------


def _scaling(name: str, make: Make, workers: int, points: Sequence[float]) -> Iterator[Point]:
    """Seconds an item, and the memory of all processes."""
    for point in measure_tiny(name, workers, [int(each) for each in points], repeats=3):
        for seconds in point["seconds"]:
            yield name, point["items"], seconds / point["items"]
        yield name + MEMORY, point["items"], point["peak_bytes"]


_POOLS = ("stdlib-pool", "stdlib-executor", "loky", "joblib", "dask", "ray")
_OURS = ("anypool/processes", "anypool/loky", "anypool/joblib", "anypool/dask")

SWEEPS = {
    each.name: each
    for each in (
        Sweep(
            name="overhead",
            varied="seconds a call takes",
            measured="seconds of a worker lost a call",
            subjects=_POOLS + _OURS,
            points=(0.0, 1e-5, 1e-4, 1e-3, 1e-2),
            quick_points=(0.0, 1e-3),
            run=_overhead,
        ),
        Sweep(
            name="chunks, even",
            varied="items in a chunk",
            measured="limit by time; 8,000 calls of 50 µs",
            subjects=("anypool/processes", "anypool/loky", "anypool/dask"),
            points=(1, 4, 16, 64, 256, 1024, 4096),
            quick_points=(4, 64),
            run=partial(_efficiency, _even),
        ),
        Sweep(
            name="chunks, uneven",
            varied="items in a chunk",
            measured="limit by time; 1,000 calls of 0.5 ms, then 10 of 50 ms",
            subjects=("anypool/processes", "anypool/loky", "anypool/dask"),
            points=(1, 4, 16, 64, 256),
            quick_points=(4, 64),
            run=partial(_efficiency, _uneven),
            rounds=2,
        ),
        Sweep(
            name="arguments",
            varied="bytes of an array",
            measured="bytes a second out",
            subjects=_POOLS + _OURS,
            points=(1e3, 1e4, 1e5, 1e6, 1e7),
            quick_points=(1e3, 1e6),
            run=_arguments,
            rounds=2,
        ),
        Sweep(
            name="results",
            varied="bytes of an array",
            measured="bytes a second back",
            subjects=_POOLS + _OURS,
            points=(1e3, 1e4, 1e5, 1e6, 1e7),
            quick_points=(1e3, 1e6),
            run=_results,
            rounds=2,
        ),
        Sweep(
            name="scaling",
            varied="calls in a map",
            measured="seconds an item",
            subjects=(*_POOLS, "anypool/threads", *_OURS),
            points=(1e2, 1e3, 1e4, 1e5, 1e6, 1e7),
            quick_points=(1e2, 1e3),
            run=_scaling,
            rounds=1,
        ),
    )
}
"""Every sweep by name."""
