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
from contextlib import ExitStack
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any

from anypool import _wire
from anypool._current import Running, running, this_worker
from anypool._envelope import Envelope, Initializer, Job, Reply, Surroundings, Worker
from anypool._frames import without_ours
from anypool._packing import begin_ticket, inner_threads_of, is_observed, pack_note, pack_reply, unpack
from anypool.errors import SendError

if TYPE_CHECKING:
    from anypool._relay import Capture
    from anypool._seeds_watch import GlobalWatch
    from anypool._tickets import Stub

__all__ = ["run"]

# With none of these loaded there is no BLAS or OpenMP to limit, and no need to look for one.
_COUNT_THREADS = frozenset({"numpy", "scipy", "torch", "sklearn", "numba", "mkl"})

# Of a chunk so many items are noted one by one; after them as many at once as take so many seconds.
_NOTED_SINGLY = 64
_NOTE_AFTER = 0.000_05
_NOTED_AT_ONCE = 256


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
    """
    if type(payload) is not tuple:
        return _run(payload)
    entered = perf_counter() if is_observed(payload) else None
    stub = begin_ticket(payload)
    threads = inner_threads_of(payload)
    if threads is not None:
        _settle_process(threads)
    try:
        envelope = unpack(payload)
    except SendError as exc:  # the function cannot be rebuilt here: so said for the first item
        return pack_reply(Reply([None], {0: exc}, [], 0.0, this_worker(payload[0])), payload)
    return pack_reply(_run(envelope, entered, stub), payload)


def _run(envelope: Envelope, entered: float | None = None, stub: Stub | None = None) -> Reply:
    job = envelope.job
    values: list[Any] = []
    errors: dict[int, BaseException] = {}
    worker = this_worker(job.around.backend)
    assert not isinstance(job.around.initializer, bytes)
    broken = _initialize(job.around.initializer)
    if broken is not None:
        return Reply(values, errors, [], 0.0, worker, broken=broken)
    position = values.__len__
    with ExitStack() as stack:
        context = _enter_context(stack, job)
        context.run(running.set, Running(job, envelope.start, position))
        capture = _enter_capture(stack, job, context, position)
        call, watch = _enter_randomness(stack, job, context, envelope.start, position)
        receipts = None
        if job.observed is not None:
            from anypool._observed import observe

            call, receipts = observe(call, job, envelope.start, position, entered)
        if stub is not None and envelope.timed:
            call = _timed(call, stub, position)
        notes = None if stub is None or envelope.length == 1 else _Notes(stub, values, errors, capture, worker)
        started = perf_counter()
        _run_items(call, envelope, context, values, errors, notes)
        seconds = perf_counter() - started
        used = watch.used() if watch is not None else ()
    events = capture.events if capture is not None else []
    packed_receipts = None if receipts is None else receipts.pack()
    return Reply(values, errors, events, seconds, worker, random_used=used, receipts=packed_receipts)


def _enter_context(stack: ExitStack, job: Job) -> contextvars.Context:
    """The context that each call gets a copy of."""
    around = job.around
    if around.inner_threads not in (None, _limited_to) and not _COUNT_THREADS.isdisjoint(sys.modules):
        from anypool._inner_threads import limit_inner_threads

        stack.enter_context(limit_inner_threads(around.inner_threads))
    if around.context is None:
        return contextvars.copy_context() if around.in_caller else contextvars.Context()
    from anypool._context_apply import apply

    return stack.enter_context(
        apply(around.context, exclusive=around.exclusive, in_caller=around.in_caller, loads=_wire.loads)
    )


def _enter_capture(
    stack: ExitStack, job: Job, context: contextvars.Context, position: Callable[[], int]
) -> Capture | None:
    if job.around.relay is None:
        return None
    from anypool._relay import Capture

    capture = stack.enter_context(Capture(job.around.relay, position))
    capture.bind(context)
    return capture


def _enter_randomness(
    stack: ExitStack, job: Job, context: contextvars.Context, start: int, position: Callable[[], int]
) -> tuple[Callable[[Any], Any], GlobalWatch | None]:
    """The function of one item, seeded if a seed was given; else the watch over undeclared use."""
    from anypool import _seeds

    call, seed = _by_style(job), job.around.seed
    if seed is None:
        context.run(_seeds.enter_call, None, 0)
        if job.style == "call" or not _globals_are_the_calls_own(job.around):
            return call, None
        from anypool._seeds_watch import GlobalWatch

        watch = GlobalWatch()
        watch.start()
        return call, watch
    seeds = None
    if job.around.exclusive:
        from anypool._seeds_globals import GlobalSeeds

        seeds = stack.enter_context(GlobalSeeds(seed))

    def seeded(item: Any) -> Any:
        index = start + position()
        _seeds.enter_call(seed, index)
        if seeds is not None:
            seeds.start(index)
        return call(item)

    return seeded, None


def _globals_are_the_calls_own(around: Surroundings) -> bool:
    """Whether what draws from a global generator now must be a call; the caller has threads of its own."""
    return around.exclusive and not (around.in_caller and threading.active_count() > 1)


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


class _Notes:
    """Notes in the ticket of a chunk what its items came to, so that it survives this process.

    The first items each; then, where they are quick, several at a time, so that it stays small beside their time.
    """

    def __init__(
        self,
        stub: Stub,
        values: list[Any],
        errors: dict[int, BaseException],
        capture: Capture | None,
        worker: Worker,
    ) -> None:
        self._stub = stub
        self._values = values
        self._errors = errors
        self._capture = capture
        self._worker = worker
        self._noted = 0
        self._events = 0
        self._at = perf_counter()
        self.group = 1

    def add(self, *, timed: bool) -> bool:
        """Note what has ended since the last time; False if there is too much of it, so that it goes home now."""
        first, end = self._noted, len(self._values)
        errors = {offset - first: exc for offset, exc in self._errors.items() if offset >= first}
        events: list[Any] = []
        if self._capture is not None:
            events, self._events = self._capture.events_since(self._events)
            events = [(event[0] - first, *event[1:]) for event in events]
        data = pack_note(self._values[first:end], errors, events, self._worker)
        now = perf_counter()
        if end >= _NOTED_SINGLY and not timed:
            took, self._at = now - self._at, now
            if took < _NOTE_AFTER:
                self.group = min(2 * self.group, _NOTED_AT_ONCE)
            elif took > 4 * _NOTE_AFTER:
                self.group = max(1, self.group // 2)
        self._noted = end
        return data is not None and self._stub.note(end - first, data, self.group)


def _run_items(
    call: Callable[[Any], Any],
    envelope: Envelope,
    context: contextvars.Context,
    values: list[Any],
    errors: dict[int, BaseException],
    notes: _Notes | None,
) -> None:
    """Append the value of each item, None for one that raised; stop where the budget is spent.

    The plain loop is deliberate: ``list.extend(map(...))`` would end silently at a StopIteration.
    """
    items: Iterator[Any] = iter(envelope.items)
    length = envelope.length
    copy, append = _copier(context), values.append
    look_every = length if envelope.budget is None else envelope.look_every
    deadline = perf_counter() + (envelope.budget or 0.0)
    while len(values) < length:
        before = len(values)
        try:
            for item in islice(items, min(notes.group if notes else look_every, length - before)):
                append(copy().run(call, item))
            if len(values) == before:
                raise SendError(f"the chunk has {before} items, and not {length} as it says")
        except BaseException as exc:
            errors[len(values)] = exc.with_traceback(without_ours(exc.__traceback__))
            append(None)
            item = None
            if not envelope.job.keep_going or not isinstance(exc, Exception):
                return
        if envelope.budget is not None and perf_counter() > deadline:
            return
        if notes is not None and len(values) < length and not notes.add(timed=envelope.timed):
            return


def _copier(context: contextvars.Context) -> Callable[[], contextvars.Context]:
    """What makes the context of one call; a `decimal.Context` in it is mutable, and must be copied too."""
    if "decimal" in sys.modules and any(var.name == "decimal_context" for var in context):
        from anypool._context_numbers import isolated

        return lambda: isolated(context)
    return context.copy


class _Initialized(threading.local):
    """The initializers that a worker thread has run, and what they raised."""

    def __init__(self) -> None:
        self.by_key: dict[str, BaseException | None] = {}


_initialized = _Initialized()


def _initialize(initializer: Initializer | None) -> BaseException | None:
    """Run `initializer` unless this worker has; return what it raised, this time or the first time."""
    if initializer is None:
        return None
    if initializer.key not in _initialized.by_key:
        try:
            initializer.fn(*initializer.args)
        except BaseException as exc:
            _initialized.by_key[initializer.key] = exc.with_traceback(without_ours(exc.__traceback__))
        else:
            _initialized.by_key[initializer.key] = None
    return _initialized.by_key[initializer.key]


_limited_to: int | None = None  # set before this process loaded anything that counts threads
_is_settled = False


def _settle_process(threads: int) -> None:
    """Make a process of the pool's own a worker, before it loads the user's function and what that imports."""
    global _is_settled, _limited_to
    if threads == _limited_to:
        return
    if not _is_settled:
        from anypool._relay import install_for_good

        install_for_good()
        _is_settled = True
    from anypool._inner_threads import inner_thread_environment

    os.environ.update(inner_thread_environment(threads))
    # BLAS and OpenMP read their number when they are loaded; for what is loaded already see `limit_inner_threads`.
    if _COUNT_THREADS.isdisjoint(sys.modules):
        _limited_to = threads
