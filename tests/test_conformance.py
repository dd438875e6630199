"""The conformance suite over every backend that anypool ships, and over an executor that is not ours.

One class of each backend runs whole in `make test`. A class that differs from another one only in how a worker is
started and ended says so by `clauses`: those that this can touch run in `make test`, the others in `make soak`, where
conftest.py puts them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import IO, Any, ClassVar

import pytest

from anypool.backend import Traits
from anypool.testing import CLAUSES, ExecutorTests

_START_WITHIN = 120.0  # seconds

_OF_START_AND_END = frozenset(
    {
        "any function",  # a worker that has the caller's modules, or has not
        "lost workers",
        "time",  # a call is stopped by the end of its worker
        "randomness",  # generators that were forked
        "output",  # streams that were inherited
        "context",
        "nesting",
        "budget",
        "end",
    }
)


def test_clauses_that_are_named_here_are_of_the_contract() -> None:
    assert set(CLAUSES) >= _OF_START_AND_END


needs_loky = pytest.mark.skipif(find_spec("loky") is None, reason="loky is not installed")
needs_joblib = pytest.mark.skipif(find_spec("joblib") is None, reason="joblib is not installed")
needs_dask = pytest.mark.skipif(find_spec("distributed") is None, reason="distributed is not installed")


class TestSerial(ExecutorTests):
    backend = "serial"


class TestSerialStrict(ExecutorTests):
    backend = "serial"
    options: ClassVar = {"strict": True}


class TestThreads(ExecutorTests):
    backend = "threads"
    options: ClassVar = {"max_workers": 2}


class TestThreadsStrict(ExecutorTests):
    backend = "threads"
    options: ClassVar = {"max_workers": 2, "strict": True}


class TestProcessesForkserver(ExecutorTests):
    backend = "processes"
    options: ClassVar = {"max_workers": 2, "start_method": "forkserver"}


class TestProcessesSpawn(ExecutorTests):
    clauses = _OF_START_AND_END
    backend = "processes"
    options: ClassVar = {"max_workers": 2, "start_method": "spawn"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:start_method='fork' while:RuntimeWarning")  # a test process has threads
class TestProcessesFork(ExecutorTests):
    clauses = _OF_START_AND_END
    backend = "processes"
    options: ClassVar = {"max_workers": 2, "start_method": "fork"}


@needs_loky
class TestLoky(ExecutorTests):
    backend = "loky"
    options: ClassVar = {"max_workers": 2}


@needs_joblib
class TestJoblibLoky(ExecutorTests):
    """Its lanes are those of `TestLoky`, over another copy of loky."""

    clauses = _OF_START_AND_END
    backend = "joblib"
    options: ClassVar = {"max_workers": 2, "native": "loky"}


@needs_joblib
class TestJoblibThreading(ExecutorTests):
    backend = "joblib"
    options: ClassVar = {"max_workers": 2, "native": "threading"}


@needs_joblib
class TestJoblibMultiprocessing(ExecutorTests):
    backend = "joblib"
    options: ClassVar = {"max_workers": 2, "native": "multiprocessing"}


@needs_dask
class TestDaskProcesses(ExecutorTests):
    backend = "dask"
    options: ClassVar = {"max_workers": 2}


@needs_dask
class TestDaskThreads(ExecutorTests):
    backend = "dask"
    options: ClassVar = {"max_workers": 2, "processes": False}


def _drain(stream: IO[str]) -> None:
    """Read what a program goes on writing, since a full pipe would stop it, until it ends."""
    with stream:
        stream.read()


def _start_program(*words: str, says: str) -> tuple[subprocess.Popen[str], str]:
    """A running program of distributed, and its line of output that has `says` in it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:]]
    program = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert program.stderr is not None
    alarm = threading.Timer(_START_WITHIN, program.kill)  # ends the reading, too
    alarm.start()
    try:
        for line in program.stderr:
            if says in line:
                threading.Thread(target=_drain, args=(program.stderr,), daemon=True).start()
                return program, line
    finally:
        alarm.cancel()
    program.stderr.close()
    program.wait()
    raise RuntimeError(f"dask {words[0]} ended, or did not say {says!r} within {_START_WITHIN} s")


@needs_dask
class TestDaskExternal(ExecutorTests):
    """A cluster that somebody else runs: a scheduler and two workers, each a program of its own."""

    backend = "dask"

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def cluster(cls) -> Iterator[None]:
        programs = []
        try:
            local = ("--host", "127.0.0.1", "--no-dashboard")
            scheduler, line = _start_program("scheduler", *local, "--port", "0", says="Scheduler at:")
            programs.append(scheduler)
            address = line.split()[-1]
            for name in ("one", "two"):
                # The nanny starts another worker in place of one that was lost.
                options = ("--nthreads", "1", "--name", name, "--nanny")
                programs.append(_start_program("worker", address, *local, *options, says="Registered to:")[0])
            cls.options = {"address": address}
            yield
        finally:
            for program in reversed(programs):
                program.terminate()
            for program in reversed(programs):
                program.wait(_START_WITHIN)

    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls, cluster: None) -> Iterator[Any]:
        """Made when the cluster is there: of itself it would come first, and start a cluster of its own."""
        with cls.make_executor() as executor:
            assert executor.traits.remote
            yield executor

    options: ClassVar[dict[str, Any]] = {}


class TestStdlibThreads(ExecutorTests):
    """Not ours: what the contract says of the stdlib's own interface holds for the stdlib."""

    traits = Traits(shares_memory=True, in_caller=True, concurrent_in_process=True)
    features = ("any_function",)

    @classmethod
    def make_executor(cls, **options: Any) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(2, **options)
