"""The reader's side of segments: make sure of buffers while their owner lives, then open them."""

from __future__ import annotations

import errno
import mmap
import os
import sys
from collections.abc import Callable, Iterable

from anypool._segments import (
    DATA_AT,
    HEADER,
    LARGEST_MOVE,
    MAGIC,
    RELEASED,
    RELEASED_AT,
    STATE_AT,
    TAKEN,
    Buffer,
    Ref,
    SegmentRef,
    descriptor_limit,
)
from anypool.errors import SendError

if sys.platform == "linux":
    import fcntl

__all__ = ["Claimed", "claim", "look_at", "open_refs", "watch"]

# Without it Linux may refuse, or count in full, a private mapping that is hardly ever written to.
_MAP_NORESERVE: int = getattr(mmap, "MAP_NORESERVE", 0)


class Claimed:
    """Buffers that are sure to be there, whatever becomes of their owner.

    A segment goes back to its owner when this object, if not opened, or all that was made over the
    buffers that it gave out is gone.
    """

    __slots__ = ("_buffers", "size")

    def __init__(self, buffers: list[Buffer]) -> None:
        self._buffers: list[Buffer] | None = buffers
        self.size = sum(memoryview(buffer).nbytes for buffer in buffers)

    def open(self) -> list[Buffer]:
        """The buffers, once: writable, and private to whoever holds them.

        Raises
        ------
        RuntimeError
            They were given out before, and would not be private.
        """
        if self._buffers is None:
            raise RuntimeError("these buffers were opened already")
        buffers, self._buffers = self._buffers, None
        return buffers


def claim(refs: Iterable[Ref]) -> Claimed:
    """Make sure of the buffers in `refs`: from now on their owner may end, and will not reuse them.

    Costs some 30 microseconds a ref, whatever its size: nothing is read. A ref is mapped at once; a bare
    descriptor would have to be closed by a finalizer of ours, and those run early on cyclic garbage.

    Raises
    ------
    SendError
        A buffer cannot be reached, because its owner has ended, took it back, belongs to another user or
        is not on this machine; or there is no memory for it.
    """
    return Claimed([_claim_one(ref) if type(ref) is tuple else ref.claim() for ref in refs])  # type: ignore[union-attr]


def open_refs(refs: Iterable[Ref]) -> list[Buffer]:
    """The buffers in `refs`, writable and private; for ``pickle.loads(data, buffers=...)``.

    Raises
    ------
    SendError
        As `claim`.
    """
    return claim(refs).open()


def look_at(ref: Ref) -> memoryview:
    """The buffer in `ref`, to be read only: nothing is copied.

    Raises
    ------
    SendError
        As `claim`.
    """
    buffer = _claim_one(ref) if type(ref) is tuple else ref.look_at()  # type: ignore[union-attr]
    return memoryview(buffer).toreadonly()


def watch(ref: Ref) -> Callable[[], bool]:
    """Tells, whenever it is called, whether the owner of `ref` needs it no longer. To be called while it is there.

    Raises
    ------
    SendError
        As `claim`.
    """
    if type(ref) is not tuple:
        return ref.is_released  # type: ignore[union-attr]
    try:
        descriptor = _open_file(ref)  # not the file of the reader's mapping: this one holds no lock
        try:
            header = mmap.mmap(descriptor, DATA_AT, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise SendError(_explain(ref, exc)) from exc
    token = HEADER.unpack_from(header)[1]
    released = RELEASED[0]
    return lambda: header[RELEASED_AT] == released or HEADER.unpack_from(header)[1] != token


def _claim_one(ref: SegmentRef) -> mmap.mmap | bytearray:
    if not ref[5]:
        return bytearray()
    if sys.platform != "linux":
        raise SendError(f"{_describe(ref)} is not on this machine, which is not Linux")
    try:
        descriptor = _open_file(ref)
        try:
            _take(descriptor, ref)
            return _view(descriptor, ref[5])
        finally:
            os.close(descriptor)  # the mapping has a duplicate: of the same open file, so of the same lock
    except OSError as exc:
        raise SendError(_explain(ref, exc)) from exc


def _open_file(ref: SegmentRef) -> int:
    pid, number, device, inode = ref[:4]
    path = f"/proc/{pid}/fd/{number}"
    # Before it is opened: to open the device or FIFO that the number may mean by now has side effects.
    found = os.stat(path)
    if (found.st_dev, found.st_ino) != (device, inode):
        raise SendError(f"{_describe(ref)} is gone, or is not on this machine")
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)


def _take(descriptor: int, ref: SegmentRef) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as exc:  # the owner has it for the moment in which it takes it back
        raise SendError(f"{_describe(ref)} was taken back by its owner") from exc
    header = os.pread(descriptor, HEADER.size, 0)
    if len(header) != HEADER.size or HEADER.unpack(header)[:3] != (MAGIC, *ref[4:]):
        raise SendError(f"{_describe(ref)} was taken back by its owner")
    os.pwrite(descriptor, TAKEN, STATE_AT)


def _view(descriptor: int, size: int) -> mmap.mmap:
    if _is_short_of_descriptors(descriptor):
        return _copy(descriptor, size)
    try:
        # Closes its descriptor when it is deallocated, which nothing can come before or survive. For
        # that, `trackfd=False` of Python 3.13 would be wrong here.
        return mmap.mmap(
            descriptor,
            size,
            flags=mmap.MAP_PRIVATE | _MAP_NORESERVE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
            offset=DATA_AT,
        )
    except OSError:  # out of mappings or descriptors: a copy needs neither
        return _copy(descriptor, size)


def _is_short_of_descriptors(descriptor: int) -> bool:
    """Whether half of them are in use: who keeps many results must not run the process out of them."""
    try:
        # The number that the mapping's own would have. `descriptor` is closed after each claim, and
        # so has a low number again and again.
        number = os.dup(descriptor)
    except OSError:
        return True
    os.close(number)
    return number >= descriptor_limit()


def _copy(descriptor: int, size: int) -> mmap.mmap:
    """The data as private memory of this process, that nothing of the segment needs to outlive."""
    # Not a bytearray: that would be filled with zeros first.
    buffer = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    done = 0
    with memoryview(buffer) as target:
        while done < size:
            count = os.preadv(descriptor, [target[done : done + LARGEST_MOVE]], DATA_AT + done)
            if not count:
                raise SendError(f"a buffer of {size:,} bytes ended after {done:,}")
            done += count
    return buffer


def _describe(ref: SegmentRef) -> str:
    return f"a buffer of {ref[5]:,} bytes held by process {ref[0]}"


def _explain(ref: SegmentRef, exc: OSError) -> str:
    what = _describe(ref)
    if exc.errno in (errno.ENOENT, errno.ESRCH):
        return f"{what} is gone: that process has ended or took it back, or it is not on this machine"
    if exc.errno in (errno.EACCES, errno.EPERM):
        return f"{what} is out of reach: that process belongs to another user, or forbids it ({exc.strerror})"
    if exc.errno in (errno.EMFILE, errno.ENFILE):
        return f"{what} could not be opened: too many open files here; raise the limit (ulimit -n)"
    if exc.errno == errno.ENOMEM:
        return f"there is no memory here for {what}"
    return f"{what} could not be opened: {exc}"
