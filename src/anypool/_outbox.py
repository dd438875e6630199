"""The way of large buffers, for whoever has none: nothing of it is loaded before the first."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anypool._segments import Buffer, Ref
    from anypool._segments_cache import Keeper
    from anypool._stores import LocalStores, Stores
    from anypool._wire import Parcel

__all__ = ["LateStores", "Outbox"]


class LateStores:
    """`LocalStores` that are made when they are needed. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stores: LocalStores | None = None

    def _made(self) -> LocalStores:
        with self._lock:
            if self._stores is None:
                from anypool._stores import LocalStores

                self._stores = LocalStores()
            return self._stores

    @property
    def keeper(self) -> Keeper[Any]:
        """Where it is kept what all workers may read, again and again."""
        return self._made().keeper

    def send(self, buffers: Sequence[Buffer]) -> Sequence[Ref] | None:
        """Refs of `buffers`; None: let them travel in the pickle."""
        return self._made().send(buffers)

    def store_function(self, buffers: Sequence[Buffer]) -> Sequence[Ref] | None:
        """Refs of what a function holds; those of the last time, if nothing has changed."""
        return self._made().store_function(buffers)

    def take_back(self, refs: Iterable[Ref]) -> None:
        """Take back what no worker has opened. What one has opened stays good."""
        if self._stores is not None:
            self._stores.take_back(refs)

    def release_function(self, fn: Parcel) -> None:
        """Say that the map, or the call, of `fn` has ended."""
        if self._stores is not None:
            self._stores.release_function(fn)

    def close(self) -> None:
        """Give all of it back. What workers have opened stays good."""
        if self._stores is not None:
            self._stores.close()


class Outbox:
    """The arguments of one envelope."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._refs: list[Ref] = []

    def store(self, buffers: Sequence[Buffer]) -> Sequence[Ref] | None:
        """Refs of `buffers`; None: let them travel in the pickle."""
        refs = self._stores.send(buffers)
        self._refs += refs or ()
        return refs

    @property
    def is_empty(self) -> bool:
        """Whether all of it travels in the pickle."""
        return not self._refs

    def close(self) -> None:
        """Take back what no worker has opened. What one has opened stays good."""
        if self._refs:
            self._stores.take_back(self._refs)
            self._refs = []
