"""How many CPUs this process may use.

Counting CPUs is taking a minimum: the machine, the scheduler's affinity, the container (cgroups),
the batch queue and the user each set an upper bound, and whoever grants least wins. None of the
standard library, loky, joblib and Dask reads all of these (field notes: oversubscribed containers
are the most reported fault of this kind).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anypool._cpus_limit import CpuLimit


__all__ = ["available_cpus", "cpu_limits"]

# `WaitForMultipleObjects` takes 64 handles; the standard library needs some of them for itself
# (`_MAX_WINDOWS_WORKERS` in `concurrent/futures/process.py`) and refuses more workers than this.
_WINDOWS_MAXIMUM = 61


def available_cpus(*, root: str | os.PathLike[str] = "/", environ: Mapping[str, str] | None = None) -> int:
    """Return how many CPUs this process may use: the least of `cpu_limits`, at least 1.

    Parameters
    ----------
    root : path
        Where the file system starts; another one than "/" is for tests.
    environ : mapping, optional
        The environment; by default that of the process.

    Warns
    -----
    RuntimeWarning
        An environment variable that sets a limit is not a number; it is skipped.
    """
    return min(limit.cpus for limit in cpu_limits(root=root, environ=environ))


def cpu_limits(*, root: str | os.PathLike[str] = "/", environ: Mapping[str, str] | None = None) -> list[CpuLimit]:
    """Return every limit that applies now; `available_cpus` is their minimum.

    Nothing is cached: affinity, quotas and variables may change while the process lives. Measured:
    260 us with 20 mounts, most of it the kernel's, so it is for the start of an executor, not for a call.
    Parameters and warnings as in `available_cpus`.
    """
    # Where somebody says how many workers there are to be, nobody asks.
    from anypool._cpus_cgroups import cgroup_limits
    from anypool._cpus_queues import environment_limits

    environment = os.environ if environ is None else environ
    top = os.fspath(root).rstrip("/\\")
    return [*_system_limits(), *cgroup_limits(top), *environment_limits(top, environment)]


def _system_limits() -> Iterator[CpuLimit]:
    from anypool._cpus_limit import CpuLimit

    # None where the platform cannot tell: then one CPU is what we know to exist.
    yield CpuLimit(source="system", cpus=os.cpu_count() or 1, detail="os.cpu_count()")
    if sys.platform == "win32":
        yield CpuLimit(source="windows", cpus=_WINDOWS_MAXIMUM, detail="most workers Windows can wait for")
    if hasattr(os, "sched_getaffinity"):
        cpus = len(os.sched_getaffinity(0))
        yield CpuLimit(source="affinity", cpus=cpus, detail="os.sched_getaffinity(0)")
    process_cpu_count: Callable[[], int | None] | None = getattr(os, "process_cpu_count", None)
    if process_cpu_count is not None:
        cpus = process_cpu_count() or 1
        yield CpuLimit(source="process", cpus=cpus, detail="os.process_cpu_count()")
