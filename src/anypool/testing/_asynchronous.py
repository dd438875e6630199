"""`amap`: what holds for a map holds for one that an event loop drives, in any chunks, however its input comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from anypool.testing import _calls
from anypool.testing._clauses import clause, needs, offers
from anypool.testing._effects import LIMIT, Gate, Tally, poll
from anypool.testing._subject import Subject, SubjectFixtures

__all__ = ["AsynchronousTests"]

_SIZES = (None, 3)


async def _as_they_come(count: int) -> AsyncIterator[int]:
    for item in range(count):
        if item % 4 == 0:  # some are there at once, others later
            await asyncio.sleep(0)
        yield item


_INPUTS: dict[str, Callable[[int], Any]] = {
    "a range": range,
    "a generator": lambda count: (item for item in range(count)),
    "an asynchronous generator": _as_they_come,
}


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """What it comes to, in an event loop of its own; it must not wait for ever."""
    return asyncio.run(asyncio.wait_for(work, LIMIT))


async def _collect(results: AsyncIterator[Any]) -> list[Any]:
    return [result async for result in results]


def _draw(_: int) -> float:
    import anypool

    return anypool.random().random()


class AsynchronousTests(SubjectFixtures):
    """Tests of several clauses, for maps that an event loop drives."""

    @clause("values")
    @needs("amap")
    @pytest.mark.parametrize("chunksize", _SIZES)
    @pytest.mark.parametrize("kind", _INPUTS)
    def test_an_asynchronous_map_gives_results_in_input_order(
        self, executor: Any, kind: str, chunksize: int | None
    ) -> None:
        results = executor.amap(_calls.double, _INPUTS[kind](40), chunksize=chunksize)
        assert _run(_collect(results)) == [2 * item for item in range(40)]

    @clause("values")
    @needs("amap")
    def test_an_asynchronous_map_takes_items_of_several_inputs_together(self, executor: Any) -> None:
        assert _run(_collect(executor.amap(_calls.add, _as_they_come(9), [10, 20, 30]))) == [10, 21, 32]
        assert _run(_collect(executor.amap(_calls.double, []))) == []

    @clause("values")
    @needs("amap", "unordered")
    def test_an_asynchronous_map_may_give_results_as_they_are_ready(self, executor: Any) -> None:
        results = _run(_collect(executor.amap(_calls.double, _as_they_come(30), ordered=False)))
        assert sorted(results) == [2 * item for item in range(30)]

    @clause("once")
    @needs("amap")
    @pytest.mark.parametrize("chunksize", _SIZES)
    def test_each_item_of_an_asynchronous_map_runs_once(
        self, executor: Any, place: Path, chunksize: int | None
    ) -> None:
        tally = Tally(place / "tally")
        results = executor.amap(partial(_calls.mark, tally), _as_they_come(20), chunksize=chunksize)
        assert _run(_collect(results)) == list(range(20))
        assert tally.labels() == sorted(map(str, range(20)))

    @clause("chunks are invisible")
    @needs("amap", "errors")
    @pytest.mark.parametrize("chunksize", _SIZES)
    def test_errors_of_an_asynchronous_map_stay_in_their_places(self, executor: Any, chunksize: int | None) -> None:
        call = partial(_calls.fail_at, (0, 3, 4, 9))
        got = _run(_collect(executor.amap(call, _as_they_come(10), chunksize=chunksize, errors="return")))
        assert [each.args[0] if isinstance(each, LookupError) else each for each in got] == [
            0, 2, 4, 3, 4, 10, 12, 14, 16, 9
        ]  # fmt: skip

    @clause("chunks are invisible")
    @needs("amap")
    @pytest.mark.parametrize("chunksize", _SIZES)
    def test_what_an_asynchronous_map_has_before_an_error_is_delivered(
        self, executor: Any, chunksize: int | None
    ) -> None:
        async def main() -> tuple[list[int], Any]:
            taken = []
            with pytest.raises(LookupError) as raised:
                async for result in executor.amap(
                    partial(_calls.fail_at, (5, 7)), _as_they_come(12), chunksize=chunksize
                ):
                    taken.append(result)
            return taken, raised.value.args[0]

        assert _run(main()) == ([0, 2, 4, 6, 8], 5)

    @clause("randomness")
    @needs("amap", "seed")
    @pytest.mark.parametrize("chunksize", _SIZES)
    def test_item_i_of_an_asynchronous_map_has_the_stream_of_a_map(self, executor: Any, chunksize: int | None) -> None:
        expected = list(executor.map(_draw, range(40), chunksize=1, seed=3))
        assert _run(_collect(executor.amap(_draw, _as_they_come(40), chunksize=chunksize, seed=3))) == expected

    @clause("output")
    @needs("amap", "relay")
    @pytest.mark.parametrize("chunksize", _SIZES)
    def test_prints_of_an_asynchronous_map_arrive_once_in_input_order(
        self, executor: Any, chunksize: int | None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        _run(_collect(executor.amap(print, _as_they_come(12), chunksize=chunksize)))
        assert capsys.readouterr().out.split() == [str(item) for item in range(12)]

    @clause("lazy and bounded")
    @needs("amap", "buffersize")
    @pytest.mark.parametrize("chunksize", _SIZES)
    def test_an_asynchronous_map_reads_no_further_than_its_buffer(self, executor: Any, chunksize: int | None) -> None:
        read: list[int] = []

        async def endless() -> AsyncIterator[int]:
            while True:
                read.append(len(read))
                yield read[-1]

        async def main() -> None:
            results = executor.amap(_calls.double, endless(), chunksize=chunksize, buffersize=4)
            for taken in range(10):
                assert await anext(results) == 2 * taken
                assert len(read) <= taken + 1 + 4
            await results.aclose()

        _run(main())

    @clause("lazy and bounded")
    @needs("amap")
    def test_an_input_may_wait_for_the_result_before_it(self, executor: Any) -> None:
        async def main() -> list[int]:
            results: asyncio.Queue[int] = asyncio.Queue()

            async def answers() -> AsyncIterator[int]:
                last = 1
                for _ in range(4):
                    yield last
                    last = await results.get()

            taken = []
            async for result in executor.amap(_calls.double, answers()):
                taken.append(result)
                await results.put(result)
            return taken

        assert _run(main()) == [2, 4, 8, 16]

    @clause("futures")
    @needs("amap")
    @offers(synchronous=False)
    def test_the_event_loop_goes_on_while_calls_run(self, executor: Any, subject: Subject, place: Path) -> None:
        """The gate is opened in the loop, when all workers are busy and more calls wait behind them."""
        gate, tally = Gate(place / "gate"), Tally(place / "tally")
        call = partial(_calls.mark_and_wait, tally, gate)

        async def main() -> list[int]:
            results = asyncio.create_task(_collect(executor.amap(call, range(4 * subject.workers), chunksize=1)))
            while len(tally) < subject.workers:
                await asyncio.sleep(0.005)
            gate.open()
            return await results

        assert _run(main()) == list(range(4 * subject.workers))

    @clause("end")
    @needs("amap")
    def test_what_has_not_begun_is_cancelled_when_the_consumer_goes_away(self, executor: Any, place: Path) -> None:
        tally = Tally(place / "tally")

        async def main() -> None:
            results = executor.amap(partial(_calls.mark, tally), range(2000), chunksize=1, buffersize=20)
            assert await anext(results) == 0
            await results.aclose()

        _run(main())
        assert executor.submit(_calls.double, 2).result(timeout=LIMIT) == 4
        poll(lambda: len(tally) <= 21, "no call was made that was not wanted")

    @clause("progress and receipts")
    @needs("amap", "progress", "options")
    @pytest.mark.parametrize("chunksize", _SIZES)
    def test_progress_counts_each_item_of_an_asynchronous_map(self, executor: Any, chunksize: int | None) -> None:
        seen: list[Any] = []
        view = executor.options(progress=seen.append)
        _run(_collect(view.amap(_calls.double, _as_they_come(23), chunksize=chunksize)))
        done = [each.done for each in seen]
        assert done == sorted(done)
        assert (done[-1], seen[-1].total, seen[-1].is_over) == (23, 23, True)
