"""The core of the fault suite on the local pool: quick, so that it can run hundreds of times in a row (see `again`).

What every backend must do is in the shipped suite (`anypool.testing`, clauses "lost workers", "once" and "time"). Here
are the faults that only a pool of our own can be asked to bear, and how soon it must notice.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest
from fault_calls import pid_after_a_while, stop_self

import anypool
from anypool.testing import FAULTS, Faults
from anypool.testing._effects import LIMIT, poll

NOTICED_WITHIN = 0.1
"""Seconds from a worker's end to the error of its call."""

ENDING = [name for name, fault in FAULTS.items() if fault.ends_worker]
SPARING = [name for name, fault in FAULTS.items() if not (fault.ends_worker or fault.hangs)]


@pytest.fixture(scope="class")
def executor() -> Iterator[anypool.PoolExecutor]:
    """One pool for all tests of a class: each must find it whole after the fault before."""
    with anypool.get_executor("processes", max_workers=2) as executor:
        yield executor


class TestOnePool:
    @pytest.mark.parametrize("how", ENDING)
    def test_a_worker_that_ends_costs_its_call_and_says_how(self, executor: Any, tmp_path: Path, how: str) -> None:
        faults = Faults(tmp_path / "calls", {5: [how]})
        got = list(executor.map(faults, range(12), chunksize=6, errors="return"))
        lost = got[5]
        assert isinstance(lost, anypool.WorkerLost)
        assert lost.exitcode == FAULTS[how].exitcode
        assert lost.pid == next(each.pid for each in faults.record() if each.item == "5")
        assert lost.host
        if lost.exitcode < 0:
            assert signal.Signals(-lost.exitcode).name in str(lost)
        if how in ("SIGSEGV", "SIGABRT"):
            assert "most recent call first" in str(lost)  # faulthandler's last words
        assert [*got[:5], *got[6:]] == [*range(5), *range(6, 12)]
        assert faults.ran_again() == {}

    @pytest.mark.parametrize("how", SPARING)
    def test_what_spares_the_worker_costs_no_worker(self, executor: Any, tmp_path: Path, how: str) -> None:
        pids = _workers(executor)
        faults = Faults(tmp_path / "calls", {2: [how]})
        results = executor.map(faults, range(6), chunksize=3, errors="return")
        assert [next(results), next(results)] == [0, 1]
        if how in ("SystemExit", "KeyboardInterrupt"):
            with pytest.raises((SystemExit, KeyboardInterrupt)):
                next(results)
        else:
            next(results)
            assert list(results) == [3, 4, 5]
            assert faults.ran_again() == {}
        assert _workers(executor) == pids

    @pytest.mark.parametrize("how", ["exit", "SIGKILL", "fork and die"])
    def test_the_end_of_a_worker_is_noticed_at_once(self, executor: Any, tmp_path: Path, how: str) -> None:
        """The best of a few: the machine may do other work, the pool must not."""
        took = []
        for number in range(5):
            faults = Faults(tmp_path / str(number), {1: [how]})
            future = executor.submit(faults, 1)
            assert isinstance(future.exception(timeout=LIMIT), anypool.WorkerLost)
            took.append(time.monotonic() - faults.record()[0].began)
            if took[-1] <= NOTICED_WITHIN:
                break
        assert min(took) <= NOTICED_WITHIN

    @pytest.mark.parametrize("chunksize", [1, 3, 12])
    def test_calls_that_lose_workers_again_and_again_get_their_results(
        self, executor: Any, tmp_path: Path, chunksize: int
    ) -> None:
        script = {0: ["exit"], 3: ["SIGKILL", "exit"], 4: ["SIGSEGV"], 11: ["exit", "exit", "SIGKILL"]}
        faults = Faults(tmp_path / "calls", script)
        assert list(executor.map(faults, range(12), chunksize=chunksize, on_lost="retry")) == list(range(12))
        faults.check(range(12))

    def test_all_that_can_happen_happens_in_one_map(self, executor: Any, tmp_path: Path) -> None:
        script = {1: ["raise", "exit", "raise"], 4: ["hang", "SIGKILL"], 7: ["hang, GIL held"], 9: ["exit", "raise"]}
        faults = Faults(tmp_path / "calls", script)
        got = list(executor.map(faults, range(12), chunksize=4, on_lost="retry", retries=3, call_timeout=0.5))
        assert got == list(range(12))
        faults.check(range(12))

    def test_a_worker_that_was_stopped_is_ended_by_the_limit(self, executor: Any, tmp_path: Path) -> None:
        faults = Faults(tmp_path / "calls", {1: [stop_self]})
        got = list(executor.map(faults, range(4), chunksize=2, call_timeout=0.5, errors="return"))
        assert isinstance(got[1], anypool.CallTimeout)
        assert [got[0], *got[2:]] == [0, 2, 3]

    def test_idle_workers_that_are_killed_cost_nothing(self, executor: Any) -> None:
        for pid in _workers(executor):
            os.kill(pid, signal.SIGKILL)
        assert list(executor.map(str, range(20), chunksize=1, on_lost="retry")) == [str(item) for item in range(20)]

    def test_submitted_calls_behind_a_lost_one_run_elsewhere(self, executor: Any, tmp_path: Path) -> None:
        faults = Faults(tmp_path / "calls", {0: ["exit"], 1: ["SIGKILL"]})
        futures = [executor.submit(faults, item) for item in range(40)]
        wait(futures, timeout=LIMIT)
        assert [type(each.exception()) for each in futures[:2]] == [anypool.WorkerLost] * 2
        assert [each.result() for each in futures[2:]] == list(range(2, 40))
        assert faults.ran_again() == {}


def test_the_process_that_starts_workers_may_be_killed(tmp_path: Path) -> None:
    import psutil

    with anypool.get_executor("processes", max_workers=2) as executor:
        pids = _workers(executor)
        (starter,) = {psutil.Process(pid).ppid() for pid in pids}
        assert starter != os.getpid()
        os.kill(starter, signal.SIGKILL)
        got = list(executor.map(str, range(20), chunksize=1, on_lost="retry", errors="return"))
        wrong = [each for each in got if not isinstance(each, str)]
        assert all(isinstance(each, anypool.WorkerLost) for each in wrong)
        assert executor.submit(str, 1).exception(timeout=LIMIT) is None


def test_leaving_by_an_error_ends_what_hangs(tmp_path: Path) -> None:
    faults = Faults(tmp_path / "calls", {0: ["hang"], 1: ["hang, GIL held"]})
    with pytest.raises(LookupError):
        with anypool.get_executor("processes", max_workers=2) as executor:
            results = executor.map(faults, range(100), chunksize=1)
            poll(lambda: {"0", "1"} <= faults.counts().keys(), "both workers hang")
            ran = faults.counts()
            began = time.monotonic()
            raise LookupError
    assert time.monotonic() - began < LIMIT
    del results
    assert faults.counts() == ran


def _workers(executor: Any) -> set[int]:
    """The pids of both workers: one call each, as neither ends before the other has begun."""
    for _ in range(50):
        pids = set(executor.map(pid_after_a_while, range(4), chunksize=1))
        if len(pids) == 2:
            return pids
    raise AssertionError("two workers, and one runs all calls")
