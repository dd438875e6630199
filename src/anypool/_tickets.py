"""What one chunk has come to, in memory that its worker writes and the caller can still read when the worker is dead.

::

    caller: Tickets.take() ──ref in the envelope──> worker: open_ticket(ref)
              ┌────────────────────────────────────────────────┐
              │ words: serial, state, pid, done, group, ...    │ <── begin, begin_item, note
              │ log:   what the items that ended came to       │ <── keep
              │ reply: all of it, where the pool may lose it   │
              └────────────────────────────────────────────────┘
            read() after the worker's end: which item it was at, what had ended before, what had not begun

The memory has no name (see `_segments`): a worker finds it by the caller's pid and descriptor, and checks it by
device and inode. It is mapped by each worker once, and used again for chunk after chunk; a serial number keeps a
worker that comes late from writing into the ticket of another chunk.

Each side writes its own words, a machine word at a time; nothing is locked. The worker writes an entry of the log
before it counts it as done, so what is counted can be read.

Some pools send a call to a second worker if the first is lost with a reply that nobody had fetched. A ticket that is
good once then keeps the reply, too, and the second worker is refused: the call does not run twice, and is not lost.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import threading
import weakref
from time import monotonic
from typing import NamedTuple, TypeAlias

from anypool._refused import BegunBefore, Revoked

__all__ = ["Ref", "Seen", "Stub", "Ticket", "Tickets", "open_ticket", "tickets_are_possible"]

Ref: TypeAlias = tuple[int, int, int, int, int]
"""Where a ticket is: the caller's pid, its descriptor, device, inode; and the serial number of the chunk."""

_SERIAL, _BEGUN, _PID, _DONE, _GROUP, _USED, _SINCE, _CURRENT, _HALT, _ONCE, _REPLY = range(11)

_CLEAR = memoryview(bytes(8 * (_ONCE - _BEGUN))).cast("Q")
_LOG_AT = 128
_SIZE = 1 << 20
"""Bytes. As much of the results of one chunk as this survives its worker; a chunk whose results are more goes home."""

_ENTRY = struct.Struct("=QQ")  # how many items, how many bytes
_KEPT = 256  # tickets that a worker has mapped; there are two for each worker of one pool
_NANOSECONDS = 1e9
_REVOKED = 0
"""The serial number of no chunk."""


class Seen(NamedTuple):
    """What a ticket tells after the end of its worker.

    Attributes
    ----------
    begun : bool
        The worker had come to the chunk.
    pid : int or None
        Of the worker.
    done : int
        How many items, from the first on, had ended.
    running : int
        One of so many items after them was running; 0: none was.
    log : list of (int, bytes)
        How many items, and what the worker noted of them.
    reply : bytes or None
        The whole reply, if it was kept: all items had ended.
    """

    begun: bool
    pid: int | None
    done: int
    running: int
    log: list[tuple[int, bytes]]
    reply: bytes | None = None


def tickets_are_possible() -> bool:
    """Whether this platform has memory without a name that another process can find."""
    return sys.platform == "linux" and hasattr(os, "memfd_create")


class _Memory:
    """A mapped ticket."""

    def __init__(self, descriptor: int) -> None:
        self.map = mmap.mmap(descriptor, _SIZE)
        self.words = memoryview(self.map)[:_LOG_AT].cast("Q")


class Ticket(_Memory):
    """The caller's end, for one chunk after the other.

    Parameters
    ----------
    once : bool
        No second worker begins a chunk, and the reply is kept.
    """

    def __init__(self, *, once: bool = False) -> None:
        descriptor = os.memfd_create("anypool-ticket", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, descriptor)
        os.ftruncate(descriptor, _SIZE)
        super().__init__(descriptor)
        found = os.fstat(descriptor)
        self._where = (os.getpid(), descriptor, found.st_dev, found.st_ino)
        self._serial = 0
        self.words[_ONCE] = once

    def reset(self) -> Ref:
        """Be the ticket of a new chunk; return what its worker finds it by."""
        self._serial += 1
        words = self.words
        words[_BEGUN:_ONCE] = _CLEAR
        words[_REPLY] = 0
        words[_SERIAL] = self._serial
        return (*self._where, self._serial)

    @property
    def pid(self) -> int | None:
        """The worker that has begun the chunk."""
        return self.words[_PID] if self.words[_BEGUN] else None

    def current(self) -> tuple[int, float] | None:
        """The item that runs and since when, by `time.monotonic`; of a chunk that notes the time of each item."""
        words = self.words
        item, since = words[_CURRENT], words[_SINCE]
        # The item last: a worker that goes on in between is seen again a moment later.
        return (item - 1, since / _NANOSECONDS) if item and item == words[_CURRENT] else None

    def halt(self) -> None:
        """Have no further item begun: the worker is about to be ended for the one that runs."""
        self.words[_HALT] = 1

    def read(self) -> Seen:
        """What the chunk has come to, whose worker is lost; it goes no further, should the worker be late, not dead."""
        words = self.words
        words[_SERIAL] = _REVOKED
        words[_HALT] = 1
        if not words[_BEGUN]:
            return Seen(False, None, 0, 0, [])
        log: list[tuple[int, bytes]] = []
        at, done = _LOG_AT, 0
        while done < words[_DONE]:
            count, size = _ENTRY.unpack_from(self.map, at)
            at += _ENTRY.size
            log.append((count, self.map[at : at + size]))
            at += size
            done += count
        # Where the time of each item is noted, it is known whether the next had begun.
        running = words[_GROUP] if not words[_SINCE] else int(words[_CURRENT] == done + 1)
        end = _LOG_AT + words[_USED] + words[_REPLY]
        reply = self.map[end - words[_REPLY] : end] if words[_REPLY] else None
        return Seen(True, words[_PID], done, running, log, reply)


class Stub(_Memory):
    """The worker's end."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self._serial = _REVOKED

    def begin(self, serial: int, *, timed: bool) -> None:
        """Say that the chunk has begun.

        Raises
        ------
        Revoked
            Its worker was given up: it runs elsewhere, and must not run here.
        BegunBefore
            It ran elsewhere, and is good once.
        """
        words = self.words
        if words[_SERIAL] != serial:
            raise Revoked
        if words[_BEGUN] and words[_ONCE]:
            raise BegunBefore(words[_PID])
        self._serial = serial
        words[_PID] = os.getpid()
        words[_GROUP] = 1
        words[_SINCE] = 1 if timed else 0
        words[_BEGUN] = 1
        # Once more: whoever revokes it looks whether it has begun after that, as this looks after it said so.
        if words[_SERIAL] != serial:
            raise Revoked

    def begin_item(self, item: int) -> None:
        """Say, of a chunk whose calls have a limit, that the call of `item` begins now."""
        words = self.words
        if words[_HALT]:
            threading.Event().wait()  # until the caller ends this process
        words[_SINCE] = int(monotonic() * _NANOSECONDS)
        words[_CURRENT] = item + 1

    def note(self, count: int, data: bytes, group: int) -> bool:
        """Note that `count` more items have ended, and what of it; `group` items follow at once.

        Returns False if there is no room for it, or if the chunk runs elsewhere by now.
        """
        words = self.words
        if words[_SERIAL] != self._serial:
            return False
        used = words[_USED]
        at = _LOG_AT + used
        end = at + _ENTRY.size + len(data)
        if end > _SIZE:
            return False
        _ENTRY.pack_into(self.map, at, count, len(data))
        self.map[at + _ENTRY.size : end] = data
        words[_USED] = end - _LOG_AT
        # Both at once would be better; in this order a death in between blames items that had not begun.
        words[_GROUP] = group
        words[_DONE] += count
        return True

    @property
    def keeps_reply(self) -> bool:
        """Whether the reply is to be kept here until it has arrived."""
        return bool(self.words[_ONCE])

    def keep(self, reply: bytes) -> None:
        """Keep the reply to the chunk, of which nothing is noted afterwards; unless there is no room for it."""
        words = self.words
        at = _LOG_AT + words[_USED]
        if words[_SERIAL] == self._serial and at + len(reply) <= _SIZE:
            self.map[at : at + len(reply)] = reply
            words[_REPLY] = len(reply)


class Tickets:
    """The tickets of one executor, each with `once`. Thread-safe."""

    def __init__(self, *, once: bool = False) -> None:
        self._once = once
        self._free: list[Ticket] = []
        self._is_closed = False

    def take(self) -> Ticket | None:
        """A ticket that no chunk has; None where the system gives no memory."""
        try:
            return self._free.pop()
        except IndexError:
            pass
        try:
            return Ticket(once=self._once)
        except (OSError, ValueError):
            return None  # no descriptor is left: a lost worker then takes its whole chunk along

    def give_back(self, ticket: Ticket) -> None:
        """Take back a ticket whose chunk has ended in peace. That of a lost worker's is better dropped."""
        if not self._is_closed:
            self._free.append(ticket)

    def close(self) -> None:
        """Let all of it go."""
        self._is_closed = True
        self._free.clear()


# By where it is, not by chunk. Of this process, as mappings are; a forked child shares the pages, and is no worker.
_stubs: dict[tuple[int, int, int, int], Stub] = {}


def open_ticket(ref: Ref) -> Stub | None:
    """The worker's end of the ticket at `ref`; None if it is not there any more."""
    where = ref[:4]
    stub = _stubs.get(where)
    if stub is None:
        stub = _map(*where)
        if stub is None:
            return None
        while len(_stubs) >= _KEPT:
            _stubs.pop(next(iter(_stubs)), None)
        _stubs[where] = stub
    return stub


def _map(pid: int, number: int, device: int, inode: int) -> Stub | None:
    try:
        descriptor = os.open(f"/proc/{pid}/fd/{number}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None  # the caller has gone, or is in another namespace
    try:
        found = os.fstat(descriptor)
        if (found.st_dev, found.st_ino, found.st_size, found.st_uid) != (device, inode, _SIZE, os.geteuid()):
            return None
        return Stub(descriptor)
    except (OSError, ValueError):
        return None
    finally:
        os.close(descriptor)
