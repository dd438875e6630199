"""A soak: a hundred thousand calls while workers are killed at random, a tenth of a second apart on average.

`ANYPOOL_SOAK_CALLS` and `ANYPOOL_SOAK_SECONDS` make it longer: a million calls, an hour.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from fault_calls import Counted

import anypool
from anypool.testing import chaos

CALLS = int(os.environ.get("ANYPOOL_SOAK_CALLS", "100000"))
SECONDS = float(os.environ.get("ANYPOOL_SOAK_SECONDS", "300"))
"""Within which one soak must end."""

KILL_EVERY = 0.1
WORKERS = 8
"""More than CPUs: there should be one to kill while others are being started."""

pytestmark = [pytest.mark.soak, pytest.mark.timeout(SECONDS + 30)]


def soak(counted: Any, backend: Any, **options: Any) -> float:
    """Run all calls; how long it took."""
    began = time.monotonic()
    with anypool.get_executor(backend) as executor:
        for item, result in enumerate(executor.map(counted, range(CALLS), timeout=SECONDS, **options)):
            assert result == item * item
        assert item == CALLS - 1
        took = time.monotonic() - began
        assert executor.submit(os.getpid).result() != os.getpid()
    return took


def test_every_result_is_there_and_exact_while_workers_are_killed(tmp_path: Path) -> None:
    counted = Counted(tmp_path)
    # A little more often, since nobody can be killed while the first workers start, and the last kill may be to come.
    backend = chaos("processes", max_workers=WORKERS, delay=0.0, kill_every=0.9 * KILL_EVERY, seed=1)
    took = soak(counted, backend, on_lost="retry")
    counts = counted.counts()
    again = sum(count - 1 for count in counts.values())
    kills = backend._killer.kills
    every = took / max(kills, 1) * 1000
    print(f"{CALLS} calls in {took:.1f} s, {kills} kills, one in {every:.0f} ms, {again} calls ran again")
    assert set(counts) == set(range(CALLS))
    is_busy = os.getloadavg()[0] > (os.cpu_count() or 1)  # and starts no workers as fast as they are killed
    assert every <= (1.5 if is_busy else 1.0) * 1000 * KILL_EVERY
    # Of the calls that a worker was at when it was killed one was running; up to 1,024 fast ones are noted at once.
    assert again <= 1024 * kills


def test_submitted_calls_survive_it_too(tmp_path: Path) -> None:
    calls = min(CALLS // 50, 20_000)
    counted = Counted(tmp_path)
    backend = chaos("processes", max_workers=WORKERS, delay=0.0, kill_every=KILL_EVERY, seed=2)
    with anypool.get_executor(backend, on_lost="retry") as executor:
        futures = [executor.submit(counted, item) for item in range(calls)]
        assert [future.result(timeout=SECONDS) for future in futures] == [item * item for item in range(calls)]
    counts = counted.counts()
    assert set(counts) == set(range(calls))
    assert sum(count - 1 for count in counts.values()) <= 2 * backend._killer.kills
