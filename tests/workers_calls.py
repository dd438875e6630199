"""Calls that worker processes can import; each does one thing that a test needs a worker to do."""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

__all__ = [
    "append",
    "append_at_exit",
    "crash",
    "die",
    "draw",
    "echo",
    "fork_and_die",
    "pid",
    "raise_lookup",
    "start_process",
    "touch",
    "wait_for",
]


def echo(payload: Any) -> Any:
    """The payload itself."""
    return payload


def append(payload: bytes) -> None:
    """Add one letter to a file; appending is atomic."""
    with Path(os.fsdecode(payload)).open("ab", buffering=0) as file:
        file.write(b"x")


def append_at_exit(payload: bytes) -> None:
    """Have the letter added when the worker ends."""
    atexit.register(append, payload)


def draw(payload: Any) -> tuple[int, tuple[float, float]]:  # noqa: ARG001
    """The process, and a number from each of the global generators."""
    import numpy

    return os.getpid(), (random.random(), numpy.random.random())


def start_process(payload: Any) -> int | None:  # noqa: ARG001
    """The exit code of a process that this call starts by `multiprocessing`, which daemons may not."""
    process = multiprocessing.get_context("fork").Process(target=os.getpid)
    process.start()
    process.join()
    return process.exitcode


def pid(payload: Any) -> int:  # noqa: ARG001 - the contract's calls take one payload
    """The process that ran the call."""
    return os.getpid()


def raise_lookup(payload: Any) -> None:
    """Raise what a broken worker function could raise."""
    raise LookupError(payload)


def die(payload: Any) -> None:  # noqa: ARG001
    """End the worker at once, as the out-of-memory killer would."""
    os.kill(os.getpid(), signal.SIGKILL)


def crash(payload: Any) -> None:  # noqa: ARG001
    """End the worker by a segmentation fault."""
    ctypes.string_at(0)


def fork_and_die(payload: bytes) -> None:
    """Leave a process that has copies of all of this one's descriptors, its number in the file; end this one."""
    child = os.fork()
    if child == 0:
        time.sleep(200)
        os._exit(0)
    Path(os.fsdecode(payload)).write_text(str(child))
    os._exit(3)


def touch(payload: bytes) -> int:
    """Leave a file, so that a test sees that the call ran."""
    path = Path(os.fsdecode(payload))
    path.touch()
    return os.getpid()


def wait_for(payload: tuple[bytes, bytes]) -> int:
    """Say in the first file that the call has started; return when the second one exists."""
    started, go = (Path(os.fsdecode(name)) for name in payload)
    complete = started.with_suffix(".part")  # whoever sees the file must see what is in it
    complete.write_text(str(os.getpid()))
    complete.rename(started)
    deadline = time.monotonic() + 250
    while not go.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{go.name} did not appear")
        time.sleep(0.005)
    return os.getpid()
