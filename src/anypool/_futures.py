"""The future that `submit` returns: the stdlib's own, which also brings home what its call printed."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from anypool import _packing
from anypool._dispatch import Dispatcher, Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from anypool._envelope import Job, Reply
    from anypool._stores import Outbox


class Output:
    """What one call wrote, warned and logged, to be shown once."""

    def __init__(self, events: list[Any], worker: str) -> None:
        self._events = events
        self._worker = worker
        self._lock = threading.Lock()

    def show(self) -> None:
        """Replay it here, unless that was done."""
        with self._lock:
            events, self._events = self._events, []
        if events:
            from anypool._relay import replay

            replay(events, worker=self._worker)


class Shelf:
    """The output that nobody has asked for yet, in the order of submission; shutdown shows the rest."""

    def __init__(self) -> None:
        self._count = itertools.count()
        self._lock = threading.Lock()
        self._outputs: dict[int, Output] = {}

    def place(self) -> int:
        """The next call's place in the order."""
        return next(self._count)

    def put(self, place: int, output: Output) -> None:
        """Keep `output` until it is shown."""
        with self._lock:
            self._outputs[place] = output

    def drop(self, place: int) -> None:
        """Forget an output that was shown."""
        with self._lock:
            self._outputs.pop(place, None)

    def show_all(self) -> None:
        """Replay here what is left, in order."""
        with self._lock:
            outputs = [self._outputs[place] for place in sorted(self._outputs)]
            self._outputs.clear()
        for output in outputs:
            output.show()


class CallFuture(Future[Any]):
    """The future of one submitted call.

    A `concurrent.futures.Future` in every respect. The first `result()` or `exception()` after the call has
    ended also replays its prints, warnings and log records, in the thread that asks.
    """

    def __init__(self) -> None:
        super().__init__()
        self._task: CallTask | None = None
        self._output: tuple[Shelf, int, Output] | None = None

    def cancel(self) -> bool:
        """Cancel the call if it has not begun on a worker; whether it is cancelled."""
        task = self._task
        if task is not None and not self.done() and not task.dispatcher.withdraw(task):
            return self.cancelled()
        self._task = None
        return self._cancel_now()

    def _cancel_now(self) -> bool:
        cancelled = super().cancel()
        if cancelled and self._state == "CANCELLED":
            self.set_running_or_notify_cancel()  # tells those that wait at once, not when a worker is free
        return cancelled

    def running(self) -> bool:
        """Whether the call is on a worker now, as far as the backend can know."""
        task = self._task
        native = task.native if task is not None else None
        return super().running() or (native is not None and not self.done() and native.running())

    def result(self, timeout: float | None = None) -> Any:
        """What the call returned; raises what it raised. See `concurrent.futures.Future.result`."""
        try:
            value = super().result(timeout)
            if self._exception is not None:  # one that is false, which the stdlib overlooked until 3.14 (gh-132063)
                raise self._exception
            return value
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


class CallTask(Task):
    """One submitted call."""

    def __init__(
        self,
        payload: Any,
        outbox: Outbox | None,
        job: Job,
        dispatcher: Dispatcher,
        future: CallFuture,
        shelf: Shelf,
        annotate: Callable[[BaseException, Reply], None],
    ) -> None:
        super().__init__(payload, outbox)
        self._job: Job | None = job
        self.dispatcher = dispatcher
        self._future: CallFuture | None = future
        self._shelf = shelf
        self._place = shelf.place()
        self._annotate = annotate
        future._task = self

    def deliver(self, reply: Any, error: BaseException | None) -> None:
        future = self._take_future()
        if not future.set_running_or_notify_cancel():
            return
        try:
            self._settle(future, reply, error)
        except BaseException as exc:  # ours: a reply that cannot be read; whoever waits must not wait for ever
            future.set_exception(exc)

    def _settle(self, future: CallFuture, packed: Any, error: BaseException | None) -> None:
        if error is not None:
            future.set_exception(error)
            return
        reply = _packing.unpack_reply(packed) if type(packed) is tuple else packed
        if reply.broken is not None:
            future.set_exception(self.dispatcher.fail_initializer(reply.broken))
            return
        if reply.events:
            output = Output(reply.events, str(reply.worker))
            future._output = (self._shelf, self._place, output)
            self._shelf.put(self._place, output)
        if reply.errors:
            self._annotate(reply.errors[0], reply)
            future.set_exception(reply.errors[0])
        else:
            future.set_result(reply.values[0])

    def withdrawn(self) -> None:
        self._take_future()._cancel_now()

    def free(self) -> None:
        super().free()
        job, self._job = self._job, None
        stores = self.dispatcher.stores
        if job is not None and stores is not None and isinstance(job.fn, (bytes, tuple)):
            stores.release_function(job.fn)

    def _take_future(self) -> CallFuture:
        future, self._future = self._future, None
        assert future is not None
        future._task = None
        return future
