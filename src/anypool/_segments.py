"""Large buffers, carried between the processes of one machine in memory that has no name.

::

    owner: store(buffers)                        reader: claim(refs), then open()
      memfd, no name, no message, no lock held     /proc/<owner>/fd/<n>, the same memory
      ┌──────────────────────────────┐             1. open, flock(SH), token? state := TAKEN
      │ header: token, size, state   │ <─────────  2. mmap(MAP_PRIVATE): writable, a page is copied
      ├──────────────────────────────┤                only when it is written to
      │ data ...                     │             3. the last array over it dies: unmapped, closed,
      └──────────────────────────────┘                and with the open file goes the lock
      reuse: state TAKEN (or released), and flock(EX) succeeds => nobody reads, nobody will
             token := 0 under that lock, so that a ref to the old bytes is refused from then on

Three things make this safe without a message back or a server that cleans up:

* *The kernel owns the memory.* It goes with the last descriptor and mapping, however a process ends.
* *The kernel owns the lock.* `flock` belongs to the open file, which the reader's mapping and the mapping
  a fork of it inherits keep alive. A reader that is killed, or that forks while it holds an array, needs
  no bookkeeping: pages are written again only when no process at all holds the file open for reading.
* *A ref is checked, not believed.* A descriptor number and even a process id may mean something else by
  now; device, inode and a random token must agree.

Owner and reader are the same user in the same pid namespace: what every local pool is.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import mmap
import os
import struct
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from pickle import PickleBuffer
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from anypool.errors import SendError

if sys.platform == "linux":
    import fcntl
    import resource

__all__ = ["THRESHOLD", "Buffer", "Cache", "Claimed", "Ref", "Segments", "claim", "open_refs"]

Ref: TypeAlias = tuple[int, int, int, int, int, int]
"""Where a stored buffer is: the owner's pid and descriptor, device, inode, token, size."""

Buffer: TypeAlias = PickleBuffer | memoryview | mmap.mmap | bytes | bytearray

THRESHOLD = 256 * 1024
"""From how many bytes on a segment is quicker than a pipe: benchmarks/segments.py."""

_NO_BYTES: Ref = (0, 0, 0, 0, 0, 0)  # a buffer of no bytes needs no memory, and none could be mapped

_MAGIC = b"anypool1"
_HEADER = struct.Struct("=8sQQB")
_STATE_AT = _HEADER.size - 1
_SENT = b"\x01"
_TAKEN = b"\x02"
_DATA_AT = mmap.ALLOCATIONGRANULARITY  # where a mapping may begin

_PIECE = 4 << 20  # what is copied in one go with the GIL held: half a millisecond
_COMPARED_PIECE = 1 << 20  # stays in the cache between the copy and the comparison
_WRITTEN_PIECE = 1 << 30  # Linux moves at most 2 GiB - 4 KiB in one write

# A segment may be reused for less than it holds, within this slack: what it pins beyond is wasted.
_SLACK_FACTOR = 2
_SLACK_BYTES = 1 << 20

_HAS_MEMFD = sys.platform == "linux" and hasattr(os, "memfd_create")

_LOOKS = 16  # how many segments one `store` asks whether they are free: 2 microseconds each

_MFD_NOEXEC_SEAL = 0x8  # Linux 6.3; hardened systems refuse a memfd without it
_MADV_POPULATE_READ = 22  # Linux 5.14
# Without it Linux may refuse, or count in full, a private mapping that is hardly ever written to.
_MAP_NORESERVE: int = getattr(mmap, "MAP_NORESERVE", 0)
# The owner's mappings need no descriptor besides the segment's own, and before 3.13 have one all the same.
_MAP_OPTIONS: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}

_T = TypeVar("_T")


class _Descriptor(int):
    """A file descriptor of the owner's, closed with the segment that has it."""

    __slots__ = ()

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self)


class _OfThisProcess(Generic[_T]):
    """State that belongs to one process; a forked child gets its own, and closes what it inherited.

    The lock in it would otherwise be held for ever by a thread that the fork did not copy.
    """

    def __init__(self, make: Callable[[], _T]) -> None:
        self._make = make
        self._by_pid: dict[int, _T] = {}

    def get(self) -> _T:
        pid = os.getpid()
        state = self._by_pid.get(pid)
        if state is None:
            state = self._by_pid.setdefault(pid, self._make())
            for inherited in [other for other in list(self._by_pid) if other != pid]:
                self._by_pid.pop(inherited, None)
        return state


# ---------------------------------------------------------------------------------------------- reader


class Claimed:
    """Buffers that are sure to be there, whatever becomes of their owner.

    A segment goes back to its owner when this object, if not opened, or all that was made over the
    buffers that it gave out is gone.
    """

    __slots__ = ("_buffers",)

    def __init__(self, buffers: list[mmap.mmap | bytearray]) -> None:
        self._buffers: list[mmap.mmap | bytearray] | None = buffers

    def open(self) -> list[mmap.mmap | bytearray]:
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
    return Claimed([_claim_one(ref) for ref in refs])


def open_refs(refs: Iterable[Ref]) -> list[mmap.mmap | bytearray]:
    """The buffers in `refs`, writable and private; for ``pickle.loads(data, buffers=...)``.

    Raises
    ------
    SendError
        As `claim`.
    """
    return claim(refs).open()


def _claim_one(ref: Ref) -> mmap.mmap | bytearray:
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


def _open_file(ref: Ref) -> int:
    pid, number, device, inode = ref[:4]
    path = f"/proc/{pid}/fd/{number}"
    # Before it is opened: to open the device or FIFO that the number may mean by now has side effects.
    found = os.stat(path)
    if (found.st_dev, found.st_ino) != (device, inode):
        raise SendError(f"{_describe(ref)} is gone, or is not on this machine")
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)


def _take(descriptor: int, ref: Ref) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as exc:  # the owner has it for the moment in which it takes it back
        raise SendError(f"{_describe(ref)} was taken back by its owner") from exc
    header = os.pread(descriptor, _HEADER.size, 0)
    if len(header) != _HEADER.size or _HEADER.unpack(header)[:3] != (_MAGIC, *ref[4:]):
        raise SendError(f"{_describe(ref)} was taken back by its owner")
    os.pwrite(descriptor, _TAKEN, _STATE_AT)


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
            offset=_DATA_AT,
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
    return number >= _descriptor_limit()


def _copy(descriptor: int, size: int) -> mmap.mmap:
    """The data as private memory of this process, that nothing of the segment needs to outlive."""
    # Not a bytearray: that would be filled with zeros first.
    buffer = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    done = 0
    with memoryview(buffer) as target:
        while done < size:
            count = os.preadv(descriptor, [target[done : done + _WRITTEN_PIECE]], _DATA_AT + done)
            if not count:
                raise SendError(f"a buffer of {size:,} bytes ended after {done:,}")
            done += count
    return buffer


def _describe(ref: Ref) -> str:
    return f"a buffer of {ref[5]:,} bytes held by process {ref[0]}"


def _explain(ref: Ref, exc: OSError) -> str:
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


def _descriptor_limit() -> int:
    """The number from which on descriptors are left to others: numbers are given out lowest first."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Mappings are limited as well, to 65,530 of a process by default (vm.max_map_count).
    return 16_384 if soft == resource.RLIM_INFINITY else min(soft // 2, 16_384)


# ----------------------------------------------------------------------------------------------- owner


class _Segment:
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

    def fill(self, data: memoryview, *, kept: bool) -> Ref:
        """Store `data`; the ref to it. Nobody can read the segment before."""
        self.size = data.nbytes
        self.token = int.from_bytes(os.urandom(8), "little") | 1
        self.kept = kept
        self.released = False
        os.pwrite(self.descriptor, _HEADER.pack(_MAGIC, self.token, self.size, _SENT[0]), 0)
        if self.capacity:
            self._rewrite(data)
        else:
            self._write(data)
            self.capacity = self.size
        return (os.getpid(), int(self.descriptor), self.device, self.inode, self.token, self.size)

    def _write(self, data: memoryview) -> None:
        done = 0
        while done < self.size:
            done += os.pwrite(self.descriptor, data[done : done + _WRITTEN_PIECE], _DATA_AT + done)

    def _rewrite(self, data: memoryview) -> None:
        if self.mapping is None:
            try:
                self.mapping = mmap.mmap(self.descriptor, self.capacity, offset=_DATA_AT, **_MAP_OPTIONS)
            except OSError:  # out of mappings or, before 3.13, of descriptors
                self._write(data)
                return
            # Enters the pages into the mapping in one go: 25 instead of 50 ms for 80 MB with the copy.
            with contextlib.suppress(OSError):  # an older kernel: slower, once
                self.mapping.madvise(_MADV_POPULATE_READ)
        for start in range(0, self.size, _PIECE):
            end = min(start + _PIECE, self.size)
            self.mapping[start:end] = data[start:end]  # type: ignore[assignment, unused-ignore]

    def is_done_with(self) -> bool:
        """Whether the owner no longer needs it readable: it was taken by its one reader, or released."""
        return self.released or (not self.kept and os.pread(self.descriptor, 1, _STATE_AT) == _TAKEN)

    def take_back(self) -> bool:
        """Refuse its ref from now on, unless a process reads it or still shall; whether that was done."""
        if not self.is_done_with():
            return False
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        try:
            os.pwrite(self.descriptor, bytes(_HEADER.size), 0)
        finally:
            # Unlocked by name: a child forked in this moment has the same open file, and so the lock.
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        return True

    def equals(self, data: memoryview) -> bool:
        """Whether it holds the bytes of `data`."""
        if data.nbytes != self.size:
            return False
        for start in range(0, self.size, _COMPARED_PIECE):
            expected = data[start : start + _COMPARED_PIECE]
            # `startswith` compares two buffers by memcmp; `==` on memoryviews goes byte by byte.
            if not os.pread(self.descriptor, expected.nbytes, _DATA_AT + start).startswith(expected):
                return False
        return True


class _Books:
    """Which segments one process has."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.closed = False
        self.busy: collections.OrderedDict[int, _Segment] = collections.OrderedDict()  # by token
        self.idle: list[_Segment] = []  # the longest idle first


class Segments:
    """The segments that a process stores its outgoing buffers in. Thread-safe; processes share nothing.

    Parameters
    ----------
    live : int, default 256
        How many buffers may be stored and still wanted at once; each takes a descriptor, or two.
        Beyond it `store` gives None.
    idle_bytes : int, default 256 MiB
        How much memory that nobody reads is kept to be used again, five times quicker than fresh.
    idle_seconds : float, default 30
        How long it is kept; looked at by `store` and `trim`, since there is no thread to do so.
    """

    def __init__(self, *, live: int = 256, idle_bytes: int = 256 << 20, idle_seconds: float = 30.0) -> None:
        self._live = live
        self._idle_bytes = idle_bytes
        self._idle_seconds = idle_seconds
        self._own = _OfThisProcess(_Books)
        self._usable: bool | None = None  # None: not tried yet
        self._warned = False

    def store(self, buffers: Sequence[Buffer], *, readers: Literal[1] | None = 1) -> list[Ref] | None:
        """The refs under which a process of this machine finds copies of `buffers`.

        Parameters
        ----------
        buffers : sequence of contiguous buffers
            Of any format, order and size; read-only ones too. They are copied before this returns.
        readers : 1 or None, default 1
            With 1 the memory is reused once a reader has taken it and its last array is gone, without
            a word to the owner. With None any number of processes may read it, again and again,
            until `release`: for what is sent to all workers, or may have to be sent again.

        Returns
        -------
        list of Ref, or None
            None where the buffers should travel inline: the platform has no such memory, too many
            buffers are under way, or the system refuses more.

        Warns
        -----
        RuntimeWarning
            Once, if the system refuses where the platform could.
        """
        if not self._is_usable():
            return None
        refs: list[Ref] = []
        try:
            for buffer in buffers:
                with PickleBuffer(buffer).raw() as data:
                    ref = self._store_one(data, kept=readers is None) if data.nbytes else _NO_BYTES
                if ref is None:
                    break
                refs.append(ref)
            else:
                return refs
        except (OSError, MemoryError) as exc:
            self.release(refs)
            self._warn(str(exc))
            return None
        except BaseException:  # a buffer that is not contiguous, or Ctrl-C
            self.release(refs)
            raise
        self.release(refs)
        return None

    def release(self, refs: Iterable[Ref]) -> None:
        """Take back buffers that nobody shall open any more; arrays that were opened stay good.

        A ref that is unknown, say because its segment was reused, is passed over.
        """
        books = self._own.get()
        with books.lock:
            for ref in refs:
                segment = books.busy.get(ref[4])
                if segment is None:
                    continue
                segment.released = True
                if segment.take_back():
                    self._make_idle(books, segment)

    def same(self, ref: Ref, buffer: Buffer) -> bool:
        """Whether `ref`, stored with ``readers=None`` and not released, holds the bytes of `buffer`."""
        books = self._own.get()
        with books.lock:
            segment = books.busy.get(ref[4])
        if segment is None:
            return ref == _NO_BYTES and memoryview(buffer).nbytes == 0
        with PickleBuffer(buffer).raw() as data:
            return segment.equals(data)

    def trim(self, older_than: float = 0.0) -> None:
        """Return to the system what was idle for `older_than` seconds: for an owner with nothing to do."""
        books = self._own.get()
        with books.lock:
            self._look_round(books, len(books.busy))
            self._drop_idle(books, older_than)

    def close(self) -> None:
        """Give up every segment; arrays that were opened stay good. Then `store` gives None. Idempotent."""
        books = self._own.get()
        with books.lock:
            books.closed = True
            books.busy.clear()
            books.idle.clear()

    def _store_one(self, data: memoryview, *, kept: bool) -> Ref | None:
        books = self._own.get()
        with books.lock:
            if books.closed:
                return None
            self._look_round(books, _LOOKS)
            self._drop_idle(books, self._idle_seconds)
            if len(books.busy) >= self._live and not self._forget_one(books):
                return None
            segment = self._pick_idle(books, data.nbytes)
        if segment is None:
            segment = _Segment()
            if segment.descriptor >= _descriptor_limit():
                return None
        ref = segment.fill(data, kept=kept)
        with books.lock:
            if books.closed:
                return None
            books.busy[segment.token] = segment
        return ref

    def _look_round(self, books: _Books, looks: int) -> None:
        """Find out which of the next `looks` segments are free; the others go to the end of the line."""
        for token in [token for token, _ in zip(books.busy, range(looks), strict=False)]:
            segment = books.busy[token]
            if segment.take_back():
                self._make_idle(books, segment)
            else:
                books.busy.move_to_end(token)

    def _make_idle(self, books: _Books, segment: _Segment) -> None:
        del books.busy[segment.token]
        segment.idle_since = time.monotonic()
        books.idle.append(segment)
        # The newest stays even if it alone is too large: it is what the next `store` is likely to want.
        while len(books.idle) > 1 and sum(idle.capacity for idle in books.idle) > self._idle_bytes:
            del books.idle[0]

    def _drop_idle(self, books: _Books, older_than: float) -> None:
        limit = time.monotonic() - older_than
        books.idle[:] = [segment for segment in books.idle if segment.idle_since > limit]

    def _pick_idle(self, books: _Books, size: int) -> _Segment | None:
        most = _SLACK_FACTOR * size + _SLACK_BYTES
        fitting = [segment for segment in books.idle if size <= segment.capacity <= most]
        if not fitting:
            return None
        best = min(fitting, key=lambda segment: segment.capacity)
        books.idle.remove(best)
        return best

    def _forget_one(self, books: _Books) -> bool:
        """Leave one segment to those who read it; it is theirs alone then, and goes with them."""
        for token, segment in books.busy.items():
            if segment.is_done_with():
                del books.busy[token]
                return True
        return False

    def _is_usable(self) -> bool:
        if self._usable is None:
            self._usable = _HAS_MEMFD and self._try_out()
        return self._usable

    def _try_out(self) -> bool:
        try:
            why = _find_obstacle()
        except OSError as exc:
            why = str(exc)
        if why:
            self._warn(why)
        return not why

    def _warn(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"large buffers travel slower than they could, without shared memory: {why}",
                RuntimeWarning,
                stacklevel=2,
            )


def _memory_file() -> int:
    try:
        return os.memfd_create("anypool", os.MFD_CLOEXEC | _MFD_NOEXEC_SEAL)
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # that is a kernel before 6.3
            raise
        return os.memfd_create("anypool", os.MFD_CLOEXEC)


def _find_obstacle() -> str | None:
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


# ------------------------------------------------------------------------------------------- broadcast


class _Entry:
    """A buffer that is stored for all; `key` is None once its object died, changed or was displaced."""

    __slots__ = ("alive", "key", "pins", "ref")

    def __init__(self, ref: Ref, key: tuple[int, int]) -> None:
        self.ref = ref
        self.key: tuple[int, int] | None = key
        self.pins = 1
        self.alive: weakref.ref[Any] | None = None


class _Shelf:
    """Which buffers one process has stored for all."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.by_key: dict[tuple[int, int], _Entry] = {}
        # The least recently used first.
        self.by_token: collections.OrderedDict[int, _Entry] = collections.OrderedDict()
        # Tokens of entries whose object died. Only noted by the callback, which may come while this very
        # thread holds the lock.
        self.dead: collections.deque[int] = collections.deque()


class Cache:
    """Buffers sent again and again are stored once: the same object with the same bytes has the same ref.

    Identity is only where to look; that the bytes are still the same is compared each time (20 ms for 80 MB).

    Parameters
    ----------
    segments : Segments
        Where they are stored; closed by whoever made it.
    spare_bytes : int, default 1 GiB
        How much may stay stored that no call is using, in case the same object is sent again.
    """

    def __init__(self, segments: Segments, *, spare_bytes: int = 1 << 30) -> None:
        self._segments = segments
        self._spare_bytes = spare_bytes
        self._own = _OfThisProcess(_Shelf)

    def store_shared(self, buffers: Sequence[Buffer]) -> list[Ref] | None:
        """The refs of `buffers`, readable by any number of processes until `release` was called as often.

        None where they should travel inline, as `Segments.store`.
        """
        shelf = self._own.get()
        refs: list[Ref] = []
        with shelf.lock:
            self._bury(shelf)
            for buffer in buffers:
                ref = self._shelve(shelf, buffer)
                if ref is None:
                    self._unpin(shelf, refs)
                    return None
                refs.append(ref)
        return refs

    def release(self, refs: Iterable[Ref]) -> None:
        """Say that one who got `refs` from `store_shared` needs them no longer."""
        shelf = self._own.get()
        with shelf.lock:
            self._unpin(shelf, refs)
            self._bury(shelf)

    def _shelve(self, shelf: _Shelf, buffer: Buffer) -> Ref | None:
        with memoryview(buffer) as view:
            exporter, size = view.obj, view.nbytes
        if not size:
            return _NO_BYTES
        key = (id(exporter), size)
        entry = shelf.by_key.get(key)
        if entry is not None and self._segments.same(entry.ref, buffer):
            entry.pins += 1
            shelf.by_token.move_to_end(entry.ref[4])
            return entry.ref
        refs = self._segments.store([buffer], readers=None)
        if refs is None:
            return None
        if entry is not None:
            self._displace(shelf, entry)
        entry = _Entry(refs[0], key)
        shelf.by_key[key] = shelf.by_token[entry.ref[4]] = entry
        token, dead = entry.ref[4], shelf.dead
        with contextlib.suppress(TypeError):  # bytes and the like: theirs goes when others need the room
            entry.alive = weakref.ref(exporter, lambda _: dead.append(token))
        return entry.ref

    def _unpin(self, shelf: _Shelf, refs: Iterable[Ref]) -> None:
        for ref in refs:
            entry = shelf.by_token.get(ref[4])
            if entry is None:
                continue
            entry.pins -= 1
            if entry.key is None:
                self._drop_unused(shelf, entry)
        spare = [entry for entry in shelf.by_token.values() if not entry.pins]
        excess = sum(entry.ref[5] for entry in spare) - self._spare_bytes
        for entry in spare:
            if excess <= 0:
                break
            excess -= entry.ref[5]
            self._displace(shelf, entry)

    def _bury(self, shelf: _Shelf) -> None:
        while shelf.dead:
            entry = shelf.by_token.get(shelf.dead.popleft())
            if entry is not None:
                self._displace(shelf, entry)

    def _displace(self, shelf: _Shelf, entry: _Entry) -> None:
        if entry.key is not None and shelf.by_key.get(entry.key) is entry:
            del shelf.by_key[entry.key]
        entry.key = None
        self._drop_unused(shelf, entry)

    def _drop_unused(self, shelf: _Shelf, entry: _Entry) -> None:
        if not entry.pins:
            del shelf.by_token[entry.ref[4]]
            self._segments.release([entry.ref])
