"""The plots of one record: what a call costs, whether chunks are right, how fast data goes, what many calls cost.

::

    python benchmarks/plots.py RECORD.json DIRECTORY
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from palette import Line, Theme, line_of, save, spread_labels, style_axes
from sweeps import AUTOMATIC, MEMORY

__all__ = ["PLOTS", "draw_all", "set_ticks"]

Curves = Mapping[str, Mapping[float, float]]
_TINY = 1e-7
"""Where a call of no length stands on a logarithmic axis: squaring a number takes that long, in seconds."""

_LINES = "solid: anypool on a library; dashed: the library itself"
_CHOSEN = "lines: fixed sizes; stars: what anypool chooses by itself, at the mean size"


def _curves(record: Mapping[str, Any], sweep: str) -> Curves:
    """The medians of a sweep."""
    found = record["sweeps"][sweep]["curves"]
    return {name: {x: median(values) for x, values in points} for name, points in found.items()}


def _subplots(count: int) -> tuple[Any, Sequence[Any]]:
    from matplotlib import pyplot as plt

    width = 7.2 if count == 1 else 12.6
    figure, axes = plt.subplots(1, count, figsize=(width, 4.4), squeeze=False)
    figure.subplots_adjust(wspace=0.78)
    return figure, axes[0]


def _draw_curves(axes: Any, theme: Theme, curves: Curves, names: Sequence[str]) -> None:
    ends = []
    for name in names:
        xs = sorted(curves[name])
        ys = [curves[name][x] for x in xs]
        shown = [max(x, _TINY) for x in xs]
        axes.plot(shown, ys, **line_of(name).style(theme))
        ends.append((line_of(name), (shown[-1], ys[-1])))
    axes.figure.canvas.draw()
    spread_labels(axes, theme, ends)


def _plain(curves: Curves) -> list[str]:
    """The subjects, those of others first."""
    names = [name for name in curves if not name.endswith((AUTOMATIC, MEMORY))]
    return sorted(names, key=lambda name: name.startswith("anypool/"))


def draw_overhead(record: Mapping[str, Any], theme: Theme) -> Any:
    """What a call costs beyond itself, by how long it takes."""
    figure, (axes,) = _subplots(1)
    curves = {
        # Below a tenth of a microsecond there is nothing to tell.
        name: {x: max(y, 1e-7) for x, y in curve.items()}
        for name, curve in _curves(record, "overhead").items()
    }
    axes.set_xscale("log")
    axes.set_yscale("log")
    set_ticks(axes.xaxis, [1e-7, 1e-5, 1e-4, 1e-3, 1e-2], ["tiny", "10 µs", "100 µs", "1 ms", "10 ms"])
    set_ticks(axes.yaxis, [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2], ["0.1 µs", "1 µs", "10 µs", "100 µs", "1 ms", "10 ms"])
    style_axes(
        axes,
        theme,
        title="What a call costs beyond itself",
        note=_LINES,
        x="how long the call takes",
        y="time of a worker lost, per call",
    )
    _draw_curves(axes, theme, curves, _plain(curves))
    return figure


def draw_chunks(record: Mapping[str, Any], theme: Theme) -> Any:
    """How near the limit chunks of a fixed size come, and those that the core chooses."""
    figure, both = _subplots(2)
    titles = {
        "chunks, even": "Even calls: 8,000 of 50 µs",
        "chunks, uneven": "Uneven calls: 1,000 of 0.5 ms, then 10 of 50 ms",
    }
    for axes, (sweep, title) in zip(both, titles.items(), strict=True):
        curves = _curves(record, sweep)
        axes.set_xscale("log", base=4)
        xs = sorted({x for name in _plain(curves) for x in curves[name]})
        set_ticks(axes.xaxis, xs, [f"{x:,.0f}" for x in xs])
        axes.set_ylim(0, 1.04)
        set_ticks(axes.yaxis, [0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
        style_axes(axes, theme, title=title, note=_CHOSEN, x="calls in a chunk", y="of the limit")
        _draw_curves(axes, theme, curves, _plain(curves))
        for name in _plain(curves):
            chosen = record["sweeps"][sweep]["curves"].get(name + AUTOMATIC, [])
            if not chosen:
                continue
            size, share = median(x for x, _ in chosen), median(value for _, values in chosen for value in values)
            axes.plot(
                [size], [share], marker="*", markersize=17, color=theme[line_of(name).color],
                markeredgecolor=theme["text"], markeredgewidth=0.9, linestyle="none", zorder=6,
            )  # fmt: skip
    return figure


def draw_throughput(record: Mapping[str, Any], theme: Theme) -> Any:
    """How many bytes a second go out and come back, by the size of each array."""
    figure, both = _subplots(2)
    titles = {"arguments": "Arrays that go out", "results": "Arrays that come back"}
    for axes, (sweep, title) in zip(both, titles.items(), strict=True):
        curves = _curves(record, sweep)
        axes.set_xscale("log")
        axes.set_yscale("log")
        set_ticks(axes.xaxis, [1e3, 1e4, 1e5, 1e6, 1e7], ["1 kB", "10 kB", "100 kB", "1 MB", "10 MB"])
        set_ticks(
            axes.yaxis,
            [1e5, 1e6, 1e7, 1e8, 1e9, 1e10],
            ["100 kB/s", "1 MB/s", "10 MB/s", "100 MB/s", "1 GB/s", "10 GB/s"],
        )
        style_axes(axes, theme, title=title, note=_LINES, x="size of each array", y="throughput")
        _draw_curves(axes, theme, curves, _plain(curves))
    return figure


def draw_scaling(record: Mapping[str, Any], theme: Theme) -> Any:
    """What an item costs in time, and a map in memory, by the number of its items."""
    figure, (left, right) = _subplots(2)
    curves = _curves(record, "scaling")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_yscale("log")
        set_ticks(axes.xaxis, [1e2, 1e3, 1e4, 1e5, 1e6, 1e7], ["100", "1,000", "10⁴", "10⁵", "10⁶", "10⁷"])
    set_ticks(left.yaxis, [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2], ["0.1 µs", "1 µs", "10 µs", "100 µs", "1 ms", "10 ms"])
    style_axes(left, theme, title="Time of a tiny call", note=_LINES, x="calls in a map", y="time per call")
    _draw_curves(left, theme, curves, _plain(curves))
    memory = {
        name.removesuffix(MEMORY): {x: max(y, 1e5) for x, y in curve.items()}
        for name, curve in curves.items()
        if name.endswith(MEMORY)
    }
    set_ticks(right.yaxis, [1e5, 1e6, 1e7, 1e8, 1e9], ["≤ 0.1 MB", "1 MB", "10 MB", "100 MB", "1 GB"])
    style_axes(
        right,
        theme,
        title="Memory of the map, all processes together",
        note=_LINES,
        x="calls in a map",
        y="more than before",
    )
    _draw_curves(right, theme, memory, _plain(memory))
    return figure


def draw_scale(record: Mapping[str, Any], theme: Theme) -> Any:
    """How many workers one caller keeps busy, by how long a chunk takes."""
    figure, (axes,) = _subplots(1)
    axes.set_xscale("log")
    sizes = sorted({each["workers"] for each in record["scale"]["simulated"]})
    axes.set_xlim(sizes[0] / 1.3, sizes[-1] * 1.3)
    axes.set_ylim(0, 1.04)
    set_ticks(axes.xaxis, [1, 10, 100, 1_000], ["1", "10", "100", "1,000"])
    set_ticks(axes.yaxis, [0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    note = "a simulated cluster that costs nothing; one call in a chunk"
    style_axes(axes, theme, title="What one caller keeps busy", note=note, x="workers", y="time that they work")
    ends = []
    for (seconds, shown), color in zip(_LENGTHS.items(), ("threads", "processes", "loky"), strict=True):
        points = [
            (each["workers"], each["busy"]) for each in record["scale"]["simulated"] if each["seconds"] == seconds
        ]
        line = Line(label=f"{shown} a chunk", color=color, is_ours=True)
        axes.plot(*zip(*points, strict=True), **line.style(theme))
        ends.append((line, points[-1]))
    axes.figure.canvas.draw()
    spread_labels(axes, theme, ends)
    return figure


_LENGTHS = {0.001: "1 ms", 0.01: "10 ms", 0.1: "100 ms"}


def set_ticks(axis: Any, places: Sequence[float], labels: Sequence[str]) -> None:
    from matplotlib.ticker import FixedFormatter, FixedLocator

    axis.set_major_locator(FixedLocator(list(places)))
    axis.set_major_formatter(FixedFormatter(list(labels)))


PLOTS: dict[str, tuple[Callable[[Mapping[str, Any], Theme], Any], tuple[str, ...]]] = {
    "overhead": (draw_overhead, ("overhead",)),
    "chunks": (draw_chunks, ("chunks, even", "chunks, uneven")),
    "throughput": (draw_throughput, ("arguments", "results")),
    "scaling": (draw_scaling, ("scaling",)),
}
"""Each plot, and the sweeps that it shows."""


def draw_all(record: Mapping[str, Any], directory: Path) -> list[Path]:
    """Write every plot whose sweeps were measured; the files."""
    written: list[Path] = []
    for name, (draw, sweeps) in PLOTS.items():
        if all(record["sweeps"].get(sweep, {}).get("curves") for sweep in sweeps):
            written += save(partial(draw, record), directory, name)
    if record.get("scale"):
        written += save(partial(draw_scale, record), directory, "scale")
    return written


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw a record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("directory", type=Path)
    options = parser.parse_args(arguments)
    for path in draw_all(json.loads(options.record.read_text(encoding="utf-8")), options.directory):
        print(path)


if __name__ == "__main__":
    main()
