"""`amap`: a map for `async for`, whose input may come slowly, and whose consumer may go away.

::

    asynchronous input ──a task: while there is room──> items at hand ─┐            worker
                                                                       ├─> Map ─chunks─> │ (any thread)
    other input ───────────────────────────────────────────────────────┘     <─arrivals──┘ wake the loop
    async for <── results in order, shown and raised in the consumer's task <─┘

It drives a `Map` without ever waiting for its arrivals or its input. What is at hand is sent at once to a worker
that is idle, and is otherwise collected into larger chunks: an input that waits for the result before it goes on, and
one that comes quickly is not sent item by item.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from queue import SimpleQueue
from time import monotonic, perf_counter, sleep
from typing import TYPE_CHECKING, Any

from anypool._attempts import NEVER
from anypool._task import DONE

if TYPE_CHECKING:
    from anypool._dispatch import Dispatcher
    from anypool._map import ChunkTask, Map

__all__ = ["amap"]

_ENDS_WITHIN = 10.0  # seconds for all that runs when the consumer has gone
_READS_FOR = 0.002  # seconds that an input which never waits may keep the loop; looked at after so many items
_READ_AT_ONCE = 32
_END = object()


async def amap(
    dispatcher: Dispatcher,
    make_map: Callable[..., Map],
    iterables: tuple[Iterable[Any] | AsyncIterable[Any], ...],
    timeout: float | None,
) -> AsyncIterator[Any]:
    """The results of a map over `iterables`, as `PoolExecutor.amap` says.

    Parameters
    ----------
    dispatcher : Dispatcher
        What runs it.
    make_map : callable
        Makes the map from its input, and from what else it is to have.
    iterables : tuple of iterables
        Any of them may be asynchronous.
    timeout : float, optional
        Seconds until the last result.
    """
    deadline = None if timeout is None else monotonic() + timeout
    # Starting a backend may take seconds, for which the loop must not wait.
    await asyncio.to_thread(dispatcher.start)
    drive = _Drive(dispatcher, make_map, iterables)
    try:
        drive.begin()
        while True:
            answer = drive.map.take()
            if answer is not None:
                for result in drive.map.results_of(answer):
                    yield result
                del answer
                drive.has_room.set()
                await asyncio.sleep(0)  # results may be there without end, and others wait for the loop
            elif drive.map.is_over:
                break
            elif deadline is not None and monotonic() >= deadline:
                raise TimeoutError(f"the results were not there {timeout} s after the call of amap")
            else:
                await drive.wait(drive.map.patience(deadline))
        drive.map.check_end()
    finally:
        feeding, ended = drive.feeding, drive.end()  # before anything is awaited: whoever cancels once may cancel twice
        await asyncio.wait([*feeding, asyncio.wrap_future(ended)])
        drive.map.close()


class _Arrivals(SimpleQueue[Any]):
    """What arrives, by any thread; wakes the loop. Does not keep the drive: whoever drops that ends its map."""

    def __init__(self, drive: _Drive, loop: asyncio.AbstractEventLoop) -> None:
        self._drive = weakref.ref(drive)
        self._loop = loop

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self.wake()

    def wake(self) -> None:
        drive = self._drive()
        if drive is None:
            return
        try:
            self._loop.call_soon_threadsafe(drive.changed.set)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return


class _Input:
    """Items of an asynchronous input that are at hand, as an iterator."""

    def __init__(self) -> None:
        self.items: deque[Any] = deque()
        self.error: Exception | None = None
        self.has_ended = False

    def readable(self) -> int:
        """How many items there are, for `Map`."""
        return NEVER if self.has_ended else len(self.items)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self.items:
            return self.items.popleft()
        error, self.error = self.error, None
        raise error or StopIteration


class _Open:
    """What the dispatcher knows of the map: it ends with its consumer, and shutdown runs nothing more of it."""

    def __init__(self, drive: _Drive, arrivals: _Arrivals) -> None:
        self._drive = weakref.ref(drive)
        self._arrivals = arrivals

    def finish(self) -> None:
        """Nothing: what was not sent was not promised."""

    def cancel(self) -> None:
        """Send nothing more."""
        drive = self._drive()
        if drive is not None:
            drive.map.cancel(end_running=False)
            self._arrivals.wake()

    def leave_forked_child(self) -> None:
        """Wait for no thread of the parent."""
        drive = self._drive()
        if drive is not None:
            drive.map.leave_forked_child()


class _Drive:
    """One `amap`: the map, and the task that reads its input where that is asynchronous."""

    def __init__(self, dispatcher: Dispatcher, make_map: Callable[..., Map], iterables: tuple[Any, ...]) -> None:
        self._dispatcher = dispatcher
        self._iterables = iterables
        self.changed = asyncio.Event()  # something has arrived, or can be read
        self.has_room = asyncio.Event()
        self.feeding: list[asyncio.Task[None]] = []
        arrivals = _Arrivals(self, asyncio.get_running_loop())
        self._open = _Open(self, arrivals)
        self._input: _Input | None = None
        self._has_ended = False
        if any(isinstance(each, AsyncIterable) for each in iterables):
            self._input = _Input()
            self.map = make_map(self._input, readable=self._input.readable, arrivals=arrivals)
        else:
            items = zip(*iterables, strict=False) if len(iterables) != 1 else iter(iterables[0])
            self.map = make_map(items, arrivals=arrivals)

    def begin(self) -> None:
        """Send the first chunks, or begin to read."""
        self._dispatcher.open_map(self._open)
        self.map.begin()
        if self._input is not None:
            iterators = [aiter(each) if isinstance(each, AsyncIterable) else iter(each) for each in self._iterables]
            self.feeding.append(asyncio.create_task(self._feed(self._input, iterators)))

    async def wait(self, patience: float | None) -> None:
        """Wait until something has changed, no longer than so many seconds."""
        try:
            await asyncio.wait_for(self.changed.wait(), patience)
        except TimeoutError:
            return
        finally:
            self.changed.clear()
            self.has_room.set()

    async def _feed(self, found: _Input, iterators: list[Any]) -> None:
        """Read the input, as there is room."""
        began = perf_counter()
        alone = iterators[0] if len(iterators) == 1 else None
        try:
            while True:
                while (room := self.map.room - len(found.items)) <= 0:
                    self.has_room.clear()
                    await self.has_room.wait()
                for _ in range(min(room, _READ_AT_ONCE)):
                    found.items.append(await _read(iterators) if alone is None else await anext(alone))
                    if not self.changed.is_set():
                        self.changed.set()
                if perf_counter() - began > _READS_FOR:
                    await asyncio.sleep(0)
                    began = perf_counter()
        except StopAsyncIteration:
            return
        except Exception as exc:
            found.error = exc  # raised in its place, after what came before
        finally:
            found.has_ended = True
            self.changed.set()

    def end(self) -> Future[None]:
        """Cancel what has not begun; the future of the end of what runs, where the backend can end it."""
        ended: Future[None] = Future()
        ended.set_running_or_notify_cancel()
        for each in self.feeding:
            each.cancel()
        self._has_ended = True
        running = self.map.leave()
        self._dispatcher.close_map(self._open)
        if running:
            thread = threading.Thread(target=_stop, args=(self._dispatcher, running, ended), name="anypool-amap")
            thread.start()
        else:
            ended.set_result(None)
        return ended

    def __del__(self) -> None:
        # Of a consumer that was dropped when its loop ended, no `finally` runs.
        if not self._has_ended and hasattr(self, "map"):
            self.end()
            self.map.close()


def _stop(dispatcher: Dispatcher, tasks: list[ChunkTask], ended: Future[None]) -> None:
    """End what runs, where the backend can."""
    try:
        deadline = monotonic() + _ENDS_WITHIN
        for task in tasks:
            # One that a worker has just taken neither waits any more nor runs yet, and a moment later it does.
            while not dispatcher.stop_task(task, CancelledError()) and task.state != DONE:
                if not dispatcher.start()[1].stops_running_calls or monotonic() > deadline:
                    break
                sleep(0.01)
    finally:
        ended.set_result(None)


async def _read(iterators: list[Iterator[Any] | AsyncIterator[Any]]) -> tuple[Any, ...]:
    """One item of each; raises where the first of them ends."""
    items = []
    for each in iterators:
        if isinstance(each, AsyncIterator):
            items.append(await anext(each))
        elif (item := next(each, _END)) is not _END:  # no coroutine can raise StopIteration
            items.append(item)
        else:
            raise StopAsyncIteration
    return tuple(items)
