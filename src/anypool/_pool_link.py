"""The channel between the local pool and one worker: whole messages, and the power to take one back.

::

    pool                                                        worker
    Link.post ──── head and body, <= 32 KiB, one datagram ────▶ WorkerEnd.take
    Link.drain ◀── the same datagrams, before the worker ───────┘
    Link.send_body ─── what is larger, on a byte stream ──────▶ WorkerEnd.take
    Link.receive ◀──── replies, on the same byte stream ─────── WorkerEnd.reply

A task is one datagram of a `SOCK_SEQPACKET` pair, and the pool keeps a second descriptor of the worker's end.
Reading a datagram is atomic, so either the worker reads a task and has begun it, or the pool reads it and the
task can never run: there is no moment in between, and no lock. That makes `cancel()` exact, lets an idle worker
steal what waits at a busy one, and tells what a dead worker had begun.

The price of the second descriptor is that the datagram pair never reports a dead worker; the byte stream does.
Where there is no `SOCK_SEQPACKET` (macOS, Windows) everything takes the byte stream and nothing is sent ahead.
"""

from __future__ import annotations

import os
import pickle
import select
import socket
import struct
import sys
import threading
from collections.abc import Iterable, Sequence
from functools import lru_cache
from io import FileIO
from typing import Any, Final, NamedTuple

__all__ = [
    "DONE",
    "FAILED",
    "HAS_DATAGRAMS",
    "READY",
    "START",
    "TASK",
    "Link",
    "Message",
    "Outgoing",
    "WorkerEnd",
    "decode",
    "encode",
    "frame",
]

TASK: Final = 1
START: Final = 2
READY: Final = 3
DONE: Final = 4
FAILED: Final = 5

DATAGRAM_LIMIT: Final = 32 * 1024
"""Bytes of the largest task that is sent ahead: two must fit the default socket buffer (208 KiB) so that posting
never blocks, and 32 KiB is well below what SEQPACKET takes in one piece."""

OUT_OF_BAND: Final = 64 * 1024
"""Bytes from which a buffer travels beside its pickle, uncopied."""

_READ_SIZE: Final = 64 * 1024
# number of the task, kind, count of parts, bytes that follow on the stream (0: they are in this datagram)
_HEAD: Final = struct.Struct("<QIIQ")
_SIZE: Final = struct.Struct("<Q")
HAS_DATAGRAMS = sys.platform != "win32" and hasattr(socket, "AF_UNIX") and sys.platform != "darwin"

Buffer = bytes | bytearray | memoryview


class Message(NamedTuple):
    """One message as it arrived: `parts` are a pickle and its out-of-band buffers (a task: call first)."""

    number: int
    kind: int
    parts: Sequence[Buffer]


class Outgoing(NamedTuple):
    """One message ready to go: `datagram` is all of it, or its head if `body` follows on the stream."""

    datagram: bytes
    body: Sequence[Buffer]


def encode(obj: object) -> list[Buffer]:
    """Pickle `obj`; return the pickle followed by its large buffers, which are not copied."""
    buffers: list[Buffer] = []

    def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < OUT_OF_BAND:
            return True
        buffers.append(view)
        return False

    return [pickle.dumps(obj, protocol=5, buffer_callback=keep_in_band), *buffers]


def decode(parts: Sequence[Buffer]) -> Any:
    """Rebuild what `encode` took apart."""
    return pickle.loads(parts[0], buffers=parts[1:])


def frame(number: int, kind: int, parts: Sequence[Buffer]) -> Outgoing:
    """Lay out a message: the head, the size of each part, the parts."""
    sizes = list(map(len, parts))
    count = len(sizes)
    total = _SIZE.size * count + sum(sizes)
    laid = _layout(count).pack(number, kind, count, total, *sizes)
    if total <= DATAGRAM_LIMIT:
        return Outgoing(b"".join((laid, *parts)), ())
    return Outgoing(laid[: _HEAD.size], (laid[_HEAD.size :], *parts))


@lru_cache(maxsize=64)
def _table(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}Q")


@lru_cache(maxsize=64)
def _layout(count: int) -> struct.Struct:
    return struct.Struct(f"{_HEAD.format}{count}Q")


def _split(body: Buffer, count: int) -> list[Buffer]:
    view = memoryview(body)
    if count == 1:
        (size,) = _SIZE.unpack_from(body)
        return [view[_SIZE.size : _SIZE.size + size]]
    start = 8 * count
    parts: list[Buffer] = []
    for size in _table(count).unpack_from(body):
        parts.append(view[start : start + size])
        start += size
    return parts


class _Stream:
    """Whole messages over a pair of descriptors (the same one twice for a socket)."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._rest = b""
        self._ends: select.poll | None = None

    def end_with(self, fd: int) -> None:
        """End with what is there once `fd` can be read: the other process has ended, its end may be held open."""
        self._ends = select.poll()
        self._ends.register(self._read_fd, select.POLLIN)
        self._ends.register(fd, select.POLLIN)

    def _is_over(self) -> bool:
        """Wait until there is something to read, or nothing more will be."""
        while self._ends is not None:
            ready = self._ends.poll()
            if ready[0][0] == self._read_fd or ready[-1][0] == self._read_fd:  # there are two at most
                return False
            for fd, event in ready:
                if event & select.POLLIN:
                    return True
                self._ends.unregister(fd)  # who would have told is gone
        return False

    def receive(self) -> Message | None:
        """Return the next message, or None at the end: the other side closed, or died in mid-message."""
        try:
            data = self._rest or self._read()
            while len(data) < _HEAD.size:
                more = self._read()
                if not more:
                    return None
                data += more
            number, kind, count, size = _HEAD.unpack_from(data)
            body = self._body(data[_HEAD.size :], size)
        except ConnectionError:
            # A UNIX socket whose peer died with unread input reports a reset instead of an end.
            return None
        return None if body is None else Message(number, kind, _split(body, count))

    def _read(self) -> bytes:
        return b"" if self._is_over() else os.read(self._read_fd, _READ_SIZE)

    def receive_body(self, head: bytes) -> Message | None:
        """Return the message whose head came as a datagram and whose body follows here."""
        number, kind, count, size = _HEAD.unpack_from(head)
        body = self._body(self._rest, size)
        return None if body is None else Message(number, kind, _split(body, count))

    def _body(self, begun: bytes, size: int) -> Buffer | None:
        if len(begun) >= size:
            self._rest = begun[size:]
            return begun
        self._rest = b""
        body = bytearray(size)
        view = memoryview(body)
        view[: len(begun)] = begun
        # FileIO, as `os.readv` is missing on Windows; it reads into our memory without a copy.
        with FileIO(self._read_fd, "rb", closefd=False) as file:
            at = len(begun)
            while at < size:
                count = 0 if self._is_over() else file.readinto(view[at:])
                if not count:
                    return None
                at += count
        return body

    def send(self, buffers: Iterable[Buffer]) -> None:
        for buffer in buffers:
            view = memoryview(buffer)
            while view:
                view = view[os.write(self._write_fd, view) :]

    def descriptors(self) -> set[int]:
        return {self._read_fd, self._write_fd} - {-1}

    def close(self) -> None:
        """Close both descriptors. Idempotent."""
        descriptors = self.descriptors()
        self._read_fd = self._write_fd = -1
        for fd in descriptors:
            os.close(fd)

    def close_writing(self) -> None:
        """Tell the other side that nothing more comes; its replies can still be read. Pipes only."""
        fd, self._write_fd = self._write_fd, -1
        if fd >= 0:
            os.close(fd)


class Link:
    """The pool's end. `post`, `drain` and `hang_up` are called under the pool's lock, `receive` by one thread.

    Attributes
    ----------
    takes_back : bool
        Tasks can be posted ahead of a busy worker and drained again.
    child_fds : list of int
        The worker's descriptors, for `WorkerEnd`; inherited or sent by whoever starts it, then `close_child_fds`.
    """

    def __init__(self, *, datagrams: bool) -> None:
        self.takes_back = datagrams
        self.child_fds: list[int] = []
        self._tasks: socket.socket | None = None
        self._worker_tasks: socket.socket | None = None
        self._writing = threading.Lock()
        self._hung_up = False
        if datagrams:
            self._open_sockets()
        else:
            self._open_pipes()

    def _open_sockets(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._stream = _Stream(ours.fileno(), ours.detach())
        self.child_fds.append(theirs.detach())
        self._tasks, self._worker_tasks = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.child_fds.append(os.dup(self._worker_tasks.fileno()))

    def _open_pipes(self) -> None:
        their_read, our_write = os.pipe()
        our_read, their_write = os.pipe()
        self._stream = _Stream(our_read, our_write)
        self.child_fds += [their_read, their_write]

    def close_child_fds(self) -> None:
        """Close our copies of the worker's descriptors, once it has its own."""
        while self.child_fds:
            os.close(self.child_fds.pop())

    def post(self, message: Outgoing) -> bool:
        """Post a task; return whether `send_body` must follow, outside the pool's lock as it may block."""
        if self._tasks is None:
            return True
        self._tasks.send(message.datagram)
        return bool(message.body)

    def send_body(self, message: Outgoing) -> None:
        """Send what `post` left; a worker that dies meanwhile, or has died, is `receive`'s business."""
        parts = message.body if self._tasks is not None else (message.datagram, *message.body)
        with self._writing:
            if self._hung_up:
                return
            try:
                self._stream.send(parts)
            except OSError:  # EPIPE or ECONNRESET; on Windows EINVAL
                # The thread that reads the replies sees the end of the same stream, and decides about the task.
                return

    def send_start(self, message: Outgoing) -> bool:
        """Send the first message, which is not a task; return False if the worker is gone already."""
        with self._writing:
            try:
                self._stream.send((message.datagram, *message.body))
            except OSError:
                return False
        return True

    def drain(self) -> set[int]:
        """Take back every task that the worker has not begun; return their numbers."""
        numbers: set[int] = set()
        if self._worker_tasks is None:
            return numbers
        while True:
            try:
                datagram = self._worker_tasks.recv(DATAGRAM_LIMIT + 1024, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return numbers
            numbers.add(_HEAD.unpack_from(datagram)[0])

    def end_with(self, fd: int) -> None:
        """Take the worker for gone once `fd` can be read, even if something that it started holds its end open."""
        self._stream.end_with(fd)

    def receive(self) -> Message | None:
        """Wait for the next reply; None when the worker is gone."""
        return self._stream.receive()

    def hang_up(self) -> None:
        """Tell an idle worker to leave. Nothing can be posted any more; replies can still be read."""
        self._hung_up = True
        if self._tasks is None or self._worker_tasks is None:
            self._stream.close_writing()
            return
        self._tasks.close()
        self._worker_tasks.close()

    def close(self) -> None:
        """Close everything; to be called once the worker is gone, so that no writer can be blocked."""
        with self._writing:
            self._hung_up = True
            self._abandon()

    def _abandon(self) -> None:
        self.close_child_fds()
        self._stream.close()
        for side in (self._tasks, self._worker_tasks):
            if side is not None:
                side.close()

    def close_in_forked_child(self) -> None:
        """Close the copies that a fork of the caller made: they would hide our end from the worker.

        Takes no lock: its holder may be a thread that does not exist here.
        """
        self._abandon()


class WorkerEnd:
    """The worker's end, made from the descriptors of `Link.child_fds` in their order."""

    def __init__(self, first: int, second: int, *, datagrams: bool) -> None:
        if datagrams:
            self._stream = _Stream(first, first)
            self._tasks: socket.socket | None = socket.socket(fileno=second)
        else:
            self._stream = _Stream(first, second)
            self._tasks = None

    def take_start(self) -> Message | None:
        """Wait for the first message; None if the pool is gone."""
        return self._stream.receive()

    def take(self) -> Message | None:
        """Wait for the next task; None when the pool hung up or is gone."""
        if self._tasks is None:
            return self._stream.receive()
        datagram = self._tasks.recv(DATAGRAM_LIMIT + 1024)
        if not datagram:
            return None
        number, kind, count, _ = _HEAD.unpack_from(datagram)
        if len(datagram) == _HEAD.size:
            return self._stream.receive_body(datagram)
        return Message(number, kind, _split(memoryview(datagram)[_HEAD.size :], count))

    def reply(self, number: int, kind: int, parts: Sequence[Buffer]) -> None:
        """Send a reply."""
        message = frame(number, kind, parts)
        self._stream.send((message.datagram, *message.body))

    @property
    def reply_fd(self) -> int:
        """The descriptor that reports an error or a hang-up once the pool is gone."""
        return max(self._stream.descriptors())

    def close(self) -> None:
        """Close everything."""
        self._stream.close()
        if self._tasks is not None:
            self._tasks.close()
