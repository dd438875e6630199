"""`amap` and asyncio: any backend from an event loop, with input that comes slowly and consumers that go away."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import CancelledError

import pytest

import anypool
from anypool.testing._effects import poll
from scripts import BACKENDS

LOCAL = [name for name in BACKENDS if name in {"serial", "threads", "processes", "loky"}]


def square(x):
    return x * x


def reciprocal(x):
    return 1 / x


def wait_for(path):
    while not path.exists():
        time.sleep(0.005)
    return path.name


def begin_and_wait(place):
    began, go = place
    began.touch()
    return wait_for(go)


async def slowly(items):
    for each in items:
        await asyncio.sleep(0)
        yield each


async def collect(results):
    return [each async for each in results]


class TestOnEachBackend:
    @pytest.fixture(scope="class", params=LOCAL)
    @classmethod
    def workers(cls, request):
        with anypool.get_executor(request.param, max_workers=2) as executor:
            yield executor

    def test_results_come_in_order_from_any_kind_of_input(self, workers):
        expected = [x * x for x in range(30)]
        assert asyncio.run(collect(workers.amap(square, range(30)))) == expected
        assert asyncio.run(collect(workers.amap(square, (x for x in range(30))))) == expected
        assert asyncio.run(collect(workers.amap(square, slowly(range(30))))) == expected
        assert asyncio.run(collect(workers.amap(pow, slowly([2, 3]), [3, 2, 9]))) == [8, 9]
        assert sorted(asyncio.run(collect(workers.amap(square, range(30), ordered=False)))) == expected
        assert asyncio.run(collect(workers.amap(square, []))) == []

    def test_item_i_has_the_same_random_numbers_as_in_a_map(self, workers):
        def draw(_):
            return anypool.random().random()

        assert asyncio.run(collect(workers.amap(draw, range(5), seed=3))) == list(workers.map(draw, range(5), seed=3))

    def test_an_error_is_raised_in_its_place_or_returned(self, workers):
        async def main():
            taken = []
            with pytest.raises(ZeroDivisionError):
                async for each in workers.amap(reciprocal, [1, 2, 0, 4]):
                    taken.append(each)
            return taken

        assert asyncio.run(main()) == [1, 0.5]
        values = asyncio.run(collect(workers.amap(reciprocal, [1, 0, 4], errors="return")))
        assert [values[0], type(values[1]), values[2]] == [1, ZeroDivisionError, 0.25]

    @pytest.mark.parametrize("ordered", [True, False])
    def test_an_error_of_the_input_comes_after_what_came_before(self, workers, ordered):
        async def broken():
            yield 1
            yield 2
            raise LookupError("the input")

        async def main():
            taken = []
            with pytest.raises(LookupError, match="the input"):
                async for each in workers.amap(square, broken(), ordered=ordered):
                    taken.append(each)
            return sorted(taken)

        assert asyncio.run(main()) == [1, 4]

    def test_an_input_may_wait_for_the_result_before_it(self, workers):
        async def main():
            results = asyncio.Queue()

            async def answers():
                last = 2
                for _ in range(3):
                    yield last
                    last = await results.get()

            taken = []
            async for each in workers.amap(square, answers()):
                taken.append(each)
                await results.put(each)
            return taken

        assert asyncio.run(asyncio.wait_for(main(), 60)) == [4, 16, 256]

    def test_the_input_is_read_no_further_than_buffersize(self, workers):
        read = []

        async def main():
            async def endless():
                while True:
                    read.append(len(read))
                    yield read[-1]

            results = workers.amap(square, endless(), buffersize=3)
            taken = [await anext(results) for _ in range(5)]
            await asyncio.sleep(0.05)
            await results.aclose()
            return taken

        assert asyncio.run(main()) == [0, 1, 4, 9, 16]
        assert len(read) <= 5 + 3

    @pytest.mark.parametrize("chunksize", [1, 7])
    def test_an_error_in_a_chunk_names_its_item_and_what_came_before_it_is_there(self, workers, chunksize):
        async def main():
            taken = []
            with pytest.raises(ZeroDivisionError) as raised:
                async for each in workers.amap(reciprocal, slowly([1, 2, 4, 0, 5]), chunksize=chunksize):
                    taken.append(each)
            return taken, raised.value.__notes__

        taken, notes = asyncio.run(main())
        assert taken == [1, 0.5, 0.25]
        assert any("item 3, reciprocal(0)" in note for note in notes)

    def test_others_have_their_turn_while_results_are_there_without_end(self, workers):
        async def main():
            turns = 0

            async def other():
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            task = asyncio.create_task(other())
            async for each in workers.amap(square, range(20_000)):
                if each == 100:
                    before = turns
            task.cancel()
            return turns - before

        assert asyncio.run(main()) > 3

    def test_what_cannot_be_is_said_at_once(self, workers):
        with pytest.raises(TypeError, match="not callable"):
            workers.amap(None, [1])
        with pytest.raises(ValueError, match="chunksize"):
            workers.amap(square, [1], chunksize=0)
        with pytest.raises(ValueError, match="buffersize"):
            workers.amap(square, [1], buffersize=0)
        with pytest.raises(anypool.ConfigError, match="errors"):
            workers.amap(square, [1], errors="ignore")
        with pytest.raises(TypeError, match="not iterable"):
            asyncio.run(collect(workers.amap(square, 1)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_run_in_executor_and_amap_work_on_every_backend(backend):
    async def main(ex):
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(ex, square, 3), await collect(ex.amap(square, range(5)))

    with anypool.get_executor(backend, max_workers=2) as ex:
        assert asyncio.run(main(ex)) == (9, [0, 1, 4, 9, 16])


def test_the_loop_goes_on_while_calls_run(tmp_path):
    async def main(ex):
        async def release():
            (tmp_path / "go").touch()

        results = asyncio.create_task(collect(ex.amap(wait_for, [tmp_path / "go"] * 2)))
        await asyncio.sleep(0)
        await release()
        return await results

    with anypool.get_executor("threads", max_workers=2) as ex:
        assert asyncio.run(asyncio.wait_for(main(ex), 60)) == ["go", "go"]


@pytest.mark.parametrize("how", ["cancel", "close", "break"])
def test_a_consumer_that_goes_away_leaves_nothing_running(tmp_path, how):
    """The calls never end by themselves: that leaving the executor returns shows that they were ended."""
    never = tmp_path / "never"

    async def main(ex):
        places = [(tmp_path / f"began-{i}", never) for i in range(100)]
        results = ex.amap(begin_and_wait, places)
        taking = asyncio.create_task(collect(results))
        await asyncio.to_thread(poll, lambda: len(list(tmp_path.glob("began-*"))) == 2, "two began")
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking

    async def leave(ex):
        places = [(tmp_path / f"began-{i}", tmp_path / "began-0" if i == 0 else never) for i in range(100)]
        results = ex.amap(begin_and_wait, places)
        async for each in results:
            assert each == "began-0"
            break
        if how == "close":
            await results.aclose()

    with anypool.get_executor("processes", max_workers=2) as ex:
        asyncio.run(asyncio.wait_for(main(ex) if how == "cancel" else leave(ex), 60))
    assert len(list(tmp_path.glob("began-*"))) < 20


def test_a_timeout_is_that_of_all_results(tmp_path):
    async def main(ex):
        with pytest.raises(TimeoutError, match=r"0\.2 s after the call of amap"):
            await collect(ex.amap(wait_for, [tmp_path / "never"] * 3, timeout=0.2))

    with anypool.get_executor("processes", max_workers=2) as ex:
        asyncio.run(asyncio.wait_for(main(ex), 60))


def test_what_calls_print_is_shown_in_order(capsys):
    with anypool.get_executor("processes", max_workers=2) as ex:
        asyncio.run(collect(ex.amap(print, range(10))))
        assert capsys.readouterr().out == "".join(f"{x}\n" for x in range(10))


@pytest.mark.parametrize("make_input", [range, lambda count: iter(range(count)), lambda count: slowly(range(count))])
def test_tiny_items_travel_together(make_input):
    with anypool.get_executor("processes", max_workers=2, trace=True) as ex:
        results = asyncio.run(collect(ex.amap(square, make_input(5000))))
        assert results == [x * x for x in range(5000)]
        (run,) = ex.report()._runs
        assert sum(len(chunk.calls) for chunk in run.chunks) == 5000
        assert len(run.chunks) < 1000


def test_an_async_map_has_progress_receipts_retries_and_a_journal(tmp_path):
    def fail_once(x):
        mark = tmp_path / str(x)
        if not mark.exists():
            mark.touch()
            raise LookupError(x)
        return x

    seen = []
    with anypool.get_executor("processes", max_workers=2) as ex:
        view = ex.options(progress=seen.append, trace=True, retries=1, journal=tmp_path / "run.journal")
        assert asyncio.run(collect(view.amap(fail_once, slowly(range(8))))) == list(range(8))
        assert (seen[-1].done, seen[-1].failed, seen[-1].is_over) == (8, 0, True)
        assert {each.attempts for each in ex.report().receipts()} == {2}
        assert asyncio.run(collect(view.amap(fail_once, slowly(range(8))))) == list(range(8))
        assert len(ex.report()._runs[-1].chunks) == 0  # all of it was in the journal


@pytest.mark.parametrize("cancel_futures", [True, False])
def test_an_executor_that_is_shut_down_meanwhile_is_an_error_in_its_place(cancel_futures):
    async def endless():
        x = 0
        while True:
            yield x
            x += 1
            await asyncio.sleep(0.001)

    async def main():
        ex = anypool.get_executor("threads", max_workers=2)
        taken = []
        with pytest.raises((CancelledError, anypool.ExecutorClosed)):
            async for each in ex.amap(square, endless()):
                taken.append(each)
                if len(taken) == 5:
                    await asyncio.to_thread(ex.shutdown, cancel_futures=cancel_futures)
        return taken

    taken = asyncio.run(asyncio.wait_for(main(), 60))
    assert taken == [x * x for x in range(len(taken))]


def test_a_retry_that_is_due_later_is_waited_for():
    calls = []

    def fail_once(x):
        calls.append(x)
        if len(calls) == 1:
            raise LookupError(x)
        return x

    with anypool.get_executor("threads", max_workers=1, retries={"times": 1, "delay": 0.2}) as ex:
        assert asyncio.run(asyncio.wait_for(collect(ex.amap(fail_once, slowly([1, 2]))), 60)) == [1, 2]
