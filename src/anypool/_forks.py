"""Forks of the caller wait while we start a process.

`subprocess` takes a new process for started once the other end of a pipe is closed, by its exec. A process that another
thread forks in that moment has that end, too, and execs nothing: the start would last as long as that process lives.
"""

from __future__ import annotations

import os
import threading

__all__ = ["no_forks"]

no_forks = threading.Lock()
"""Held while a process is started; a fork waits for it."""

# Once, with the import: whoever starts a process imports this first.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=no_forks.acquire, after_in_parent=no_forks.release, after_in_child=no_forks.release)
