"""Where the large buffers of one executor are on their way: who put them there, and when they may go.

Where workers are other processes of this machine: in memory that they share (`_segments`). Where they are elsewhere
and the backend can hold data for them (`HoldsData`): with the backend. Else they travel inline, in the pickle.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from anypool._segments_cache import Cache, Keeper

if TYPE_CHECKING:
    from anypool._segments import Buffer, OtherRef, Ref
    from anypool._wire import Parcel
    from anypool.backend import HoldsData

__all__ = ["HeldStores", "LocalStores", "Stores"]

_WORTH_HOLDING = 1 << 20
"""From how many bytes on data is brought to a cluster's workers apart from the call: two more messages, some 5 ms."""


class Sender(Protocol):
    """Where the arguments of one envelope go, each read by one worker."""

    def send(self, buffers: Sequence[Buffer]) -> Sequence[Ref] | None:
        """Refs of `buffers`; None: let them travel in the pickle."""
        ...

    def take_back(self, refs: Iterable[Ref]) -> None:
        """Take back what no worker has opened. What one has opened stays good."""
        ...


class Stores(Sender, Protocol):
    """The way of large buffers to the workers of one executor."""

    @property
    def keeper(self) -> Keeper[Any]:
        """Where it is kept what all workers may read, again and again."""
        ...

    def store_function(self, buffers: Sequence[Buffer]) -> Sequence[Ref] | None:
        """Refs of what a function holds; those of the last time, if nothing has changed."""
        ...

    def release_function(self, fn: Parcel) -> None:
        """Say that the map, or the call, of `fn` has ended."""
        ...

    def close(self) -> None:
        """Give all of it back. What workers have opened stays good."""
        ...


class _Functions:
    """What is the same in both kinds of stores: functions are stored once for all that read them."""

    def __init__(self, keeper: Keeper[Any]) -> None:
        self.keeper = keeper
        self._cache = Cache(keeper)

    def store_function(self, buffers: Sequence[Buffer]) -> Sequence[Ref] | None:
        """Refs of what a function holds; those of the last time, if nothing has changed."""
        return self._cache.store_shared(buffers)

    def release_function(self, fn: Parcel) -> None:
        """Say that the map, or the call, of `fn` has ended."""
        if type(fn) is tuple and type(fn[1]) is list:
            self._cache.release(fn[1])


class LocalStores(_Functions):
    """For workers that are other processes of this machine."""

    def __init__(self) -> None:
        from anypool._segments_files import SegmentsOrFiles
        from anypool._segments_owner import Segments

        self._segments = Segments()
        self._kept = SegmentsOrFiles(self._segments)
        super().__init__(self._kept)

    def send(self, buffers: Sequence[Buffer]) -> Sequence[Ref] | None:
        """Refs of `buffers`; None: let them travel in the pickle."""
        return self._segments.store(buffers)

    def take_back(self, refs: Iterable[Ref]) -> None:
        """Take back what no worker has opened. What one has opened stays good."""
        self._segments.release(ref for ref in refs if type(ref) is tuple)

    def close(self) -> None:
        """Give all of it back. What workers have opened stays good."""
        self._segments.close()
        self._kept.close()


class HeldStores(_Functions):
    """For workers whose backend holds data for them."""

    def __init__(self, backend: HoldsData) -> None:
        self._backend = backend
        self._kept = _HeldKeeper(backend)
        super().__init__(self._kept)

    def send(self, buffers: Sequence[Buffer]) -> Sequence[Ref] | None:
        """Refs of `buffers`; None: let them travel in the pickle."""
        if sum(memoryview(buffer).nbytes for buffer in buffers) < _WORTH_HOLDING:
            return None
        return [self._backend.hold(buffer, for_all=False) for buffer in buffers]

    def take_back(self, refs: Iterable[Ref]) -> None:
        """Let the backend forget them."""
        for ref in refs:
            self._backend.release(ref)  # type: ignore[arg-type]

    def close(self) -> None:
        """Give all of it back; the backend may be a warm pool that goes on."""
        self._kept.release(self._kept.refs)


class _HeldKeeper:
    """Keeps buffers with the backend, for all of its workers."""

    def __init__(self, backend: HoldsData) -> None:
        self._backend = backend
        self._digests: dict[OtherRef, bytes] = {}

    @property
    def refs(self) -> list[OtherRef]:
        """All that is kept."""
        return list(self._digests)

    def keep(self, buffers: Sequence[Buffer]) -> Sequence[OtherRef]:
        """Their refs, good until `release`."""
        refs = []
        for buffer in buffers:
            ref = self._backend.hold(buffer, for_all=True)
            self._digests[ref] = _digest(buffer)
            refs.append(ref)
        return refs

    def same(self, ref: OtherRef, buffer: Buffer) -> bool:
        """Whether `ref`, not released, holds the bytes of `buffer`."""
        return self._digests[ref] == _digest(buffer)

    def release(self, refs: Iterable[OtherRef]) -> None:
        """Need them no longer."""
        for ref in refs:
            if self._digests.pop(ref, None) is not None:
                self._backend.release(ref)

    abandon = release


def _digest(buffer: Buffer) -> bytes:
    import hashlib

    return hashlib.sha256(buffer).digest()
