"""What each backend costs on this machine: a few numbers, in seconds. The real benchmarks are in `benchmarks/`."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

from anypool._compare import choose_backends
from anypool._cpus import available_cpus
from anypool._executor import PoolExecutor, get_executor
from anypool._table import table

__all__ = ["Benched", "BenchedAll", "bench"]

_ROUND_TRIPS = 20
_TINY_SECONDS = 0.1
"""A map of tiny calls is made longer until it takes so long, or has so many items as `_TINY_MOST`."""
_TINY_MOST = 200_000
_PAYLOAD = 8 * 2**20
_PAYLOADS = 4
_BUSY = range(1_500_000)
"""Summed up in one busy call: some ten milliseconds of one CPU, and nothing to send."""
_BUSY_PER_WORKER = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Benched:
    """What one backend took. Times are in seconds, None where it did not come so far.

    Parameters
    ----------
    backend : str
        As it was asked for.
    workers : int or None
        How many it had.
    start : float or None
        From nothing to the first result.
    round_trip : float or None
        One submitted call, there and back: the median of some.
    item : float or None
        One item of a long map of tiny calls.
    megabytes : float or None
        Megabytes a second, sent as arguments of 8 MB.
    speedup : float or None
        How many times faster busy calls of pure Python are done than one after the other in the caller.
    end : float or None
        From the end of the ``with`` block until nothing is left.
    error : str or None
        What ended it.
    """

    backend: str
    workers: int | None = None
    start: float | None = None
    round_trip: float | None = None
    item: float | None = None
    megabytes: float | None = None
    speedup: float | None = None
    end: float | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class BenchedAll:
    """The backends of one machine. ``str()`` of it is a table."""

    rows: tuple[Benched, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    machine: str = field(default_factory=lambda: _machine())

    def __repr__(self) -> str:  # what a prompt and a notebook show, and so what `str` gives
        return self.render()

    def render(self, width: int | None = None) -> str:
        """Return the table for a terminal of `width` columns; None: as wide as it gets."""
        columns = ("backend", "workers", "start", "one call", "per item", "data", "speed-up", "end")
        rows = [
            [
                row.backend,
                "-" if row.workers is None else str(row.workers),
                *map(_seconds, (row.start, row.round_trip, row.item)),
                "-" if row.megabytes is None else f"{row.megabytes:,.0f} MB/s",
                "-" if row.speedup is None else f"{row.speedup:.2f}",
                _seconds(row.end),
            ]
            for row in self.rows
        ]
        lines = [self.machine, table(columns, rows, width=width, right=set(columns[1:]))]
        lines += [f"{row.backend}: {row.error}" for row in self.rows if row.error]
        lines += [f"left out: {reason}" for _, reason in self.left_out]
        lines.append("One run of each, on a machine that may be busy: an order of magnitude, no measurement.")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it; times are in seconds."""
        return {
            "machine": self.machine,
            "rows": [asdict(row) for row in self.rows],
            "left_out": [{"backend": name, "reason": reason} for name, reason in self.left_out],
        }


def bench(backends: Iterable[str] | None = None, *, max_workers: int | None = None) -> BenchedAll:
    """Return what each backend costs here: a second or two for each.

    Parameters
    ----------
    backends : iterable of str, optional
        Names, aliases or URLs; `serial` is always among them. Default: every backend that is installed.
    max_workers : int, optional
        Workers of each backend. Default: what each takes by itself.

    Raises
    ------
    ConfigError, MissingExtra
        One of `backends` cannot be.
    """
    options: dict[str, Any] = {"reuse": False} | ({} if max_workers is None else {"max_workers": max_workers})
    chosen, left_out = choose_backends(backends, options)
    start = perf_counter()
    for _ in range(_BUSY_PER_WORKER):
        sum(_BUSY)
    busy = (perf_counter() - start) / _BUSY_PER_WORKER
    rows = [_benched(name, options, busy) for name in ("serial", *chosen)]
    return BenchedAll(rows=tuple(rows), left_out=tuple(left_out))


def _benched(backend: str, options: dict[str, Any], busy: float) -> Benched:
    found: dict[str, Any] = {}
    try:
        start = perf_counter()
        with get_executor(backend, **options) as ex:
            ex.submit(abs, -1).result()
            found["start"] = perf_counter() - start
            found["workers"] = ex.max_workers
            found["round_trip"] = _round_trip(ex)
            found["item"] = _tiny_item(ex)
            found["megabytes"] = _megabytes(ex)
            found["speedup"] = _speedup(ex, busy)
            start = perf_counter()
        found["end"] = perf_counter() - start
    except Exception as exc:  # one that is broken has its row, and the others go on
        found["error"] = f"{type(exc).__name__}: {' '.join(str(exc).split())}"
    return Benched(backend=backend, **found)


def _round_trip(ex: PoolExecutor) -> float:
    times = []
    for _ in range(_ROUND_TRIPS):
        start = perf_counter()
        ex.submit(abs, -1).result()
        times.append(perf_counter() - start)
    return median(times)


def _tiny_item(ex: PoolExecutor) -> float:
    for _ in ex.map(abs, range(1000)):  # the sizes of chunks adapt to what the first ones took
        pass
    items = 1000
    while True:
        start = perf_counter()
        for _ in ex.map(abs, range(items)):
            pass
        took = perf_counter() - start
        if took >= _TINY_SECONDS or items >= _TINY_MOST:
            return took / items
        items = min(_TINY_MOST, max(2 * items, int(1.5 * items * _TINY_SECONDS / took)))


def _megabytes(ex: PoolExecutor) -> float:
    payloads = [bytes([index]) * _PAYLOAD for index in range(_PAYLOADS)]
    start = perf_counter()
    for _ in ex.map(len, payloads, chunksize=1):
        pass
    return _PAYLOADS * _PAYLOAD / 1e6 / (perf_counter() - start)


def _speedup(ex: PoolExecutor, busy: float) -> float:
    calls = _BUSY_PER_WORKER * ex.max_workers
    start = perf_counter()
    for _ in ex.map(sum, [_BUSY] * calls, chunksize=1):
        pass
    return busy * calls / (perf_counter() - start)


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def _machine() -> str:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{available_cpus()} of {os.cpu_count()} CPUs, {platform.system()} {platform.machine()}, {python}"
