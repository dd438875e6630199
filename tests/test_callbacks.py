"""Callbacks of futures have threads of their own: they may wait for other calls, and are waited for at the end."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import anypool
from anypool._callbacks import Callbacks

LIMIT = 60.0


def test_a_thread_serves_one_callback_after_the_other_and_as_many_as_wait_at_once() -> None:
    callbacks = Callbacks()
    threads: list[threading.Thread] = []
    together = threading.Barrier(3)

    def meet() -> None:
        threads.append(threading.current_thread())
        together.wait(LIMIT)

    for _ in range(2):
        callbacks.run(meet)
    together.wait(LIMIT)
    assert len(set(threads)) == 2
    callbacks.close(wait=True)
    assert not any(thread.is_alive() for thread in threads)


def test_what_comes_after_the_end_runs_at_once_and_here() -> None:
    callbacks = Callbacks()
    callbacks.close(wait=True)
    seen: list[Any] = []
    callbacks.run(lambda: seen.append(threading.current_thread()))
    assert seen == [threading.current_thread()]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_callback_that_leaves_by_an_interrupt_ends_its_thread_alone() -> None:
    callbacks = Callbacks()
    seen: list[int] = []

    def leave() -> None:
        raise KeyboardInterrupt

    callbacks.run(leave)
    callbacks.run(lambda: seen.append(1))
    callbacks.close(wait=True)
    assert seen == [1]


@pytest.mark.parametrize("backend", ["threads", "processes"])
def test_the_end_of_the_executor_waits_for_callbacks(backend: str) -> None:
    seen: list[int] = []
    begins = threading.Event()

    def slowly(future: Any) -> None:
        begins.set()
        threading.Event().wait(0.2)
        seen.append(future.result())

    with anypool.get_executor(backend, max_workers=1) as ex:
        ex.submit(abs, -1).add_done_callback(slowly)
        assert begins.wait(LIMIT)
    assert seen == [1]


@pytest.mark.parametrize("backend", ["threads", "processes"])
def test_a_callback_may_shut_its_executor_down(backend: str) -> None:
    over = threading.Event()
    ex = anypool.get_executor(backend, max_workers=1)

    def end(_: Any) -> None:
        ex.shutdown(wait=True)
        over.set()

    ex.submit(abs, -1).add_done_callback(end)
    assert over.wait(LIMIT)
    ex.shutdown(wait=True)


def test_a_callback_added_to_a_done_future_runs_at_once_as_in_the_stdlib() -> None:
    with anypool.get_executor("threads", max_workers=1) as ex:
        future = ex.submit(abs, -1)
        assert future.result(LIMIT) == 1
        seen: list[Any] = []
        future.add_done_callback(lambda _: seen.append(threading.current_thread()))
        assert seen == [threading.current_thread()]
