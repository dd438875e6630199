"""Between the calls that people make and the one backend: the queue, the slots, the end.

::

    submit ─┐                                                              ┌─> CallFuture
            ├─> queue ─> at most `slots` outstanding ─> backend.submit ────┤ done callback
    map ────┘                                                              └─> the map's completion queue

A backend never has more outstanding than keeps it busy, so what is queued can be cancelled on every backend,
and a cluster is not flooded.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any

from anypool import _worker
from anypool._at_exit import finish_at_exit, forget, remember
from anypool._outbox import LateStores
from anypool._packing import claim_reply, kept_reply, with_ticket
from anypool._task import DONE, LOOKS_UP_AFTER, QUEUED, SENT, WITHDRAWN, OpenMap, Task
from anypool._trouble import own_error
from anypool.backend import StopsCalls
from anypool.errors import (
    AnypoolError,
    BackendError,
    CallTimeout,
    ExecutorClosed,
    InitializerFailed,
    StartError,
    Unsupported,
)

if TYPE_CHECKING:
    from anypool._alarms import Alarms
    from anypool._callbacks import Callbacks
    from anypool._shares import Shares
    from anypool._stores import Stores
    from anypool._tickets import Tickets
    from anypool.backend import Backend, Traits

# One call to run and one to follow it, for each worker: it never waits for the caller.
_SLOTS_PER_WORKER = 2
_UNBOUNDED = 1 << 62


class Dispatcher:
    """The life of one backend: started once, fed within its slots, stopped once.

    Thread-safe. One for an executor and its views. Its lock is re-entrant because the garbage collector may
    close a map, or an executor, inside any allocation.

    Parameters
    ----------
    backend : Backend
        Not started yet.
    at_end : callable, optional
        Called whenever a shutdown has ended, whoever asked for it: the program, the collector, the interpreter.
    """

    def __init__(self, backend: Backend, *, at_end: Callable[[], object] = lambda: None) -> None:
        self.backend = backend
        self._at_end = at_end
        self.broken: InitializerFailed | None = None
        self.is_closed = False
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._start_lock = threading.Lock()
        self._stop_lock = threading.Lock()
        self._started: tuple[int, Traits] | None = None
        self._queue: deque[Task] = deque()  # those that were withdrawn stay in it until their turn
        self._queued = 0  # ... and are not counted here
        self._outstanding: dict[Task, None] = {}  # in the order in which they were sent
        self._leaving: set[Task] = set()  # that were withdrawn, and whoever waits for them has not been told yet
        self._maps: dict[OpenMap, None] = {}
        self._slots = 0
        self._has_sent = False
        self._is_over = False  # nothing more is sent ...
        self._is_stopped = False  # ... and the backend is gone
        self._pid = os.getpid()
        self._stores: Stores | None = None
        self._has_looked_for_stores = False
        self._tickets: Tickets | None = None
        self._alarms: Alarms | None = None
        self._delayed: set[Task] = set()  # counted as queued
        self._shares: Shares | None = None
        self._callbacks: Callbacks | None = None

    # --- life -----------------------------------------------------------------------------------------

    def start(self) -> tuple[int, Traits]:
        """Start the backend, once; how many workers it has and what they are like.

        Raises
        ------
        StartError
            It could not start.
        MissingExtra
            Its library is not installed.
        """
        if self._started is None:
            self.check_process()  # a thread that holds the lock is not in a child that was forked meanwhile
            with self._start_lock:
                if self._started is None:
                    self.check_usable()
                    self._started = self._start()
                    remember(self)
        return self._started

    def _start(self) -> tuple[int, Traits]:
        try:
            size, traits = self.backend.start()
        except (AnypoolError, ImportError):
            raise
        except Exception as exc:
            raise StartError(f"backend {self.backend.name!r} could not start: {exc}") from exc
        if traits.notices_lost_workers and not (traits.shares_memory or traits.in_caller or traits.remote):
            from anypool._tickets import Tickets, tickets_are_possible

            if tickets_are_possible():
                self._tickets = Tickets(once=traits.resends_lost_calls)
                if traits.resends_lost_calls:
                    traits = replace(traits, reruns_lost_calls=False)
        self._slots = _UNBOUNDED if traits.synchronous else max(1, size) * _SLOTS_PER_WORKER
        return max(1, size), traits

    def check_usable(self) -> None:
        """Raise unless a new call may be made.

        Raises
        ------
        ExecutorClosed
            After shutdown, or in a forked child.
        InitializerFailed
            The initializer failed on a worker before.
        """
        self.check_process()
        if self.broken is not None:
            raise self.broken
        if self.is_closed:
            raise ExecutorClosed("cannot schedule new futures after shutdown; make another executor")

    def check_process(self) -> None:
        """Raise in a forked child, which has none of the threads and workers.

        Raises
        ------
        ExecutorClosed
            This is not the process that made the executor.
        """
        if self._pid != os.getpid():
            raise ExecutorClosed(self._forked())

    def _forked(self) -> str:
        return (
            f"this executor belongs to process {self._pid}, and this is a child forked from it; "
            "make another executor here"
        )

    def leave_forked_child(self) -> None:
        """Fail what is on its way: its answers go to the parent.

        At every moment a call that somebody waits for is in one of these, or in two: a thread that moves it may have
        been stopped between any two steps.
        """
        self._lock = threading.RLock()  # another thread may have held it, and is not here to release it
        self._idle = threading.Condition(self._lock)
        for task in dict.fromkeys([*self._queue, *self._delayed, *self._outstanding, *self._leaving]):
            task.abandon(ExecutorClosed(self._forked()))
        for each in self._maps:
            each.leave_forked_child()

    def check_feeding(self) -> None:
        """Raise unless a map that is open may send more.

        Raises
        ------
        ExecutorClosed
            The pool is gone, so that the rest of an input cannot be run; or in a forked child.
        """
        self.check_process()
        if self._is_over:
            raise ExecutorClosed(
                "the executor was shut down before this map was exhausted, and its input has no known length "
                "(or a buffersize), so the rest was not run; consume the results before leaving the executor"
            )

    def shutdown(
        self, *, wait: bool = True, cancel_futures: bool = False, stop_running: bool = False, abandon: bool = False
    ) -> None:
        """End the executor, as `PoolExecutor.shutdown` says. Idempotent.

        Parameters
        ----------
        stop_running : bool
            End the calls that run, where the backend can.
        abandon : bool
            Do not wait for those that it cannot end, either: somebody pressed Ctrl-C.
        """
        self.is_closed = True
        if self._pid != os.getpid():
            return
        if cancel_futures:
            self._cancel_queued(spare_first=not stop_running)
        if wait:
            self._finish(stop_running=stop_running, abandon=abandon)
        elif not self._is_stopped and (self._started is not None or self._start_lock.locked()):
            # A thread of its own: this may be a thread of the pool, which stop() joins, or the garbage collector.
            threading.Thread(target=self._finish, name="anypool-shutdown").start()

    def _finish(self, *, stop_running: bool = False, abandon: bool = False) -> None:
        with self._start_lock:  # a start that is under way in another thread ends first, and none begins after it
            started = self._started
        stops = stop_running and started is not None and started[1].stops_running_calls
        must_wait = not (stops or abandon)
        trouble = self._finish_maps() if must_wait else None
        self._stop_unwanted()
        with self._idle:
            while must_wait and (self._outstanding or self._queued):
                self._idle.wait(LOOKS_UP_AFTER)
            self._is_over = True
        try:
            with self._stop_lock:  # whoever comes second returns when the pool is gone, too
                if not self._is_stopped:
                    self._is_stopped = True
                    if started is not None:
                        self.backend.stop(cancel=stop_running)
                    forget(self)
        finally:
            if self._callbacks is not None:
                self._callbacks.close(wait=not abandon)
            if self._alarms is not None:
                self._alarms.close()
            if self._tickets is not None:
                self._tickets.close()
            if self._shares is not None:
                self._shares.close()
            if self._stores is not None:
                self._stores.close()
            self._at_end()
        if trouble is not None:
            raise trouble

    def _stop_unwanted(self) -> None:
        """End what runs for maps that were closed or cancelled, where the backend can: nobody waits for it."""
        with self._lock:
            unwanted = [task for task in self._outstanding if not task.is_wanted]
        for task in unwanted:
            self.stop_task(task, CancelledError())

    def _finish_maps(self) -> Exception | None:
        """Run what open maps promised; what went wrong, for after the end."""
        trouble: Exception | None = None
        for each in list(self._maps):
            try:
                each.finish()
            except Exception as exc:  # a warning that it relayed, where warnings are errors
                trouble = trouble or exc
        return trouble

    def _cancel_queued(self, *, spare_first: bool) -> None:
        """Cancel what has not begun. What each worker was given first counts as begun, even while it starts."""
        for each in list(self._maps):
            each.cancel()
        with self._lock:
            tasks = [task for task in (*self._queue, *self._delayed) if task.state == QUEUED]
            self._leaving.update(tasks)
            self._queue.clear()
            self._delayed.clear()
            self._queued = 0
            for task in tasks:
                task.state = WITHDRAWN
            spared = self._started[0] if spare_first and self._started is not None else 0
            outstanding = list(self._outstanding)[spared:]
            self._idle.notify_all()
        for task in tasks:
            task.free()
            task.withdrawn()
            self._leaving.discard(task)
        for task in outstanding:
            self.withdraw(task, task.withdrawn)

    def call_back(self, callback: Callable[[], object]) -> None:
        """Have what a program added to a future run where it may wait for other calls."""
        if self._callbacks is None:
            from anypool._callbacks import Callbacks

            with self._lock:
                self._callbacks = self._callbacks or Callbacks()
        self._callbacks.run(callback)

    def open_map(self, each: OpenMap) -> None:
        """Remember a map until it is exhausted or closed."""
        with self._lock:
            self._maps[each] = None

    def close_map(self, each: OpenMap) -> None:
        """Forget a map."""
        with self._lock:
            self._maps.pop(each, None)

    @property
    def stores(self) -> Stores | None:
        """Where large buffers go, if there is a better way for them than in the pickle."""
        if not self._has_looked_for_stores:
            traits = self.start()[1]
            with self._lock:
                if not self._has_looked_for_stores:
                    self._stores = self._make_stores(traits)
                    self._has_looked_for_stores = True
        return self._stores

    @property
    def shares(self) -> Shares:
        """What is shared with all calls."""
        with self._lock:
            if self._shares is None:
                from anypool._shares import Shares

                stores = self.stores
                self._shares = Shares(os.urandom(16).hex(), stores.keeper if stores else None, self.start()[1])
            return self._shares

    def _make_stores(self, traits: Traits) -> Stores | None:
        if traits.shares_memory or traits.in_caller:
            return None
        if not traits.remote:
            return LateStores()
        from anypool._stores import HeldStores
        from anypool.backend import HoldsData

        # A lease on a warm pool has the powers of the pool.
        backend = getattr(self.backend, "pool_backend", self.backend)
        return HeldStores(backend) if isinstance(backend, HoldsData) else None

    # --- calls ----------------------------------------------------------------------------------------

    def submit(self, task: Task) -> None:
        """Queue `task`; it is sent as soon as there is a slot.

        Raises
        ------
        ExecutorClosed
            A shutdown in another thread was quicker.
        """
        with self._lock:
            if self._is_over:
                raise ExecutorClosed("cannot schedule new futures after shutdown; make another executor")
            goes_at_once = not self._queue and len(self._outstanding) < self._slots
            if goes_at_once:
                task.state = SENT
                self._outstanding[task] = None
            else:
                self._queue.append(task)
                self._queued += 1
        if goes_at_once:
            self._send(task)
        self._pump()

    def submit_later(self, task: Task, seconds: float, prepare: Callable[[], object] | None = None) -> None:
        """Queue `task`, a call that ran before, in so many seconds; for `Task.deliver`, after which more is sent.

        Parameters
        ----------
        prepare : callable, optional
            Called first, on a thread that may wait for the pool. `task` fails by what it raises.

        Raises
        ------
        ExecutorClosed
            The executor was shut down meanwhile.
        """
        is_due = seconds <= 0 and prepare is None
        with self._lock:
            if self._is_over:
                raise ExecutorClosed("the executor was shut down before the call could run again")
            # Not sent from here: a pool that refuses whatever it gets would be asked deeper and deeper in the stack.
            (self._queue.append if is_due else self._delayed.add)(task)
            self._queued += 1
        if not is_due:
            self._set_alarm(seconds, lambda: self._queue_delayed(task, prepare))

    def _queue_delayed(self, task: Task, prepare: Callable[[], object] | None) -> None:
        error: BaseException | None = None
        try:
            if prepare is not None:
                prepare()
        except BaseException as exc:  # whoever waits for the call must not wait for ever
            error = exc
        with self._lock:
            is_wanted = task in self._delayed
            if is_wanted and error is None:
                self._queue.append(task)
            elif is_wanted:
                self._leaving.add(task)
                task.state = DONE
                self._queued -= 1
                self._idle.notify_all()
            self._delayed.discard(task)
        if not is_wanted or error is not None:
            task.free()
        if is_wanted and error is not None:
            task.deliver(None, error)
            self._leaving.discard(task)
        self._pump()

    def withdraw(self, task: Task, tell: Callable[[], object]) -> bool:
        """Take `task` back if it has not begun: then it never runs, is never delivered, and `tell` is called."""
        if not self._take_back(task):
            return False
        tell()
        self._leaving.discard(task)
        return True

    def _take_back(self, task: Task) -> bool:
        with self._lock:
            if task.state == QUEUED:
                self._leaving.add(task)
                task.state = WITHDRAWN
                self._queued -= 1
                self._delayed.discard(task)
                self._idle.notify_all()
                task.free()
                return True
            native = task.native
            if task.state != SENT or native is None:
                return False
            self._leaving.add(task)
            # Before the native future is told: its callbacks run inside cancel().
            task.state = WITHDRAWN
        if not native.cancel():
            with self._lock:
                task.state = SENT
                self._leaving.discard(task)
            if native.done():  # it ended meanwhile, and its callback met a task that seemed withdrawn
                self._on_done(task, native)
            return False
        task.free()
        self._release(task)
        self._pump()
        return True

    def _pump(self) -> None:
        while self._queue:  # looked at without the lock: whoever adds to it looks for a slot afterwards
            with self._lock:
                if not self._queue or len(self._outstanding) >= self._slots:
                    return
                task = self._queue[0]
                if task.state == QUEUED:
                    self._queued -= 1
                    task.state = SENT
                    self._outstanding[task] = None
                self._queue.popleft()
                if task.state != SENT:
                    continue
            self._send(task)

    def _send(self, task: Task) -> None:
        task.sent_at = perf_counter()
        payload, task.payload = task.payload, None
        if self._tickets is not None:
            payload = _with_ticket(task, payload, self._tickets)
        try:
            native = self.backend.submit(_worker.run, payload)
        except BaseException as exc:
            native = Future()
            native.set_exception(exc)
            if not isinstance(exc, Exception):  # Ctrl-C: for the caller, but who waits for the task is told, too
                self._complete(task, native)
                raise
        del payload
        if not self._has_sent:
            self._has_sent = True
            finish_at_exit(self.backend.name)
        task.native = native
        if task.limit is not None:
            self._watch(task, task.limit)
        if native.done():
            # Not by a callback, which would send the next task from inside this one, and so on down the stack:
            # a pool that refuses all it is given ends a long queue by a RecursionError.
            self._complete(task, native)
        else:
            native.add_done_callback(lambda done: self._on_done(task, done))

    def _on_done(self, task: Task, native: Future[Any]) -> None:
        try:
            self._complete(task, native)
        finally:
            self._pump()

    def _complete(self, task: Task, native: Future[Any]) -> None:
        """Deliver `task`, unless it was withdrawn, and free its slot."""
        with self._lock:
            if task.state != SENT:
                return
            task.state = DONE
        task.native = None
        in_peace = False
        try:
            try:
                error = native.exception()
            except CancelledError:
                error = BackendError("the pool was stopped before the call ran")
            if error is not None:
                assert self._started is not None
                own = own_error(error, task, self.backend.name, self._started[1].lost)
                reply = kept_reply(task.seen)
                task.deliver(reply, own if reply is None else None)
            else:
                in_peace = True
                reply = native.result()
                claim_reply(reply)
                task.deliver(reply, None)
        finally:
            ticket, task.ticket = task.ticket, None
            if ticket is not None and in_peace and self._tickets is not None:
                self._tickets.give_back(ticket)
            task.free()
            self._release(task)

    def _release(self, task: Task) -> None:
        """Free the slot of `task`."""
        with self._lock:
            self._outstanding.pop(task, None)
            if not self._outstanding and not self._queued:
                self._idle.notify_all()

    # --- calls that are stopped -----------------------------------------------------------------------

    def check_stops_calls(self) -> None:
        """Raise unless a running call can be stopped.

        Raises
        ------
        Unsupported
            The backend cannot.
        """
        if not isinstance(self.backend, StopsCalls) or not self.start()[1].stops_running_calls:
            raise Unsupported(
                f"call_timeout: backend {self.backend.name!r} cannot stop a call that runs; "
                "choose one that can, such as 'processes', or use timeout= for the whole map"
            )

    def stop_task(self, task: Task, error: Exception) -> bool:
        """End `task`, which runs, so that the call that runs in it fails with `error`; False if it does not run."""
        with self._lock:
            native = task.native
            if task.state != SENT or native is None or task.ended_by is not None:
                return False
            task.ended_by = error
        if task.ticket is not None:
            task.ticket.halt()
        if isinstance(self.backend, StopsCalls) and self.backend.stop_call(native):
            return True
        with self._lock:
            task.ended_by = None
        return False

    def _watch(self, task: Task, limit: float) -> None:
        """Have each call in `task`, which was sent, ended once it runs longer than `limit` seconds."""
        from anypool._limits import Limit

        def end_overdue() -> None:
            text = f"the call ran longer than its call_timeout of {limit:g} s and was stopped"
            self.stop_task(task, CallTimeout(text))

        self._set_alarm(limit, Limit(task, limit, end_overdue))

    def _set_alarm(self, seconds: float, alarm: Callable[[], float | None]) -> None:
        if self._alarms is None:
            from anypool._alarms import Alarms

            with self._lock:
                self._alarms = self._alarms or Alarms()
        self._alarms.set(monotonic() + seconds, alarm)

    def fail_initializer(self, error: BaseException) -> InitializerFailed:
        """Break the executor, because `initializer` raised `error` on a worker; the error to raise."""
        with self._lock:
            if self.broken is None:
                import logging

                self.broken = InitializerFailed(f"initializer raised {type(error).__name__}: {error}")
                self.broken.__cause__ = error
                # Logged where the stdlib's executors log it.
                logging.getLogger("concurrent.futures").critical("Exception in initializer:", exc_info=error)
        return self.broken


def _with_ticket(task: Task, payload: Any, tickets: Tickets) -> Any:
    """`payload` with a ticket, which nothing but `task` holds then: a pool's error keeps the frame that met it."""
    ticket = tickets.take()
    if ticket is None:
        return payload
    task.ticket = ticket
    return with_ticket(payload, ticket.reset(), timed=task.limit is not None)
