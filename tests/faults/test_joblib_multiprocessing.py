"""joblib's pool of multiprocessing: a worker that dies is noticed, wherever it is at, and there is another pool."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_calls import pid_after_a_while

import anypool
from anypool.testing import FAULTS, Faults
from anypool.testing._effects import LIMIT, poll

pytest.importorskip("joblib")


@pytest.fixture(scope="module")
def executor() -> Iterator[Any]:
    with anypool.get_executor("joblib://multiprocessing", max_workers=2) as executor:
        yield executor


@pytest.mark.parametrize("how", ["exit", "SIGKILL", "SIGSEGV", "fork and die"])
def test_a_worker_that_ends_costs_what_ran_and_no_hang(executor: Any, tmp_path: Path, how: str) -> None:
    faults = Faults(tmp_path / "calls", {5: [how]})
    got = list(executor.map(faults, range(12), chunksize=6, errors="return"))
    assert isinstance(got[5], anypool.WorkerLost)
    assert got[5].exitcode == FAULTS[how].exitcode
    assert got[:5] == list(range(5))
    assert all(isinstance(each, anypool.WorkerLost) or each == item for item, each in enumerate(got))
    assert faults.ran_again() == {}


def test_lost_calls_run_again_where_that_is_asked_for(executor: Any, tmp_path: Path) -> None:
    faults = Faults(tmp_path / "calls", {3: ["SIGKILL"], 7: ["exit"]})
    assert list(executor.map(faults, range(12), chunksize=3, on_lost="retry")) == list(range(12))


def test_idle_workers_that_are_killed_with_the_lock_of_the_queue_cost_nothing(executor: Any) -> None:
    pids = set(executor.map(pid_after_a_while, range(8), chunksize=1))
    time.sleep(0.1)  # until one waits in the queue, and holds its lock
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert list(executor.map(str, range(20), chunksize=1, on_lost="retry")) == [str(item) for item in range(20)]


def test_a_worker_that_is_killed_in_or_about_a_long_reply_is_noticed(executor: Any) -> None:
    for _ in range(3):
        future = executor.submit(reply_and_die, 50_000_000)
        error = future.exception(timeout=LIMIT)
        assert error is None or isinstance(error, anypool.WorkerLost)
    assert executor.submit(abs, -1).result(timeout=LIMIT) == 1


def reply_and_die(size: int) -> bytes:
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGKILL)).start()
    time.sleep(0.03)
    return os.urandom(size)


def test_leaving_after_a_loss_ends(tmp_path: Path) -> None:
    faults = Faults(tmp_path / "calls", {0: ["SIGKILL"]})
    with pytest.raises(anypool.WorkerLost):
        with anypool.get_executor("joblib://multiprocessing", max_workers=2) as executor:
            list(executor.map(faults, range(6), chunksize=1))


def test_a_reply_that_was_sent_is_read_before_the_end_however_long_that_takes() -> None:
    got: list[int] = []
    has_begun, goes_on = threading.Event(), threading.Event()

    def note(value: int) -> None:
        has_begun.set()
        goes_on.wait(LIMIT)
        got.append(value)

    with anypool.get_executor("joblib://multiprocessing", max_workers=2) as executor:
        pool = executor._backend._backend._pool
        pool.apply_async(abs, (-1,), callback=note)
        assert has_begun.wait(LIMIT)
        pool.apply_async(abs, (-2,), callback=got.append)
        poll(pool._outqueue._reader.poll, "the other reply is there, and nobody reads it")
        threading.Timer(0.5, goes_on.set).start()
    assert got == [1, 2]


def test_the_end_does_not_wait_for_a_lock_that_was_lost_with_a_worker() -> None:
    with anypool.get_executor("joblib://multiprocessing", max_workers=2) as executor:
        assert executor.submit(abs, -1).result(timeout=LIMIT) == 1
        assert executor._backend._backend._pool._outqueue._wlock.acquire(timeout=LIMIT)
