"""Buffers that are sent again and again, stored once for all who read them."""

from __future__ import annotations

import collections
import contextlib
import threading
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

from anypool._segments import NO_BYTES, Buffer, Ref
from anypool._segments_owner import OfThisProcess, Segments

__all__ = ["Cache"]


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
