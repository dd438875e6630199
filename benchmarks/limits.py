"""The limits: seconds below which no pool can be, measured in the same run, on the same machine, without any pool.

Each is ``limit(workers, items)``, with what it depends on bound before.
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
from multiprocessing import Pipe
from statistics import median
from threading import Thread
from typing import Any

__all__ = ["bare_interpreter", "copied", "pickled_and_run", "round_trip", "shared_evenly", "written"]

_REPEATS = 3
_MESSAGE = b"x" * 64


def _least(once: Callable[[], float]) -> float:
    return min(once() for _ in range(_REPEATS))


def pickled_and_run(fn: Callable[[Any], Any], workers: int, items: Sequence[Any]) -> float:
    """The calls, and a pickle of items and results there and back, on all workers at once."""

    def once() -> float:
        started = time.perf_counter()
        arrived = pickle.loads(pickle.dumps(list(items), pickle.HIGHEST_PROTOCOL))
        results = list(map(fn, arrived))
        pickle.loads(pickle.dumps(results, pickle.HIGHEST_PROTOCOL))
        return time.perf_counter() - started

    return _least(once) / workers


def shared_evenly(workers: int, items: Sequence[float]) -> float:
    """The work that the items ask for, shared evenly, but not below the longest of them."""
    return max(math.fsum(items) / workers, max(items))


def written(length: int, workers: int, items: Sequence[Any]) -> float:
    """`length` bytes written once into memory that another process can read."""
    data = memoryview(bytearray(length))

    def once() -> float:
        with tempfile.TemporaryFile(dir=_shared_directory(), buffering=0) as file:
            started = time.perf_counter()
            file.write(data)
            return time.perf_counter() - started

    return _least(once)


def copied(length: int, workers: int, items: Sequence[Any]) -> float:
    """`length` bytes copied into pages that were touched before, as shared memory that is used again has."""
    source, target = memoryview(bytearray(length)), memoryview(bytearray(length))

    def once() -> float:
        started = time.perf_counter()
        target[:] = source
        return time.perf_counter() - started

    once()
    return _least(once)


def _shared_directory() -> str | None:
    """Where files are memory, on Linux; elsewhere where temporary files are."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def round_trip(workers: int, items: Sequence[Any]) -> float:
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


def bare_interpreter(workers: int, items: Sequence[Any]) -> float:
    """One interpreter that starts without `site` and ends. A pool that forks its caller can be below this."""

    def once() -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True)
        return time.perf_counter() - started

    return _least(once)
