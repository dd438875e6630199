"""One segment: a memory file of its owner's, written, read, taken back and written again."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from anypool._segments import (
    DATA_AT,
    HEADER,
    LARGEST_MOVE,
    MAGIC,
    RELEASED,
    RELEASED_AT,
    SENT,
    STATE_AT,
    TAKEN,
    SegmentRef,
)

if sys.platform == "linux":
    import fcntl

__all__ = ["Segment", "find_obstacle"]

_PIECE = 4 << 20  # what is copied in one go with the GIL held: half a millisecond
_COMPARED_PIECE = 1 << 20  # stays in the cache between the copy and the comparison
_COMPARED_BY_TWO = 16 << 20  # from here on by two threads: less is compared before another has started
_LOOKS_AGAIN = 0.1  # seconds; a child that is forked in a signal handler does not have the other thread

_MFD_NOEXEC_SEAL = 0x8  # Linux 6.3; hardened systems refuse a memfd without it
_MADV_POPULATE_READ = 22  # Linux 5.14
# The owner's mappings need no descriptor besides the segment's own, and before 3.13 have one all the same.
_MAP_OPTIONS: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}


class _Descriptor(int):
    """A file descriptor of the owner's, closed with the segment that has it."""

    __slots__ = ()

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self)


class Segment:
    """One memory file of the owner's, used again and again. One thread has it, or the lock of the books.

    Writing fresh memory is quickest through the file (53 ms for 80 MB; 100 by a mapping), rewriting
    touched memory through a mapping that is kept (9 ms; 20 through the file): benchmarks/segments.py.
    """

    __slots__ = (
        "capacity",
        "descriptor",
        "device",
        "idle_since",
        "inode",
        "kept",
        "mapping",
        "released",
        "size",
        "token",
    )

    def __init__(self) -> None:
        self.descriptor = _Descriptor(_memory_file())
        found = os.fstat(self.descriptor)
        self.device = found.st_dev
        self.inode = found.st_ino
        self.mapping: mmap.mmap | None = None
        self.capacity = 0
        self.size = 0
        self.token = 0
        self.kept = False
        self.released = False
        self.idle_since = 0.0

    def fill(self, data: memoryview, *, kept: bool) -> SegmentRef:
        """Store `data`; the ref to it. Nobody can read the segment before."""
        self.size = data.nbytes
        self.token = int.from_bytes(os.urandom(8), "little") | 1
        self.kept = kept
        self.released = False
        os.pwrite(self.descriptor, HEADER.pack(MAGIC, self.token, self.size, SENT[0], 0), 0)
        if self.capacity:
            self._rewrite(data)
        else:
            self._write(data)
            self.capacity = self.size
        return (os.getpid(), int(self.descriptor), self.device, self.inode, self.token, self.size)

    def _write(self, data: memoryview) -> None:
        done = 0
        while done < self.size:
            done += os.pwrite(self.descriptor, data[done : done + LARGEST_MOVE], DATA_AT + done)

    def _rewrite(self, data: memoryview) -> None:
        if self.mapping is None:
            try:
                self.mapping = mmap.mmap(self.descriptor, self.capacity, offset=DATA_AT, **_MAP_OPTIONS)
            except OSError:  # out of mappings or, before 3.13, of descriptors
                self._write(data)
                return
            # Enters the pages into the mapping in one go: 25 instead of 50 ms for 80 MB with the copy.
            with contextlib.suppress(OSError):  # an older kernel: slower, once
                self.mapping.madvise(_MADV_POPULATE_READ)
        for start in range(0, self.size, _PIECE):
            end = min(start + _PIECE, self.size)
            self.mapping[start:end] = data[start:end]  # type: ignore[assignment, unused-ignore]

    def release(self) -> None:
        """Need it readable no longer, and say so to those who keep it open, where there may be several."""
        self.released = True
        if self.kept:
            os.pwrite(self.descriptor, RELEASED, RELEASED_AT)

    def is_done_with(self) -> bool:
        """Whether the owner no longer needs it readable: it was taken by its one reader, or released."""
        return self.released or (not self.kept and os.pread(self.descriptor, 1, STATE_AT) == TAKEN)

    def take_back(self) -> bool:
        """Refuse its ref from now on, unless a process reads it or still shall; whether that was done."""
        if not self.is_done_with():
            return False
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        try:
            os.pwrite(self.descriptor, bytes(HEADER.size), 0)
        finally:
            # Unlocked by name: a child forked in this moment has the same open file, and so the lock.
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        return True

    def equals(self, data: memoryview) -> bool:
        """Whether it holds the bytes of `data`."""
        if data.nbytes != self.size:
            return False
        if self.size < _COMPARED_BY_TWO:
            return self._holds(data, 0, self.size)
        # What differs mostly differs at once. Most of the rest is the kernel's copying, with the GIL released.
        return self._holds(data, 0, _COMPARED_PIECE) and self._holds_by_two(data, _COMPARED_PIECE, self.size)

    def _holds_by_two(self, data: memoryview, start: int, end: int) -> bool:
        middle = (start + end) // 2
        seen: list[bool] = []
        errors: list[BaseException] = []
        differs, has_looked = threading.Event(), threading.Event()

        def look() -> None:
            try:
                seen.append(self._holds(data, middle, end, differs))
            except BaseException as exc:  # the caller's, as if it had looked itself
                errors.append(exc)
                differs.set()
            finally:
                has_looked.set()

        def wait() -> None:  # before Python 3.13 a `join` that was interrupted has the thread count as ended
            while another.is_alive() and not has_looked.wait(_LOOKS_AGAIN):
                pass

        another = threading.Thread(target=look, daemon=True)
        try:
            another.start()
        except RuntimeError:  # no thread can be had, as when the interpreter ends
            return self._holds(data, start, end)
        try:
            is_same = self._holds(data, start, middle, differs)
            wait()
        finally:
            differs.set()  # if this was interrupted, by Ctrl-C in the line above at the latest
            wait()  # it looks at `data`, which may be released or changed after this
        if errors:
            raise errors[0]
        return is_same and seen == [True]

    def _holds(self, data: memoryview, start: int, end: int, differs: threading.Event | None = None) -> bool:
        for at in range(start, end, _COMPARED_PIECE):
            if differs is not None and differs.is_set():
                return False
            expected = data[at : min(at + _COMPARED_PIECE, end)]
            # `startswith` compares two buffers by memcmp; `==` on memoryviews goes byte by byte.
            if not os.pread(self.descriptor, expected.nbytes, DATA_AT + at).startswith(expected):
                if differs is not None:
                    differs.set()
                return False
        return True


def _memory_file() -> int:
    try:
        return os.memfd_create("anypool", os.MFD_CLOEXEC | _MFD_NOEXEC_SEAL)
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # that is a kernel before 6.3
            raise
        return os.memfd_create("anypool", os.MFD_CLOEXEC)


def find_obstacle() -> str | None:
    """Why other processes of this user could not open the descriptors of this one, if so."""
    descriptor = _Descriptor(_memory_file())
    own = os.fstat(descriptor)
    seen = os.stat(f"/proc/{os.getpid()}/fd/{descriptor}")
    if (own.st_dev, own.st_ino) != (seen.st_dev, seen.st_ino):
        return "/proc shows the processes of another pid namespace"
    # The kernel gives the files of a process that must not be looked into (PR_SET_DUMPABLE) to root.
    if os.stat(f"/proc/{os.getpid()}").st_uid != os.geteuid():
        return "this process may not be looked into by others of its user"
    return None
