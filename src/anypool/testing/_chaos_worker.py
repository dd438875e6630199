"""What befalls one call, and the part of it that happens on the worker, which loads nothing else."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Fate", "suffer"]

Call = Callable[[Any], Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fate:
    """What befalls one call; times are seconds, `dies` says when its worker is killed."""

    waits: float = 0.0
    lingers: float = 0.0
    dies: str = ""
    dies_after: float = 0.0
    repeats: bool = False


def suffer(task: tuple[Fate, Call, Any]) -> tuple[int, Any]:
    """On the worker: run the call, or end as its fate says; the worker's pid and the reply."""
    fate, call, payload = task
    if fate.dies == "before":
        _die()
    if fate.dies == "during":
        timer = threading.Timer(fate.dies_after, _die)
        timer.daemon = True
        timer.start()
    reply = call(payload)
    if fate.dies:
        _die()
    return os.getpid(), reply


def _die() -> None:
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    time.sleep(60)  # the signal may need a moment, in which nothing must be replied
