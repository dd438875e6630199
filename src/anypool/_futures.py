"""The future that `submit` returns: the stdlib's own, which also brings home what its call printed."""

from __future__ import annotations

import copy
import itertools
import os
import threading
from concurrent.futures import CancelledError, wait
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import TYPE_CHECKING, Any

from anypool import _packing, _wire
from anypool._call_text import add_note, name_of, on_worker, short_call
from anypool._dispatch import Dispatcher
from anypool._envelope import Envelope, Job, Reply
from anypool._native_future import NativeFuture
from anypool._outbox import Outbox
from anypool._task import Task
from anypool.errors import ExecutorClosed

if TYPE_CHECKING:
    from collections.abc import Callable

    from anypool._attempts import Attempts, Outcome
    from anypool._submitted import WatchedCall

_CANCELLED = frozenset({"CANCELLED", "CANCELLED_AND_NOTIFIED"})

_STOPS_WITHIN = 5.0
"""Seconds for a stopped call's worker to be seen dead: milliseconds, unless the machine is in trouble."""


class Output:
    """What one call wrote, warned and logged, to be shown once."""

    def __init__(self, events: list[Any], worker: str, aside: Callable[[], AbstractContextManager[object]]) -> None:
        self._unshown = [events]  # or none; taken out in one step, without a lock that a forked child may find held
        self._worker = worker
        self._aside = aside

    def show(self) -> None:
        """Replay it here, unless that was done."""
        try:
            events = self._unshown.pop()
        except IndexError:
            return
        from anypool._relay import replay

        with self._aside():
            replay(events, worker=self._worker)


class Shelf:
    """The output that nobody has asked for yet, in the order of submission; shutdown shows the rest.

    Without a lock, which another thread may hold when the process forks: each step on the dict is one for all threads.
    Only the rest is shown by one thread at a time, with a lock of this process.
    """

    def __init__(self) -> None:
        self._count = itertools.count()
        self._outputs: dict[int, Output] = {}
        self._shows: dict[int, threading.RLock] = {}

    def place(self) -> int:
        """The next call's place in the order."""
        return next(self._count)

    def put(self, place: int, output: Output) -> None:
        """Keep `output` until it is shown."""
        self._outputs[place] = output

    def drop(self, place: int) -> None:
        """Forget an output that was shown."""
        self._outputs.pop(place, None)

    def show_all(self) -> None:
        """Replay here what is left, in order; return when it has been replayed, by this thread or another."""
        with self._shows.setdefault(os.getpid(), threading.RLock()):
            for place in sorted(self._outputs):
                output = self._outputs.pop(place, None)
                if output is not None:
                    output.show()


class CallFuture(NativeFuture):
    """The future of one submitted call.

    A `concurrent.futures.Future` in every respect. The first `result()` or `exception()` after the call has
    ended also replays its prints, warnings and log records, in the thread that asks.
    """

    _task: CallTask | None = None  # until it has ended: only the dispatcher knows who may cancel it
    _output: tuple[Shelf, int, Output] | None = None
    _call_back: Callable[[Callable[[], object]], None] | None = None  # None: callbacks run here
    _watched: WatchedCall | None = None  # None: nobody shows progress or keeps receipts

    def _invoke_callbacks(self) -> None:  # the stdlib's, called when it is done
        self._ring()
        self._task = None
        if self._watched is not None:
            self._watched.gone(self._exception)  # cancelled, or failed by trouble of the pool's; else told before
        if not self._done_callbacks:
            return
        call_back, self._call_back = self._call_back, None
        if call_back is not None:
            call_back(self._call_back_each)
        else:
            self._call_back_each()

    def cancel(self) -> bool:
        """Cancel the call if it has not begun on a worker; whether it is cancelled."""
        task = self._task
        if task is not None and not self.done() and not task.dispatcher.withdraw(task, self._cancel_now):
            return self.cancelled()
        self._task = None
        return self._cancel_now()

    def _cancel_now(self) -> bool:
        cancelled = super().cancel()
        if cancelled and self._state == "CANCELLED":
            self.set_running_or_notify_cancel()  # tells those that wait at once, not when a worker is free
        return cancelled

    def _fail_in_forked_child(self, error: BaseException) -> None:
        """Have `error`, unless it has ended: nothing else will come, and what was to be called back is the parent's."""
        self.forget_others()
        self._task = self._watched = None
        if self._state == "CANCELLED":
            self.set_running_or_notify_cancel()
            self._ring()
        elif not self.done():
            self.set_exception(error)

    def stop(self) -> bool:
        """End the call if it runs and the backend can; whether it is cancelled. For `PoolExecutor.cancel`."""
        task = self._task
        if task is not None and task.dispatcher.stop_task(task, CancelledError()):
            wait([self], _STOPS_WITHIN)
        return self.cancelled()

    def running(self) -> bool:
        """Whether the call is on a worker now, as far as the backend can know."""
        task = self._task
        native = task.native if task is not None else None
        return super().running() or (native is not None and not self.done() and native.running())

    # Of a future that has ended, these ask for no lock: another thread may hold it when the process forks.

    def cancelled(self) -> bool:
        """Whether the call was cancelled."""
        return self._state in _CANCELLED

    def result(self, timeout: float | None = None) -> Any:
        """What the call returned; raises what it raised. See `concurrent.futures.Future.result`."""
        try:
            return super().result(timeout)
        finally:
            self._show()
            self = None  # type: ignore[assignment]  # break the cycle future -> exception -> frame -> future

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the call raised, or None. See `concurrent.futures.Future.exception`."""
        try:
            return super().exception(timeout)
        finally:
            self._show()
            self = None  # type: ignore[assignment]

    def _show(self) -> None:
        kept, self._output = self._output, None
        if kept is not None:
            shelf, place, output = kept
            shelf.drop(place)
            output.show()


class Calls:
    """What is the same for all submitted calls of an executor, or of a view of it.

    Parameters
    ----------
    dispatcher : Dispatcher
        Who sends them.
    shelf : Shelf
        Where their output waits.
    attempts : Attempts
        What becomes of those that fail.
    limit : float or None
        Seconds that each may run.
    is_watched : bool
        Somebody shows their progress or keeps receipts.
    """

    def __init__(
        self, dispatcher: Dispatcher, shelf: Shelf, attempts: Attempts, *, limit: float | None, is_watched: bool
    ) -> None:
        self.dispatcher = dispatcher
        self.shelf = shelf
        self.attempts = attempts
        self.limit = limit
        self.is_watched = is_watched


class CallTask(Task):
    """One submitted call; sent again where its policies say so.

    Parameters
    ----------
    calls : Calls
        What it has in common with others.
    job : Job
        What it runs.
    head : bytes or None
        What is the same for all envelopes of `job`, packed; None where the call travels as it is.
    index : int
        Its place in the order of submission: that of its random numbers.
    fn, call : callable, tuple
        Its function, and ``(args, kwargs)``.
    future : CallFuture
        Who waits for it.
    """

    def __init__(
        self,
        calls: Calls,
        job: Job,
        head: bytes | None,
        index: int,
        fn: Callable[..., Any],
        call: tuple[tuple[Any, ...], dict[str, Any]],
        future: CallFuture,
    ) -> None:
        payload, outbox = _pack(job, head, index, call, calls.dispatcher)
        super().__init__(payload, outbox, calls.limit)
        self._calls = calls
        self._job: Job | None = job
        self._head = head
        self._index = index
        self._fn = fn
        self._call = call
        # Packed once, so that what the caller changes meanwhile does not reach another run; but large buffers are
        # gone with the worker that took them.
        self._packed = payload if outbox is None or outbox.is_empty else None
        self._future: CallFuture | None = future
        self._place = calls.shelf.place()
        future._task = self

    @property
    def dispatcher(self) -> Dispatcher:
        """Who sends it."""
        return self._calls.dispatcher

    def deliver(self, reply: Any, error: BaseException | None) -> None:
        attempts = self._calls.attempts
        watched = self._future._watched if self._future is not None else None
        arrived_at = 0.0 if watched is None else perf_counter()
        try:
            if error is not None:
                if watched is not None:
                    watched.arrived(None, None, arrived_at, self.sent_at)
                outcome: Outcome | None = attempts.settle_loss(self._index, (self._call,), error, self.seen)
            else:
                packed, reply = reply, _packing.unpack_reply(reply) if type(reply) is tuple else reply
                if watched is not None:
                    watched.arrived(packed, reply, arrived_at, self.sent_at)
                if reply.broken is not None:
                    self._fail(self.dispatcher.fail_initializer(reply.broken))
                    return
                is_over = attempts.are_over(1, reply)
                outcome = None if is_over else attempts.settle(self._index, (self._call,), reply)
        except BaseException as exc:  # ours: a reply that cannot be read; whoever waits must not wait for ever
            self._fail(exc)
            return
        if outcome is None:
            self._settle(self._take_future(), reply, {})
            self._future = None  # now, and not before: until then a child that is forked finds it here
            return
        if outcome.held:
            self._settle(self._take_future(), outcome.held[0][1], outcome.attempts)
            self._future = None
            return
        seconds = outcome.later[0][0] if outcome.later else 0.0
        again = self._next_run()
        try:
            self.dispatcher.submit_later(again, seconds, None if again.payload is not None else again._pack_again)
        except ExecutorClosed as exc:  # the pool was stopped meanwhile; whoever waits must not wait for ever
            future = again._take_future()
            again.free()
            if future.set_running_or_notify_cancel():
                future.set_exception(exc)
        self._future = None

    def _fail(self, error: BaseException) -> None:
        future = self._take_future()
        if future.set_running_or_notify_cancel():
            future.set_exception(error)
        self._future = None

    def _next_run(self) -> CallTask:
        assert self._job is not None
        assert self._future is not None
        job, self._job = self._job, None  # the next run's to free
        again = copy.copy(self)
        again.renew()
        again.payload, again._outbox, again._job = self._packed, None, job
        self._future._task = again
        return again

    def _pack_again(self) -> None:
        job = self._job
        if job is not None:  # else it was cancelled
            self.payload, self._outbox = _pack(job, self._head, self._index, self._call, self.dispatcher)

    def _settle(self, future: CallFuture, reply: Reply, attempts: dict[int, int]) -> None:
        error = reply.errors.get(0)
        if error is not None and error is self.ended_by and isinstance(error, CancelledError):
            future._cancel_now()
            return
        watched = future._watched
        if watched is not None or reply.events:
            if not future.set_running_or_notify_cancel():
                return
            if watched is not None:
                watched.ended(reply, attempts)
            if reply.events:
                output = Output(reply.events, str(reply.worker), nullcontext if watched is None else watched.aside)
                future._output = (self._calls.shelf, self._place, output)
                self._calls.shelf.put(self._place, output)
        if future._state != "RUNNING" and not future.set_running_or_notify_cancel():
            return
        if error is None:
            future.set_result(reply.values[0])
        else:
            args, kwargs = self._call
            add_note(error, f"{name_of(self._fn)}{short_call(args, kwargs)}{on_worker(reply.worker)}")
            future.set_exception(error)

    def withdrawn(self) -> None:
        self._take_future()._cancel_now()

    def abandon(self, error: BaseException) -> None:
        if self._future is not None:
            self._future._fail_in_forked_child(error)

    def free(self) -> None:
        super().free()
        job, self._job = self._job, None
        if job is not None and type(job.fn) is tuple and (stores := self.dispatcher.stores) is not None:
            stores.release_function(job.fn)

    def _take_future(self) -> CallFuture:
        future = self._future
        assert future is not None
        future._call_back = self._calls.dispatcher.call_back
        return future


def _pack(
    job: Job,
    head: bytes | None,
    index: int,
    call: tuple[tuple[Any, ...], dict[str, Any]],
    dispatcher: Dispatcher,
) -> tuple[Any, Outbox | None]:
    """What a backend gets for one call, and what holds its large buffers."""
    if head is None:
        return Envelope(job, index, (call,), 1), None
    column = _wire.pack_small_call(*call)
    if column is not None:
        return _packing.pack_call(job, head, index, column), None
    stores = dispatcher.stores
    outbox = Outbox(stores) if stores else None
    return _packing.pack(job, head, index, (call,), None, outbox.store if outbox else None), outbox
