"""What the tests of the local pool run on its workers. Loads the standard library only, so that workers start fast."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import subprocess
import sys
import threading
from multiprocessing import get_context
from pathlib import Path
from typing import Any


def echo(payload: Any) -> Any:
    return payload


def pid(_: object) -> int:
    return os.getpid()


def log(job: tuple[str, int]) -> int:
    """Append a line to a file: the effect by which runs are counted."""
    path, number = job
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, b"%d\n" % number)
    os.close(fd)
    return number


def hold(paths: tuple[str, str]) -> int:
    """Note in the first file that the call has begun, then wait until somebody opens and closes the second, a FIFO."""
    begun, gate = paths
    Path(begun).write_text(str(os.getpid()))
    Path(gate).read_bytes()
    return os.getpid()


def die(how: int | str) -> None:
    if how == "segfault":
        ctypes.string_at(0)
    elif isinstance(how, int) and how < 0:
        os.kill(os.getpid(), -how)
        signal.pause()
    elif isinstance(how, int):
        os._exit(how)


def die_after_noting(path: str) -> None:
    log((path, os.getpid()))
    os._exit(3)


def raise_it(exc: BaseException) -> None:
    raise exc


def unsendable(_: object) -> Any:
    return threading.Lock()


class Unreadable:
    """Can be pickled, and raises when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (int, ("not a number",))


def kind_and_size(payload: Any) -> tuple[str, int]:
    return type(payload).__name__, memoryview(payload).nbytes


def buffer_of(size: int) -> Any:
    return pickle.PickleBuffer(bytearray(size))


def surroundings(_: object) -> dict[str, Any]:
    return {
        "environ": dict(os.environ),
        "directory": os.getcwd(),
        "path": list(sys.path),
        "argv": list(sys.argv),
        "stdin": sys.stdin.read() if sys.stdin is not None else "",
        "main": getattr(sys.modules["__main__"], "__file__", None),
        "threads": threading.active_count(),
    }


def interrupt(_: object) -> str:
    os.kill(os.getpid(), signal.SIGINT)
    return "went on"


def start_processes(_: object) -> tuple[str, int]:
    out = subprocess.run([sys.executable, "-c", "print('sub')"], capture_output=True, text=True, check=True).stdout
    process = get_context("spawn").Process(target=os._exit, args=(5,))
    process.start()
    process.join()
    assert process.exitcode is not None
    return out.strip(), process.exitcode


def fork_and_return(gate: str) -> int:
    """Leave a forked child behind that waits at the gate: it has this worker's descriptors."""
    child = os.fork()
    if child == 0:
        Path(gate).read_bytes()
        os._exit(0)
    return child


def put(job: tuple[Any, int]) -> None:
    queue, item = job
    queue.put(item)


def leave_work_for_exit(path: str) -> None:
    import atexit

    atexit.register(log, (path, 1))


def read_shared(name: str) -> int:
    from multiprocessing.shared_memory import SharedMemory

    memory = SharedMemory(name)
    value = memory.buf[0]
    memory.close()
    return value
