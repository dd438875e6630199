"""Buffers that are sent again and again, stored once for all who read them."""

from __future__ import annotations

import collections
import contextlib
import threading
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

from anypool._segments import NO_BYTES, Buffer, Ref
from anypool._segments_owner import OfThisProcess

__all__ = ["Cache", "Keeper"]

_R = TypeVar("_R", bound=Ref)


class Keeper(Protocol[_R]):
    """Keeps buffers where any number of workers find them: `Segments`, and what stands in for them."""

    def keep(self, buffers: Sequence[Buffer]) -> Sequence[_R] | None:
        """The refs of `buffers`, good until `release`; None where they should travel inline."""
        ...

    def same(self, ref: _R, buffer: Buffer) -> bool:
        """Whether `ref`, not released, holds the bytes of `buffer`."""
        ...

    def release(self, refs: Iterable[_R]) -> None:
        """Need them no longer. What is open stays good."""
        ...

    def abandon(self, refs: Iterable[_R]) -> None:
        """As `release`, for finalizers, which must not wait for a lock."""
        ...


class _Entry:
    """A buffer that is stored for all; `key` is None once its object died, changed or was displaced."""

    __slots__ = ("alive", "key", "pins", "ref", "size")

    def __init__(self, ref: Ref, key: tuple[int, int]) -> None:
        self.ref = ref
        self.size = key[1]
        self.key: tuple[int, int] | None = key
        self.pins = 1
        self.alive: weakref.ref[Any] | None = None


class _Shelf:
    """Which buffers one process has stored for all."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.by_key: dict[tuple[int, int], _Entry] = {}
        # The least recently used first.
        self.by_ref: collections.OrderedDict[Ref, _Entry] = collections.OrderedDict()
        # Refs of entries whose object died. Only noted by the callback, which may come while this very
        # thread holds the lock.
        self.dead: collections.deque[Ref] = collections.deque()


class Cache:
    """Buffers sent again and again are stored once: the same object with the same bytes has the same ref.

    Identity is only where to look, and for `bytes`, such as pickles made anew each time, their hash; that the bytes
    are still the same is compared each time (20 ms for 80 MB).

    Parameters
    ----------
    keeper : Keeper
        Where they are stored; closed by whoever made it.
    spare_bytes : int, default 1 GiB
        How much may stay stored that no call is using, in case the same object is sent again.
    """

    def __init__(self, keeper: Keeper[Any], *, spare_bytes: int = 1 << 30) -> None:
        self._keeper = keeper
        self._spare_bytes = spare_bytes
        self._own = OfThisProcess(_Shelf)

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
            return NO_BYTES
        key = (hash(exporter) if type(exporter) is bytes else id(exporter), size)
        entry = shelf.by_key.get(key)
        if entry is not None and self._keeper.same(entry.ref, buffer):
            entry.pins += 1
            shelf.by_ref.move_to_end(entry.ref)
            return entry.ref
        refs = self._keeper.keep([buffer])
        if refs is None:
            return None
        if entry is not None:
            self._displace(shelf, entry)
        entry = _Entry(refs[0], key)
        shelf.by_key[key] = shelf.by_ref[entry.ref] = entry
        ref, dead = entry.ref, shelf.dead
        with contextlib.suppress(TypeError):  # bytes and the like: theirs goes when others need the room
            entry.alive = weakref.ref(exporter, lambda _: dead.append(ref))
        return entry.ref

    def _unpin(self, shelf: _Shelf, refs: Iterable[Ref]) -> None:
        for ref in refs:
            entry = shelf.by_ref.get(ref)
            if entry is None:
                continue
            entry.pins -= 1
            if entry.key is None:
                self._drop_unused(shelf, entry)
        spare = [entry for entry in shelf.by_ref.values() if not entry.pins]
        excess = sum(entry.size for entry in spare) - self._spare_bytes
        for entry in spare:
            if excess <= 0:
                break
            excess -= entry.size
            self._displace(shelf, entry)

    def _bury(self, shelf: _Shelf) -> None:
        while shelf.dead:
            entry = shelf.by_ref.get(shelf.dead.popleft())
            if entry is not None:
                self._displace(shelf, entry)

    def _displace(self, shelf: _Shelf, entry: _Entry) -> None:
        if entry.key is not None and shelf.by_key.get(entry.key) is entry:
            del shelf.by_key[entry.key]
        entry.key = None
        self._drop_unused(shelf, entry)

    def _drop_unused(self, shelf: _Shelf, entry: _Entry) -> None:
        if not entry.pins:
            del shelf.by_ref[entry.ref]
            self._keeper.release([entry.ref])
