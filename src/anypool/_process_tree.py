"""What a process has started, ended with it, where the system tells which processes those are.

A call that is stopped may wait for a program that it runs; if its worker alone were ended, the program would stay
behind. loky's own pools end their workers so.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

__all__ = ["KNOWS_CHILDREN", "kill_started_by", "kill_tree"]

KNOWS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")
"""Whether the system tells what a process has started: Linux does."""


def kill_tree(pid: int) -> None:
    """End a process that nobody else may reap meanwhile, and before it all that it has started.

    What left it, as a daemon does, is not found. Elsewhere than on Linux the process alone is ended.

    Raises
    ------
    ProcessLookupError
        It is gone.
    """
    try:
        if KNOWS_CHILDREN:
            os.kill(pid, signal.SIGSTOP)
            kill_started_by(pid)
    finally:
        os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))


def kill_started_by(pid: int) -> None:
    """End all that a process has started, which is stopped: so it starts no more, and the numbers stay its own."""
    for each in _descendants(pid):
        try:
            os.kill(each, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # it has ended; it became another user's, as by sudo
            continue


def _descendants(pid: int) -> list[int]:
    """The children of a process and theirs, the youngest generation first."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            numbers = [int(number) for number in children.read_text().split()]
        except OSError:  # that thread has ended
            continue
        for number in numbers:
            found += [*_descendants(number), number]
    return found
