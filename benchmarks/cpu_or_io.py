"""Processes or threads: how much faster than a loop calls are that compute, that compute in NumPy, and that wait.

::

    python benchmarks/cpu_or_io.py --json benchmarks/records/cpu_or_io.json    measure and record: two minutes
    python benchmarks/cpu_or_io.py --pages                                     the plot and the page, from the record
    python benchmarks/cpu_or_io.py --quick                                     a sign of life; its figures mean nothing

In each round the loop, `threads` and `processes` have the same calls, one after the other, on pools that have started.
A speed-up is the time of the loop of that round divided by theirs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from machine import describe_machine, provisional, say_on_terminal
from palette import Line, Theme, save, spread_labels, style_axes
from performance_docs import PART, ROOT, table
from plots import set_ticks
from report import align

RECORD = ROOT / "benchmarks" / "records" / "cpu_or_io.json"
PLOTS = ROOT / "docs" / "performance"
PAGE = ROOT / "docs" / "explanation" / "processes-or-threads.md"

BACKENDS = ("threads", "processes")
ROUNDS = 7
LENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
SHOWN = {1e-5: "10 µs", 1e-4: "100 µs", 1e-3: "1 ms", 1e-2: "10 ms", 1e-1: "0.1 s"}

_ENOUGH, _ENOUGH_QUICK = 0.4, 0.05
"""Seconds that the loop takes for all calls of a map, where the calls are short enough to be many."""

_AT_A_TIME = 65_536
"""Numbers that one call of NumPy computes: 512 kB, which the cache of a CPU holds."""


# --- the calls ----------------------------------------------------------------------------------------


def compute(steps: int) -> int:
    """Arithmetic in Python, which holds the interpreter's lock."""
    total = 0
    for step in range(steps):
        total += step * step
    return total


def compute_in_numpy(numbers: int) -> float:
    """Exponentials of so many numbers; NumPy releases the lock for each array."""
    import numpy as np

    grid = _grid(min(numbers, _AT_A_TIME))
    results = np.empty_like(grid)
    for _ in range(max(1, numbers // _AT_A_TIME)):
        np.exp(grid, out=results)
    return float(results[-1])


@cache
def _grid(size: int) -> Any:
    import numpy as np

    return np.linspace(0.0, 1.0, size)


def wait(seconds: float) -> float:
    """Wait, as for the answer of a server."""
    time.sleep(seconds)
    return seconds


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of call.

    Parameters
    ----------
    name, title : str
        In the record, and on pages.
    fn : callable
        The call.
    probe : float or None
        An argument that takes some milliseconds: the time grows with the argument. None: the argument is the time.
    workers_per_cpu : int
        Who only waits needs no CPU.
    """

    name: str
    title: str
    fn: Callable[[Any], Any]
    probe: int | None = None
    workers_per_cpu: int = 1

    def argument(self, seconds: float) -> float:
        """What makes a call take so long on this machine."""
        if self.probe is None:
            return seconds
        taken = min(_seconds_of(self.fn, [self.probe]) for _ in range(5))
        return max(1, int(self.probe * seconds / taken))


KINDS = (
    Kind(name="python", title="Calls that compute in Python", fn=compute, probe=100_000),
    Kind(name="numpy", title="Calls that compute in NumPy", fn=compute_in_numpy, probe=20 * _AT_A_TIME),
    Kind(name="wait", title="Calls that wait", fn=wait, workers_per_cpu=4),
)


# --- measuring ----------------------------------------------------------------------------------------


def measure(cpus: int, rounds: int, lengths: Sequence[float], enough: float) -> Iterator[dict[str, Any]]:
    """The kinds, one after the other, each with its points.

    Yields
    ------
    dict
        ``name``, ``workers``, and ``points``: for each length the seconds of one call in the loop, ``length``, and the
        speed-ups of all rounds, by backend.
    """
    import anypool

    for kind in KINDS:
        workers = cpus * kind.workers_per_cpu
        points = []
        with (
            anypool.get_executor("threads", max_workers=workers) as threads,
            anypool.get_executor("processes", max_workers=workers) as processes,
        ):
            executors = dict(zip(BACKENDS, (threads, processes), strict=True))
            for length in lengths:
                say_on_terminal(f"{kind.title}: {SHOWN[length]}")
                argument = kind.argument(length)
                count = workers * max(4, min(20_000, int(enough / length)) // workers)
                points.append(_measure_point(kind.fn, [argument] * count, executors, rounds))
        yield {"name": kind.name, "workers": workers, "points": points}


def _measure_point(
    fn: Callable[[Any], Any], items: Sequence[Any], executors: Mapping[str, Any], rounds: int
) -> dict[str, Any]:
    expected = [fn(item) for item in items[:1]] * len(items)
    for executor in executors.values():  # the workers import what they need before anything is timed
        if list(executor.map(fn, items)) != expected:
            raise RuntimeError(f"{executor!r} gave wrong results")
    alone, speed_ups = [], {name: [] for name in executors}
    for _ in range(rounds):
        alone.append(_seconds_of(fn, items))
        for name, executor in executors.items():
            speed_ups[name].append(alone[-1] / _seconds_of(fn, items, executor.map))
    return {"length": median(alone) / len(items), "speed_ups": speed_ups}


def _seconds_of(fn: Callable[[Any], Any], items: Sequence[Any], run: Callable[..., Any] = map) -> float:
    started = time.perf_counter()
    for _ in run(fn, items):
        pass
    return time.perf_counter() - started


# --- the plot and the page ----------------------------------------------------------------------------


def draw(record: Mapping[str, Any], theme: Theme) -> Any:
    """The speed-ups of each kind of call, by how long a call takes."""
    from matplotlib import pyplot as plt

    figure, (row,) = plt.subplots(1, len(KINDS), figsize=(11.2, 3.8), squeeze=False)
    figure.subplots_adjust(wspace=0.32)
    y = "times as fast as a loop"
    for axes, kind, found in zip(row, KINDS, record["kinds"], strict=True):
        workers = found["workers"]
        note = f"{workers} workers on {record['machine']['cpus']} CPUs"
        axes.set_xscale("log")
        axes.set_xlim(LENGTHS[0] * 0.7, LENGTHS[-1] * 1.4)
        axes.set_ylim(0, workers * 1.12)
        set_ticks(axes.xaxis, list(SHOWN), list(SHOWN.values()))
        heights = sorted({1, workers // 2, workers})
        set_ticks(axes.yaxis, heights, [f"{height}x" for height in heights])
        style_axes(axes, theme, title=kind.title, note=note, x="how long a call takes", y=y)
        y = ""
        axes.axhline(1, color=theme["muted"], linewidth=1, linestyle=(0, (2, 2)), zorder=2)
        ends = []
        for name in BACKENDS:
            line = Line(label=name, color=name, is_ours=True)
            xs = [point["length"] for point in found["points"]]
            rounds = [point["speed_ups"][name] for point in found["points"]]
            axes.fill_between(
                xs, [min(each) for each in rounds], [max(each) for each in rounds],
                color=theme[name], alpha=0.18, linewidth=0, zorder=2,
            )  # fmt: skip
            ys = [median(each) for each in rounds]
            axes.plot(xs, ys, **line.style(theme))
            ends.append((line, (xs[-1], ys[-1])))
    axes.figure.canvas.draw()
    spread_labels(axes, theme, ends)  # of the last one: the colours are the same in all
    return figure


def measured(record: Mapping[str, Any]) -> str:
    """The measured part of the page: the figures, and what they depend on."""
    rows = []
    for kind, found in zip(KINDS, record["kinds"], strict=True):
        for name in BACKENDS:
            values = [f"{median(point['speed_ups'][name]):.2f}" for point in found["points"]]
            rows.append([f"{kind.title}, on {found['workers']} `{name}`", *values])
    machine, settings = record["machine"], record["settings"]
    lengths = [SHOWN[length] for length in settings["lengths"]]
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    text = table(["times as fast as a loop", *lengths], rows) + (
        f"\nMedians, rounds: {settings['rounds']}; automatic chunks, pools that had started; {machine['cpus']} CPUs "
        f"({machine['cpu']}), {machine['python']}, {versions}.\n"
    )
    doubt = provisional(record)
    return text + (f"\n{doubt}\n" if doubt else "")


def filled(text: str, record: Mapping[str, Any]) -> str:
    """The page with its measured part as the record says."""
    return PART.sub(lambda found: found["open"] + measured(record) + found["close"], text)


def write_pages(record: Mapping[str, Any], *, only_check: bool) -> int:
    """Write the page and the plot, or only tell whether the page is stale; the exit code."""
    old = PAGE.read_text(encoding="utf-8")
    new = filled(old, record)
    if only_check:
        print(PAGE.relative_to(ROOT).as_posix() if new != old else "up to date")
        return int(new != old)
    PAGE.write_text(new, encoding="utf-8")
    for path in save(partial(draw, record), PLOTS, "cpu-or-io"):
        print(path.relative_to(ROOT).as_posix())
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print, or make the page from what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few calls, one round")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the record there, too")
    parser.add_argument("--plots", type=Path, default=None, metavar="DIRECTORY", help="draw what was measured there")
    parser.add_argument("--pages", action="store_true", help="measure nothing: plot and page from the record")
    parser.add_argument("--check", action="store_true", help="with --pages: only tell whether the page is stale")
    options = parser.parse_args(arguments)
    if options.pages:
        return write_pages(json.loads(RECORD.read_text(encoding="utf-8")), only_check=options.check)
    os.environ["ANYPOOL_CONFIG"] = "none"
    machine = describe_machine()
    rounds, lengths, enough = (1, LENGTHS[:4], _ENOUGH_QUICK) if options.quick else (ROUNDS, LENGTHS, _ENOUGH)
    record = {
        "machine": machine,
        "versions": {name: version(name) for name in ("anypool", "numpy")},
        "settings": {"rounds": rounds, "quick": options.quick, "lengths": lengths},
        "kinds": list(measure(machine["cpus"], rounds, lengths, enough)),
    }
    say_on_terminal("")
    head = ["times as fast as a loop", *(SHOWN[length] for length in lengths), ""]
    rows = [
        [f"{found['name']} on {name}", *(f"{median(point['speed_ups'][name]):.2f}" for point in found["points"]), ""]
        for found in record["kinds"]
        for name in BACKENDS
    ]
    print(f"{machine['cpus']} CPUs ({machine['cpu']}), {machine['python']}, load {machine['load']}, {rounds} rounds")
    print(align([head, *rows]))
    if options.json is not None:
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if options.plots is not None:
        save(partial(draw, record), options.plots, "cpu-or-io")
    return 0


if __name__ == "__main__":
    sys.exit(main())
