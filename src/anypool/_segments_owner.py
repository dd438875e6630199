"""The owner's side of segments: which it has, which are free again, and how long they are kept."""

from __future__ import annotations

import collections
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pickle import PickleBuffer
from typing import Generic, Literal, TypeVar

from anypool._segments import NO_BYTES, Buffer, SegmentRef, descriptor_limit
from anypool._segments_file import Segment, find_obstacle

__all__ = ["OfThisProcess", "Segments"]

# A segment may be reused for less than it holds, within this slack: what it pins beyond is wasted.
_SLACK_FACTOR = 2
_SLACK_BYTES = 1 << 20

_HAS_MEMFD = sys.platform == "linux" and hasattr(os, "memfd_create")

_LOOKS = 16  # how many segments one `store` asks whether they are free: 2 microseconds each

_T = TypeVar("_T")


class OfThisProcess(Generic[_T]):
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


class _Books:
    """Which segments one process has."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.closed = False
        self.busy: collections.OrderedDict[int, Segment] = collections.OrderedDict()  # by token
        self.idle: list[Segment] = []  # the longest idle first
        # Released by finalizers, which may come while this very thread has the lock.
        self.abandoned: collections.deque[SegmentRef] = collections.deque()


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
        self._own = OfThisProcess(_Books)
        self._usable: bool | None = None  # None: not tried yet
        self._warned = False

    def store(self, buffers: Sequence[Buffer], *, readers: Literal[1] | None = 1) -> list[SegmentRef] | None:
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
        list of refs, or None
            None where the buffers should travel inline: the platform has no such memory, too many
            buffers are under way, or the system refuses more.

        Warns
        -----
        RuntimeWarning
            Once, if the system refuses where the platform could.
        """
        if not self._is_usable():
            return None
        refs: list[SegmentRef] = []
        try:
            for buffer in buffers:
                with PickleBuffer(buffer).raw() as data:
                    ref = self._store_one(data, kept=readers is None) if data.nbytes else NO_BYTES
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

    def keep(self, buffers: Sequence[Buffer]) -> list[SegmentRef] | None:
        """As `store`, for any number of readers."""
        return self.store(buffers, readers=None)

    def release(self, refs: Iterable[SegmentRef]) -> None:
        """Take back buffers that nobody shall open any more; arrays that were opened stay good.

        A ref that is unknown, say because its segment was reused, is passed over.
        """
        books = self._own.get()
        with books.lock:
            self._release(books, refs)

    def abandon(self, refs: Iterable[SegmentRef]) -> None:
        """As `release`, for finalizers, which must not wait for a lock: if it is not free, with the next `store`."""
        books = self._own.get()
        books.abandoned.extend(refs)
        if books.lock.acquire(blocking=False):
            try:
                self._release_abandoned(books)
            finally:
                books.lock.release()

    def _release_abandoned(self, books: _Books) -> None:
        while books.abandoned:
            self._release(books, [books.abandoned.popleft()])

    def _release(self, books: _Books, refs: Iterable[SegmentRef]) -> None:
        for ref in refs:
            segment = books.busy.get(ref[4])
            if segment is None:
                continue
            segment.release()
            if segment.take_back():
                self._make_idle(books, segment)

    def same(self, ref: SegmentRef, buffer: Buffer) -> bool:
        """Whether `ref`, stored with ``readers=None`` and not released, holds the bytes of `buffer`."""
        books = self._own.get()
        with books.lock:
            segment = books.busy.get(ref[4])
        if segment is None:
            return ref == NO_BYTES and memoryview(buffer).nbytes == 0
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

    @property
    def is_closed(self) -> bool:
        """Whether every segment was given up, and `store` gives None for that reason."""
        return self._own.get().closed

    def _store_one(self, data: memoryview, *, kept: bool) -> SegmentRef | None:
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
            segment = Segment()
            if segment.descriptor >= descriptor_limit():
                return None
        ref = segment.fill(data, kept=kept)
        with books.lock:
            if books.closed:
                return None
            books.busy[segment.token] = segment
        return ref

    def _look_round(self, books: _Books, looks: int) -> None:
        """Find out which of the next `looks` segments are free; the others go to the end of the line."""
        self._release_abandoned(books)
        for token in [token for token, _ in zip(books.busy, range(looks), strict=False)]:
            segment = books.busy[token]
            if segment.take_back():
                self._make_idle(books, segment)
            else:
                books.busy.move_to_end(token)

    def _make_idle(self, books: _Books, segment: Segment) -> None:
        del books.busy[segment.token]
        segment.idle_since = time.monotonic()
        books.idle.append(segment)
        # The newest stays even if it alone is too large: it is what the next `store` is likely to want.
        while len(books.idle) > 1 and sum(idle.capacity for idle in books.idle) > self._idle_bytes:
            del books.idle[0]

    def _drop_idle(self, books: _Books, older_than: float) -> None:
        limit = time.monotonic() - older_than
        books.idle[:] = [segment for segment in books.idle if segment.idle_since > limit]

    def _pick_idle(self, books: _Books, size: int) -> Segment | None:
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
            why = find_obstacle()
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
