"""`run(envelope) -> reply`: all that ever runs on a worker, on every backend.

::

    payload ──unpack──> Envelope(job, start, items) ──> each item in its own copy of the context ──> Reply ──pack──>

It never raises what the user's function raised: that travels inside the reply. So what a backend's future raises is
the pool's own trouble.
"""

from __future__ import annotations

import contextvars
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any

from anypool import _wire
from anypool._context_apply import apply, leave_nothing
from anypool._current import Running, running, this_worker
from anypool._envelope import Envelope, Initializer, Job, Reply, Surroundings
from anypool._frames import without_ours
from anypool._packing import begin_ticket, head_of, keep_reply, pack_note, pack_reply, unpack
from anypool._refused import Revoked
from anypool._relay import Capture, install_for_good
from anypool._seeds import enter_call
from anypool._weight import HEAVIEST_CHUNK, weigh_all
from anypool.errors import SendError

if TYPE_CHECKING:
    from anypool._seeds_globals import GlobalSeeds
    from anypool._seeds_watch import GlobalWatch
    from anypool._tickets import Stub

__all__ = ["run"]

# With none of these loaded there is no BLAS or OpenMP to limit, and no need to look for one.
_COUNT_THREADS = frozenset({"numpy", "scipy", "torch", "sklearn", "numba", "mkl"})

# Of a longer chunk than this, what its items came to is noted for as many at once as take so many seconds: a note
# takes some 3 microseconds. Calls that take longer than that time are noted one by one.
_NOTED_SINGLY = 128
_NOTE_AFTER = 0.000_05
_NOTED_AT_ONCE = 1024
_GROUPS_KEPT = 32


def run(payload: Any) -> Any:
    """Run one chunk: the only function that anypool ever gives to a backend.

    Parameters
    ----------
    payload : Envelope or packed envelope
        Itself where the backend shares memory; else what `pack` made.

    Returns
    -------
    Reply or packed reply
        To match.

    Raises
    ------
    BegunBefore
        Another worker had it before, and it must not run twice.
    """
    if type(payload) is not tuple:
        return _run(payload)
    head = head_of(payload)
    entered = perf_counter() if head.is_observed else None
    try:
        stub = begin_ticket(payload)
    except Revoked:
        return pack_reply(Reply([], {}, [], 0.0, this_worker(head.backend)), head)
    if "anypool._share" in sys.modules:
        sys.modules["anypool._share"].drop_released()
    if head.inner_threads is not None and head.inner_threads != _settled_for:
        _settle_process(head.inner_threads)
    if not head.is_loaded:
        leave_nothing()
    try:
        envelope = unpack(payload, head)
    except SendError as exc:  # the function cannot be rebuilt here: so said for the first item
        reply = Reply([None], {0: exc}, [], 0.0, this_worker(head.backend))
    else:
        reply = _run(envelope, entered, stub)
    packed = pack_reply(reply, head)
    if stub is not None:
        keep_reply(stub, packed)
    return packed


def _run(envelope: Envelope, entered: float | None = None, stub: Stub | None = None) -> Reply:
    job = envelope.job
    around = job.around
    reply = Reply([], {}, [], 0.0, this_worker(around.backend))
    if job.initializer is not None:
        reply.broken = _initialize(job.initializer)
        if reply.broken is not None:
            return reply
    position = reply.values.__len__
    capture = None if around.relay is None else Capture(around.relay, position)
    with _applied(around) as context, capture or _NOTHING, _rare(around) as globals_of:
        context.run(_begin, Running(job, envelope.start, position), capture)
        watch = _watch(job)
        call = _by_style(job) if around.seed is None else _seeded(envelope, position, globals_of)
        receipts = notes = None
        if job.observed is not None:
            from anypool._observed import observe

            call, receipts = observe(call, job, envelope.start, position, entered)
        if stub is not None:
            if envelope.timed:
                call = _timed(call, stub, position)
            if envelope.length > 1:
                singly = envelope.timed or envelope.length <= _NOTED_SINGLY
                notes = _Notes(stub, reply, capture, None if singly else job.key)
        started = perf_counter()
        _run_items(call, envelope, context, reply, notes)
        reply.seconds = perf_counter() - started
        if notes is not None:
            notes.end()
            if receipts is None:  # which tell the size of each result
                reply.pickles, reply.pickled = notes.pickles, notes.pickled
        if watch is not None:
            reply.random_used = watch.used()
    if capture is not None:
        reply.events = capture.events
    if receipts is not None:
        reply.receipts = receipts.pack()
    return reply


def _begin(chunk: Running, capture: Capture | None) -> None:
    """Say in the calls' context which they are, and whose output theirs is."""
    running.set(chunk)
    enter_call(None, 0)
    if capture is not None:
        capture.become_current()


_NOTHING = nullcontext()
"""What is entered where there is nothing to be done."""


def _rare(around: Surroundings) -> AbstractContextManager[GlobalSeeds | None]:
    """What few calls need: BLAS limited, the global generators seeded; the latter, where they are the calls' own."""
    limits = around.inner_threads not in (None, _limited_to) and _counts_threads()
    seeds = around.seed is not None and around.exclusive
    return _entered(around, limits=limits, seeds=seeds) if limits or seeds else _NOTHING


@contextmanager
def _entered(around: Surroundings, *, limits: bool, seeds: bool) -> Iterator[GlobalSeeds | None]:
    with _limited(around) if limits else _NOTHING:
        if not seeds:
            yield None
            return
        from anypool._seeds_globals import GlobalSeeds

        assert around.seed is not None
        with GlobalSeeds(around.seed) as globals_of:
            yield globals_of


def _limited(around: Surroundings) -> AbstractContextManager[object]:
    """BLAS and OpenMP with the threads that they may have, where their environment came too late to say it."""
    from anypool._inner_threads import keep_inner_threads, limit_inner_threads

    assert around.inner_threads is not None
    if around.exclusive and not around.in_caller:
        keep_inner_threads(around.inner_threads)
        return _NOTHING
    return limit_inner_threads(around.inner_threads)


def _counts_threads() -> bool:
    return bool(sys.modules.keys() & _COUNT_THREADS)


def _applied(around: Surroundings) -> AbstractContextManager[contextvars.Context]:
    """The context that each call gets a copy of."""
    if around.context is None:
        return nullcontext(contextvars.copy_context() if around.in_caller else contextvars.Context())
    own_process = around.exclusive and not (around.in_caller or around.remote)
    return apply(
        around.context,
        exclusive=around.exclusive,
        in_caller=around.in_caller,
        stays=own_process,
        loads=_wire.loads,
    )


def _watch(job: Job) -> GlobalWatch | None:
    """The watch, begun, over undeclared use of the global generators, where whatever draws from them must be a call."""
    around = job.around
    # The caller has threads of its own.
    if job.style == "call" or around.seed is not None or not around.exclusive:
        return None
    if around.in_caller and threading.active_count() > 1:
        return None
    from anypool._seeds_watch import GlobalWatch

    watch = GlobalWatch()
    watch.start()
    return watch


def _seeded(envelope: Envelope, position: Callable[[], int], globals_of: GlobalSeeds | None) -> Callable[[Any], Any]:
    """The function of one item, with the item's own generators."""
    call, seed, start = _by_style(envelope.job), envelope.job.around.seed, envelope.start

    def seeded(item: Any) -> Any:
        index = start + position()
        enter_call(seed, index)
        if globals_of is not None:
            globals_of.start(index)
        return call(item)

    return seeded


def _by_style(job: Job) -> Callable[[Any], Any]:
    fn = job.fn
    assert not isinstance(fn, (bytes, tuple))
    if job.style == "one":
        return fn
    if job.style == "star":
        return lambda item: fn(*item)
    return lambda item: fn(*item[0], **item[1])


def _timed(call: Callable[[Any], Any], stub: Stub, position: Callable[[], int]) -> Callable[[Any], Any]:
    """`call`, with a word before each about when it begins."""

    def timed(item: Any) -> Any:
        stub.begin_item(position())
        return call(item)

    return timed


class _Groups(dict[str, int]):
    """How many items were noted at once, last, in the maps that this process works for."""

    def keep(self, key: str, group: int) -> None:
        if len(self) >= _GROUPS_KEPT and key not in self:
            self.clear()
        self[key] = group


_groups = _Groups()


class _Notes:
    """Notes in the ticket of a chunk what its items came to, so that it survives this process.

    Each, or of a long chunk, where they are quick, several at a time, so that it stays small beside their time.
    """

    def __init__(self, stub: Stub, reply: Reply, capture: Capture | None, pace_of: str | None) -> None:
        self._stub = stub
        self._worker = reply.worker
        self._values = reply.values
        self._errors = reply.errors
        self._capture = capture
        self._noted = 0
        self._events = 0
        self._at = perf_counter()
        self._pace_of = pace_of  # the job whose chunks have one pace; None: each item is noted
        self.pickles: list[bytes] = []
        self.pickled = 0
        self.group = 1 if pace_of is None else _groups.get(pace_of, 1)

    def end(self) -> None:
        """Remember its pace for the next chunk of the same map."""
        if self._pace_of is not None:
            _groups.keep(self._pace_of, max(1, self.group // 2))

    def add(self) -> bool:
        """Note what has ended since the last time; False if there is too much of it, so that it goes home now."""
        first, end = self._noted, len(self._values)
        errors: dict[int, BaseException] = {}
        if self._errors:
            errors = {offset - first: exc for offset, exc in self._errors.items() if offset >= first}
        events: list[Any] = []
        if self._capture is not None:
            events, self._events = self._capture.events_since(self._events)
            if events:
                events = [(event[0] - first, *event[1:]) for event in events]
        packed = pack_note(self._values[first:end], errors, events, self._worker)
        if self._pace_of is not None:
            now = perf_counter()
            took, self._at = now - self._at, now
            if took < _NOTE_AFTER:
                self.group = min(2 * self.group, _NOTED_AT_ONCE)
            elif took > 4 * _NOTE_AFTER:
                self.group = max(1, self.group // 2)
        self._noted = end
        if packed is None:
            return False
        data, whole = packed
        if whole is not None and self._pace_of is not None and self.pickled == first:
            self.pickles.append(whole)
            self.pickled = end
        return self._stub.note(end - first, data, self.group)


def _run_items(
    call: Callable[[Any], Any],
    envelope: Envelope,
    context: contextvars.Context,
    reply: Reply,
    notes: _Notes | None,
) -> None:
    """Append to `reply` the value of each item, None for one that raised; stop where the budget is spent.

    The plain loop is deliberate: ``list.extend(map(...))`` would end silently at a StopIteration.
    """
    items: Iterator[Any] = iter(envelope.items)
    length, values = envelope.length, reply.values
    copy, append = _copier(context), values.append
    budget = envelope.budget
    look_every = length if budget is None else envelope.look_every
    deadline = 0.0 if budget is None else perf_counter() + budget
    done = 0
    while done < length:
        try:
            for item in islice(items, min(notes.group if notes else look_every, length - done)):
                append(copy().run(call, item))
            if len(values) == done:
                raise SendError(f"the chunk has {done} items, and not {length} as it says")
        except BaseException as exc:
            reply.errors[len(values)] = exc.with_traceback(without_ours(exc.__traceback__))
            append(None)
            item = None
            if not envelope.job.keep_going or not isinstance(exc, Exception):
                return
        if budget is not None and perf_counter() > deadline:
            return
        before, done = done, len(values)
        if notes is not None:  # which take care of what they weigh themselves
            if done < length and not notes.add():
                return
        else:
            reply.weight += weigh_all(values[before:])
            if budget is not None and reply.weight >= HEAVIEST_CHUNK:
                return


def _copier(context: contextvars.Context) -> Callable[[], contextvars.Context]:
    """What makes the context of one call; a `decimal.Context` in it is mutable, and must be copied too."""
    if "decimal" in sys.modules and "decimal_context" in [var.name for var in context]:
        from anypool._context_numbers import isolated

        return lambda: isolated(context)
    return context.copy


class _Initialized(threading.local):
    """The initializers that a worker thread has run, and what they raised."""

    def __init__(self) -> None:
        self.by_key: dict[str, BaseException | None] = {}


_initialized = _Initialized()


def _initialize(initializer: Initializer) -> BaseException | None:
    """Run `initializer` unless this worker has; return what it raised, this time or the first time."""
    if initializer.key not in _initialized.by_key:
        leave_nothing()
        try:
            fn, args = initializer.call or _wire.loads(initializer.parcel or b"")
            fn(*args)
        except BaseException as exc:
            _initialized.by_key[initializer.key] = exc.with_traceback(without_ours(exc.__traceback__))
        else:
            _initialized.by_key[initializer.key] = None
    return _initialized.by_key[initializer.key]


_limited_to: int | None = None  # set before this process loaded anything that counts threads
_settled_for: int | None = None


def _settle_process(threads: int) -> None:
    """Make a process of the pool's own a worker, before it loads the user's function and what that imports."""
    global _settled_for, _limited_to
    if _settled_for is None:
        install_for_good()
    _settled_for = threads
    from anypool._inner_threads import inner_thread_environment

    os.environ.update(inner_thread_environment(threads))
    # BLAS and OpenMP read their number when they are loaded; for what is loaded already see `limit_inner_threads`.
    if not _counts_threads():
        _limited_to = threads
