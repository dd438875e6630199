"""What one executor shares with its calls: stored once, counted, and freed with the last handle or the executor."""

from __future__ import annotations

import hashlib
import sys
import threading
import weakref
from collections.abc import Sequence
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any, TypeVar

from anypool import _wire
from anypool._share import Content, Shared, forget_here, keep_here, loads_read_only, make_ticket, open_frames
from anypool.errors import ExecutorClosed, SendError

if TYPE_CHECKING:
    from anypool._segments import Buffer, OtherRef
    from anypool._segments_cache import Keeper
    from anypool.backend import Traits

__all__ = ["Shares"]

_T = TypeVar("_T")


class Shares:
    """The shared objects of one executor. Thread-safe; also for finalizers, which come inside any allocation.

    Parameters
    ----------
    key : str
        Unique to the executor.
    keeper : Keeper, optional
        Where they are stored for workers of other processes.
    traits : Traits
        Of the backend.
    """

    def __init__(self, key: str, keeper: Keeper[Any] | None, traits: Traits) -> None:
        self._key = key
        self._keeper = keeper
        self._shares_memory = traits.shares_memory
        self._in_caller = traits.in_caller
        self._is_local = not (traits.in_caller or traits.remote)
        self._lock = threading.RLock()
        self._handles: dict[Content[Any], int] = {}  # how many handles there are on each
        self._by_key: dict[str, Content[Any]] = {}
        self._is_closed = False

    def share(self, obj: _T) -> Shared[_T]:
        """A handle on `obj`, or on what is equal to it byte by byte and is shared already.

        Raises
        ------
        SendError
            It cannot be pickled, and the workers are elsewhere.
        """
        obj = _contiguous(obj)
        content: Content[_T] = self._in_memory(obj) if self._shares_memory else self._stored(obj)
        with self._lock:
            if self._is_closed:
                self._free(content)
                raise ExecutorClosed("cannot share anything after shutdown; make another executor")
            self._handles[content] = self._handles.get(content, 0) + 1
        handle = Shared(content)
        end = weakref.finalize(handle, self._end_one, content)
        end.atexit = False
        handle._end = end
        return handle

    def _in_memory(self, obj: _T) -> Content[_T]:
        """`obj` itself; if it holds buffers, as it is elsewhere: over the same memory, but not to be written to."""
        value = obj
        try:
            frames, _ = _wire.dumps_apart(obj)
        except SendError:  # it need not be sent
            frames = []
        if len(frames) > 1:
            value = loads_read_only(frames)
        return Content(f"{self._key}.{id(value):x}", lambda: value)

    def _stored(self, obj: object) -> Content[Any]:
        frames, needs = _wire.dumps_apart(obj)
        key = f"{self._key}.{_digest(frames)}"
        with self._lock:
            known = self._by_key.get(key)
            if known is not None and not known.is_closed:
                return known
            content = self._kept(key, frames, needs) if self._is_local else self._copied(key, frames, needs)
            self._by_key[key] = content
        return content

    def _kept(self, key: str, frames: Sequence[Buffer], needs: Sequence[OtherRef]) -> Content[Any]:
        """For other processes of this machine: the caller, too, has it from the memory that they share."""
        ticket = make_ticket(frames, needs, self._keeper)
        content: Content[Any] = Content(key, lambda: loads_read_only(open_frames(ticket)), ticket=ticket)
        keep_here(content)
        return content

    def _copied(self, key: str, frames: Sequence[Buffer], needs: Sequence[OtherRef]) -> Content[Any]:
        """For calls in this process that share nothing with the caller, and for those that are elsewhere."""
        copies = [bytes(PickleBuffer(frame).raw()) for frame in frames]
        ticket = None if self._in_caller else make_ticket(copies, needs, self._keeper)
        content: Content[Any] = Content(key, lambda: loads_read_only(copies), ticket=ticket)
        keep_here(content)
        return content

    def _end_one(self, content: Content[Any]) -> None:
        with self._lock:
            count = self._handles.get(content, 0) - 1
            if count > 0:
                self._handles[content] = count
                return
            self._handles.pop(content, None)
            self._free(content)

    def _free(self, content: Content[Any]) -> None:
        if content in self._handles or content.is_closed:
            return
        content.close()
        forget_here(content)
        if self._by_key.get(content.key) is content:
            del self._by_key[content.key]
        if content.ticket is not None and self._keeper is not None:
            self._keeper.abandon(content.ticket.refs)

    def close(self) -> None:
        """Free all of them, whatever handles there are."""
        with self._lock:
            self._is_closed = True
            contents = list(self._handles)
            self._handles.clear()
            for content in contents:
                self._free(content)


def _digest(frames: Sequence[Buffer]) -> str:
    digest = hashlib.sha256()
    for frame in frames:
        with PickleBuffer(frame).raw() as data:
            digest.update(data.nbytes.to_bytes(8, "little"))
            digest.update(data)
    return digest.hexdigest()


def _contiguous(obj: Any) -> Any:
    """An array that NumPy would pickle as a copy, which could be written to: as one that it need not copy again."""
    numpy = sys.modules.get("numpy")
    if numpy is None or type(obj) is not numpy.ndarray or obj.dtype.hasobject:
        return obj
    flags = obj.flags
    return obj if flags.c_contiguous or flags.f_contiguous else obj.copy()
