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
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from types import FunctionType, MappingProxyType
from typing import Any, Final

from anypool import _pool_link, _pool_start
from anypool._pool_link import Link, Message, decode, encode, frame
from anypool._pool_schedule import Bodies, Schedule, Slot, Task
from anypool._pool_start import make_starter
from anypool._worker_end import WorkerDied, fault_file, post_mortem, read_faults

__all__ = ["LocalPool", "WorkerDied"]

DEFAULT_PRELOAD: Final = ("anypool._worker", "anypool._tickets", "multiprocessing")
"""What the fork server imports once, so that no worker has to."""

_START_ATTEMPTS: Final = 3
_LEAVES_WITHIN: Final = 5.0
"""Seconds that a worker has for its exit handlers before it is terminated."""

_CALLS_KEPT: Final = 16
"""Pickled functions that are kept; one in practice."""

_DIES_WITHIN: Final = 2.0


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
        self._forked = False
        self._failure: WorkerDied | None = None
        self._slots = [Slot(f"{name}-{index + 1}") for index in range(size)]
        self._schedule = Schedule(self._slots)
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
        task = Task(self, number, message)
        with self._lock:
            if self._schedule.stopping:
                raise RuntimeError("the pool is stopped")
            failure = self._failure
            bodies = self._schedule.place(task) if failure is None else []
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
        if not isinstance(future, Task):
            return False
        with self._lock:
            slot = future.slot
            if slot is None or slot.process is None:
                return False
            stops = self._schedule.executing(slot) is future
            if stops:
                slot.doomed = future.stopped = True
                self._schedule.hungry.pop(slot, None)
                slot.process.signal(kill=True)
            bodies = self._schedule.feed_idle()
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
            self._schedule.stopping = True
            self._schedule.cancelling = self._schedule.cancelling or cancel
            withdrawn = self._schedule.withdraw_all() if cancel else []
            for slot in self._slots:
                self._schedule.dismiss(slot, cancel=cancel)
        for task in withdrawn:
            if task.begun:  # it was on its way to a worker that had not come to it
                task.set_exception(WorkerDied("the pool was stopped before a worker began this call"))
            else:
                task.settle_cancelled()
        for slot in self._slots:
            if slot.thread is not threading.current_thread():
                _see_off(slot)

    def withdraw(self, task: Task) -> bool:
        """Take back a task that has not begun; return whether it was this call that did. For `Future.cancel`."""
        if self._forked:
            return False
        with self._lock:
            if task.withdrawn or task.begun or task.done():
                return False
            bodies: Bodies = []
            slot = task.slot
            if task.queued:
                task.queued = False  # it stays in the queue as a shell, as removal would be a search
            elif slot is not None and slot.ahead is task and self._schedule.take_back(slot):
                bodies = self._schedule.feed_idle()
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

    # The thread of one worker.

    def _serve(self, slot: Slot) -> None:
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

    def _is_wanted(self, slot: Slot) -> bool:
        with self._lock:
            slot.ready = slot.doomed = False
            return not self._schedule.stopping or self._schedule.head() is not None

    def _live(self, slot: Slot) -> OSError | None:
        """Start a worker and serve it until it is gone; return what kept it from starting."""
        try:
            slot.link = link = Link(datagrams=_pool_link.HAS_DATAGRAMS)
            slot.fault = fault_file()
            process = self._starter.start(link, slot.fault.fileno())
            link.close_child_fds()
            if process.end_fd is not None:
                link.end_with(process.end_fd)
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
            bodies = [] if slot.doomed else self._schedule.find_work(slot)
        _send_bodies(bodies)
        while (message := link.receive()) is not None:
            with self._lock:
                done, bodies = self._schedule.finish(slot, message.number)
            _send_bodies(bodies)
            if done is not None:
                _settle(done, message)
            del done, message, bodies  # results must not stay while this thread waits
        return None

    def _bury(self, slot: Slot, error: OSError | None) -> WorkerDied:
        """Wait for the end of a worker, fail what it had begun and give back what it had not."""
        process, link = slot.process, slot.link
        if process is not None and not process.wait(_DIES_WITHIN):
            process.signal(kill=True)  # it lives, but has closed its descriptors
            process.wait(_DIES_WITHIN)
        if process is not None:
            died = post_mortem(slot.name, pid=process.pid, exitcode=process.exitcode, words=read_faults(slot.fault))
        else:
            died = WorkerDied(f"worker {slot.name} could not be started: {error}")
            died.__cause__ = error
        with self._lock:
            lost = self._schedule.clear(slot)
            bodies = self._schedule.feed_idle()
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

    def _leave(self, slot: Slot, died: WorkerDied | None) -> None:
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
            stranded = self._schedule.strand()
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


def _send_bodies(bodies: Bodies) -> None:
    for link, message in bodies:
        link.send_body(message)


def _settle(task: Task, message: Message) -> None:
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


def _see_off(slot: Slot) -> None:
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
