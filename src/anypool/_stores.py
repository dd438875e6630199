"""The memory of one executor for large buffers on their way: who put them there, and when they may go."""

from __future__ import annotations

from collections.abc import Sequence
from pickle import PickleBuffer
from typing import TYPE_CHECKING

from anypool._segments_cache import Cache
from anypool._segments_owner import Segments

if TYPE_CHECKING:
    from anypool._segments import Ref
    from anypool._wire import Parcel

__all__ = ["Outbox", "Stores"]


class Stores:
    """Arguments, each read by one worker, and functions, read by all, in memory that workers of this machine share."""

    def __init__(self) -> None:
        self.arguments = Segments()
        self._functions = Cache(self.arguments)

    def store_function(self, buffers: Sequence[PickleBuffer]) -> list[Ref] | None:
        """Refs of what a function holds; those of the last time, if nothing has changed."""
        return self._functions.store_shared(buffers)

    def release_function(self, fn: Parcel) -> None:
        """Say that the map, or the call, of `fn` has ended."""
        if type(fn) is tuple and type(fn[1]) is list:
            self._functions.release(fn[1])

    def close(self) -> None:
        """Give all of it back. What workers have opened stays good."""
        self.arguments.close()


class Outbox:
    """The arguments of one envelope."""

    def __init__(self, stores: Stores) -> None:
        self._segments = stores.arguments
        self._refs: list[Ref] = []

    def store(self, buffers: Sequence[PickleBuffer]) -> list[Ref] | None:
        """Refs of `buffers`; None: let them travel in the pickle."""
        refs = self._segments.store(buffers)
        self._refs += refs or ()
        return refs

    @property
    def is_empty(self) -> bool:
        """Whether all of it travels in the pickle."""
        return not self._refs

    def close(self) -> None:
        """Take back what no worker has opened. What one has opened stays good."""
        self._segments.release(self._refs)
        self._refs = []
