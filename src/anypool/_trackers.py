"""Resource trackers, in a process that a call forks.

multiprocessing and loky each have a process that unlinks what others leave, and that ends once nobody holds the pipe
to it any more, which the end of their users waits for. A process that a call forks has that pipe, too, and one that
outlives its worker is ended by nobody. Python lets go of it from 3.13.14 and 3.14.5 on (gh-146313), and so does this.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from types import CodeType, FunctionType

__all__ = ["TRACKERS", "folders_of_joblib", "leave_trackers"]

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


def folders_of_joblib() -> list[Callable[[], object]]:
    """What joblib will call when the interpreter ends: one function for each folder that its tracker knows of.

    joblib registers a folder for large arrays with the tracker of its loky for each pool that it makes, whether it is
    ever used or not, and forgets most of them only at the end. It keeps no list of them: these functions are all there
    is, of pools, too, that are gone.
    """
    module = sys.modules.get("joblib._memmapping_reducer")
    register = getattr(getattr(module, "TemporaryResourcesManager", None), "register_folder_finalizer", None)
    made_by: CodeType | None = getattr(register, "__code__", None)
    if made_by is None:
        return []
    codes = [each for each in made_by.co_consts if isinstance(each, CodeType)]
    holders = gc.get_referrers(*codes)
    return [each for each in holders if isinstance(each, FunctionType) and each.__code__ in codes]


def _is_of_multiprocessing() -> bool:
    frame = sys._getframe()
    while (caller := frame.f_back) is not None:
        frame = caller
        if frame.f_globals.get("__name__") == "multiprocessing.popen_fork":
            return True
    return False
