"""Chaos does what its seed says, keeps the contract of a backend, and refuses what it cannot do."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import wait
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import pytest

import anypool
from anypool.backend import Backend, StopsCalls
from anypool.testing import ExecutorTests, Faults, Gate, chaos
from anypool.testing._chaos import Chaos, StoppingChaos
from anypool.testing._chaos_held import Clock
from anypool.testing._chaos_worker import Fate
from anypool.testing._effects import LIMIT, poll


def options_of(backend: Any) -> dict[str, Any]:
    return {each.name: getattr(backend, each.name) for each in fields(backend)}


class TestLateThreads(ExecutorTests):
    """The contract holds while calls and replies are late."""

    backend = Chaos
    options: ClassVar = options_of(chaos("threads", max_workers=2, seed=7, delay=0.001, reorder=False))


@pytest.mark.soak
class TestThreadsOnABadDay(ExecutorTests):
    """... and when they overtake each other, which lets some tests wait for a gate that opens too late for them."""

    backend = Chaos
    options: ClassVar = options_of(chaos("threads", max_workers=2, seed=7, delay=0.001))


@pytest.mark.soak
class TestProcessesOnABadDay(ExecutorTests):
    """... and when their workers are processes, which end in the middle of a call."""

    backend = StoppingChaos
    options: ClassVar = options_of(chaos("processes", max_workers=2, seed=7, delay=0.001))


@pytest.fixture(params=["threads", "processes"])
def inner(request: pytest.FixtureRequest) -> Iterator[str]:
    return request.param


def test_it_is_a_backend_with_the_powers_of_the_inner_one() -> None:
    assert isinstance(chaos("threads"), Backend)
    assert not isinstance(chaos("threads"), StopsCalls)
    assert isinstance(chaos("processes"), StopsCalls)


def test_the_same_seed_brings_the_same_fates() -> None:
    def fates(seed: int) -> list[Fate]:
        backend = chaos("processes", seed=seed, kill=0.3, repeat=0.3)
        return [backend._fate(number) for number in range(50)]

    assert fates(1) == fates(1)
    assert fates(1) != fates(2)
    assert {each.dies for each in fates(1)} == {"", "before", "during", "after"}


def test_calls_overtake_each_other_only_if_they_may(inner: str, tmp_path: Path) -> None:
    def order(name: str, *, reorder: bool) -> list[str]:
        faults = Faults(tmp_path / name)
        delay = 0.3 if reorder else 0.01  # longer than all of them take to be submitted
        with anypool.get_executor(chaos(inner, max_workers=1, delay=delay, reorder=reorder)) as executor:
            wait([executor.submit(faults, item) for item in range(30)], timeout=LIMIT)
        return [each.item for each in faults.record()]

    in_order = [str(item) for item in range(30)]
    assert order("kept", reorder=False) == in_order
    mixed = order("mixed", reorder=True)
    assert mixed != in_order
    assert sorted(mixed) == sorted(in_order)


def test_nothing_is_held_back_for_ever_by_a_clock_that_has_stopped() -> None:
    clock = Clock(True)
    clock.start()
    done: list[str] = []
    clock.after(60, lambda: done.append("before"))
    clock.stop()
    clock.after(60, lambda: done.append("after"))
    assert done == ["before", "after"]


def test_a_call_that_the_end_cuts_short_is_settled(tmp_path: Path) -> None:
    faults = Faults(tmp_path / "f", {0: ["hang"]})
    futures = []
    with pytest.raises(LookupError), anypool.get_executor(chaos("processes", max_workers=1)) as executor:
        futures.append(executor.submit(faults, 0))
        poll(lambda: faults.record(), "the call runs")
        raise LookupError
    assert futures[0].exception(timeout=LIMIT) is not None


def test_results_are_in_order_whatever_overtakes(inner: str) -> None:
    with anypool.get_executor(chaos(inner, max_workers=2, delay=0.01)) as executor:
        assert list(executor.map(str, range(100), chunksize=1)) == [str(item) for item in range(100)]


def test_a_call_that_is_repeated_gives_one_result(inner: str, tmp_path: Path) -> None:
    faults = Faults(tmp_path / "f")
    with anypool.get_executor(chaos(inner, max_workers=2, repeat=0.5, seed=3)) as executor:
        assert executor.traits.reruns_lost_calls
        assert list(executor.map(faults, range(40), chunksize=1)) == list(range(40))
    again = faults.ran_again()
    assert 5 < len(again) < 35
    assert set(again.values()) == {2}


def test_a_killed_worker_is_a_lost_worker(tmp_path: Path) -> None:
    faults = Faults(tmp_path / "f")
    with anypool.get_executor(chaos("processes", max_workers=2, kill=0.3, seed=5)) as executor:
        got = list(executor.map(faults, range(30), chunksize=1, errors="return"))
        lost = [item for item, each in enumerate(got) if isinstance(each, anypool.WorkerLost)]
        assert [each for each in got if not isinstance(each, anypool.WorkerLost)] == [
            item for item in range(30) if item not in lost
        ]
    assert 3 < len(lost) < 25
    assert faults.ran_again() == {}


def test_workers_are_killed_from_outside(tmp_path: Path) -> None:
    faults = Faults(tmp_path / "f", fn=lambda item: threading.Event().wait(0.02))
    backend = chaos("processes", max_workers=2, kill_every=0.05, delay=0.0, seed=2)
    with anypool.get_executor(backend) as executor:
        got = list(executor.map(faults, range(60), chunksize=1, errors="return"))
    lost = sum(isinstance(each, anypool.WorkerLost) for each in got)
    assert 0 < lost <= backend._killer.kills
    delivered = len(got) - lost
    assert delivered <= sum(each.ended is not None for each in faults.record())


def test_what_is_held_back_can_be_cancelled(inner: str, tmp_path: Path) -> None:
    faults, gate = Faults(tmp_path / "f"), Gate(tmp_path / "gate")
    with anypool.get_executor(chaos(inner, max_workers=1, delay=0.5, seed=1)) as executor:
        futures = [executor.submit(faults, item) for item in range(3)]
        cancelled = [future.cancel() for future in futures]
        gate.open()
        wait(futures, timeout=LIMIT)
    assert cancelled[-1]
    assert len(faults.record()) == cancelled.count(False)


def test_an_executor_of_it_pickles_as_its_specification() -> None:
    with anypool.get_executor(chaos("threads", max_workers=2, seed=9)) as executor:
        with pickle.loads(pickle.dumps(executor)) as copy:
            assert list(copy.map(str, range(3))) == ["0", "1", "2"]
            assert copy._backend.dice == 9


@pytest.mark.parametrize(
    ("backend", "options", "why"),
    [
        ("threads", {"kill": 0.1}, "to kill a worker is to kill the caller"),
        ("threads", {"kill_every": 1.0}, "to kill a worker is to kill the caller"),
        ("serial", {}, "nothing to delay"),
    ],
)
def test_what_cannot_be_done_is_refused_at_the_start(backend: str, options: dict[str, float], why: str) -> None:
    with pytest.raises(anypool.ConfigError, match=why):
        anypool.get_executor(chaos(backend, **options))


def test_a_probability_is_below_one() -> None:
    with pytest.raises(anypool.ConfigError, match="kill is a probability below 1, not 1"):
        chaos("processes", kill=1)
