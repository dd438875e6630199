"""The out-of-memory killer itself, in a control group with little memory; where this process may make one."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import anypool
from anypool.testing._effects import LIMIT
from scripts import BACKENDS

_ROOTS = {"/sys/fs/cgroup/memory": "memory.limit_in_bytes", "/sys/fs/cgroup": "memory.max"}
_LIMIT = 200 << 20


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group for whoever is to run out of memory."""
    for root, limit in _ROOTS.items():
        folder = Path(root, f"anypool-{os.getpid()}")
        with contextlib.suppress(OSError):
            folder.mkdir()
            try:
                if (folder / limit).exists():
                    (folder / limit).write_text(str(_LIMIT))
                    yield folder
                    return
            finally:
                _remove(folder)
    pytest.skip("this process can limit nobody's memory")


def _remove(folder: Path) -> None:
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            folder.rmdir()
            return
        except OSError:  # whoever was killed is still in it
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def take_much(item: int, group: Path) -> int:
    if item == 5:
        (group / "cgroup.procs").write_text(str(os.getpid()))
        taken = bytearray(2 * _LIMIT)
        for place in range(0, len(taken), 4096):
            taken[place] = 1
    return item


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_worker_that_runs_out_of_memory_costs_its_call(backend: str, group: Path) -> None:
    with anypool.get_executor(backend, max_workers=2) as executor:
        if executor.traits.in_caller:
            pytest.skip("its calls run in this process")
        got = list(executor.map(take_much, range(12), [group] * 12, chunksize=4, errors="return"))
        lost = got.pop(5)
        assert got == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
        assert isinstance(lost, anypool.WorkerLost)
        assert lost.exitcode == -signal.SIGKILL
        assert "memory" in str(lost)
        assert executor.submit(abs, -1).result(timeout=LIMIT) == 1
