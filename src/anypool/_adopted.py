"""What makes a process that another library started a good worker. All of it runs there.

Such a process, as loky and joblib start them, ends with a traceback on Ctrl-C, outlives a caller that is killed,
and writes its last words to the terminal. `adopt` is given to these libraries as the initializer of their workers.
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

from anypool._trackers import TRACKERS, leave_trackers

__all__ = ["GRACE_SECONDS", "adopt", "run_if_ours", "wait_for_end"]

GRACE_SECONDS = 1.0
"""How long after the caller's death a call may take to end by itself, before its process does."""

_tokens: Sequence[Connection] = ()


def adopt(
    caller: int, tokens: Sequence[Connection] = (), faults: Connection | None = None, library: str | None = None
) -> None:
    """Make this process a worker of ours.

    Parameters
    ----------
    caller : int
        Process id of the caller, this one's parent.
    tokens : sequence of connections
        For `run_if_ours`.
    faults : connection, optional
        The file for what faulthandler writes.
    library : str, optional
        The module of loky's that runs here.
    """
    global _tokens
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    _tokens = tokens
    if faults is not None:
        faulthandler.enable(faults.fileno())
        _kept.append(faults)
    if library is not None:
        _keep_alive(import_module(library))
    if hasattr(os, "register_at_fork") and os.path.isdir("/proc/self/fd"):
        pipes = _pipes_of_the_pool()
        os.register_at_fork(after_in_child=lambda: _close_all(pipes))
        os.register_at_fork(after_in_child=leave_trackers)
    _watch(caller)


_kept: list[Connection] = []  # the number of a descriptor that faulthandler writes to must not become another's


def _keep_alive(library: Any) -> None:
    # loky replaces a worker that has grown, for which the caller would need the end of a pipe that it has closed,
    # so that a worker that dies in the middle of a reply ends the reply.
    library._MAX_MEMORY_LEAK_SIZE = float("inf")


def run_if_ours(slot: int | None, call: Callable[[Any], Any], payload: Any) -> Any:
    """Run the call, unless the caller has taken it back: whoever reads the token of its slot has it."""
    if slot is not None:
        try:
            if not os.read(_tokens[slot].fileno(), 1):
                return None
        except BlockingIOError:
            return None
    return call(payload)


def _pipes_of_the_pool() -> list[int]:
    """The pipes that this process was started with, without those of the trackers.

    A process that a call forks has copies of them, which would hide the end of this one from the pool.
    """
    trackers = set()
    for package in TRACKERS:
        tracking = sys.modules.get(f"{package}.resource_tracker")
        trackers.add(getattr(getattr(tracking, "_resource_tracker", None), "_fd", None))
    return [
        fd
        for fd in map(int, os.listdir("/proc/self/fd"))
        if fd > 2 and fd not in trackers and _is_pipe(fd)
    ]  # fmt: skip


def _is_pipe(fd: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(fd).st_mode)
    except OSError:  # the one by which the folder was listed
        return False


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            continue  # the pool had closed it


def _watch(caller: int) -> None:
    """End this process soon after the caller's, however that ends, also in the middle of a call."""

    def watch() -> None:
        wait_for_end(caller)
        time.sleep(GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="anypool-watch", daemon=True).start()


def wait_for_end(pid: int) -> None:
    """Wait until the parent `pid` of this process is gone, without asking again and again."""
    if sys.platform == "win32":
        import _winapi

        handle = _winapi.OpenProcess(0x00100000, False, pid)  # SYNCHRONIZE
        _winapi.WaitForSingleObject(handle, _winapi.INFINITE)
        return
    kernel: Any = select  # which of these it has depends on the system
    try:
        if hasattr(os, "pidfd_open"):
            poll = select.poll()
            poll.register(os.pidfd_open(pid), select.POLLIN)
            if os.getppid() == pid:  # else it is gone, and its number may be another's
                poll.poll()
            return
        events = kernel.kqueue()
        end = kernel.kevent(pid, kernel.KQ_FILTER_PROC, kernel.KQ_EV_ADD, kernel.KQ_NOTE_EXIT)
        if os.getppid() == pid:
            events.control([end], 1)
    except ProcessLookupError:
        return
