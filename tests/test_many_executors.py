"""Executor after executor in one program: descriptors, threads, children and memory stay as they are."""

from __future__ import annotations

import gc
import os
import threading

import psutil
import pytest

import anypool

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are counted in /proc")

_MEMORY_MAY_GROW = 8 * 2**20
"""Bytes: what an allocator does not give back. A leak of 10 KB an executor would be more."""


def _use(backend: str) -> None:
    with anypool.get_executor(backend, max_workers=2) as ex:
        assert list(ex.map(abs, range(-8, 0))) == list(range(8, 0, -1))
        assert ex.submit(abs, -1).result() == 1


def _state() -> tuple[int, int, int]:
    gc.collect()
    return len(os.listdir("/proc/self/fd")), threading.active_count(), len(psutil.Process().children())


def _check(backend: str, count: int) -> None:
    for _ in range(max(5, count // 10)):  # what is made once: imports, the first arenas of the allocator
        _use(backend)
    before, memory = _state(), psutil.Process().memory_info().rss
    for _ in range(count):
        _use(backend)
    after = _state()
    assert all(now <= then + 2 for now, then in zip(after, before, strict=True)), (before, after)
    assert psutil.Process().memory_info().rss - memory < _MEMORY_MAY_GROW


@pytest.mark.parametrize(("backend", "count"), [("serial", 300), ("threads", 300), ("processes", 40)])
def test_executors_leave_nothing(backend: str, count: int) -> None:
    _check(backend, count)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("backend", ["serial", "threads", "processes"])
def test_a_thousand_executors_leave_nothing(backend: str) -> None:
    with anypool.get_executor(backend, max_workers=1) as beside:  # so that they share one fork server, for their speed
        assert beside.submit(abs, -1).result() == 1
        _check(backend, 1000)
