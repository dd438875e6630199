"""Futures: what client libraries do with the futures and the executor of the stdlib, they can do with ours."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, as_completed, wait
from functools import partial
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

import pytest

from anypool.testing import _calls
from anypool.testing._clauses import clause, needs, offers
from anypool.testing._effects import LIMIT, Gate, Tally, poll
from anypool.testing._subject import Subject, SubjectFixtures

__all__ = ["FuturesTests"]


@clause("futures")
class FuturesTests(SubjectFixtures):
    """Clause "futures"."""

    def test_the_executor_and_its_futures_are_the_stdlibs(self, executor: Any) -> None:
        assert isinstance(executor, Executor)
        future = executor.submit(_calls.double, 1)
        assert isinstance(future, Future)
        assert future.result(timeout=LIMIT) == 2

    def test_a_future_tells_its_state(self, executor: Any) -> None:
        good, bad = executor.submit(_calls.double, 1), executor.submit(_calls.fail_at, (1,), 1)
        assert good.exception(timeout=LIMIT) is None
        assert type(bad.exception(timeout=LIMIT)) is LookupError
        for future in (good, bad):
            assert (future.done(), future.running(), future.cancelled()) == (True, False, False)
            assert future.cancel() is False

    def test_futures_wait_together_with_those_of_another_executor(self, executor: Any) -> None:
        with ThreadPoolExecutor(1) as threads:
            futures = [threads.submit(_calls.double, 1), executor.submit(_calls.double, 2)]
            futures += [executor.submit(_calls.fail_at, (3,), 3), threads.submit(_calls.double, 4)]
            assert set(as_completed(futures, timeout=LIMIT)) == set(futures)
            assert wait(futures, timeout=LIMIT).not_done == set()
        assert [type(each.exception()) for each in futures] == [type(None), type(None), LookupError, type(None)]

    @offers(synchronous=False)
    def test_a_future_is_not_done_before_its_call(self, executor: Any, place: Path) -> None:
        gate = Gate(place / "gate")
        future = executor.submit(_calls.wait_at, gate, 1)
        try:
            assert (future.done(), future.cancelled()) == (False, False)
        finally:
            gate.open()
        assert future.result(timeout=LIMIT) == 1

    @offers(in_caller=True, synchronous=False)
    def test_a_call_that_runs_is_seen_running(self, executor: Any, place: Path) -> None:
        gate, tally = Gate(place / "gate"), Tally(place / "tally")
        future = executor.submit(_calls.mark_and_wait, tally, gate, 1)
        try:
            poll(lambda: len(tally), "the call begins")
            poll(future.running, "its future says so")
        finally:
            gate.open()
        assert future.result(timeout=LIMIT) == 1
        assert not future.running()

    def test_wait_and_as_completed_take_them(self, executor: Any) -> None:
        futures = [executor.submit(_calls.double, item) for item in range(6)]
        done, pending = wait(futures, timeout=LIMIT)
        assert (done, pending) == (set(futures), set())
        assert sorted(future.result() for future in as_completed(futures, timeout=LIMIT)) == [0, 2, 4, 6, 8, 10]

    @offers(synchronous=False)
    def test_wait_returns_with_the_first(self, executor: Any, subject: Subject, place: Path) -> None:
        if not subject.is_parallel:
            pytest.skip("made for executors with more than one worker")
        gate = Gate(place / "gate")
        slow, quick = executor.submit(_calls.wait_at, gate, 1), executor.submit(_calls.double, 1)
        try:
            done, pending = wait([slow, quick], timeout=LIMIT, return_when=FIRST_COMPLETED)
            assert (done, pending) == ({quick}, {slow})
        finally:
            gate.open()
        assert slow.result(timeout=LIMIT) == 1

    def test_done_callbacks_are_called_once_with_the_future(self, executor: Any) -> None:
        seen: list[Any] = []
        both = threading.Barrier(2)

        def note(future: Any) -> None:
            seen.append((future, future.done()))
            if threading.current_thread() is not threading.main_thread():
                both.wait(LIMIT)

        future = executor.submit(_calls.double, 1)
        future.add_done_callback(note)
        if not seen:
            both.wait(LIMIT)
        assert seen == [(future, True)]

    @pytest.mark.usefixtures("caplog")  # the stdlib logs it
    def test_a_callback_that_raises_harms_nothing(self, executor: Any) -> None:
        future = executor.submit(_calls.double, 1)
        future.result(timeout=LIMIT)

        def fail(_: Any) -> None:
            raise LookupError("the callback's own")

        future.add_done_callback(fail)
        assert future.result(timeout=LIMIT) == 2
        assert executor.submit(_calls.double, 2).result(timeout=LIMIT) == 4

    @needs("waiting_callbacks")
    def test_a_callback_may_wait_for_other_calls(self, executor: Any) -> None:
        seen: list[Any] = []
        over = threading.Event()

        def go_on(_: Any) -> None:
            try:
                seen.append(executor.submit(_calls.double, 2).result(timeout=LIMIT))
                seen.append(list(executor.map(_calls.double, [3, 4], timeout=LIMIT)))
            finally:
                over.set()

        executor.submit(_calls.double, 1).add_done_callback(go_on)
        assert over.wait(2 * LIMIT)
        assert seen == [4, [6, 8]]

    @offers(synchronous=False)
    def test_a_callback_can_submit(self, executor: Any) -> None:
        second: Future[Any] = Future()

        def chain(first: Any) -> None:
            executor.submit(_calls.double, first.result()).add_done_callback(
                lambda done: second.set_result(done.result())
            )

        executor.submit(_calls.double, 1).add_done_callback(chain)
        assert second.result(timeout=LIMIT) == 4

    def test_attributes_can_be_set_on_a_future(self, executor: Any) -> None:
        future = executor.submit(_calls.double, 1)
        future.task_id = 5
        assert (future.task_id, future.result(timeout=LIMIT)) == (5, 2)

    def test_futures_are_keys_of_dictionaries(self, executor: Any) -> None:
        futures = {executor.submit(_calls.double, item): item for item in range(4)}
        got = {futures[future]: future.result() for future in as_completed(futures, timeout=LIMIT)}
        assert got == {0: 0, 1: 2, 2: 4, 3: 6}

    def test_asyncio_takes_futures_and_executor(self, executor: Any) -> None:
        async def main() -> list[Any]:
            loop = asyncio.get_running_loop()
            wrapped = asyncio.wrap_future(executor.submit(_calls.double, 1))
            runs = [loop.run_in_executor(executor, _calls.double, item) for item in range(3)]
            return await asyncio.wait_for(asyncio.gather(wrapped, *runs), LIMIT)

        assert asyncio.run(main()) == [2, 0, 2, 4]

    def test_asyncio_gets_the_users_error(self, executor: Any) -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(executor, partial(_calls.fail_at, (1,)), 1)

        with pytest.raises(LookupError, match="no 1"):
            asyncio.run(main())

    def test_calls_can_be_made_from_many_threads_at_once(self, executor: Any) -> None:
        got: dict[int, Any] = {}
        barrier = threading.Barrier(6)

        def submit_some(number: int) -> None:
            barrier.wait(LIMIT)
            futures = [executor.submit(_calls.add, number, item) for item in range(10)]
            mapped = list(executor.map(partial(_calls.add, number), range(10)))
            got[number] = ([future.result(timeout=LIMIT) for future in futures], mapped)

        threads = [threading.Thread(target=submit_some, args=(100 * number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * LIMIT)
        expected = {100 * n: [100 * n + item for item in range(10)] for n in range(6)}
        assert got == {number: (values, values) for number, values in expected.items()}

    @needs("size_names")
    def test_the_number_of_workers_has_every_name_in_use(self, executor: Any) -> None:
        names = ("max_workers", "_max_workers", "num_workers", "size", "_processes")
        sizes = {getattr(executor, name) for name in names}
        assert len(sizes) == 1
        assert min(sizes) >= 1

    @offers(synchronous=False)
    def test_as_many_calls_run_at_once_as_there_are_workers(self, executor: Any, subject: Subject, place: Path) -> None:
        gate, tally = Gate(place / "gate"), Tally(place / "tally")
        futures = [executor.submit(_calls.mark_and_wait, tally, gate, item) for item in range(subject.workers)]
        try:
            poll(lambda: len(tally) == subject.workers, "all begin")
        finally:
            gate.open()
        assert [future.result(timeout=LIMIT) for future in futures] == list(range(subject.workers))

    @offers(synchronous=False)
    def test_submit_returns_at_once(self, executor: Any, place: Path) -> None:
        gate = Gate(place / "gate")
        futures = []
        for item in range(50):
            futures.append(executor.submit(_calls.wait_at, gate, item))
            assert not futures[0].done()
        gate.open()
        assert [future.result(timeout=LIMIT) for future in futures] == list(range(50))

    @needs("forked_callers")
    @offers(synchronous=False)
    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
    def test_a_child_that_the_caller_forks_has_an_answer_for_each_call(self, executor: Any, place: Path) -> None:
        gate, tally = Gate(place / "gate"), Tally(place / "tally")
        ended = executor.submit(_calls.double, 1)
        assert ended.result(timeout=LIMIT) == 2
        futures = [executor.submit(_calls.mark_and_wait, tally, gate, item) for item in range(12)]  # most are queued
        results = executor.map(partial(_calls.wait_at, gate), range(3), chunksize=1)

        def ask() -> list[Any]:
            waits = wait(futures, timeout=LIMIT / 4).not_done
            told = {_answer(partial(each.result, timeout=0)) for each in futures}
            others = (ended.result, partial(next, results), partial(executor.submit, abs, 1), executor.shutdown)
            return [len(waits), *told, *map(_answer, others)]

        try:
            poll(lambda: len(tally), "one begins")
            assert _in_forked_child(ask) == [0, "ExecutorClosed", "2", "ExecutorClosed", "ExecutorClosed", "None"]
        finally:
            gate.open()
        assert [future.result(timeout=LIMIT) for future in futures] == list(range(12))
        assert list(results) == [0, 1, 2]


def _answer(asks: Callable[[], Any]) -> str:
    """What it returns, or the name of what it raises."""
    try:
        return repr(asks())
    except Exception as exc:
        return type(exc).__name__


def _in_forked_child(asks: Callable[[], Any]) -> Any:
    """What it returns in a child that is forked here; fails if that takes too long."""
    ours, theirs = Pipe(duplex=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on, since there are threads
        child = os.fork()
    if child == 0:
        try:
            theirs.send(asks())
        finally:
            os._exit(0)
    try:
        theirs.close()
        assert ours.poll(LIMIT), "the child hangs"
        return ours.recv()
    finally:
        ours.close()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
