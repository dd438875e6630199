"""A handle on one object for all calls: small when pickled, and on each worker the same object in every call.

::

    ex.share(obj) ──> Content, of the caller's process <── Shared ──pickled: key and Ticket──> Shared, of a call
                        (memory that workers share,                                              │ get()
                         or data that Dask holds, or the object itself)                          v
                                                           Content, of the worker's process: opened and rebuilt once

What a shared object holds in buffers, as arrays do, is read-only on every backend. Were it writable, what a call
changes would be seen by those calls that happen to run on the same worker, and an answer would depend on their number.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from anypool import _wire
from anypool.errors import ExecutorClosed, SendError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from anypool._segments import Buffer, OtherRef, Ref
    from anypool._segments_cache import Keeper

__all__ = [
    "Content",
    "Shared",
    "Ticket",
    "drop_released",
    "forget_here",
    "keep_here",
    "loads_read_only",
    "make_ticket",
    "open_frames",
]

_T = TypeVar("_T")

_OF_ITS_OWN = 65_536  # a frame of so many bytes is stored alone; smaller ones go together
_INLINE = 512  # what is smaller than this as a whole travels in the handle
_MOST_ALONE = 16  # frames stored alone: each takes a descriptor of the caller, and one of each worker
_ALIGNED = 64


class Ticket(NamedTuple):
    """Where a worker finds the frames of a shared object: in `refs`, or, at index -1, in `small`."""

    small: bytes
    refs: tuple[Ref, ...]
    places: tuple[tuple[int, int, int], ...]  # index, start and length of each frame

    @property
    def others(self) -> list[OtherRef]:
        """Those refs that a call has to bring along."""
        return [ref for ref in self.refs if type(ref) is not tuple]  # type: ignore[misc]


def make_ticket(frames: Sequence[Buffer], needs: Sequence[OtherRef], keeper: Keeper[Any] | None) -> Ticket:
    """Store `frames` for all workers. Without a keeper, or one that has room, all of it travels in the handle.

    `needs` are refs of other shared objects that this one refers to.
    """
    views = [PickleBuffer(frame).raw() for frame in frames]
    threshold = _OF_ITS_OWN if sum(view.nbytes >= _OF_ITS_OWN for view in views) <= _MOST_ALONE else 1 << 62
    alone: list[Buffer] = []
    together = bytearray()
    places: list[tuple[int, int, int]] = []
    for view in views:
        if view.nbytes >= threshold:
            places.append((len(alone), 0, view.nbytes))
            alone.append(view)
        else:
            together += bytes(-len(together) % _ALIGNED)
            places.append((-1, len(together), view.nbytes))
            together += view
    if len(together) > _INLINE:
        places = [(len(alone) if index < 0 else index, start, size) for index, start, size in places]
        alone.append(memoryview(together))
        together = bytearray()
    if not alone:
        return Ticket(bytes(together), tuple(needs), tuple(places))
    refs = None if keeper is None else keeper.keep(alone)
    if refs is None:
        return _all_inline(views, needs)
    return Ticket(bytes(together), (*refs, *needs), tuple(places))


def _all_inline(views: Sequence[memoryview], needs: Sequence[OtherRef]) -> Ticket:
    places, start = [], 0
    for view in views:
        places.append((-1, start, view.nbytes))
        start += view.nbytes
    return Ticket(b"".join(views), tuple(needs), tuple(places))


def loads_read_only(frames: Sequence[Buffer]) -> Any:
    """The object that is apart in `frames`, over their memory, which it cannot write to."""
    return _wire.loads_apart([memoryview(frame).toreadonly() for frame in frames])


class Content(Generic[_T]):
    """One shared object, as this process has it.

    Parameters
    ----------
    key : str
        Names the executor and the content.
    load : callable
        Makes the object, at the first `get`.
    ticket : Ticket, optional
        How other processes get it; None where only this one can.
    is_released : callable, optional
        Tells, on a worker, whether the caller needs it no longer.
    """

    def __init__(
        self,
        key: str,
        load: Callable[[], _T],
        *,
        ticket: Ticket | None = None,
        is_released: Callable[[], bool] | None = None,
    ) -> None:
        self.key = key
        self.ticket = ticket
        self.is_released = is_released
        self.is_closed: bool = False
        self.pid: int = os.getpid()
        self._lock = threading.RLock()
        self._load: Callable[[], _T] | None = load
        self._value: _T | None = None

    def get(self) -> _T:
        """The object: the same one each time."""
        if self._load is None and not self.is_closed:  # the usual case: it is there
            return self._value  # type: ignore[return-value]
        with self._lock:
            if self.is_closed:
                raise closed()
            if self._load is not None:
                self._value = self._load()
                self._load = None
            return self._value  # type: ignore[return-value]

    def close(self) -> None:
        """Let go of it; who has the object keeps it."""
        self.is_closed = True
        self._value = self._load = None


def closed() -> ExecutorClosed:
    """What is raised for a handle on nothing."""
    return ExecutorClosed("this shared object is gone: its handle was closed, or the executor that shared it shut down")


class Shared(Generic[_T]):
    """A handle on an object that is the same for all calls, made by `PoolExecutor.share`.

    It is passed like any other argument, also inside of others, in a partial or a closure. A call gets the object by
    `get`; nothing else becomes of the handle on its way, as nothing does of any argument.
    """

    __slots__ = ("__weakref__", "_content", "_end", "_is_closed")

    def __init__(self, content: Content[_T], end: Callable[[], object] | None = None) -> None:
        self._content = content
        self._end = end
        self._is_closed = False

    def get(self) -> _T:
        """The object, read-only: in a call on any backend, and in the caller.

        Raises
        ------
        ExecutorClosed
            The handle was closed, or the executor that shared the object shut down.
        """
        if self._is_closed:
            raise closed()
        return self._content.get()

    def close(self) -> None:
        """Free the object, unless it was shared once more; who got it keeps it. Without effect inside a call."""
        if self._end is not None:
            self._is_closed = True
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        content = self._content
        if self._is_closed or content.is_closed:  # the call that asks it shall fail, as where nothing is pickled
            return _closed_handle, ()
        if content.ticket is not None:
            _wire.note(content.ticket.others)
        return _arrive, (content.key, content.ticket)

    def __repr__(self) -> str:
        state = ", closed" if self._is_closed or self._content.is_closed else ""
        return f"<anypool shared object {self._content.key[-12:]}{state}>"


# What this process has: of its own executors, and of those that it works for. A worker keeps it until it is released.
_here: dict[str, Content[Any]] = {}
_lock = threading.Lock()


def keep_here(content: Content[Any]) -> None:
    """Let handles that arrive in this process find `content`."""
    with _lock:
        _here[content.key] = content


def forget_here(content: Content[Any]) -> None:
    """The opposite of `keep_here`."""
    _here.pop(content.key, None)  # without the lock: a finalizer may come while this thread has it


def _arrive(key: str, ticket: Ticket | None) -> Shared[Any]:
    """The handle in another process, or in another call."""
    content = _here.get(key)
    if content is not None and content.pid == os.getpid():
        return Shared(content)
    if ticket is None:
        raise SendError(
            "an object that was shared by an executor whose calls run in the caller's process cannot be sent to "
            "another; share it with the executor that runs the call"
        )
    with _lock:
        content = _here.get(key)
        if content is None or content.pid != os.getpid():
            content = _open(key, ticket)
            if not content.is_closed:
                _here[key] = content
    return Shared(content)


def _closed_handle() -> Shared[Any]:
    content: Content[Any] = Content("", lambda: None)
    content.close()
    return Shared(content)


def open_frames(ticket: Ticket) -> list[memoryview]:
    """The frames of a shared object, not copied.

    Raises
    ------
    SendError
        They are gone.
    """
    from anypool._segments_reader import look_at

    buffers = [memoryview(ticket.small), *map(look_at, ticket.refs)]
    return [buffers[index + 1][start : start + size] for index, start, size in ticket.places]


def _open(key: str, ticket: Ticket) -> Content[Any]:
    """What a worker has of a shared object: its memory, while that is sure to be there, and the object when asked."""
    from anypool._segments_reader import watch

    try:
        frames = open_frames(ticket)
        is_released = watch(ticket.refs[0]) if ticket.refs else None
    except SendError:
        return _closed_handle()._content
    return Content(key, lambda: loads_read_only(frames), ticket=ticket, is_released=is_released)


def drop_released() -> None:
    """Let go of what the callers of this worker need no longer."""
    for content in list(_here.values()):
        if content.is_released is not None and content.is_released():
            _here.pop(content.key, None)
