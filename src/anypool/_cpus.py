"""How many CPUs this process may use, and how many threads each call's libraries may start.

Counting CPUs is taking a minimum: the machine, the scheduler's affinity, the container (cgroups),
the batch queue and the user each set an upper bound, and whoever grants least wins. None of the
standard library, loky, joblib and Dask reads all of these (field notes: oversubscribed containers
are the most reported fault of this kind).
"""

from __future__ import annotations

import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from anypool.errors import ConfigError

__all__ = [
    "DEFAULT_INNER_THREADS",
    "CpuLimit",
    "available_cpus",
    "can_limit_inner_threads",
    "cpu_limits",
    "inner_thread_environment",
    "limit_inner_threads",
]

DEFAULT_INNER_THREADS = 1
"""Threads that BLAS and OpenMP may use inside one call, on every backend, so that sums agree."""

# `WaitForMultipleObjects` takes 64 handles; the standard library needs some of them for itself
# (`_MAX_WINDOWS_WORKERS` in `concurrent/futures/process.py`) and refuses more workers than this.
_WINDOWS_MAXIMUM = 61


@dataclass(frozen=True, kw_only=True, slots=True)
class CpuLimit:
    """One upper bound on the CPUs of this process.

    Parameters
    ----------
    source : str
        Who sets it: ``"affinity"``, ``"cgroup v2 quota"``, ``"SLURM_CPUS_PER_TASK"``, ...
    cpus : int
        The bound, at least 1.
    detail : str
        What it was read from, for people: the file or the variable with its text.
    """

    source: str
    cpus: int
    detail: str


def available_cpus(*, root: Path = Path("/"), environ: Mapping[str, str] | None = None) -> int:
    """Return how many CPUs this process may use: the least of `cpu_limits`, at least 1.

    Parameters
    ----------
    root : Path
        Where the file system starts; another one than "/" is for tests.
    environ : mapping, optional
        The environment; by default that of the process.

    Warns
    -----
    RuntimeWarning
        An environment variable that sets a limit is not a number; it is skipped.
    """
    return min(limit.cpus for limit in cpu_limits(root=root, environ=environ))


def cpu_limits(*, root: Path = Path("/"), environ: Mapping[str, str] | None = None) -> list[CpuLimit]:
    """Return every limit that applies now; `available_cpus` is their minimum.

    Nothing is cached: affinity, quotas and variables may change while the process lives. Measured:
    260 us with 20 mounts, most of it the kernel's, so it is for the start of an executor, not for a call.
    Parameters and warnings as in `available_cpus`.
    """
    environment = os.environ if environ is None else environ
    top = str(root).rstrip("/\\")
    return [*_system_limits(), *_cgroup_limits(top), *_environment_limits(top, environment)]


# --- the system -----------------------------------------------------------------------------------


def _system_limits() -> Iterator[CpuLimit]:
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


# --- containers -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Hierarchy:
    """A mounted tree of cgroups that has a say about CPUs, and where in it this process is."""

    version: int
    controllers: frozenset[str]
    mount: str
    inside: str


def _cgroup_limits(root: str) -> Iterator[CpuLimit]:
    for hierarchy in _hierarchies(root):
        # A limit set on a parent binds all below it: a pod's quota is often not on the leaf
        # that the process is in, and a leaf inside a container often has none (loky#634).
        for directory in _upwards(hierarchy.mount, hierarchy.inside):
            if hierarchy.version == 2:
                yield from _v2_limits(root + directory)
            else:
                yield from _v1_limits(root + directory, hierarchy.controllers)


def _hierarchies(root: str) -> Iterator[_Hierarchy]:
    """Yield the cgroup trees of this process. Formats: cgroups(7), proc_pid_mountinfo(5)."""
    own: dict[str, str] = {}
    for line in _read(f"{root}/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))  # v2 has "" for controllers
    if not own:
        return
    for line in _read(f"{root}/proc/self/mountinfo").splitlines():
        if " - cgroup" not in line:
            continue
        before, _, after = line.partition(" - ")
        mount_root, mount = (_unescape(field) for field in before.split()[3:5])
        kind, *_, options = after.split()
        if kind == "cgroup2" and "" in own:
            inside = _inside(own[""], mount_root)
            yield _Hierarchy(version=2, controllers=frozenset(), mount=mount, inside=inside)
        elif kind == "cgroup":
            controllers_here = {"cpu", "cpuset"} & set(options.split(",")) & own.keys()
            for controller in controllers_here:
                inside = _inside(own[controller], mount_root)
                one = frozenset((controller,))
                yield _Hierarchy(version=1, controllers=one, mount=mount, inside=inside)


def _inside(path: str, mount_root: str) -> str:
    """Return where below its mount the cgroup `path` is seen; "" is the mount point itself.

    A container without a cgroup namespace sees its host's path in /proc, and a mount whose root
    is that very path; one with a namespace sees "/" for both. Where neither fits, the mount point
    is the nearest that this process can see.
    """
    if mount_root == "/":
        return path.strip("/")
    if path == mount_root or path.startswith(mount_root + "/"):
        return path[len(mount_root) :].strip("/")
    return ""


def _upwards(mount: str, inside: str) -> Iterator[str]:
    """Yield the directory of a cgroup, then each parent, up to the mount point."""
    parts = [part for part in inside.split("/") if part]
    if ".." in parts:  # outside of the namespace's root: nothing of it can be seen
        parts = []
    for count in range(len(parts), -1, -1):
        yield "/".join((mount.rstrip("/"), *parts[:count]))


def _v2_limits(directory: str) -> Iterator[CpuLimit]:
    quota = _read(f"{directory}/cpu.max").split()
    if len(quota) == 2:
        yield from _quota("cgroup v2 quota", quota[0], quota[1], f"{directory}/cpu.max")
    yield from _cpuset("cgroup v2 cpuset", f"{directory}/cpuset.cpus.effective")


def _v1_limits(directory: str, controllers: frozenset[str]) -> Iterator[CpuLimit]:
    if "cpu" in controllers:
        quota = _read(f"{directory}/cpu.cfs_quota_us").strip()
        period = _read(f"{directory}/cpu.cfs_period_us").strip()
        yield from _quota("cgroup v1 quota", quota, period, f"{directory}/cpu.cfs_quota_us")
    if "cpuset" in controllers:
        yield from _cpuset("cgroup v1 cpuset", f"{directory}/cpuset.cpus")


def _quota(source: str, quota: str, period: str, path: str) -> Iterator[CpuLimit]:
    # "max" (v2), "-1" (v1) and a missing file all mean: no limit here.
    if quota.isdecimal() and period.isdecimal() and int(period) > 0:
        # Rounded up: with half a CPU's time to spare, one more worker still gets work done.
        cpus = max(1, -(-int(quota) // int(period)))
        yield CpuLimit(source=source, cpus=cpus, detail=f"{path}: {quota} of {period} us")


def _cpuset(source: str, path: str) -> Iterator[CpuLimit]:
    text = _read(path).strip()  # empty: as in the parent, which is asked too
    if re.fullmatch(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*", text):
        spans = (span.partition("-") for span in text.split(","))
        cpus = sum(int(last or first) - int(first) + 1 for first, _, last in spans)
        yield CpuLimit(source=source, cpus=max(1, cpus), detail=f"{path}: {text}")


def _read(path: str) -> str:
    """Return the text of a small system file, "" if there is none: no file, no limit."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _unescape(field: str) -> str:
    """Undo the kernel's escapes of blanks, tabs and backslashes in mountinfo: "\\040" is a blank."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


# --- batch queues and the user --------------------------------------------------------------------


def _environment_limits(root: str, environ: Mapping[str, str]) -> Iterator[CpuLimit]:
    yield from _python_limits(environ)
    yield from _slurm_limits(environ)
    yield from _sge_limits(root, environ)
    # Torque, then PBS Pro. PBS_NP is not read: it counts the CPUs of all the job's nodes. NCPUS
    # is too common a name to be believed outside of a PBS job.
    yield from _variable(environ, "PBS_NUM_PPN")
    if "PBS_JOBID" in environ:
        yield from _variable(environ, "NCPUS")
    # LSF. The second is the job's maximum, the first what it got.
    yield from _first_variable(environ, "LSB_DJOB_NUMPROC", "LSB_MAX_NUM_PROCESSORS")
    # Fujitsu's queue (Fugaku). The first is set on virtual nodes only.
    yield from _first_variable(environ, "PJM_VNODE_CORE", "PJM_PROC_BY_NODE")
    yield from _variable(environ, "ANYPOOL_MAX_WORKERS")


def _python_limits(environ: Mapping[str, str]) -> Iterator[CpuLimit]:
    """Yield what `-X cpu_count` and PYTHON_CPU_COUNT say. Python itself knows them from 3.13 on."""
    name = "PYTHON_CPU_COUNT"
    option = sys._xoptions.get("cpu_count")
    if isinstance(option, str) and option != "default":
        yield from _variable({"-X cpu_count": option}, "-X cpu_count")
    # Python ignores its variables under -E and -I; `-X cpu_count`, even as "default", wins.
    elif option is None and not sys.flags.ignore_environment and environ.get(name) != "default":
        yield from _variable(environ, name)


def _slurm_limits(environ: Mapping[str, str]) -> Iterator[CpuLimit]:
    """Yield what Slurm granted on this node (sbatch(1), section "OUTPUT ENVIRONMENT VARIABLES").

    SLURM_CPUS_PER_TASK is set only if the user asked for it. On a job of several nodes
    SLURM_CPUS_ON_NODE may be rounded up (parallelly, `availableCoresSlurm`), which is why it never
    stands against the former: the minimum is taken.
    """
    yield from _variable(environ, "SLURM_CPUS_PER_TASK")
    if "SLURM_CPUS_ON_NODE" in environ:
        yield from _variable(environ, "SLURM_CPUS_ON_NODE")
        return
    name = "SLURM_JOB_CPUS_PER_NODE"
    text = environ.get(name, "").strip()
    if not text:
        return
    nodes = _slurm_nodes(text)
    if not nodes:
        _warn_unreadable(name, text)
        return
    node = environ.get("SLURM_NODEID", "")
    known = node.isdecimal() and int(node) < len(nodes)
    # Which entry is this node's is unknown outside of a step: then the smallest is safe.
    cpus = nodes[int(node)] if known else min(nodes)
    yield CpuLimit(source=name, cpus=cpus, detail=f"{name}={text}")


def _slurm_nodes(text: str) -> list[int]:
    """Return the CPUs of each node from Slurm's "4(x2),8"; empty if that is not its form."""
    nodes: list[int] = []
    for entry in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,6})(?:\(x([0-9]{1,6})\))?\s*", entry)
        if match is None or int(match[1]) < 1:
            return []
        nodes += [int(match[1])] * int(match[2] or 1)
    return nodes


def _sge_limits(root: str, environ: Mapping[str, str]) -> Iterator[CpuLimit]:
    """Yield the slots that Grid Engine granted here: NSLOTS counts those of all hosts of the job."""
    if environ.get("NHOSTS", "1") != "1":
        from socket import gethostname  # loaded by few, and slow to load

        path = environ.get("PE_HOSTFILE", "")  # a line for each host: name, slots, queue, CPUs
        here = gethostname().partition(".")[0]
        for line in _read(f"{root}{path}").splitlines():
            host, slots, *_ = [*line.split(), "", ""]
            if host.partition(".")[0] == here and slots.isdecimal() and int(slots) > 0:
                yield CpuLimit(source="PE_HOSTFILE", cpus=int(slots), detail=f"{path}: {line}")
                return
    yield from _variable(environ, "NSLOTS")


def _first_variable(environ: Mapping[str, str], *names: str) -> Iterator[CpuLimit]:
    """Yield the limit of the first of these variables that is set."""
    yield from _variable(environ, next((name for name in names if environ.get(name)), names[0]))


def _variable(environ: Mapping[str, str], name: str) -> Iterator[CpuLimit]:
    text = environ.get(name, "").strip()
    if not text:
        return
    if re.fullmatch(r"[0-9]{1,9}", text) and int(text) >= 1:
        yield CpuLimit(source=name, cpus=int(text), detail=f"{name}={text}")
    else:
        _warn_unreadable(name, text)


def _warn_unreadable(name: str, text: str) -> None:
    message = f"{name}={text!r} is not a number of CPUs (a whole number from 1 on); it is ignored"
    warnings.warn(message, RuntimeWarning, stacklevel=2)


# --- threads inside of a call ---------------------------------------------------------------------

# Read by the libraries when they are loaded. oneTBB has no such variable; numba hands its own on.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def inner_thread_environment(threads: int) -> dict[str, str]:
    """Return the environment that makes a new process use `threads` threads in each library.

    It must be in place before the process imports anything: the libraries read it on loading.

    Raises
    ------
    ConfigError
        `threads` is less than 1.
    """
    _check_threads(threads)
    return dict.fromkeys(_THREAD_VARIABLES, str(threads))


def can_limit_inner_threads() -> bool:
    """Return whether `limit_inner_threads` has an effect: whether threadpoolctl is installed."""
    return find_spec("threadpoolctl") is not None


@contextmanager
def limit_inner_threads(threads: int) -> Iterator[None]:
    """Let BLAS and OpenMP of this process use `threads` threads inside of the block.

    For calls that run where the environment came too late: in the caller's process. Enter it in
    the thread that runs the call, since OpenMP counts for each thread. Nested and concurrent
    entries are fine: in one thread the innermost number holds; where a library has only one
    number for all threads, the least of the threads' numbers holds. When the last block ends,
    every library has the number it had before.

    Libraries that are loaded inside of the block are limited from the next entry on. Without
    threadpoolctl this does nothing (`can_limit_inner_threads` tells).

    Raises
    ------
    ConfigError
        `threads` is less than 1.
    """
    _check_threads(threads)
    limiter = _limiter()
    limiter.enter(threads)
    try:
        yield
    finally:
        limiter.leave()


def _check_threads(threads: int) -> None:
    if threads < 1:
        raise ConfigError(f"inner threads must be at least 1, not {threads!r}")


class _Library(Protocol):
    """What is used of threadpoolctl's `LibController`, one for each loaded library."""

    filepath: str
    user_api: str

    def get_num_threads(self) -> int: ...
    def set_num_threads(self, num_threads: int, /) -> object: ...


class _Limiter:
    """Keeps the books of all `limit_inner_threads` blocks that are open in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted: dict[int, list[int]] = {}  # thread -> the numbers of its open blocks
        self._own: dict[int, dict[str, int]] = {}  # thread -> OpenMP library -> number before
        self._before: dict[str, int] = {}  # BLAS library -> number before the first block
        self._applied = 0  # the number that the BLAS libraries have now; 0: their own
        self._libraries: list[_Library] = []
        self._scanned: tuple[int, str] | None = None

    def enter(self, threads: int) -> None:
        with self._lock:
            found = self._scan()
            thread = threading.get_ident()
            self._wanted.setdefault(thread, []).append(threads)
            self._limit_blas(again=found)
            self._limit_openmp(thread, threads)

    def leave(self) -> None:
        with self._lock:
            thread = threading.get_ident()
            numbers = self._wanted[thread]
            numbers.pop()
            if not numbers:
                del self._wanted[thread]
            # BLAS first: OpenBLAS that is built on OpenMP sets this thread's OpenMP number too.
            self._limit_blas(again=False)
            if numbers:
                self._limit_openmp(thread, numbers[-1])
            else:
                self._restore_openmp(thread)

    def _scan(self) -> bool:
        """Look for libraries if a module was loaded since the last time; return whether it did.

        A scan reads the list of all mapped files. A library comes with the module that needs it,
        and `sys.modules` grows at its end, so its length and last key tell cheaply. The loader's
        own counter, `dl_iterate_phdr`, would be exact, but its callback into Python under the
        loader's lock deadlocks with a thread that imports (joblib/threadpoolctl#239).
        """
        now = _loaded_modules()
        if now == self._scanned:
            return False
        self._scanned = now
        try:
            threadpoolctl = import_module("threadpoolctl")
        except ImportError:
            return False
        self._libraries = threadpoolctl.ThreadpoolController().lib_controllers
        return True

    def _limit_blas(self, *, again: bool) -> None:
        """Give the libraries that have one number for the process the least that is wanted."""
        wanted = min((numbers[-1] for numbers in self._wanted.values()), default=0)
        if wanted == self._applied and not again:
            return
        for library in self._libraries:
            if library.user_api == "openmp":
                continue
            if wanted:
                self._before.setdefault(library.filepath, library.get_num_threads())
                library.set_num_threads(wanted)
            elif library.filepath in self._before:
                library.set_num_threads(self._before[library.filepath])
        self._applied = wanted
        if not wanted:
            self._before.clear()

    def _limit_openmp(self, thread: int, threads: int) -> None:
        own = self._own.setdefault(thread, {})
        for library in self._libraries:
            if library.user_api == "openmp":
                own.setdefault(library.filepath, library.get_num_threads())
                library.set_num_threads(threads)

    def _restore_openmp(self, thread: int) -> None:
        own = self._own.pop(thread)
        for library in self._libraries:
            if library.filepath in own:
                library.set_num_threads(own[library.filepath])


def _loaded_modules() -> tuple[int, str]:
    while True:
        try:
            return len(sys.modules), next(reversed(sys.modules))
        except RuntimeError:  # another thread imported between `reversed` and `next`
            continue


# The numbers belong to the process, so their books must too: two executors in one process, each
# with books of its own, would restore each other's limits instead of the caller's numbers. A
# forked child gets new books: its parent's blocks never end there, and a lock that another of the
# parent's threads held stays locked.
_limiters: dict[int, _Limiter] = {}


def _limiter() -> _Limiter:
    """Return the limiter of this process."""
    pid = os.getpid()
    return _limiters.get(pid) or _limiters.setdefault(pid, _Limiter())
