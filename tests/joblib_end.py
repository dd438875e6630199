"""What joblib leaves until the interpreter ends, ended now."""

from __future__ import annotations

import atexit
import gc

from anypool._bridge import stop_unused_trackers
from anypool._trackers import folders_of_joblib

__all__ = ["end_of_joblib"]


def end_of_joblib() -> None:
    """Forget the folders that `joblib.Parallel` has registered, and end the process that they are registered with."""
    _forget_folders()
    gc.collect()  # executors that are gone hold the functions, too
    stop_unused_trackers()


def _forget_folders() -> None:
    for finalize in folders_of_joblib():
        finalize()
        atexit.unregister(finalize)
