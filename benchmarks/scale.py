"""What one executor costs in the caller, and how many workers it keeps busy: measured, and simulated.

::

    python benchmarks/scale.py [--quick] [--json FILE]

Costs are CPU time of this process, so that a busy machine changes them little.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from statistics import median
from typing import Any

from machine import describe_machine
from memory import status_bytes
from report import align, figures
from stub import AtOnce, Simulated

__all__ = ["measure_scale", "text"]

ROUNDS = 5
CHUNKS = 3_000
_LARGE = 200
"""Items in a chunk, to tell what an item costs beside what a chunk costs."""

SIMULATED = {
    0.001: (1, 2, 4, 8, 16, 32),
    0.01: (8, 32, 64, 128, 256),
    0.1: (64, 256, 512, 1_024, 2_048, 4_096),
}
"""Seconds a chunk takes, and the numbers of workers that are tried."""

_SIMULATED_SECONDS = 1.2
_NEGLIGIBLE = 0.9
"""A caller keeps workers busy as long as they are busy so much of the time."""


def echo(item: object) -> object:
    """Nothing, so that all chunks are equal."""
    return item


def measure_scale(*, quick: bool, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """All of it, as what JSON can hold; seconds and bytes."""
    say("scale: the caller's costs")
    found: dict[str, Any] = {"caller": _caller(CHUNKS // 30 if quick else CHUNKS, 1 if quick else ROUNDS)}
    found["memory_per_worker"] = _memory_per_worker(100 if quick else 4_000)
    found["local_worker"] = _local_worker(2 if quick else 8)
    say("scale: simulated workers")
    found["simulated"] = [
        {"seconds": seconds, "workers": workers, "busy": _busy(seconds, workers, quick=quick)}
        for seconds, sizes in SIMULATED.items()
        for workers in (sizes[:1] if quick else sizes)
    ]
    if importlib.util.find_spec("distributed") is not None:
        say("scale: dask")
        found["dask"] = _dask(50 if quick else 1_000)
    return found


# --- the core alone -----------------------------------------------------------------------------------


def _caller(chunks: int, rounds: int) -> dict[str, float]:
    """CPU seconds of the caller for a chunk, for an item in it, and for a submitted call."""
    small, large, calls = [], [], []
    for _ in range(rounds):
        small.append(_cpu_of_map(chunks, 1))
        large.append(_cpu_of_map(max(20, chunks // 10), _LARGE))
        calls.append(_cpu_of_calls(chunks))
    item = (median(large) - median(small)) / (_LARGE - 1)
    return {"chunk": median(small) - item, "item": item, "call": median(calls), "call_spread": _spread(calls)}


def _spread(values: Sequence[float]) -> float:
    return (max(values) - min(values)) / median(values)


def _cpu_of_map(chunks: int, size: int) -> float:
    import anypool

    with anypool.get_executor(AtOnce(max_workers=64)) as executor:
        list(executor.map(echo, repeat(None, 50 * size), chunksize=size))
        gc.collect()
        started = time.process_time()
        for _ in executor.map(echo, repeat(None, chunks * size), chunksize=size):
            pass
        return (time.process_time() - started) / chunks


def _cpu_of_calls(calls: int) -> float:
    import anypool

    with anypool.get_executor(AtOnce(max_workers=64)) as executor:
        executor.submit(echo, None).result()
        started = time.process_time()
        for _ in range(calls):
            executor.submit(echo, None).result()
        return (time.process_time() - started) / calls


def _memory_per_worker(workers: int) -> float:
    """Bytes that the caller holds for each worker of a cluster while all of them are busy with chunks of one item."""
    import anypool

    with anypool.get_executor(Simulated(max_workers=workers, seconds=0.5)) as executor:
        list(executor.map(echo, repeat(None, 10), chunksize=1))
        gc.collect()
        before = status_bytes(os.getpid(), "RssAnon")
        results = executor.map(echo, repeat(None, 2 * workers), chunksize=1)
        held = status_bytes(os.getpid(), "RssAnon") - before
        for _ in results:
            pass
    return held / workers


def _local_worker(workers: int) -> dict[str, float]:
    """What the caller holds for each worker process of this machine: threads, files, bytes."""
    import anypool

    counts = []
    for size in (1, 1 + workers):
        with anypool.get_executor("processes", max_workers=size) as executor:
            list(executor.map(echo, range(20 * size), chunksize=1))
            gc.collect()
            counts.append((threading.active_count(), _open_files(), status_bytes(os.getpid(), "RssAnon")))
    threads, files, held = ((many - few) / workers for few, many in zip(*counts, strict=True))
    return {"threads": threads, "files": files, "bytes": max(0.0, held)}


def _open_files() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:  # not Linux
        return 0


def _busy(seconds: float, workers: int, *, quick: bool) -> float:
    """Which share of the time the workers of a simulated cluster run calls, from the first to the last result."""
    import anypool

    chunks = max(2 * workers, int((0.05 if quick else _SIMULATED_SECONDS) / seconds * workers))
    chunks = min(chunks, 20_000)  # of what one caller cannot feed, no more than shows it
    with anypool.get_executor(Simulated(max_workers=workers, seconds=seconds)) as executor:
        list(executor.map(echo, repeat(None, 1), chunksize=1))
        started = time.perf_counter()
        for _ in executor.map(echo, repeat(None, chunks), chunksize=1):
            pass
        taken = time.perf_counter() - started
    rounds = -(-chunks // workers)
    return rounds * seconds / taken


# --- on dask ------------------------------------------------------------------------------------------


def _dask(chunks: int) -> dict[str, float]:
    """CPU seconds a chunk, in the caller and in the scheduler, of a cluster on this machine.

    With many threads: the more calls are under way, the more messages travel together, as on a large cluster.
    """
    import anypool

    with anypool.get_executor("dask", max_workers=2, threads_per_worker=32) as executor:
        list(executor.map(echo, range(2 * executor.max_workers), chunksize=1))
        others = list(_processes_below(os.getpid()))
        before, caller = {pid: _cpu_of(pid) for pid in others}, time.process_time()
        started = time.perf_counter()
        for _ in executor.map(echo, range(chunks), chunksize=1):
            pass
        taken = time.perf_counter() - started
        caller = time.process_time() - caller
        spent = sorted((_cpu_of(pid) - before[pid]) / chunks for pid in others)
    # Of three processes the workers share the chunks evenly, and the scheduler has them all.
    return {"caller": caller / chunks, "busiest_other": spent[-1] if spent else 0.0, "seconds": taken / chunks}


def _processes_below(pid: int) -> Iterator[int]:
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text(encoding="ascii").split()):
            yield child
            yield from _processes_below(child)


def _cpu_of(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- text ---------------------------------------------------------------------------------------------


def saturation(found: dict[str, Any]) -> dict[str, float]:
    """Chunks a second: of the core alone, and of a caller with Dask's client, and of Dask's scheduler."""
    rates = {"core": 1 / found["caller"]["chunk"]}
    if "dask" in found:
        rates["dask client"] = 1 / found["dask"]["caller"]
        rates["dask scheduler"] = 1 / max(found["dask"]["busiest_other"], 1e-6)
    return rates


def text(found: dict[str, Any]) -> str:
    """For a terminal."""
    caller = found["caller"]
    rows = [["the caller's CPU", "µs", ""]]
    rows += [[what, figures(1e6 * caller[what]), ""] for what in ("chunk", "item", "call")]
    rates = saturation(found)
    lines = [
        align(rows),
        align([["chunks a second", "", ""], *([name, f"{rate:,.0f}", ""] for name, rate in rates.items())]),
    ]
    simulated = [
        [f"{each['workers']:,} workers, {each['seconds']:g} s a chunk", f"{each['busy']:.0%}", ""]
        for each in found["simulated"]
    ]
    return "\n".join([*lines, align([["simulated", "busy", ""], *simulated])])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few chunks: a sign of life")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the record there, too")
    options = parser.parse_args(arguments)
    machine = describe_machine()
    print(
        f"{machine['cpus']} CPUs ({machine['cpu']}), {machine['system']}, {machine['python']}, load {machine['load']}"
    )
    found = measure_scale(quick=options.quick)
    print(text(found))
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": machine, "scale": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
