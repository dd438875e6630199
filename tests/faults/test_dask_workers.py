"""Dask: workers that are lost, and lost again; a cluster that is gone; calls that run again, with much data."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import anypool
from anypool.backends._dask_cluster import ClusterProcess
from anypool.testing._effects import LIMIT


def test_a_worker_that_is_lost_and_is_not_replaced_at_once_does_not_cost_the_cluster_a_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Dask looks 15 s after a loss whether there is another worker; a second loss just before that looks the same."""
    monkeypatch.setenv("DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT", "10ms")
    with anypool.get_executor("dask", max_workers=1, on_lost="retry") as executor:
        for _ in range(2):
            os.kill(executor.submit(os.getpid).result(timeout=LIMIT), signal.SIGKILL)
        assert executor.submit(abs, -1).result(timeout=LIMIT) == 1


def test_a_local_cluster_that_is_killed_costs_the_calls_that_it_had() -> None:
    with anypool.get_executor("dask", max_workers=2, gives_up_after=2.0) as executor:
        assert executor.submit(abs, -1).result(timeout=LIMIT) == 1
        running = [executor.submit(time.sleep, 60) for _ in range(6)]
        _kill_cluster()
        errors: list[Any] = [future.exception(timeout=LIMIT) for future in running]
        assert [type(error) for error in errors] == [anypool.WorkerLost] * 6
        assert isinstance(executor.submit(abs, -1).exception(timeout=LIMIT), anypool.WorkerLost)


def fail_once(data: bytes, mark: Path) -> int:
    if not mark.exists():
        mark.touch()
        raise OSError("the first time")
    return len(data)


def test_a_call_with_much_data_runs_again_on_a_cluster_that_holds_the_data(tmp_path: Path) -> None:
    cluster = ClusterProcess(n_workers=1, threads_per_worker=1)
    try:
        address = cluster.address(timeout=60)
        with anypool.get_executor("dask", address=address, retries=1) as executor:
            future = executor.submit(fail_once, bytes(8_000_000), tmp_path / "mark")
            assert future.result(timeout=LIMIT) == 8_000_000
    finally:
        cluster.close(kill=True)


def _kill_cluster() -> None:
    (holder,) = [child.pid for child in psutil.Process().children() if "_dask_cluster" in _command(child)]
    os.killpg(holder, signal.SIGKILL)


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # or a zombie, which it takes for one
        return ""
