"""Warm pools: shared by executors of one choice, shut down under none of them, gone when idle."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

import anypool
from anypool import _reuse
from anypool.backend import Traits


@dataclass(kw_only=True)
class Counted:
    """A backend that notes its starts and stops."""

    name: ClassVar[str] = "counted"
    log: ClassVar[list[str]] = []
    max_workers: int | None = None
    flavour: str = "plain"

    def start(self) -> tuple[int, Traits]:
        self.log.append(f"start {self.max_workers}")
        return self.max_workers or 1, Traits(shares_memory=True, in_caller=True, synchronous=True)

    def submit(self, call: Any, payload: Any, /) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(call(payload))
        return future

    def stop(self, *, cancel: bool) -> None:
        self.log.append("stop")


@pytest.fixture(autouse=True)
def log() -> Iterator[list[str]]:
    Counted.log.clear()
    yield Counted.log
    anypool.close_idle()


def run(**options: Any) -> list[int]:
    with anypool.get_executor(Counted, reuse=True, **options) as ex:
        return list(ex.map(abs, [-1, -2]))


def test_the_next_executor_of_the_same_choice_finds_the_pool_warm(log: list[str]) -> None:
    assert [run(max_workers=2), run(max_workers=2)] == [[1, 2], [1, 2]]
    assert log == ["start 2"]


def test_another_choice_gets_a_pool_of_its_own(log: list[str]) -> None:
    run(max_workers=2)
    run(max_workers=2, flavour="mint")
    assert log == ["start 2", "start 2"]


def test_an_idle_pool_of_another_size_makes_room(log: list[str]) -> None:
    run(max_workers=2)
    run(max_workers=3)
    assert log == ["start 2", "stop", "start 3"]


def test_a_pool_in_use_is_not_resized_under_its_user(log: list[str]) -> None:
    with anypool.get_executor(Counted, reuse=True, max_workers=2) as ex:
        run(max_workers=3)
        assert log == ["start 2", "start 3"]
        assert list(ex.map(abs, [-5])) == [5]


def test_one_user_cannot_shut_the_pool_under_another(log: list[str]) -> None:
    with anypool.get_executor(Counted, reuse=True, max_workers=2) as outer:
        run(max_workers=2)
        assert list(outer.map(abs, [-7])) == [7]
    assert log == ["start 2"]


def test_an_idle_pool_ends_after_its_time(log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(_reuse, "IDLE_SECONDS", 0.01)
    monkeypatch.setattr(Counted, "stop", lambda self, *, cancel: ended.set())
    run()
    assert ended.wait(60)


def test_close_idle_leaves_those_in_use(log: list[str]) -> None:
    with anypool.get_executor(Counted, reuse=True) as ex:
        anypool.close_idle()
        assert list(ex.map(abs, [-1])) == [1]
    anypool.close_idle()
    assert log == ["start None", "stop"]


def test_real_workers_are_the_same_processes() -> None:
    def pids() -> set[int]:
        with anypool.get_executor("processes", max_workers=1, reuse=True) as ex:
            return set(ex.map(lambda _: os.getpid(), range(3)))

    assert pids() == pids()


def test_a_pool_that_had_trouble_of_its_own_is_not_leased_again(
    log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Counted, call: Any, payload: Any, /) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_exception(OSError("the scheduler is gone"))
        return future

    with monkeypatch.context() as patch, anypool.get_executor(Counted, reuse=True) as ex:
        patch.setattr(Counted, "submit", fails)
        assert isinstance(ex.submit(abs, -1).exception(), anypool.BackendError)
    assert run() == [1, 2]
    assert log == ["start None", "stop", "start None"]
