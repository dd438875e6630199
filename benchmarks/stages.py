"""What a call waits for: the stages of one on `processes`, what the core takes of it, and CPU time of one on Dask.

::

    python benchmarks/stages.py [--json] [--quick]

`where.py` counts what is done, on any machine the same; this times it. Where clocks of two processes cannot be compared
(other than Linux) there are no stages, and no CPU time of Dask's processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import neg
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

from subject import is_installed
from subjects import make_subject
from workloads import spin

__all__ = ["measure_afresh", "text"]

STAGES = ("packed", "framed", "the call begins", "the reply is read", "the future is done", "the caller goes on")
"""Each is timed from the one before it, the first from `submit`."""

_CALLS = 500
_WARM_UP = 100
_PAUSE = 0.001
_DASK_CALLS = 20
_DASK_SECONDS = 0.04


def measure_afresh(*, quick: bool) -> dict[str, Any]:
    """What `measure` gives in an interpreter that has loaded nothing else."""
    command = [sys.executable, __file__, "--json", *(["--quick"] if quick else [])]
    found: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return found


def measure(*, quick: bool = False) -> dict[str, Any]:
    """Microseconds by stage; of the core with a pool that costs nothing; and milliseconds of CPU of a call on Dask."""
    calls = 20 if quick else _CALLS
    found: dict[str, Any] = {
        "core": {"back to back": _core(calls, 0.0), "after a pause": _core(calls, _PAUSE)},
        "stages": _stages(calls) if sys.platform == "linux" else {},
        "dask": {},
    }
    if sys.platform == "linux" and is_installed("distributed"):
        found["dask"] = {name: _cpu_of_calls(name, 2 if quick else _DASK_CALLS) for name in ("dask", "anypool/dask")}
    return found


# --- the core alone -----------------------------------------------------------------------------------


def _core(calls: int, pause: float) -> float:
    """Microseconds of a call on `serial` with the wire between caller and worker, one `pause` after the other."""
    import anypool

    times = []
    with anypool.get_executor("serial", strict=True) as executor:
        for index in range(_WARM_UP + calls):
            time.sleep(pause)
            started = time.perf_counter()
            executor.submit(neg, index).result()
            times.append(time.perf_counter() - started)
    return 1e6 * median(times[_WARM_UP:])


# --- the stages ---------------------------------------------------------------------------------------


def moment(_: int) -> float:
    """When it runs. The clock is the same in all processes of a Linux machine."""
    return time.perf_counter()


def _stages(calls: int) -> dict[str, float]:
    import anypool

    times: dict[str, list[float]] = {name: [] for name in STAGES}
    with anypool.get_executor("processes", max_workers=2) as executor:
        with _noting() as notes:
            for _ in range(_WARM_UP):
                executor.submit(moment, 0).result()
            for _ in range(calls):
                notes.clear()
                began = time.perf_counter()
                ran = executor.submit(moment, 0).result()
                ended = time.perf_counter()
                ticks = (notes["packed"], notes["framed"], ran, notes["read"], notes["done"], ended)
                for name, tick in zip(STAGES, ticks, strict=True):
                    times[name].append(tick - began)
                    began = tick
    return {name: 1e6 * median(each) for name, each in times.items()}


@contextmanager
def _noting() -> Iterator[dict[str, float]]:
    """The times at which a call passes from one part of the caller to the next."""
    from anypool._native_future import NativeFuture
    from anypool._pool import LocalPool
    from anypool._pool_link import Link

    notes: dict[str, float] = {}

    def before(method: Callable[..., Any], name: str) -> Callable[..., Any]:
        def noting(self: Any, *args: Any) -> Any:
            notes[name] = time.perf_counter()
            return method(self, *args)

        return noting

    def after(method: Callable[..., Any], name: str) -> Callable[..., Any]:
        def noting(self: Any, *args: Any) -> Any:
            done = method(self, *args)
            notes[name] = time.perf_counter()
            return done

        return noting

    with (
        mock.patch.object(LocalPool, "submit", before(LocalPool.submit, "packed")),
        mock.patch.object(Link, "post", before(Link.post, "framed")),
        mock.patch.object(Link, "receive", after(Link.receive, "read")),
        mock.patch.object(NativeFuture, "_ring", before(NativeFuture._ring, "done")),
    ):
        yield notes


# --- Dask ---------------------------------------------------------------------------------------------


def _cpu_of_calls(name: str, calls: int) -> float:
    """Milliseconds of CPU, of all processes, that one call takes beyond what it does; one call after the other."""
    subject = make_subject(name)
    subject.start(2)
    try:
        for index in range(4):
            subject.call(spin, 0.001 * (1 + index))
        before = _cpu_seconds()
        for index in range(calls):
            subject.call(spin, _DASK_SECONDS + 1e-6 * index)
        used = _cpu_seconds() - before
    finally:
        subject.stop()
    return 1e3 * (used / calls - _DASK_SECONDS)


def _cpu_seconds() -> float:
    """What this process and all below it have used."""
    total, ahead = 0.0, [os.getpid()]
    while ahead:
        for task in Path(f"/proc/{ahead.pop()}/task").glob("*"):
            try:
                total += int((task / "schedstat").read_text(encoding="ascii").split()[0]) / 1e9
                ahead += map(int, (task / "children").read_text(encoding="ascii").split())
            except OSError:  # it has ended
                continue
    return total


# --- as text ------------------------------------------------------------------------------------------


def text(found: dict[str, Any]) -> str:
    """For a terminal."""
    from report import align

    rows = [["stage of a call on processes", "us"]]
    rows += [[name, f"{each:.0f}"] for name, each in found["stages"].items()]
    rows += [["all", f"{sum(found['stages'].values()):.0f}"], ["", ""]]
    rows += [[f"the core alone, {name}", f"{each:.0f}"] for name, each in found["core"].items()]
    rows += [[f"CPU of a call on {name}", f"{1e3 * each:.0f}"] for name, each in found["dask"].items()]
    return align(rows)


if __name__ == "__main__":
    measured = measure(quick="--quick" in sys.argv)
    print(json.dumps(measured) if "--json" in sys.argv else text(measured))
