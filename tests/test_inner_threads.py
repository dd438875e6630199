"""What libraries start inside of a call is bounded, in every thread, and put back."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import anypool
from anypool import _inner_threads
from anypool._inner_threads import (
    DEFAULT_INNER_THREADS,
    can_limit_inner_threads,
    inner_thread_environment,
    keep_inner_threads,
    limit_inner_threads,
)
from anypool.errors import ConfigError


def run_python(code: str, **environ: str) -> str:
    """Run code in a new interpreter that finds this anypool; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(Path(anypool.__path__[0]).parent), **environ},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Library:
    """A loaded library as threadpoolctl shows it: BLAS counts once, OpenMP for each thread."""

    internal_api = "made up"

    def __init__(self, filepath: str, user_api: str, number: int) -> None:
        self.filepath = filepath
        self.user_api = user_api
        self._number = number
        self._counts_by_thread = user_api == "openmp" or self.internal_api == "mkl"
        self._of_thread = threading.local()
        self.calls = 0

    def get_num_threads(self) -> int:
        if self._counts_by_thread:
            return int(getattr(self._of_thread, "number", self._number))
        return self._number

    def set_num_threads(self, num_threads: int, /) -> None:
        self.calls += 1
        if self._counts_by_thread:
            self._of_thread.number = num_threads
        else:
            self._number = num_threads


class ClaimedLibrary(Library):
    """OpenBLAS on pthreads by threadpoolctl from 3.8 on: who sets it first keeps the others from it."""

    internal_api = "openblas"
    threading_layer = "pthreads"
    owner: threading.Thread | None = None

    def set_num_threads(self, num_threads: int, /) -> None:
        if self.owner is None or not self.owner.is_alive():
            self.owner = threading.current_thread()
        if self.owner is threading.current_thread():
            super().set_num_threads(num_threads)

    def clear_controlling_thread(self, force: bool = False) -> None:
        if force or self.owner is threading.current_thread():
            self.owner = None


class MklOfThreads(Library):
    """MKL by threadpoolctl from 3.8 on: a BLAS that counts for each thread."""

    internal_api = "mkl"
    check_symbols = ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads_Local")


class OpenBlasOnOpenMP(Library):
    """OpenBLAS on OpenMP by threadpoolctl from 3.8 on: it has the number of the OpenMP beside it."""

    internal_api = "openblas"
    threading_layer = "openmp"

    def __init__(self, filepath: str, openmp: Library) -> None:
        super().__init__(filepath, "blas", 0)
        self._openmp = openmp

    def get_num_threads(self) -> int:
        return self._openmp.get_num_threads()

    def set_num_threads(self, num_threads: int, /) -> None:
        self._openmp.set_num_threads(num_threads)

    def clear_controlling_thread(self, force: bool = False) -> None:
        raise AssertionError("nobody controls what each thread has for itself")


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> list[Library]:
    """Two made-up libraries with 8 and 6 threads, in place of the loaded ones."""
    loaded = [Library("blas.so", "blas", 8), Library("omp.so", "openmp", 6)]
    threadpoolctl = SimpleNamespace(ThreadpoolController=lambda: SimpleNamespace(lib_controllers=[*loaded]))
    monkeypatch.setitem(sys.modules, "threadpoolctl", threadpoolctl)
    monkeypatch.setattr(_inner_threads, "_limiters", {})
    return loaded


def numbers(libraries: list[Library]) -> list[int]:
    return [library.get_num_threads() for library in libraries]


def test_inner_threads_are_limited_and_put_back(libraries: list[Library]) -> None:
    with limit_inner_threads(1):
        assert numbers(libraries) == [1, 1]
    assert numbers(libraries) == [8, 6]


def test_inner_threads_are_put_back_when_the_call_raises(libraries: list[Library]) -> None:
    def fail() -> None:
        with limit_inner_threads(1):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert numbers(libraries) == [8, 6]


def test_in_one_thread_the_innermost_limit_holds(libraries: list[Library]) -> None:
    with limit_inner_threads(2):
        with limit_inner_threads(4), limit_inner_threads(4):
            assert numbers(libraries) == [4, 4]
        assert numbers(libraries) == [2, 2]
    assert numbers(libraries) == [8, 6]


def test_what_the_caller_set_between_two_blocks_is_what_is_put_back(libraries: list[Library]) -> None:
    with limit_inner_threads(1):
        pass
    libraries[0].set_num_threads(5)
    with limit_inner_threads(1):
        assert numbers(libraries) == [1, 1]
    assert numbers(libraries) == [5, 6]


def test_limits_of_threads_that_overlap_are_put_back_by_the_last(libraries: list[Library]) -> None:
    entered, leave = threading.Event(), threading.Event()
    seen: list[list[int]] = []

    def other() -> None:
        with limit_inner_threads(3):
            seen.append(numbers(libraries))
            entered.set()
            assert leave.wait(30)
        seen.append(numbers(libraries))

    thread = threading.Thread(target=other)
    with limit_inner_threads(2):
        thread.start()
        assert entered.wait(30)
        assert numbers(libraries) == [2, 2]
    assert numbers(libraries) == [3, 6]  # BLAS: the other's alone now; OpenMP: this thread's own
    leave.set()
    thread.join(30)
    assert seen == [[2, 3], [8, 6]]
    assert numbers(libraries) == [8, 6]


def test_a_block_that_begins_while_the_last_one_ends_is_limited(
    libraries: list[Library], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends, began = threading.Event(), threading.Event()
    seen: list[list[int]] = []
    set_number = Library.set_num_threads

    def other() -> None:
        assert ends.wait(30)
        with limit_inner_threads(1):
            began.set()
            thread_that_ends.join(30)
            seen.append(numbers(libraries))

    def end() -> None:
        with limit_inner_threads(1):
            monkeypatch.setattr(Library, "set_num_threads", set_slowly)

    def set_slowly(library: Library, number: int) -> None:
        if number == 8 and not ends.is_set():
            ends.set()
            began.wait(0.2)  # in vain where the other waits for its turn, as it must
        set_number(library, number)

    thread_that_ends = threading.Thread(target=end)
    thread_that_begins = threading.Thread(target=other)
    for thread in (thread_that_ends, thread_that_begins):
        thread.start()
    for thread in (thread_that_ends, thread_that_begins):
        thread.join(30)
    assert seen == [[1, 1]]
    assert numbers(libraries) == [8, 6]
    limiter = _inner_threads._limiter()
    assert not limiter._wanted
    assert not limiter._own


def test_a_library_loaded_inside_of_a_block_is_limited_from_the_next_and_put_back(
    libraries: list[Library], monkeypatch: pytest.MonkeyPatch
) -> None:
    with limit_inner_threads(1):
        libraries.append(Library("late.so", "blas", 7))
        monkeypatch.setitem(sys.modules, "anypool_late_module", SimpleNamespace())
        with limit_inner_threads(1):
            assert numbers(libraries) == [1, 1, 1]
        assert numbers(libraries) == [1, 1, 1]
    assert numbers(libraries) == [8, 6, 7]


def test_libraries_are_not_looked_for_again_while_no_module_is_loaded(
    libraries: list[Library], monkeypatch: pytest.MonkeyPatch
) -> None:
    with limit_inner_threads(1):
        pass
    monkeypatch.setattr(sys.modules["threadpoolctl"], "ThreadpoolController", None)
    with limit_inner_threads(1):
        assert numbers(libraries) == [1, 1]


def test_a_limit_that_is_kept_holds_for_what_is_loaded_later_and_can_change(
    libraries: list[Library], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_inner_threads(2)
    assert numbers(libraries) == [2, 2]
    before = [each.calls for each in libraries]
    keep_inner_threads(2)
    assert [each.calls for each in libraries] == before, "it was set again"
    libraries.append(Library("late.so", "openmp", 5))
    monkeypatch.setitem(sys.modules, "anypool_late_module", SimpleNamespace())
    keep_inner_threads(2)
    assert numbers(libraries) == [2, 2, 2]
    keep_inner_threads(3)
    assert numbers(libraries) == [3, 3, 3]
    assert in_thread(lambda: numbers(libraries)) == [3, 6, 5], "another thread has OpenMP's own number"


def test_without_threadpoolctl_nothing_is_limited_and_it_is_told(
    libraries: list[Library], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    assert not can_limit_inner_threads()
    with limit_inner_threads(1), limit_inner_threads(2):
        assert numbers(libraries) == [8, 6]


def in_thread(call: Callable[[], list[int]]) -> list[int]:
    """Return what `call` gives in a thread of its own."""
    seen: list[list[int]] = []
    thread = threading.Thread(target=lambda: seen.append(call()))
    thread.start()
    thread.join(30)
    return seen[0]


def limited(libraries: list[Library]) -> list[int]:
    with limit_inner_threads(1):
        return numbers(libraries)


def test_a_thread_is_limited_though_another_controls_the_library(libraries: list[Library]) -> None:
    libraries[:] = [ClaimedLibrary("claimed.so", "blas", 8)]
    libraries[0].set_num_threads(7)
    assert in_thread(lambda: limited(libraries)) == [1]
    assert numbers(libraries) == [7]


def test_a_limit_leaves_no_thread_in_control_of_a_library(libraries: list[Library]) -> None:
    libraries[:] = [ClaimedLibrary("claimed.so", "blas", 8)]

    def set_by_another() -> list[int]:
        libraries[0].set_num_threads(5)
        return numbers(libraries)

    with limit_inner_threads(2):
        assert in_thread(set_by_another) == [5]
    assert in_thread(set_by_another) == [5]


@pytest.mark.parametrize("kind", ["mkl", "openblas on openmp"])
def test_a_blas_that_counts_by_thread_is_limited_in_each_and_put_back(libraries: list[Library], kind: str) -> None:
    openmp = libraries[1]
    libraries[0] = MklOfThreads("mkl.so", "blas", 8) if kind == "mkl" else OpenBlasOnOpenMP("blas.so", openmp)
    before = numbers(libraries)
    with limit_inner_threads(1):
        assert numbers(libraries) == [1, 1]
        assert in_thread(lambda: numbers(libraries)) == before
        assert in_thread(lambda: [*limited(libraries), *numbers(libraries)]) == [1, 1, *before]
        assert numbers(libraries) == [1, 1]
    assert numbers(libraries) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_can_limit_though_its_parents_limiter_was_locked() -> None:
    code = """
        import os, sys
        from anypool import _inner_threads
        with _inner_threads._limiter()._lock:
            child = os.fork()
            if not child:
                with _inner_threads.limit_inner_threads(1):
                    os._exit(7)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert run_python(code) == "7"


def test_the_real_blas_is_limited_and_put_back() -> None:
    pytest.importorskip("threadpoolctl")
    numpy = pytest.importorskip("numpy")
    from threadpoolctl import ThreadpoolController

    numpy.ones((2, 2)) @ numpy.ones((2, 2))
    assert can_limit_inner_threads()

    def real() -> list[int]:
        return [library.get_num_threads() for library in ThreadpoolController().lib_controllers]

    before = real()
    with limit_inner_threads(DEFAULT_INNER_THREADS):
        assert set(real()) <= {1}
    assert real() == before


def test_the_real_blas_is_limited_in_a_thread_after_another_set_its_number() -> None:
    pytest.importorskip("threadpoolctl")
    numpy = pytest.importorskip("numpy")
    from threadpoolctl import ThreadpoolController

    numpy.ones((2, 2)) @ numpy.ones((2, 2))
    loaded = ThreadpoolController().lib_controllers
    before = numbers(loaded)
    for library, number in zip(loaded, before, strict=True):
        library.set_num_threads(number)  # from here on threadpoolctl heeds no other thread
    assert set(in_thread(lambda: limited(loaded))) <= {1}
    assert numbers(loaded) == before


def test_the_environment_bounds_the_blas_of_a_new_process() -> None:
    pytest.importorskip("threadpoolctl")
    pytest.importorskip("numpy")
    code = "import numpy, threadpoolctl; print({i['num_threads'] for i in threadpoolctl.threadpool_info()})"
    environ = inner_thread_environment(1)
    assert set(environ.values()) == {"1"}
    assert run_python(code, **environ) in ("{1}", "set()")


@pytest.mark.parametrize("threads", [0, -1])
def test_less_than_one_inner_thread_is_refused(threads: int) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        inner_thread_environment(threads)
    with pytest.raises(ConfigError, match="at least 1"), limit_inner_threads(threads):
        pass


def test_openblas_itself_is_told_and_threadpoolctl_sees_it() -> None:
    pytest.importorskip("numpy")
    code = """
        import numpy, threadpoolctl
        from anypool._inner_threads import _limiter, _OpenBlas, limit_inner_threads

        def now():
            return [each["num_threads"] for each in threadpoolctl.threadpool_info() if each["user_api"] == "blas"]

        with threadpoolctl.threadpool_limits(3):
            with limit_inner_threads(2):
                inside = now()
            assert inside and set(inside) == {2}, inside
            assert set(now()) == {3}, now()
        pthreads = [each for each in threadpoolctl.threadpool_info() if each.get("threading_layer") == "pthreads"]
        direct = [each for each in _limiter()._by_process if isinstance(each, _OpenBlas)]
        print(len(direct) == sum(each["internal_api"] == "openblas" for each in pthreads))
    """
    assert run_python(code, OMP_NUM_THREADS="4") == "True"
