"""How many threads the libraries inside of a call may start: BLAS, OpenMP and their like."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from anypool.errors import ConfigError

__all__ = [
    "DEFAULT_INNER_THREADS",
    "can_limit_inner_threads",
    "inner_thread_environment",
    "keep_inner_threads",
    "limit_inner_threads",
]

DEFAULT_INNER_THREADS = 1
"""Threads that BLAS and OpenMP may use inside one call, on every backend, so that sums agree."""

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
    from importlib.util import find_spec

    return find_spec("threadpoolctl") is not None


@contextmanager
def limit_inner_threads(threads: int) -> Iterator[None]:
    """Let BLAS and OpenMP of this process use `threads` threads inside of the block.

    For calls that run where the environment came too late: in the caller's process. Enter it in
    the thread that runs the call, since OpenMP and MKL count for each thread. Nested and concurrent
    entries are fine: in one thread the innermost number holds; where a library has only one
    number for all threads, as OpenBLAS of numpy's and scipy's wheels has, the least of the threads'
    numbers holds, and it holds in threads outside of any block too. When the last block ends, every
    library has the number it had before.

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


def keep_inner_threads(threads: int) -> None:
    """Let BLAS and OpenMP of this process use `threads` threads in this thread, from now on.

    For the process of a worker, which belongs to its calls. To be asked again before each of them, which costs
    nothing unless a module was loaded since, or another number is wanted.
    """
    _limiter().keep(threads)


def _check_threads(threads: int) -> None:
    if threads < 1:
        raise ConfigError(f"inner threads must be at least 1, not {threads!r}")


class _Library(Protocol):
    """What is used of threadpoolctl's `LibController`, one for each loaded library."""

    filepath: str
    user_api: str
    internal_api: str

    def get_num_threads(self) -> int: ...
    def set_num_threads(self, num_threads: int, /) -> object: ...


class _Limiter:
    """Keeps the books of all `limit_inner_threads` blocks that are open in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted: dict[int, list[int]] = {}  # thread -> the numbers of its open blocks
        self._own: dict[int, dict[str, int]] = {}  # thread -> library that counts by thread -> number before
        self._before: dict[str, int] = {}  # library that counts once -> number before the first block
        self._applied = 0  # the number that those that count once have now; 0: their own
        self._by_thread: list[_Library] = []
        self._by_process: list[_Library] = []
        self._scanned: tuple[int, str] | None = None
        self._kept = threading.local()  # `number` of this thread's block that never ends

    def keep(self, threads: int) -> None:
        kept = getattr(self._kept, "number", None)
        if kept == threads and self._scanned == _loaded_modules():
            return
        if kept is not None:
            self.leave()
        self.enter(threads)
        self._kept.number = threads

    def enter(self, threads: int) -> None:
        with self._lock:
            found = self._scan()
            thread = threading.get_ident()
            self._wanted.setdefault(thread, []).append(threads)
            self._limit_process(again=found)
            self._limit_thread(thread, threads)

    def leave(self) -> None:
        with self._lock:
            thread = threading.get_ident()
            numbers = self._wanted[thread]
            numbers.pop()
            if not numbers:
                del self._wanted[thread]
            # First: OpenBLAS on OpenMP, by threadpoolctl before 3.8, sets this thread's OpenMP number too.
            self._limit_process(again=False)
            if numbers:
                self._limit_thread(thread, numbers[-1])
            else:
                self._restore_thread(thread)

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
        from anypool._imported import import_without_traces

        try:
            threadpoolctl = import_without_traces("threadpoolctl")
        except ImportError:
            return False
        libraries: list[_Library] = threadpoolctl.ThreadpoolController().lib_controllers
        self._by_thread = [library for library in libraries if _counts_by_thread(library)]
        self._by_process = [_told_directly(library) for library in libraries if not _counts_by_thread(library)]
        return True

    def _limit_process(self, *, again: bool) -> None:
        """Give the libraries that have one number for the process the least that is wanted."""
        wanted = min((numbers[-1] for numbers in self._wanted.values()), default=0)
        if wanted == self._applied and not again:
            return
        for library in self._by_process:
            if wanted:
                self._before.setdefault(library.filepath, library.get_num_threads())
                _set_from_any_thread(library, wanted)
            elif library.filepath in self._before:
                _set_from_any_thread(library, self._before[library.filepath])
        self._applied = wanted
        if not wanted:
            self._before.clear()

    def _limit_thread(self, thread: int, threads: int) -> None:
        own = self._own.setdefault(thread, {})
        # All are asked before one is set: OpenBLAS on OpenMP has the number of the OpenMP beside it.
        for library in self._by_thread:
            if library.filepath not in own:
                own[library.filepath] = library.get_num_threads()
        for library in self._by_thread:
            library.set_num_threads(threads)

    def _restore_thread(self, thread: int) -> None:
        own = self._own.pop(thread)
        for library in self._by_thread:
            if library.filepath in own:
                library.set_num_threads(own[library.filepath])


def _counts_by_thread(library: _Library) -> bool:
    """Return whether what threadpoolctl sets is the number of the thread that sets it."""
    if library.user_api == "openmp":
        return True
    # Of these two it sets the number of the process before 3.8, the thread's own since: for MKL by
    # MKL_Set_Num_Threads_Local, for OpenBLAS on OpenMP by omp_set_num_threads.
    if library.internal_api == "mkl":
        return "MKL_Set_Num_Threads_Local" in getattr(library, "check_symbols", ())
    return getattr(library, "threading_layer", "") == "openmp" and hasattr(library, "clear_controlling_thread")


class _OpenBlas:
    """OpenBLAS on pthreads, by its own functions: threadpoolctl's way to them takes five times as long as they do."""

    user_api = "blas"
    internal_api = "openblas"

    def __init__(self, filepath: str, get: Callable[[], int], set_: Callable[[int], object]) -> None:
        self.filepath = filepath
        self.get_num_threads = get
        self.set_num_threads = set_


def _told_directly(library: _Library) -> _Library:
    """`library`, without what threadpoolctl puts before each call of it, where that is known."""
    dynlib = getattr(library, "dynlib", None)
    if library.internal_api != "openblas" or dynlib is None:
        return library
    for name in getattr(library, "check_symbols", ()):  # what it was recognized by
        get = getattr(dynlib, name, None)
        set_ = getattr(dynlib, name.replace("_get_num_threads", "_set_num_threads"), None)
        if get is not None and set_ is not None and get is not set_:
            return _OpenBlas(library.filepath, get, set_)
    return library


def _set_from_any_thread(library: _Library, number: int) -> None:
    """Set the number of a library that has one for the process, whichever thread set it before.

    OpenBLAS on pthreads takes it from every thread, and has no number for one thread:
    `openblas_set_num_threads_local` sets the same variable (OpenBLAS, driver/others/openblas_set_num_threads.c).
    But threadpoolctl from 3.8 on leaves it to the first thread that set it, until that thread ends, and
    passes over every other in silence (joblib/threadpoolctl#220). Our books already settle what threads
    want of it, so that claim is taken for this one number, and then left to whoever comes next: who
    kept it would turn the caller's own `threadpool_limits` into nothing.
    """
    release: Callable[..., None] | None = getattr(library, "clear_controlling_thread", None)
    if release is None:
        library.set_num_threads(number)
        return
    release(force=True)
    try:
        library.set_num_threads(number)
    finally:
        release(force=True)


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
