"""Calls of the fault suite, apart from its tests: a new worker should not have to load pytest to run one."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path


def pid_after_a_while(_: int) -> int:
    """Who runs the call; it lasts long enough for the other worker to take one, too."""
    time.sleep(0.02)
    return os.getpid()


def stop_self(_: int) -> None:
    """Be stopped, as by a debugger: the process is there, and does nothing."""
    os.kill(os.getpid(), signal.SIGSTOP)


class Counted:
    """Writes each item down as it runs, and works for a moment: a file for each process, a line for each call."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __call__(self, item: int) -> int:
        file = os.open(self.place / str(os.getpid()), os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        try:
            os.write(file, b"%d\n" % item)
        finally:
            os.close(file)
        return item * item

    def counts(self) -> Counter[int]:
        """How often each item ran."""
        found: Counter[int] = Counter()
        for path in self.place.iterdir():
            found.update(map(int, path.read_text().split()))
        return found
