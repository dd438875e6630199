"""Calls on loky, where a worker that dies takes only the call that it ran.

::

    submit ─▶ a lane with nothing to do? ──▶ its loky pool of one worker ──▶ run_if_ours ──▶ call
                 │ no
                 ▼
              one with nothing waiting? ───▶ the same, ahead: its worker goes on without asking us
                 │ no
                 ▼
              the queue ◀── each lane takes from it at each reply; an idle one takes back what waits at a busy one

A native pool breaks as a whole when one of its workers dies, and marks as running what it only has handed to a
queue. So a *lane* is a native pool of one worker: its end breaks one lane, which is replaced by a new one. Each lane
gets two calls at most, each with a *token*: one byte in a pipe that both sides can read. Whoever reads it has the
call, so `cancel()` is exact, and it is known what a dead worker had begun.

Windows has no such pipes. There a lane gets one call at a time, which counts as begun when it is sent.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, wait
from functools import partial
from importlib import import_module
from typing import Any

from anypool._bridge import settle, without_frames
from anypool._lane import CALLS_PER_LANE, Lane, NoLane
from anypool._worker_end import WorkerDied
from anypool.errors import ExecutorClosed

__all__ = ["Lanes"]

_ATTEMPTS = 3
"""How many workers may die before they begin a call, until it fails."""


class Lanes:
    """Worker processes of loky, or of the loky that joblib brings. Thread-safe.

    Parameters
    ----------
    size : int
        How many workers; each starts when there is a call for it.
    library : str
        The module of loky's, ``"loky"`` or ``"joblib.externals.loky"``.
    new_pool : callable
        Makes a native pool of one worker, given its ``initializer`` and ``initargs``.
    """

    def __init__(self, size: int, library: str, new_pool: Callable[..., Any]) -> None:
        self._size = size
        self._library = library
        self._new_pool = new_pool
        native = import_module(f"{library}.process_executor")
        self._lost: tuple[type[Exception], ...] = (native.BrokenProcessPool, native.ShutdownExecutorError)
        self._lock = threading.RLock()  # the garbage collector may cancel a call inside any allocation
        first = Lane(library, new_pool)  # a system that has no semaphores says so now
        self._lanes: dict[Lane, None] = {first: None}  # in the order in which they were given their last call
        self._idle = [first]
        self._queue: deque[_Call] = deque()  # what was cancelled stays in it until its turn
        # The managing thread of a broken pool ends by itself, but is where we learn of it, and cannot join itself.
        self._retired: list[Lane] = []
        self._stopped = False

    def submit(self, fn: Callable[[Any], Any], payload: Any, /) -> Future[Any]:
        """Run ``fn(payload)`` on a worker; return its future at once."""
        call = _Call(self, fn, payload)
        with self._lock:
            if self._stopped:
                raise ExecutorClosed("the pool was stopped")
            self._queue.append(call)
            sendings = self._feed()
        self._send(sendings)
        return call

    def withdraw(self, call: _Call) -> bool:
        """Take back a call that has not begun; return whether it was this that did. For `Future.cancel`."""
        with self._lock:
            if call.withdrawn or call.done():
                return False
            call.withdrawn = call.sending is None or call.sending.take_back()
            return call.withdrawn

    def stop_call(self, future: Future[Any], /) -> bool:
        """End the running call of `future` by killing its worker and what that started.

        Returns False if the call is not running: it has ended, or has not begun.
        """
        with self._lock:
            sending = future.sending if isinstance(future, _Call) and not future.done() else None
            if sending is None or not sending.has_begun:
                return False
            lane = sending.lane
            others = [each for each in lane.sendings if each is not sending and not each.is_taken]
            back = [each for each in others if each.take_back()]
            stops = back == others  # else the next one has begun, so this one has ended
            for each in back:
                self._put_back(each.let_go())
            if stops:
                self._retire(lane)
            sendings = self._feed()
        if stops:
            lane.kill()
        self._send(sendings)
        return stops

    def stop(self, *, cancel: bool) -> None:
        """End every worker and thread, and wait for that; with `cancel`, without waiting for calls. Idempotent."""
        with self._lock:
            self._stopped = True
            queued = [call for call in self._queue if not call.withdrawn]
            sent = [each.call for lane in [*self._lanes, *self._retired] for each in lane.sendings if each.call]
        if cancel:
            for call in [*queued, *sent]:
                call.cancel()
        else:
            wait([*queued, *sent])
        with self._lock:
            self._queue.clear()
            lanes, self._retired = [*self._lanes, *self._retired], []
            self._lanes.clear()
            self._idle.clear()
        for lane in lanes:
            lane.begin_end(kill=cancel)
        for lane in lanes:
            lane.end()
        # loky does not join a worker that was dead when it came to kill it; asking for the children joins those that
        # have ended. Until then multiprocessing keeps the worker, and with it a semaphore and a pipe.
        multiprocessing.active_children()

    # What follows runs under the lock, unless it says otherwise.

    def _feed(self) -> list[_Sending]:
        """Give lanes what they can take; what is to be sent once the lock is free."""
        sendings = []
        while self._queue:
            if self._queue[0].withdrawn:
                self._queue.popleft()
                continue
            try:
                lane = self._free_lane()
            except Exception as exc:  # of descriptors or semaphores there are no more
                lane = NoLane(exc)
            if lane is None:
                break
            sendings.append(self._assign(lane, self._queue.popleft()))
        for lane in list(self._lanes) if self._idle else ():
            # Of a lane's two calls the second waits, unless the first has just ended; while its worker starts, both do.
            for waiting in lane.sendings[lane.has_answered :]:
                if self._idle and not waiting.is_taken and waiting.take_back():
                    sendings.append(self._assign(self._idle.pop(), waiting.let_go()))
        return sendings

    def _free_lane(self) -> Lane | NoLane | None:
        if self._idle:
            return self._idle.pop()
        if len(self._lanes) < self._size:
            lane = Lane(self._library, self._new_pool)
            self._lanes[lane] = None
            return lane
        return next((lane for lane in self._lanes if len(lane.sendings) < CALLS_PER_LANE), None)

    def _assign(self, lane: Lane | NoLane, call: _Call) -> _Sending:
        if isinstance(lane, Lane):
            self._lanes[lane] = self._lanes.pop(lane)
        call.sending = sending = _Sending(lane, call)
        return sending

    def _put_back(self, call: _Call) -> None:
        call.sending = None
        self._queue.appendleft(call)

    def _retire(self, lane: Lane | NoLane) -> None:
        """Give nothing more to a lane whose worker dies; a new one takes its place when there is a call for it."""
        if isinstance(lane, Lane) and lane in self._lanes:
            del self._lanes[lane]
            self._retired.append(lane)
            if lane in self._idle:
                self._idle.remove(lane)

    def _send(self, sendings: list[_Sending]) -> None:
        """Hand calls to native pools. Without the lock, as it starts processes, and callbacks may run."""
        for sending in sendings:
            try:
                call = sending.call
                fn, payload = (call and call.task) or (_nothing, None)  # it was cancelled, or taken, in this moment
                native = sending.lane.submit(sending.slot, fn, payload)
            except Exception as exc:
                self._ended(sending, None, exc)
            else:
                native.add_done_callback(partial(self._on_done, sending))

    def _on_done(self, sending: _Sending, native: Future[Any]) -> None:
        sending.lane.has_answered = True
        value: Any = None
        error: BaseException | None = None
        try:
            value = native.result()
        except CancelledError:  # the lane is being stopped
            error = WorkerDied("the pool was stopped before a worker began this call")
        except BaseException as exc:  # SystemExit of a worker too: it ended the call, not us
            error = exc
        self._ended(sending, value, error)

    def _ended(self, sending: _Sending, value: Any, error: BaseException | None) -> None:
        """Settle a call whose native future is done, and send what comes next. Without the lock."""
        lane = sending.lane
        is_lost = isinstance(error, self._lost)
        with self._lock:
            call = None if sending.is_taken else sending.call  # else it was cancelled, or goes elsewhere
            has_begun = not sending.take_back()
            lane.sendings.remove(sending)
            if call is not None and is_lost and not has_begun:
                call.deaths += 1
                if call.deaths < _ATTEMPTS and not self._stopped:
                    self._put_back(call)
                    call = None
            if is_lost:
                self._retire(lane)
            elif isinstance(lane, Lane) and not lane.sendings and lane in self._lanes:
                self._idle.append(lane)
            sendings = self._feed()
            ended = [each for each in self._retired if each.is_over]
            self._retired = [each for each in self._retired if each not in ended]
        self._send(sendings)
        if call is not None:
            if is_lost and error is not None:
                cause, error = error, self._explain(lane, error)
                error.__cause__ = without_frames(cause)
            call.settle(value, error)
        for each in ended:
            each.begin_end(kill=True)
            each.end()

    def _explain(self, lane: Lane | NoLane, error: BaseException) -> WorkerDied:
        if self._stopped or isinstance(lane, NoLane):
            return WorkerDied("the pool was stopped while its worker ran this call")
        return lane.post_mortem(str(error))


class _Call(Future[Any]):
    """A call and its future. Its attributes change under the lock of its lanes only."""

    def __init__(self, lanes: Lanes, fn: Callable[[Any], Any], payload: Any) -> None:
        super().__init__()
        self._owner = lanes
        self.task: tuple[Callable[[Any], Any], Any] | None = (fn, payload)
        self.sending: _Sending | None = None
        self.deaths = 0  # of workers that had it, and had not begun it
        self.withdrawn = False

    def cancel(self) -> bool:
        """Cancel the call unless it has begun; True means that it never runs."""
        if self._owner.withdraw(self):
            super().cancel()
            self.set_running_or_notify_cancel()
            self.task = self.sending = None
        return self.withdrawn or self.cancelled()

    def running(self) -> bool:
        """Whether a worker has begun it."""
        sending = self.sending
        return super().running() or (sending is not None and not self.done() and sending.has_begun)

    def settle(self, value: Any, error: BaseException | None) -> None:
        """Have a result, or an error."""
        self.task = None
        self.sending = None
        if self.set_running_or_notify_cancel():
            settle(self, value, error=error)


class _Sending:
    """One call at one lane."""

    def __init__(self, lane: Lane | NoLane, call: _Call) -> None:
        self.lane = lane
        self.call: _Call | None = call
        self.is_taken = False  # by us: the worker finds no token, and does nothing
        taken = {each.slot for each in lane.sendings}
        self.slot = next((slot for slot in range(len(lane.tokens)) if slot not in taken), None)
        if self.slot is not None:
            lane.tokens[self.slot].put()
        lane.sendings.append(self)

    @property
    def has_begun(self) -> bool:
        return self.slot is None or not (self.is_taken or self.lane.tokens[self.slot].is_there())

    def take_back(self) -> bool:
        """Take the call from the worker, unless it has begun; whether it was this that did."""
        if self.slot is None or self.is_taken:
            return False
        self.is_taken = self.lane.tokens[self.slot].take()
        return self.is_taken

    def let_go(self) -> _Call:
        """The call that was taken back, for another lane. Its result must not stay for as long as this waits."""
        call, self.call = self.call, None
        assert call is not None
        return call


def _nothing(_payload: Any) -> None:
    """Runs in place of a call that was taken back."""
