"""The kinds of fault that a call can have, each really done: no mock, no stand-in for what the system does."""

from __future__ import annotations

import collections
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from anypool.testing._calls import TwoArgumentsError

__all__ = ["FAULTS", "Fault"]

EXIT_CODE = 7
"""What the fault "exit" ends its process with."""

_FOREVER = 3600.0
"""Seconds: longer than any test."""

_HEADROOM = 64 << 20
"""Bytes that a call may still take under "memory": enough for the interpreter to say what happened."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One kind of fault.

    Parameters
    ----------
    about : str
        What happens, for people.
    act : callable
        ``act(item)`` does it.
    ends_worker : bool
        The process that runs the call ends.
    exitcode : int or None
        With what, negative for a signal.
    hangs : bool
        The call never comes back by itself.
    """

    about: str
    act: Callable[[Any], Any]
    ends_worker: bool = False
    exitcode: int | None = None
    hangs: bool = False


class HoldsALockError(Exception):
    """An exception that cannot be pickled."""

    def __init__(self) -> None:
        super().__init__("an exception that holds a lock")
        self.lock = threading.Lock()


def _raise_os_error(item: Any) -> NoReturn:
    raise OSError(5, f"item {item}: the disk is on fire")


def _exit(_: Any) -> NoReturn:
    os._exit(EXIT_CODE)


def _send_self(name: str) -> Callable[[Any], Any]:
    def act(_: Any) -> None:
        _leave_no_core()
        os.kill(os.getpid(), getattr(signal, name, signal.SIGTERM))
        time.sleep(_FOREVER)  # the signal may be delivered a moment later

    return act


def _leave_no_core() -> None:
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _read_address_zero(_: Any) -> None:
    import ctypes

    _leave_no_core()
    ctypes.string_at(0)


def _exceed_memory(_: Any) -> None:
    """Meet the limit of the process, as a batch queue sets one."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + _HEADROOM, before[1]))
    try:
        bytearray(64 * _HEADROOM)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _sleep_forever(_: Any) -> None:
    time.sleep(_FOREVER)


def _hold_the_gil(_: Any) -> None:
    """Loop in C: no signal handler, no other thread of the process ever runs again."""
    collections.deque(itertools.repeat(None), maxlen=0)


def _ignore_terminate(_: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(_FOREVER)


def _raise_system_exit(_: Any) -> NoReturn:
    raise SystemExit(3)


def _raise_keyboard_interrupt(_: Any) -> NoReturn:
    raise KeyboardInterrupt


def _raise_unbuildable(item: Any) -> NoReturn:
    raise TwoArgumentsError(17, f"item {item}")


def _raise_unpicklable(_: Any) -> NoReturn:
    raise HoldsALockError


def _return_a_lock(_: Any) -> Any:
    return threading.Lock()


def _close_stdout(item: Any) -> Any:
    """What a library does that makes itself a daemon."""
    sys.stdout.close()
    print(item)  # noqa: T201
    return item


def _close_descriptors(item: Any) -> Any:
    """Close the three standard descriptors under everybody's feet, and write to one."""
    for number in (0, 1, 2):
        try:
            os.close(number)
        except OSError:
            pass
    os.write(1, b"lost")
    return item


def _fork_and_leave(item: Any) -> Any:
    """A child process, forked without exec, that ends at once."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return item


def _fork_and_die(_: Any) -> None:
    """Leave a forked child, which holds every descriptor of the worker, and be killed."""
    if os.fork() == 0:
        time.sleep(_CHILD_LIVES)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(_FOREVER)


_CHILD_LIVES = 15.0
"""Seconds. It ends by itself: nobody knows of it."""

FAULTS: dict[str, Fault] = {
    "raise": Fault(about="an exception", act=_raise_os_error),
    "exit": Fault(about="os._exit", act=_exit, ends_worker=True, exitcode=EXIT_CODE),
    "SIGKILL": Fault(
        about="SIGKILL, as from the out-of-memory killer", act=_send_self("SIGKILL"), ends_worker=True, exitcode=-9
    ),
    "SIGTERM": Fault(about="SIGTERM", act=_send_self("SIGTERM"), ends_worker=True, exitcode=-15),
    "SIGABRT": Fault(about="abort()", act=_send_self("SIGABRT"), ends_worker=True, exitcode=-6),
    "SIGSEGV": Fault(about="a segmentation fault", act=_read_address_zero, ends_worker=True, exitcode=-11),
    "fork and die": Fault(
        about="SIGKILL of a worker with a forked child", act=_fork_and_die, ends_worker=True, exitcode=-9
    ),
    "memory": Fault(about="the memory limit of the process", act=_exceed_memory),
    "hang": Fault(about="a call that sleeps for ever", act=_sleep_forever, hangs=True),
    "hang, GIL held": Fault(about="a loop in C that holds the GIL", act=_hold_the_gil, hangs=True),
    "hang, SIGTERM ignored": Fault(about="a hang that ignores SIGTERM", act=_ignore_terminate, hangs=True),
    "SystemExit": Fault(about="SystemExit raised by the call", act=_raise_system_exit),
    "KeyboardInterrupt": Fault(about="KeyboardInterrupt raised by the call", act=_raise_keyboard_interrupt),
    "unbuildable error": Fault(about="an exception that pickle can't rebuild", act=_raise_unbuildable),
    "unpicklable error": Fault(about="an exception that can't be pickled", act=_raise_unpicklable),
    "unpicklable result": Fault(about="a result that can't be pickled", act=_return_a_lock),
    "closed stdout": Fault(about="sys.stdout closed", act=_close_stdout),
    "closed descriptors": Fault(about="descriptors 0, 1 and 2 closed", act=_close_descriptors),
    "fork": Fault(about="a child forked in the call", act=_fork_and_leave),
}
"""Every kind of fault by its name in a script."""
