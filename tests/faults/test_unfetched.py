"""A worker of Dask that is killed while it holds results that nobody has fetched: Dask sends their calls again.

The result is held where it is by the test, which stands in the way of the client that would fetch it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import anypool
from anypool._tickets import tickets_are_possible
from anypool.testing import Faults
from anypool.testing._effects import LIMIT, poll

pytestmark = pytest.mark.skipif(not tickets_are_possible(), reason="this system has no memory without a name")


def states(dask_scheduler: Any) -> dict[str, tuple[str, list[str]]]:
    """What the scheduler knows of our calls: their states, and who holds their results."""
    return {
        key: (task.state, [worker.address for worker in task.who_has or ()])
        for key, task in dask_scheduler.tasks.items()
        if key.startswith("anypool-")
    }


class Held:
    """An executor on Dask whose results stay on their workers until `fetch`."""

    def __init__(self, executor: Any) -> None:
        self.executor = executor
        executor.submit(abs, 1).result(timeout=LIMIT)
        self._client = executor._backend._client
        poll(lambda: not self._states(), "Dask has forgotten earlier calls")
        self._gather = self._client.gather
        self._may_fetch = asyncio.Event()
        self._client.gather = self._gather_later

    async def _gather_later(self, *args: Any, **kwargs: Any) -> Any:
        await self._may_fetch.wait()
        return await self._gather(*args, **kwargs)

    def kill_the_holder(self, pid: Callable[[], int]) -> None:
        """Kill the worker that ran the one call, as soon as it has its result and nothing else."""
        poll(lambda: [state for state, _ in self._states()] == ["memory"], "the call has ended")
        before = self._states()
        os.kill(pid(), signal.SIGKILL)
        poll(lambda: self._states() != before, "Dask has seen it")

    def _states(self) -> list[tuple[str, list[str]]]:
        return list(self._client.run_on_scheduler(states).values())

    def fetch(self) -> None:
        """Let results come home."""
        self._client.loop.add_callback(self._may_fetch.set)


@pytest.fixture(scope="module")
def executor() -> Iterator[Any]:
    with anypool.get_executor("dask", max_workers=2) as executor:
        yield executor


@pytest.fixture
def held(executor: Any) -> Iterator[Held]:
    held = Held(executor)
    yield held
    held.fetch()
    held._client.gather = held._gather


def test_the_trait_says_so(executor: Any) -> None:
    assert not executor.traits.reruns_lost_calls
    assert executor.traits.resends_lost_calls


def test_a_submitted_call_that_had_ended_is_neither_lost_nor_run_again(held: Held, tmp_path: Path) -> None:
    faults = Faults(tmp_path / "calls")
    future = held.executor.submit(faults, 7)
    held.kill_the_holder(lambda: faults.record()[0].pid)
    held.fetch()
    assert future.result(timeout=LIMIT) == 7
    assert faults.counts() == {"7": 1}


def test_a_chunk_that_had_ended_is_delivered_with_its_errors(held: Held, tmp_path: Path) -> None:
    faults = Faults(tmp_path / "calls", {2: ["raise"]})
    results = held.executor.map(faults, range(5), chunksize=5, errors="return")
    held.kill_the_holder(lambda: faults.record()[0].pid)
    held.fetch()
    got = list(results)
    assert isinstance(got.pop(2), OSError)
    assert got == [0, 1, 3, 4]
    assert faults.counts() == {str(item): 1 for item in range(5)}


def as_much(item: int) -> bytearray:
    """So large that it stays in the worker's memory until it is fetched."""
    return bytearray(item)


@pytest.mark.parametrize("on_lost", ["raise", "retry"])
def test_a_result_that_went_with_its_worker_is_lost_and_made_again_only_if_asked(
    held: Held, tmp_path: Path, on_lost: str
) -> None:
    faults = Faults(tmp_path / "calls", fn=as_much)
    size = 8_000_000
    future = held.executor.options(on_lost=on_lost).submit(faults, size)
    held.kill_the_holder(lambda: faults.record()[0].pid)
    pid = faults.record()[0].pid
    held.fetch()
    if on_lost == "raise":
        error = future.exception(timeout=LIMIT)
        assert isinstance(error, anypool.WorkerLost)
        assert error.pid == pid
    else:
        assert len(future.result(timeout=LIMIT)) == size
    assert faults.counts() == {str(size): 1 if on_lost == "raise" else 2}
