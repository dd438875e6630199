"""Which worker of the local pool holds which task. No thread, no clock: all of it runs under the pool's lock.

::

    place ──▶ idle worker ── begin ──▶ slot.running ── finish ──▶ find_work: the queue, else a busy worker's `ahead`
      │                                    ▲
      └─────▶ queue ── send_ahead ──▶ slot.ahead     (small tasks, one a worker; `take` brings it back)

Nothing here blocks and no callback runs here. What is too large to be sent without blocking is returned, as pairs
of a link and a message, and sent by the caller once the lock is free.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import IO, Protocol

from anypool._native_future import NativeFuture
from anypool._pool_link import Link, Outgoing
from anypool._pool_start import WorkerProcess

__all__ = ["Bodies", "Schedule", "Slot", "Task"]

Bodies = list[tuple[Link, Outgoing]]
"""What is to be sent by `Link.send_body`, once the lock is free."""


class CancelsTasks(Protocol):
    """The pool, as far as a future needs it."""

    def withdraw(self, task: Task) -> bool:
        """Take back a task that has not begun; return whether it was this call that did."""
        ...


class Task(NativeFuture):
    """A task and its future. Its attributes change under the pool's lock only."""

    def __init__(self, pool: CancelsTasks, number: int, message: Outgoing) -> None:
        super().__init__()
        self.pool = pool
        self.number = number
        self.message: Outgoing | None = message
        self.slot: Slot | None = None
        self.queued = False
        self.begun = False
        self.withdrawn = False
        self.stopped = False  # its worker is being killed for it

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


class Slot:
    """The place of one worker: a worker may be replaced, its place and its thread stay."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.link: Link | None = None
        self.process: WorkerProcess | None = None
        self.ready = False
        self.doomed = False  # its worker is being killed, and gets nothing more
        self.running: Task | None = None
        self.ahead: Task | None = None
        self.leaving = threading.Event()
        self.thread: threading.Thread | None = None
        self.fault: IO[bytes] | None = None  # the file that holds the worker's last words

    def tasks(self) -> list[Task]:
        return [task for task in (self.running, self.ahead) if task is not None]


class Schedule:
    """The tasks and the places of workers of one pool."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.slots = slots
        self.queue: deque[Task] = deque()
        self.idle: list[Slot] = []
        self.hungry: dict[Slot, None] = {}  # busy, with nothing sent ahead; a dict, for its order
        self.stopping = False
        self.cancelling = False

    def place(self, task: Task) -> Bodies:
        if self.idle:
            return self.begin(self.idle.pop(), task)
        self.queue.append(task)
        task.queued = True
        self.send_ahead()
        return []

    def begin(self, slot: Slot, task: Task) -> Bodies:
        """Give `task` to an idle worker; return what is to be sent once the lock is free."""
        slot.running = task
        task.slot = slot
        task.begin()
        if slot.link is not None and slot.link.takes_back:
            self.hungry[slot] = None
        return self.post(slot, task)

    def post(self, slot: Slot, task: Task) -> Bodies:
        assert slot.link is not None
        assert task.message is not None
        return [(slot.link, task.message)] if slot.link.post(task.message) else []

    def send_ahead(self) -> None:
        """Send small tasks to busy workers, in the order of the queue."""
        while self.hungry and (task := self.head()) is not None and task.goes_ahead:
            slot = next(iter(self.hungry))
            del self.hungry[slot]
            self.next_queued()
            slot.ahead = task
            task.slot = slot
            self.post(slot, task)

    def head(self) -> Task | None:
        while self.queue and self.queue[0].withdrawn:
            self.queue.popleft()
        return self.queue[0] if self.queue else None

    def next_queued(self) -> Task | None:
        task = self.head()
        if task is not None:
            self.queue.popleft()
            task.queued = False
        return task

    def feed_idle(self) -> Bodies:
        """Give what is queued to idle workers, then to busy ones."""
        bodies: Bodies = []
        while self.idle and (task := self.next_queued()) is not None:
            bodies += self.begin(self.idle.pop(), task)
        self.send_ahead()
        return bodies

    def take_back(self, slot: Slot) -> bool:
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
                self.hungry[slot] = None
            return True
        ahead.begin()
        if running.number in drained:
            slot.running, slot.ahead = ahead, running
        return False

    def executing(self, slot: Slot) -> Task | None:
        """Return what the worker is at, or has just ended. What waits there is requeued: its end must hit no other."""
        if (taken := self.take(slot)) is not None:
            self.requeue(taken)
        elif slot.ahead is not None:
            return slot.ahead  # it has begun, so the other one has ended and its reply is under way
        return slot.running

    def take(self, slot: Slot) -> Task | None:
        """Take from a busy worker what waits there, whichever of its two tasks that turns out to be."""
        while (waiting := slot.ahead) is not None:
            if self.take_back(slot):
                return waiting
            if slot.ahead is waiting:
                return None
        return None

    def requeue(self, task: Task) -> None:
        task.queued = True
        self.queue.appendleft(task)

    def steal(self) -> Task | None:
        """Take what waits at a busy worker, for one that has nothing to do."""
        return next((task for slot in self.slots if (task := self.take(slot)) is not None), None)

    def finish(self, slot: Slot, number: int) -> tuple[Task | None, Bodies]:
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
            self.hungry[slot] = None
            self.send_ahead()
            return done, []
        return done, self.find_work(slot)

    def find_work(self, slot: Slot) -> Bodies:
        self.hungry.pop(slot, None)
        task = self.next_queued() or self.steal()
        if task is not None:
            bodies = self.begin(slot, task)
            self.send_ahead()
            return bodies
        if self.stopping:
            self.hang_up(slot)
        else:
            self.idle.append(slot)
        return []

    def hang_up(self, slot: Slot) -> None:
        slot.leaving.set()
        if slot.link is not None:
            slot.link.hang_up()

    def withdraw_all(self) -> list[Task]:
        """Take back all that has not begun."""
        tasks = [task for task in self.queue if not task.withdrawn]
        self.queue.clear()
        for slot in self.slots:
            if (task := self.take(slot)) is not None:
                tasks.append(task)
        for task in tasks:
            task.queued = False
            task.withdrawn = not task.begun
        return tasks

    def dismiss(self, slot: Slot, *, cancel: bool) -> None:
        """Let one worker leave, now or once all is done."""
        if slot in self.idle:
            self.idle.remove(slot)
            self.hang_up(slot)
        elif cancel or (not slot.ready and not self.queue):
            slot.doomed = True
            slot.leaving.set()
            if slot.process is not None:
                slot.process.signal(kill=True)

    def clear(self, slot: Slot) -> list[Task]:
        """Forget the worker of `slot`; requeue what it had not begun, return what is lost with it."""
        if slot in self.idle:
            self.idle.remove(slot)
        self.hungry.pop(slot, None)
        tasks = slot.tasks()
        drained = slot.link.drain() if slot.link is not None and not slot.leaving.is_set() else set()
        slot.link = slot.process = slot.running = slot.ahead = None
        lost = [task for task in tasks if self.cancelling or task.stopped or task.number not in drained]
        for task in reversed(tasks):
            task.slot = None
            if task not in lost:
                self.requeue(task)
        return lost

    def strand(self) -> list[Task]:
        """Empty the queue, as there is no worker any more; return what was in it."""
        stranded = [task for task in self.queue if not task.withdrawn]
        self.queue.clear()
        for task in stranded:
            task.queued = False
        return stranded
