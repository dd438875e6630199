"""`amap`: a map for `async for`, whose input may come slowly, and whose consumer may go away.

::

    input ──feeder task: one item, when there is room──> executor.submit ──> Future
                                                                               │ done callback, into the loop
    async for <── result, shown and raised in the consumer's task <── in order of input, or of arrival

It submits calls one by one instead of driving a `map`: a map reads its input while nobody can take a result, and an
input that waits for the result before it would wait for ever.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from time import monotonic, sleep
from typing import Any

__all__ = ["amap"]

_ITEMS_PER_WORKER = 4
_ENDS_WITHIN = 10.0  # seconds for all that runs when the consumer has gone


async def amap(
    executor: Any,
    fn: Callable[..., Any],
    iterables: tuple[Iterable[Any] | AsyncIterable[Any], ...],
    *,
    buffersize: int | None,
    timeout: float | None,
    ordered: bool,
    returns_errors: bool,
) -> AsyncIterator[Any]:
    """The results of ``fn(*items)``, as `PoolExecutor.amap` says. `executor` is a view for these calls alone."""
    deadline = None if timeout is None else monotonic() + timeout
    # Starting a backend may take seconds, for which the loop must not wait.
    workers = await asyncio.to_thread(lambda: executor.max_workers)
    calls = _Calls(executor, fn, buffersize or _ITEMS_PER_WORKER * workers, ordered=ordered)
    feeder = asyncio.create_task(calls.feed(iterables))
    try:
        while (future := await _within(calls.next(), deadline, timeout)) is not None:
            error = future.exception() if returns_errors and not future.cancelled() else None
            yield error if isinstance(error, Exception) else future.result()
            del future, error
        await feeder  # raises what reading the input raised, after what came before
    finally:
        feeder.cancel()
        ended = calls.end()  # before anything is awaited: whoever cancels once may cancel twice
        await asyncio.wait([feeder, asyncio.wrap_future(ended)])


async def _within(waiting: Any, deadline: float | None, timeout: float | None) -> Any:
    if deadline is None:
        return await waiting
    try:
        return await asyncio.wait_for(waiting, max(0.0, deadline - monotonic()))
    except TimeoutError:
        raise TimeoutError(f"the results were not there {timeout} s after the call of amap") from None


class _Calls:
    """The calls of one `amap` that are on their way, no more than `window`."""

    def __init__(self, executor: Any, fn: Callable[..., Any], window: int, *, ordered: bool) -> None:
        self._executor = executor
        self._fn = fn
        self._ordered = ordered
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Semaphore(window)
        self._sent: dict[Future[Any], None] = {}  # in input order
        self._changed = asyncio.Event()
        self._arrived: dict[Future[Any], None] = {}  # in order of arrival
        self._input_ended = False

    async def feed(self, iterables: tuple[Any, ...]) -> None:
        """Read the input and make the calls, as there is room."""
        try:
            iterators = [aiter(each) if isinstance(each, AsyncIterable) else iter(each) for each in iterables]
            while True:
                await self._room.acquire()
                if (items := await _read(iterators)) is None:
                    return
                future = self._executor.submit(self._fn, *items)
                del items
                self._sent[future] = None
                future.add_done_callback(partial(_tell, weakref.ref(self), self._loop))
        finally:
            self._input_ended = True
            self._changed.set()

    def _arrive(self, future: Future[Any]) -> None:
        self._arrived[future] = None
        self._changed.set()

    async def next(self) -> Future[Any] | None:
        """The next call that has ended; None when there is none left."""
        while (future := next(iter(self._sent if self._ordered else self._arrived), None)) not in self._arrived:
            if future is None and self._input_ended and not self._sent:
                return None
            self._changed.clear()
            await self._changed.wait()
        assert future is not None
        del self._sent[future], self._arrived[future]
        self._room.release()
        return future

    def end(self) -> Future[None]:
        """Cancel what has not begun; the future of the end of what runs, where the backend can end it."""
        ended: Future[None] = Future()
        ended.set_running_or_notify_cancel()
        # The last first: else those behind would take the place of the first, and begin.
        running = [future for future in reversed(self._sent) if not future.cancel() and not future.done()]
        self._sent.clear()
        if running:
            thread = threading.Thread(target=_stop, args=(self._executor, running, ended), name="anypool-amap")
            thread.start()
        else:
            ended.set_result(None)
        return ended

    def __del__(self) -> None:
        # Of a consumer that was dropped when its loop ended, no `finally` runs.
        if self._sent:
            self.end()


def _tell(calls: weakref.ref[_Calls], loop: asyncio.AbstractEventLoop, future: Future[Any]) -> None:
    """Tell the loop that `future` is done. Does not keep the calls: whoever drops them ends them."""
    waiting = calls()
    if waiting is None:
        return
    try:
        loop.call_soon_threadsafe(waiting._arrive, future)
    except RuntimeError:  # the loop is closed: nobody waits any more
        return


def _stop(executor: Any, futures: list[Future[Any]], ended: Future[None]) -> None:
    try:
        deadline = monotonic() + _ENDS_WITHIN
        for future in futures:
            # One that a worker has just taken neither waits any more nor runs yet, and a moment later it does.
            while not executor.cancel(future, running=True) and not future.done():
                if not executor.traits.stops_running_calls or monotonic() > deadline:
                    break
                sleep(0.01)
    finally:
        ended.set_result(None)


async def _read(iterators: list[Iterator[Any] | AsyncIterator[Any]]) -> tuple[Any, ...] | None:
    """One item of each; None where the first of them ends."""
    items = []
    for each in iterators:
        try:
            items.append(await anext(each) if isinstance(each, AsyncIterator) else next(each))
        except (StopIteration, StopAsyncIteration):
            return None
    return tuple(items)
