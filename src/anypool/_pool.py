"""The local process pool: runs `call(payload)` for any picklable payload in worker processes on this machine.

::

    submit ──▶ an idle worker? ──yes──▶ its link, from the submitting thread
                    │ no
                    ▼
               a busy one with nothing waiting? ──yes──▶ its link, ahead: it begins without asking us
                    │ no
                    ▼
               the queue ◀── each worker's thread takes from it at each reply, else from a busy worker's link

One thread a worker starts it, waits for its replies, settles their futures, hands it what comes next, and replaces it
when it dies. Nothing is polled, and no lock or queue is shared with a worker, so none can die holding one.
One lock guards who holds which task. Nothing that may block, and no callback, runs under it.
"""

from __future__ import annotations

import atexit
import itertools
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from types import FunctionType, MappingProxyType
from typing import Any, Final

from anypool import _pool_link, _pool_start
from anypool._pool_link import Link, Message, Outgoing, decode, encode, frame
from anypool._pool_start import WorkerProcess, make_starter

__all__ = ["LocalPool", "WorkerDied"]

DEFAULT_PRELOAD: Final = ("anypool._worker", "multiprocessing")
"""What the fork server imports once, so that no worker has to."""

_START_ATTEMPTS: Final = 3
_LEAVES_WITHIN: Final = 5.0
"""Seconds that a worker has for its exit handlers before it is terminated."""

_CALLS_KEPT: Final = 16
"""Pickled functions that are kept; one in practice."""

_DIES_WITHIN: Final = 2.0
_LAST_WORDS: Final = 4096
"""Bytes of faulthandler's report that an error quotes."""


class WorkerDied(Exception):  # noqa: N818, the field's names for it have none either
    """The worker process that ran the call is gone.

    Attributes
    ----------
    exitcode : int or None
        Its exit code, negative for a signal; None where nobody can know.
    pid : int or None
        Its process id; None if it never was.
    """

    def __init__(self, message: str, *, exitcode: int | None = None, pid: int | None = None) -> None:
        super().__init__(message)
        self.exitcode = exitcode
        self.pid = pid

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), self.args, self.__dict__)


class _Task(Future[Any]):
    """A task and its future. Its attributes change under the pool's lock only."""

    def __init__(self, pool: LocalPool, number: int, message: Outgoing) -> None:
        super().__init__()
        self.pool = pool
        self.number = number
        self.message: Outgoing | None = message
        self.slot: _Slot | None = None
        self.queued = False
        self.begun = False
        self.withdrawn = False

    def cancel(self) -> bool:
        """Cancel the call unless it has begun; True means that it never runs."""
        if self.pool.withdraw(self):
            self.settle_cancelled()
        return self.withdrawn or self.cancelled()

    def settle_cancelled(self) -> None:
        """Be cancelled, and tell who waits: `concurrent.futures.wait` ignores a future that is only marked."""
        super().cancel()
        self.set_running_or_notify_cancel()

    def begin(self) -> None:
        """Count as running, from when the call has begun, or is about to on a worker that was idle."""
        if not self.begun:
            self.begun = True
            self.set_running_or_notify_cancel()

    @property
    def goes_ahead(self) -> bool:
        """Whether it is small enough to be sent to a worker that is busy."""
        return self.message is not None and not self.message.body


class _Slot:
    """The place of one worker: a worker may be replaced, its place and its thread stay."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.link: Link | None = None
        self.process: WorkerProcess | None = None
        self.ready = False
        self.doomed = False  # its worker is being killed, and gets nothing more
        self.running: _Task | None = None
        self.ahead: _Task | None = None
        self.leaving = threading.Event()
        self.thread: threading.Thread | None = None
        self.fault: Any = None  # the file that holds the worker's last words

    def tasks(self) -> list[_Task]:
        return [task for task in (self.running, self.ahead) if task is not None]


class LocalPool:
    """Worker processes on this machine that run `call(payload)`.

    Returns at once: the workers start while the first tasks are prepared.

    Parameters
    ----------
    size : int
        How many workers, at least 1.
    start_method : {"forkserver", "spawn", "fork"}
        See `_pool_start`. None of them imports the caller's `__main__`.
    preload : sequence of str
        Modules that the fork server imports once.
    environment : mapping of str to str
        Variables to set in workers, before anything else is imported there; the caller's are left alone.
    name : str
        How the names of the worker processes begin.

    Raises
    ------
    ValueError
        `size` is below 1, or there is no such start method on this system.
    """

    def __init__(
        self,
        size: int,
        *,
        start_method: str,
        preload: Sequence[str] = DEFAULT_PRELOAD,
        environment: Mapping[str, str] = MappingProxyType({}),
        name: str = "anypool",
    ) -> None:
        if size < 1:
            raise ValueError(f"a pool has at least one worker, not {size}")
        _hook_process()
        self._environment = dict(environment)
        self._starter = make_starter(start_method, preload, self._environment)
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._calls: dict[FunctionType, bytes] = {}
        self._queue: deque[_Task] = deque()
        self._idle: list[_Slot] = []
        self._hungry: dict[_Slot, None] = {}  # busy, with nothing sent ahead; a dict, for its order
        self._stopping = False
        self._cancelling = False
        self._forked = False
        self._failure: WorkerDied | None = None
        self._slots = [_Slot(f"{name}-{index + 1}") for index in range(size)]
        self._staffed = size  # slots whose thread still runs
        _pools.add(self)
        for slot in self._slots:
            slot.thread = threading.Thread(
                target=self._serve, args=(slot,), name=f"{_pool_start.WORKER_THREAD_NAME}-{slot.name}", daemon=True
            )
            slot.thread.start()

    def submit(self, call: Callable[[Any], Any], payload: Any, /) -> Future[Any]:
        """Run `call(payload)` on a worker; return its future at once. Thread-safe.

        What is larger than 32 KiB is written to an idle worker by the calling thread, at the speed of a copy.

        Raises
        ------
        RuntimeError
            The pool is stopped, or this process is a fork of the one that started it.
        Exception
            Whatever pickling `call` or `payload` raises.
        """
        self._refuse_if_forked()
        message = frame(number := next(self._numbers), _pool_link.TASK, [self._pickled(call), *encode(payload)])
        task = _Task(self, number, message)
        with self._lock:
            if self._stopping:
                raise RuntimeError("the pool is stopped")
            failure = self._failure
            bodies = self._place(task) if failure is None else []
        if failure is not None:
            task.begin()
            task.set_exception(failure)
        _send_bodies(bodies)
        return task

    def stop_call(self, future: Future[Any], /) -> bool:
        """End the running call of `future` by killing its worker, which is replaced.

        Returns False if the call is not running: it has ended, or has not begun (then `cancel` it). True means that
        the worker is killed: the future fails with `WorkerDied`, unless its result had just been sent.
        """
        self._refuse_if_forked()
        if not isinstance(future, _Task):
            return False
        with self._lock:
            slot = future.slot
            if slot is None or slot.process is None:
                return False
            stops = self._executing(slot) is future
            if stops:
                slot.doomed = True
                self._hungry.pop(slot, None)
                slot.process.signal(kill=True)
            bodies = self._feed_idle()
        _send_bodies(bodies)
        return stops

    def stop(self, *, cancel: bool) -> None:
        """Stop the pool and wait until nothing of it is left: process, thread, descriptor or file. Idempotent.

        Called by a callback of a future, so on a thread of the pool's own, it can't wait for that thread.

        Parameters
        ----------
        cancel : bool
            Cancel what has not begun and kill what is running, whose futures fail with `WorkerDied`; else finish
            all of it first.
        """
        self._refuse_if_forked()
        with self._lock:
            self._stopping = True
            self._cancelling = self._cancelling or cancel
            withdrawn = self._withdraw_all() if cancel else []
            for slot in self._slots:
                self._dismiss(slot, cancel=cancel)
        for task in withdrawn:
            if task.begun:  # it was on its way to a worker that had not come to it
                task.set_exception(WorkerDied("the pool was stopped before a worker began this call"))
            else:
                task.settle_cancelled()
        for slot in self._slots:
            if slot.thread is not threading.current_thread():
                _see_off(slot)

    def withdraw(self, task: _Task) -> bool:
        """Take back a task that has not begun; return whether it was this call that did. For `Future.cancel`."""
        if self._forked:
            return False
        with self._lock:
            if task.withdrawn or task.begun or task.done():
                return False
            bodies: list[tuple[Link, Outgoing]] = []
            slot = task.slot
            if task.queued:
                task.queued = False  # it stays in the queue as a shell, as removal would be a search
            elif slot is not None and slot.ahead is task and self._take_back(slot):
                bodies = self._feed_idle()
            else:
                return False
            task.withdrawn = True
            task.message = None
        _send_bodies(bodies)
        return True

    def _refuse_if_forked(self) -> None:
        # Looked at without the lock: the thread that held it when the process forked does not exist here.
        if self._forked:
            raise RuntimeError("this pool belongs to the parent of this forked process; start one of your own here")

    def _pickled(self, call: Callable[[Any], Any]) -> bytes:
        if not isinstance(call, FunctionType):
            return pickle.dumps(call, protocol=5)  # an object may have changed since it was pickled last
        pickled = self._calls.get(call)
        if pickled is None:
            pickled = pickle.dumps(call, protocol=5)
            if len(self._calls) >= _CALLS_KEPT:
                self._calls.clear()
            self._calls[call] = pickled
        return pickled

    # Who gets what. All of these run under the lock.

    def _place(self, task: _Task) -> list[tuple[Link, Outgoing]]:
        if self._idle:
            return self._begin(self._idle.pop(), task)
        self._queue.append(task)
        task.queued = True
        self._send_ahead()
        return []

    def _begin(self, slot: _Slot, task: _Task) -> list[tuple[Link, Outgoing]]:
        """Give `task` to an idle worker; return what is to be sent once the lock is free."""
        slot.running = task
        task.slot = slot
        task.begin()
        if slot.link is not None and slot.link.takes_back:
            self._hungry[slot] = None
        return self._post(slot, task)

    def _post(self, slot: _Slot, task: _Task) -> list[tuple[Link, Outgoing]]:
        assert slot.link is not None
        assert task.message is not None
        return [(slot.link, task.message)] if slot.link.post(task.message) else []

    def _send_ahead(self) -> None:
        """Send small tasks to busy workers, in the order of the queue."""
        while self._hungry and (task := self._head()) is not None and task.goes_ahead:
            slot = next(iter(self._hungry))
            del self._hungry[slot]
            self._next_queued()
            slot.ahead = task
            task.slot = slot
            self._post(slot, task)

    def _head(self) -> _Task | None:
        while self._queue and self._queue[0].withdrawn:
            self._queue.popleft()
        return self._queue[0] if self._queue else None

    def _next_queued(self) -> _Task | None:
        task = self._head()
        if task is not None:
            self._queue.popleft()
            task.queued = False
        return task

    def _feed_idle(self) -> list[tuple[Link, Outgoing]]:
        """Give what is queued to idle workers, then to busy ones."""
        bodies: list[tuple[Link, Outgoing]] = []
        while self._idle and (task := self._next_queued()) is not None:
            bodies += self._begin(self._idle.pop(), task)
        self._send_ahead()
        return bodies

    def _take_back(self, slot: _Slot) -> bool:
        """Take back what was sent ahead to `slot`. False: it has begun, and is now known to be running.

        Draining may also bring back the task that counts as running, if the worker has not come to it. It is posted
        again; a worker that began the other one in between finds it as what was sent ahead.
        """
        running, ahead = slot.running, slot.ahead
        assert slot.link is not None
        assert running is not None
        assert ahead is not None
        drained = slot.link.drain()
        if running.number in drained:
            assert running.message is not None
            slot.link.post(Outgoing(running.message.datagram, ()))
        if ahead.number in drained:
            slot.ahead = None
            ahead.slot = None
            if not slot.doomed:
                self._hungry[slot] = None
            return True
        ahead.begin()
        if running.number in drained:
            slot.running, slot.ahead = ahead, running
        return False

    def _executing(self, slot: _Slot) -> _Task | None:
        """Return what the worker is at, or has just ended, after taking back what waits there, so that none else
        can be hit by its end."""
        while (waiting := slot.ahead) is not None:
            if self._take_back(slot):
                self._requeue(waiting)
            elif slot.ahead is waiting:
                return waiting  # it has begun, so the other one has ended and its reply is under way
        return slot.running

    def _requeue(self, task: _Task) -> None:
        task.queued = True
        self._queue.appendleft(task)

    def _steal(self) -> _Task | None:
        """Take what waits at a busy worker, for one that has nothing to do."""
        for slot in self._slots:
            task = slot.ahead
            if task is not None and self._take_back(slot):
                return task
        return None

    def _finish(self, slot: _Slot, number: int) -> tuple[_Task | None, list[tuple[Link, Outgoing]]]:
        """Note the end of a task; return it, and what is to be sent to the worker next."""
        if slot.running is not None and slot.running.number == number:
            done, slot.running = slot.running, slot.ahead
        elif slot.ahead is not None and slot.ahead.number == number:
            done = slot.ahead
        else:
            return None, []
        slot.ahead = None
        done.slot = done.message = None
        if slot.doomed:
            return done, []
        if slot.running is not None:
            slot.running.begin()
            self._hungry[slot] = None
            self._send_ahead()
            return done, []
        return done, self._find_work(slot)

    def _find_work(self, slot: _Slot) -> list[tuple[Link, Outgoing]]:
        self._hungry.pop(slot, None)
        task = self._next_queued() or self._steal()
        if task is not None:
            bodies = self._begin(slot, task)
            self._send_ahead()
            return bodies
        if self._stopping:
            self._hang_up(slot)
        else:
            self._idle.append(slot)
        return []

    def _hang_up(self, slot: _Slot) -> None:
        slot.leaving.set()
        if slot.link is not None:
            slot.link.hang_up()

    def _withdraw_all(self) -> list[_Task]:
        """Take back all that has not begun."""
        tasks = [task for task in self._queue if not task.withdrawn]
        self._queue.clear()
        for slot in self._slots:
            task = slot.ahead
            if task is not None and self._take_back(slot):
                tasks.append(task)
        for task in tasks:
            task.queued = False
            task.withdrawn = not task.begun
        return tasks

    def _dismiss(self, slot: _Slot, *, cancel: bool) -> None:
        """Let one worker leave, now or once all is done."""
        if slot in self._idle:
            self._idle.remove(slot)
            self._hang_up(slot)
        elif cancel or (not slot.ready and not self._queue):
            slot.doomed = True
            slot.leaving.set()
            if slot.process is not None:
                slot.process.signal(kill=True)

    # The thread of one worker.

    def _serve(self, slot: _Slot) -> None:
        failures = 0
        died: WorkerDied | None = None
        try:
            while failures < _START_ATTEMPTS and self._is_wanted(slot):
                error: OSError | None = None
                try:
                    error = self._live(slot)
                finally:
                    died = self._bury(slot, error)
                failures = 0 if slot.ready else failures + 1
        finally:
            self._leave(slot, died)

    def _is_wanted(self, slot: _Slot) -> bool:
        with self._lock:
            slot.ready = slot.doomed = False
            return not self._stopping or self._head() is not None

    def _live(self, slot: _Slot) -> OSError | None:
        """Start a worker and serve it until it is gone; return what kept it from starting."""
        try:
            slot.link = link = Link(datagrams=_pool_link.HAS_DATAGRAMS)
            slot.fault = _pool_start.fault_file()
            process = self._starter.start(link, slot.fault.fileno())
            link.close_child_fds()
        except OSError as exc:
            return exc
        with self._lock:
            slot.process = process
            if slot.doomed:
                process.signal(kill=True)
        if not link.send_start(_pool_start.start_message(slot.name, self._environment)) or link.receive() is None:
            return None
        with self._lock:
            slot.ready = True
            bodies = [] if slot.doomed else self._find_work(slot)
        _send_bodies(bodies)
        while (message := link.receive()) is not None:
            with self._lock:
                done, bodies = self._finish(slot, message.number)
            _send_bodies(bodies)
            if done is not None:
                _settle(done, message)
            del done, message, bodies  # results must not stay while this thread waits
        return None

    def _bury(self, slot: _Slot, error: OSError | None) -> WorkerDied:
        """Wait for the end of a worker, fail what it had begun and give back what it had not."""
        process, link = slot.process, slot.link
        if process is not None and not process.wait(_DIES_WITHIN):
            process.signal(kill=True)  # it lives, but has closed its descriptors
            process.wait(_DIES_WITHIN)
        died = _post_mortem(slot, error)
        with self._lock:
            lost = self._clear(slot)
            bodies = self._feed_idle()
        if link is not None:
            link.close()
        if process is not None:
            process.close()
        if slot.fault is not None:
            slot.fault.close()
        slot.fault = None
        for task in lost:
            task.set_exception(died)
        _send_bodies(bodies)
        return died

    def _clear(self, slot: _Slot) -> list[_Task]:
        """Forget the worker of `slot`; requeue what it had not begun, return what is lost with it."""
        if slot in self._idle:
            self._idle.remove(slot)
        self._hungry.pop(slot, None)
        tasks = slot.tasks()
        drained = slot.link.drain() if slot.link is not None and not slot.leaving.is_set() else set()
        slot.link = slot.process = slot.running = slot.ahead = None
        lost = [task for task in tasks if self._cancelling or task.number not in drained]
        for task in reversed(tasks):
            task.slot = None
            if task not in lost:
                self._requeue(task)
        return lost

    def _leave(self, slot: _Slot, died: WorkerDied | None) -> None:
        """Be the end of a slot's thread; the last one takes down what all share."""
        slot.leaving.set()
        with self._lock:
            self._staffed -= 1
            if self._staffed:
                return
            self._failure = WorkerDied(
                f"no worker can be started ({_START_ATTEMPTS} in a row ended while starting; what they wrote to "
                f"standard error says why): {died}",
                exitcode=None if died is None else died.exitcode,
                pid=None if died is None else died.pid,
            )
            stranded = [task for task in self._queue if not task.withdrawn]
            self._queue.clear()
            for task in stranded:
                task.queued = False
        self._starter.stop()
        _pools.discard(self)
        for task in stranded:
            task.begin()
            task.set_exception(self._failure)

    def forget(self) -> None:
        """Become unusable in a forked child of the process, whose copies of descriptors are closed."""
        self._forked = True
        for slot in self._slots:
            if slot.link is not None:
                slot.link.close_in_forked_child()


def _send_bodies(bodies: Sequence[tuple[Link, Outgoing]]) -> None:
    for link, message in bodies:
        link.send_body(message)


def _settle(task: _Task, message: Message) -> None:
    try:
        result = decode(message.parts)
        if message.kind == _pool_link.FAILED:
            error, trace = result
            error.add_note(f"Raised on the worker, beside the call:\n{trace}")
            raise error
    except BaseException as exc:
        # Whatever it is, this future has it and this thread goes on.
        task.set_exception(exc)
    else:
        task.set_result(result)


def _see_off(slot: _Slot) -> None:
    """Wait for the thread of a slot, which ends after its worker; end a worker that takes too long to leave."""
    slot.leaving.wait()
    thread = slot.thread
    if thread is None:
        return
    thread.join(_LEAVES_WITHIN)
    for kill in (False, True):
        process = slot.process
        if thread.is_alive() and process is not None:
            process.signal(kill=kill)
            thread.join(_DIES_WITHIN)
    thread.join()


def _post_mortem(slot: _Slot, error: OSError | None) -> WorkerDied:
    """Say how the worker of `slot` came to its end."""
    process = slot.process
    if process is None:
        died = WorkerDied(f"worker {slot.name} could not be started: {error}")
        died.__cause__ = error
        return died
    end = _describe_end(process.exitcode)
    words = _last_words(slot)
    return WorkerDied(
        f"worker {slot.name} (pid {process.pid}) {end}{words}", exitcode=process.exitcode, pid=process.pid
    )


def _describe_end(code: int | None) -> str:
    if code is None:
        return "ended; its exit code is not known"
    if code >= 0:
        return f"exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "signal"
    hint = ", which the kernel also sends when memory runs out" if name == "SIGKILL" else ""
    return f"was ended by {name} ({code}){hint}"


def _last_words(slot: _Slot) -> str:
    """Return what faulthandler wrote in the worker."""
    file = slot.fault
    if file is None:
        return ""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _LAST_WORDS))
    text = file.read().decode("utf-8", "backslashreplace").strip()
    return f"\n{text}" if text else ""


# State of the process, as it must be: whoever forks it, or forgets to stop a pool, names no pool.
_pools: set[LocalPool] = set()
_hooks = threading.Lock()
_hooked = False


def _hook_process() -> None:
    """Ask to be told of forks and of the end of this process; once, and only when a pool is made."""
    global _hooked
    with _hooks:
        if _hooked:
            return
        _hooked = True
    atexit.register(_stop_pools)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget_pools)


def _stop_pools() -> None:
    for pool in list(_pools):
        pool.stop(cancel=True)


def _forget_pools() -> None:
    for pool in list(_pools):
        pool.forget()
    _pools.clear()
    _pool_start.forget_zygotes()
