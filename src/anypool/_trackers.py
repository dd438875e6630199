"""Resource trackers, in a process that a call forks.

multiprocessing and loky each have a process that unlinks what others leave, and that ends once nobody holds the pipe
to it any more, which the end of their users waits for. A process that a call forks has that pipe, too, and one that
outlives its worker is ended by nobody. Python lets go of it from 3.13.14 and 3.14.5 on (gh-146313), and so does this.
"""

from __future__ import annotations

import os
import sys

__all__ = ["TRACKERS", "leave_trackers"]

TRACKERS = ("multiprocessing", "loky.backend", "joblib.externals.loky.backend")
"""The packages whose module `resource_tracker` has one."""


def leave_trackers() -> None:
    """Let go of the pipes to trackers in a forked child, which starts one of its own if it needs one.

    A child that multiprocessing forks keeps them: what it makes may be its parent's to use.
    """
    if _is_of_multiprocessing():
        return
    for package in TRACKERS:
        module = sys.modules.get(f"{package}.resource_tracker")
        tracker = getattr(module, "_resource_tracker", None)
        fd = getattr(tracker, "_fd", None)
        if fd is None:
            continue
        tracker._fd = tracker._pid = None  # type: ignore[union-attr]
        try:
            os.close(fd)
        except OSError:
            continue  # it was closed under its feet


def _is_of_multiprocessing() -> bool:
    frame = sys._getframe()
    while (caller := frame.f_back) is not None:
        frame = caller
        if frame.f_globals.get("__name__") == "multiprocessing.popen_fork":
            return True
    return False
