"""What a test may leave behind in its process that another test would then meet, and that no fixture puts back."""

from __future__ import annotations

import gc
import locale
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from typing import Any

__all__ = ["process_state", "what_changed"]

_NOT_THE_TESTS = {
    "PYTEST_CURRENT_TEST",
    "KMP_DUPLICATE_LIB_OK",  # threadpoolctl and joblib set them when they are first imported
    "KMP_INIT_AT_FORK",
}


def process_state() -> dict[str, Any]:
    """All of it as plain data, of one moment."""
    cloudpickle = sys.modules.get("cloudpickle")
    root = logging.getLogger()
    return {
        "modules pickled by value": sorted(cloudpickle.list_registry_pickle_by_value()) if cloudpickle else [],
        "sys.path": sys.path[:],
        "sys.argv": sys.argv[:],
        "__main__": id(sys.modules["__main__"]),
        "environment": {name: value for name, value in os.environ.items() if name not in _NOT_THE_TESTS},
        "working directory": os.getcwd(),
        "signal handlers": {each.name: repr(signal.getsignal(each)) for each in signal.Signals},
        "root logger": (root.level, logging.root.manager.disable, len(root.handlers)),
        "hooks for exceptions": (id(sys.excepthook), id(threading.excepthook), id(sys.unraisablehook)),
        "trace functions": (sys.gettrace(), sys.getprofile()),
        # Whoever asks first settles it, which tqdm and joblib do: the default is what it was.
        "start method": multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0],
        "temporary directory": tempfile.gettempdir(),  # whoever asks first settles it
        "limits": (sys.getrecursionlimit(), sys.getswitchinterval(), gc.isenabled(), locale.setlocale(locale.LC_ALL)),
        "CPUs": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [],
    }


def what_changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs, in words."""
    return [_told(name, before[name], after[name]) for name in before if before[name] != after[name]]


def _told(name: str, before: Any, after: Any) -> str:
    if isinstance(before, dict):
        differ = [key for key in {**before, **after} if before.get(key) != after.get(key)]
        return f"{name}: " + ", ".join(f"{key} was {before.get(key)!r} and is {after.get(key)!r}" for key in differ)
    if isinstance(before, list):
        gone = [each for each in before if each not in after]
        return f"{name}: {[each for each in after if each not in before]} came, {gone} went"
    return f"{name}: was {before!r} and is {after!r}"
