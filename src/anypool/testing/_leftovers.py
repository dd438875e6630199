"""What of this process exists now: threads, children, open files. Nothing of it may be an executor's after its end."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Existing", "existing", "lives"]

# Processes that the interpreter itself keeps until it ends, one for the whole process, and that hold nothing of
# an executor: they are no leftovers. A library's own are. (module, attribute with the tracker or server, its pid)
_KEPT_PROCESSES = (
    ("multiprocessing.resource_tracker", "_resource_tracker", "_pid"),
    ("multiprocessing.forkserver", "_forkserver", "_forkserver_pid"),
)
# The attributes of those trackers and servers that hold a descriptor.
_KEPT_FILES = ("_fd", "_forkserver_alive_fd")
# Threads that a library keeps until the interpreter ends, one for the whole process: the event loop of
# synchronous clients of distributed, its profiler's, its offloader's, and tqdm's; asyncio's default pool;
# pytest-timeout's timer.
_KEPT_THREADS = (
    "IO loop",
    "Profile",
    "Dask-Offload",
    "Dask-Callback",
    "asyncio_",
    "AsyncProcess",
    "TCP-Executor",
    "tqdm_monitor",
    "pytest_timeout",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Existing:
    """Threads and children by a readable name, and the number of open files (None: cannot be told)."""

    threads: frozenset[str]
    children: frozenset[str]
    files: int | None

    def beyond(self, before: Existing) -> list[str]:
        """What there is that was not there before, for people; files are counted, since numbers are used again."""
        found = sorted(self.threads - before.threads) + sorted(self.children - before.children)
        if self.files is not None and before.files is not None and self.files > before.files:
            found.append(f"{self.files - before.files} open files more")
        return found


def existing() -> Existing:
    """What exists now, without what the interpreter and libraries keep for the whole process."""
    threads = frozenset(
        f"thread {each.name!r} ({each.ident})"
        for each in threading.enumerate()
        if not each.name.startswith(_KEPT_THREADS)
    )
    return Existing(threads=threads, children=_children(), files=_count_files())


def _kept_pids() -> set[int | None]:
    kept: set[int | None] = set()
    for module, attribute, pid in _KEPT_PROCESSES:
        holder: Any = getattr(sys.modules.get(module), attribute, None)
        kept.add(getattr(holder, pid, None))
    return kept


def _children() -> frozenset[str]:
    import psutil

    kept = _kept_pids()
    found = set()
    for pid in _descendants(os.getpid()):
        if pid in kept:
            continue
        try:
            child = psutil.Process(pid)
            words = " ".join(child.cmdline()[:4])
        except psutil.NoSuchProcess:
            continue
        except psutil.Error:  # a zombie has none
            words = child.name()
        found.add(f"process {pid} ({words:.80})")
    return frozenset(found)


def lives(pid: int) -> bool:
    """Whether there is a process of this number that has not ended: a zombie has."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _descendants(pid: int) -> list[int]:
    """The children of a process, and theirs: by the kernel's own lists, which save a look at every process."""
    import psutil

    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        lists = [Path(f"/proc/{pid}/task/{task}/children").read_text(encoding="ascii") for task in tasks]
    except OSError:  # not Linux, or a thread of it has just ended
        try:
            return [child.pid for child in psutil.Process(pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
    children = [int(word) for each in lists for word in each.split()]
    return children + [below for child in children for below in _descendants(child)]


def _count_kept_files() -> int:
    """How many of them are the ends of pipes to the processes that are kept."""
    kept = 0
    for module, attribute, _ in _KEPT_PROCESSES:
        holder: Any = getattr(sys.modules.get(module), attribute, None)
        kept += sum(getattr(holder, name, None) is not None for name in _KEPT_FILES)
    return kept


def _count_files() -> int | None:
    """How many files, pipes and sockets this process has open."""
    try:
        return len(os.listdir("/proc/self/fd")) - _count_kept_files()
    except OSError:
        return None
