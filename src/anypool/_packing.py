"""Envelopes and replies as plain tuples of bytes, for workers that do not share the caller's memory.

::

    envelope: (head, large fn or None, start, column, length, budget, look_every, where its ticket is or None,
               whether that notes the time of each item)
    head:     (backend, inner threads, surroundings key and bytes, initializer key and parcel, job key, fn or None,
               style, keep_going, observed, whether large buffers may stay in this machine's memory), in one pickle
    reply:    (column, seconds, worker fields, None or what is rare:
               ({offset: Raised}, events, random_used, Raised or None, receipts))

The head is the same for all chunks of a map, and for the submitted calls of a function while nothing changes around
them: it is packed once, and a worker that has seen it finds what it made of it by its bytes.

Any native pool's pickler takes bytes, str and numbers, and none looks inside.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from anypool import _wire
from anypool._envelope import Envelope, Initializer, Job, Reply, Surroundings, Worker
from anypool._weight import HEAVIEST_CHUNK
from anypool.errors import SendError

if TYPE_CHECKING:
    from anypool._chunks import Plan
    from anypool._segments import Ref
    from anypool._segments_owner import Segments
    from anypool._tickets import Ref as TicketRef
    from anypool._tickets import Seen, Stub
    from anypool._wire import Store

__all__ = [
    "begin_ticket",
    "claim_reply",
    "extent",
    "head_of",
    "is_small",
    "keep_reply",
    "kept_reply",
    "pack",
    "pack_call",
    "pack_head",
    "pack_note",
    "pack_reply",
    "pack_surroundings",
    "parcels_of",
    "unpack",
    "unpack_note",
    "unpack_reply",
    "weigh_reply",
    "with_ticket",
]

_KEPT = 32
_SMALL_FUNCTION = 65_536
_PLAIN = 1 << 20  # bytes that may be kept until the last of a chunk's values has gone out
_LARGE_KEPT = 2  # a worker must not hold the data of every map that it ever took part in


def pack_surroundings(around: Surroundings) -> bytes:
    """`around` as bytes."""
    return pickle.dumps(around, _wire.PROTOCOL)


def pack_head(job: Job, around_bytes: bytes, *, keeps_buffers: bool) -> bytes:
    """What is the same for all envelopes of `job`; `keeps_buffers`: there is a store for those of the replies, too."""
    around = job.around
    own_process = around.exclusive and not around.in_caller
    head = (
        around.backend,
        around.inner_threads if own_process else None,
        around.key,
        around_bytes,
        (job.initializer.key, job.initializer.parcel) if job.initializer else None,
        job.key,
        job.fn if is_small(job.fn) else None,
        job.style,
        job.keep_going,
        job.observed,
        keeps_buffers and not around.remote,
    )
    return pickle.dumps(head, _wire.PROTOCOL)


def is_small(fn: Any) -> bool:
    """Whether a function, packed, travels in the head."""
    return type(fn) is bytes and len(fn) < _SMALL_FUNCTION


def pack(
    job: Job,
    head: bytes,
    start: int,
    items: Sequence[Any],
    plan: Plan | None = None,
    store: Store | None = None,
) -> tuple[Any, ...]:
    """An envelope as a tuple of bytes; an item that cannot be sent will raise `SendError` in its place.

    Of a chunk that may be handed back in part only the first items are packed, if they are large: see `extent`.
    With `store`, large buffers go into it.
    """

    def refuse(offset: int, why: SendError) -> bytes:
        if job.style == "call":
            return _wire.refusal(_wire.explain_call(*items[offset]) or why)
        return _wire.refusal(SendError(f"the argument of item {start + offset}: {why}"))

    if job.style == "call":
        return pack_call(job, head, start, _wire.pack_call(items[0], refuse, store))
    fn = None if is_small(job.fn) else job.fn
    assert plan is not None
    heaviest = None if plan.budget is None else HEAVIEST_CHUNK
    column = _wire.pack_column(items, refuse, store, heaviest)
    length = len(items) if type(column) is bytes else len(column)
    return (head, fn, start, column, length, plan.budget, plan.look_every, None, False)


def pack_call(job: Job, head: bytes, start: int, column: _wire.Column) -> tuple[Any, ...]:
    """The envelope of one submitted call, whose arguments are packed in `column`."""
    return (head, None if is_small(job.fn) else job.fn, start, column, 1, None, 1, None, False)


def with_ticket(packed: tuple[Any, ...], ref: TicketRef, *, timed: bool) -> tuple[Any, ...]:
    """The same envelope, whose worker is to note what comes of it in the ticket at `ref`."""
    return (*packed[:-2], ref, timed)


def begin_ticket(packed: tuple[Any, ...]) -> Stub | None:
    """Note, before anything is unpacked, that this worker has come to the envelope; where to note more.

    Raises
    ------
    Revoked
        It came too late.
    BegunBefore
        Another worker had it, and it must not run twice.
    """
    ref, timed = packed[-2:]
    if ref is None:
        return None
    from anypool._tickets import open_ticket

    stub = open_ticket(ref)
    if stub is not None:
        stub.begin(ref[-1], timed=timed)
    return stub


def extent(packed: tuple[Any, ...]) -> tuple[int, int]:
    """How many items are in an envelope, and how many bytes they are."""
    return packed[4], _wire.weigh_column(packed[3])


def weigh_reply(packed: tuple[Any, ...]) -> int:
    """How many bytes the values in a reply are."""
    return _wire.weigh_column(packed[0])


class Head:
    """What a worker thread makes of the head of an envelope.

    Attributes
    ----------
    backend : str
        Its name.
    inner_threads : int or None
        How many threads BLAS may use, where the process is the pool's own; set before the function is unpacked.
    is_observed, keeps_buffers : bool
        Somebody watches the calls; large buffers of replies may stay in this machine's memory.
    """

    def __init__(self, data: bytes) -> None:
        backend, threads, around_key, around, initializer, key, fn, *rest, observed, keeps_buffers = pickle.loads(data)
        self.backend: str = backend
        self.inner_threads: int | None = threads
        self.is_observed = observed is not None
        self.keeps_buffers: bool = keeps_buffers
        self._around: tuple[str, bytes] = (around_key, around)
        self._fn: bytes | None = fn
        self._initializer = None if initializer is None else Initializer(key=initializer[0], parcel=initializer[1])
        self._rest = (key, *rest, observed)
        self._job: Job | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether the function was loaded before, and serves again."""
        return self._job is not None

    def job(self, large_fn: _wire.Parcel | None) -> Job:
        """The job, with its function.

        A map's function is unpacked once. So is a plain function that is submitted again and again; but not what holds
        data, a partial or a bound method, of which each submitted call gets its own.

        Raises
        ------
        SendError
            The function cannot be rebuilt here.
        """
        if self._job is not None:
            return self._job
        around_key, around_bytes = self._around
        around = _unpacked.around.get(around_key)
        if around is None:
            around = _keep(_unpacked.around, around_key, pickle.loads(around_bytes), _KEPT)
        key, style, keep_going, observed = self._rest
        fn, is_kept = self._function(key, style, large_fn)
        job = Job(
            key=key,
            fn=fn,
            style=style,
            keep_going=keep_going,
            around=around,
            initializer=self._initializer,
            observed=observed,
        )
        if is_kept and large_fn is None:
            self._job = job
        return job

    def _function(self, key: str, style: str, large_fn: _wire.Parcel | None) -> tuple[Callable[..., Any], bool]:
        """The function, and whether it serves further calls."""
        parcel = self._fn if large_fn is None else large_fn
        assert parcel is not None
        known_as = parcel if style == "call" and type(parcel) is bytes else key
        functions = _unpacked.functions if large_fn is None else _unpacked.large_functions
        fn = functions.get(known_as)
        if fn is not None:
            return fn, True
        fn = _wire.loads(parcel)
        is_kept = style != "call" or (large_fn is None and _wire.holds_nothing(fn))
        if is_kept:
            _keep(functions, known_as, fn, _KEPT if large_fn is None else _LARGE_KEPT)
        return fn, is_kept


class _Unpacked(threading.local):
    """What a worker thread has unpacked. By thread, so that two of a pool that isolates calls share no function."""

    def __init__(self) -> None:
        self.heads: dict[bytes, Head] = {}
        self.around: dict[str, Surroundings] = {}
        self.functions: dict[str | bytes, Callable[..., Any]] = {}
        self.large_functions: dict[str | bytes, Callable[..., Any]] = {}


_unpacked = _Unpacked()


def head_of(packed: tuple[Any, ...]) -> Head:
    """What is the same for this envelope and others; nothing of the user's is unpacked yet."""
    head = _unpacked.heads.get(packed[0])
    return _keep(_unpacked.heads, packed[0], Head(packed[0]), _KEPT) if head is None else head


def parcels_of(packed: tuple[Any, ...]) -> tuple[_wire.Parcel, _wire.Column]:
    """The function and the items in `packed`, as they travel."""
    fn = pickle.loads(packed[0])[6] if packed[1] is None else packed[1]
    return fn, packed[3]


def unpack(packed: tuple[Any, ...], head: Head) -> Envelope:
    """The envelope in `packed`, whose head it is.

    Raises
    ------
    SendError
        The function cannot be rebuilt here.
    """
    _, large_fn, start, column, length, budget, look_every, _, timed = packed
    return Envelope(head.job(large_fn), start, _wire.unpack_column(column), length, budget, look_every, timed)


def _keep(kept: dict[Any, Any], key: Any, value: Any, at_most: int) -> Any:
    while len(kept) >= at_most:
        kept.pop(next(iter(kept)))
    kept[key] = value
    return value


_segments: Segments | None = None  # of this process, as its pages are; used again from chunk to chunk


def _store_results(buffers: list[pickle.PickleBuffer]) -> Sequence[Ref] | None:
    """Keep large results of this worker until the caller has read them."""
    global _segments
    if _segments is None:
        from anypool._segments_owner import Segments

        _segments = Segments()
    return _segments.store(buffers)


def claim_reply(packed: Any) -> None:
    """Make sure of the large buffers of a reply as soon as it has arrived: its worker may end at any time."""
    if type(packed) is tuple:
        _wire.claim_column(packed[0])


def pack_reply(reply: Reply, to: Head) -> tuple[Any, ...]:
    """`reply` as a tuple of bytes; `to` is the head of the envelope that it answers."""
    store = _store_results if to.keeps_buffers else None
    unsendable: dict[int, SendError] = {}

    def refuse(offset: int, why: SendError) -> bytes:
        unsendable[offset] = SendError(f"the result: {why}")
        return _wire.refusal(why)

    column: _wire.Column
    if reply.pickles:
        rest = reply.values[reply.pickled :]
        last = _wire.pack_column(rest, lambda offset, why: refuse(offset + reply.pickled, why), store)
        column = (*reply.pickles, last)
    else:
        column = _wire.pack_column(reply.values, refuse, store)
    if reply.receipts is not None:
        from anypool._observed import complete

        reply.receipts = complete(reply.receipts, column)
    rare = None
    if reply.errors or unsendable or reply.events or reply.random_used or reply.broken is not None or reply.receipts:
        rare = _pack_rare(reply, {**reply.errors, **unsendable})
    return (column, reply.seconds, _fields(reply.worker), rare)


def _fields(worker: Worker) -> tuple[str, str, int, str]:
    return (worker.backend, worker.host, worker.pid, worker.thread)


@lru_cache(maxsize=64)
def _worker(*fields: Any) -> Worker:
    return Worker(*fields)


def _pack_rare(reply: Reply, errors: dict[int, BaseException]) -> tuple[Any, ...]:
    """What most replies have nothing of."""
    from anypool._raised_pack import pack as pack_raised

    raised = {offset: pack_raised(exc, _wire.dumps) for offset, exc in errors.items()}
    for exc in reply.errors.values():
        exc.__traceback__ = None  # frees the frames, and what they hold, before the next chunk
    broken = None if reply.broken is None else pack_raised(reply.broken, _wire.dumps)
    return (raised, reply.events, tuple(reply.random_used), broken, reply.receipts)


def unpack_reply(packed: tuple[Any, ...]) -> Reply:
    """The reply in `packed`; a value that cannot be rebuilt here becomes the `SendError` of its item."""
    column, seconds, fields, rare = packed
    reply = Reply([], {}, [], seconds, _worker(*fields))
    if rare is not None:
        from anypool._raised_unpack import unpack as unpack_raised

        raised, reply.events, reply.random_used, broken, reply.receipts = rare
        reply.errors = {offset: unpack_raised(each, _wire.loads) for offset, each in raised.items()}
        reply.broken = None if broken is None else unpack_raised(broken, _wire.loads)
    _unpack_values(column, reply)
    return reply


def _unpack_values(column: _wire.Column, reply: Reply) -> None:
    if type(column) is bytes:
        reply.values = pickle.loads(column)
        reply.is_plain = len(column) <= _PLAIN
        return
    values = reply.values
    parts = column if type(column) is tuple else (column,)
    pickles = [part for part in parts if isinstance(part, bytes)]
    if len(pickles) == len(parts):
        for part in pickles:
            values.extend(pickle.loads(part))
        reply.is_plain = sum(map(len, pickles)) <= _PLAIN
        return
    rebuilt = iter(_wire.unpack_column(column))
    while True:
        try:
            values.extend(rebuilt)
            return
        except SendError as exc:
            reply.errors.setdefault(len(values), SendError(f"the result {exc}"))
            values.append(None)


def keep_reply(stub: Stub, packed: tuple[Any, ...]) -> None:
    """Keep the reply in the ticket of its chunk, if that may get lost; not what refers to memory of this process."""
    if stub.keeps_reply and not _wire.refers_to_memory(packed[0]):
        stub.keep(pickle.dumps(packed, _wire.PROTOCOL))


def kept_reply(seen: Seen | None) -> Any:
    """The reply that the ticket of a lost worker kept, packed; None if there is none."""
    return None if seen is None or seen.reply is None else pickle.loads(seen.reply)


class _TooLargeError(Exception):
    """A buffer that would have to be copied twice."""


def pack_note(
    values: Sequence[Any], errors: dict[int, BaseException], events: Sequence[Any], worker: Worker
) -> tuple[bytes, bytes | None] | None:
    """What a few items of a chunk came to, for its ticket, and all their values in one pickle, if that is there.

    None if their large buffers should rather go home now.
    """
    if not errors and not events and (whole := _wire.pack_as_one(values)) is not None:
        return whole, whole

    def refuse(offset: int, why: SendError) -> bytes:
        errors[offset] = SendError(f"the result: {why}")
        return _wire.refusal(why)

    try:
        column = _wire.pack_column(values, refuse, _refuse_large)
    except _TooLargeError:
        return None
    rare = None
    if errors or events:
        from anypool._raised_pack import pack as pack_raised

        raised = {offset: pack_raised(exc, _wire.dumps) for offset, exc in errors.items()}
        rare = (raised, events, _fields(worker))
    return pickle.dumps((column, rare), _wire.PROTOCOL), column if isinstance(column, bytes) else None


def _refuse_large(_buffers: Sequence[pickle.PickleBuffer]) -> None:
    raise _TooLargeError


def unpack_note(note: bytes) -> Reply:
    """What `pack_note` packed."""
    unpickled = pickle.loads(note)
    reply = Reply([], {}, [], 0.0, _worker("", "", 0, ""))
    if type(unpickled) is list:
        reply.values = unpickled
        return reply
    column, rare = unpickled
    if rare is not None:
        from anypool._raised_unpack import unpack as unpack_raised

        raised, events, fields = rare
        reply.errors = {offset: unpack_raised(each, _wire.loads) for offset, each in raised.items()}
        reply.events, reply.worker = list(events), _worker(*fields)
    _unpack_values(column, reply)
    return reply
