"""`run(envelope) -> reply`: all that ever runs on a worker, on every backend.

::

    payload ──unpack──> Envelope(job, start, items) ──> each item in its own copy of the context ──> Reply ──pack──>

It never raises what the user's function raised: that travels inside the reply. So what a backend's future
raises is the pool's own trouble. The reply is columnar, one list of values and sparse errors and events,
not an object an item: measured, 1.5 against 11 microseconds an item.
"""

from __future__ import annotations

import contextvars
import os
import pickle
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from time import perf_counter
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal

from anypool import _wire
from anypool._frames import without_ours
from anypool.errors import SendError

if TYPE_CHECKING:
    from anypool._chunks import Plan
    from anypool._context_snapshot import ContextSnapshot
    from anypool._relay import Capture
    from anypool._relay_settings import RelaySettings
    from anypool._seeds import Seed
    from anypool._seeds_watch import GlobalWatch
    from anypool._segments_owner import Segments
    from anypool._wire import Parcel, Store

__all__ = ["Envelope", "Initializer", "Job", "Reply", "Worker", "current_worker", "run"]

_KEPT = 32
_SMALL_FUNCTION = 65_536
_LARGE_KEPT = 2  # a worker must not hold the data of every map that it ever took part in
# With none of these loaded there is no BLAS or OpenMP to limit, and no need to look for one.
_COUNT_THREADS = frozenset({"numpy", "scipy", "torch", "sklearn", "numba", "mkl"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Initializer:
    """`fn(*args)`, to run once on each worker, before its first call. `key` is unique to the executor."""

    key: str
    fn: Callable[..., object]
    args: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What is the same for all calls of an executor, while nothing around them changes.

    Parameters
    ----------
    key : str
        Unique; a worker thread unpacks the surroundings once under it.
    backend : str
        Name of the backend, for `current_worker` and notes.
    exclusive, in_caller : bool
        The process runs one call at a time; it is the caller's own.
    depth : int
        How many executors deep the call runs: 1 for one of the main program.
    nested : tuple
        The backends for the levels below; empty: serial.
    initializer : Initializer or bytes, optional
        Packed on its way to a worker that shares no memory.
    seed, inner_threads, context, relay : optional
        See `_seeds`, `_inner_threads`, `_context`, `_relay`.
    """

    key: str
    backend: str
    exclusive: bool = True
    in_caller: bool = False
    depth: int = 1
    nested: tuple[Any, ...] = ()
    initializer: Initializer | bytes | None = None
    seed: Seed | None = None
    inner_threads: int | None = None
    context: ContextSnapshot | None = None
    relay: RelaySettings | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What is the same for all chunks of a map, or for one submitted call.

    Parameters
    ----------
    key : str
        Unique; a worker thread unpacks the function once under it.
    fn : callable or parcel
        The user's function; packed on its way to a worker that shares no memory.
    style : {"one", "star", "call"}
        ``fn(item)``, ``fn(*item)`` or ``fn(*item[0], **item[1])``.
    keep_going : bool
        Run the items after one that failed.
    around : Surroundings
        What does not depend on the function.
    """

    key: str
    fn: Callable[..., Any] | Parcel
    style: Literal["one", "star", "call"]
    keep_going: bool
    around: Surroundings


@dataclass(frozen=True, slots=True)
class Envelope:
    """One chunk on its way: the job, the index of its first item, its items, and how patient to be."""

    job: Job
    start: int
    items: Iterable[Any]
    length: int
    budget: float | None = None
    look_every: int = 1


@dataclass(slots=True)
class Reply:
    """What came of one chunk. Fewer values than items: the rest was not begun.

    `values` has None in the place of a call that raised; `errors` has its exception by offset; `events`
    is the relayed output, each with its offset; `seconds` is the time that the calls took.
    """

    values: list[Any]
    errors: dict[int, BaseException]
    events: list[Any]
    seconds: float
    worker: Worker
    random_used: Collection[str] = ()
    broken: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Worker:
    """Who runs a call: backend, host, process and thread.

    Attributes
    ----------
    backend : str
        Name of the backend; ``""`` outside any call.
    host : str
        Host name.
    pid : int
        Process id.
    thread : str
        Name of the thread.
    """

    backend: str
    host: str
    pid: int
    thread: str

    def __str__(self) -> str:
        backend = f"{self.backend!r} " if self.backend else ""
        return f"{backend}pid {self.pid} on {self.host}, thread {self.thread}"


@dataclass(frozen=True, slots=True)
class Running:
    """The chunk that this context is a part of; `position` gives the offset of the current item."""

    job: Job
    start: int
    position: Callable[[], int]


running: contextvars.ContextVar[Running | None] = contextvars.ContextVar("anypool_running", default=None)


def current_worker() -> Worker:
    """The worker that runs this call; outside any call, this process and thread with no backend.

    Examples
    --------
    >>> import anypool
    >>> anypool.current_worker().backend
    ''
    >>> with anypool.get_executor("serial") as ex:
    ...     ex.submit(lambda: anypool.current_worker().backend).result()
    'serial'
    """
    now = running.get()
    return _this_worker(now.job.around.backend if now else "")


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
    try:
        envelope = _unpack(payload)
    except SendError as exc:  # the function cannot be rebuilt here: so said for the first item
        return _pack_reply(Reply([None], {0: exc}, [], 0.0, _this_worker(payload[0])))
    return _pack_reply(_run(envelope), _results().store if payload[-1] else None)


def _run(envelope: Envelope) -> Reply:
    job = envelope.job
    values: list[Any] = []
    errors: dict[int, BaseException] = {}
    worker = _this_worker(job.around.backend)
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
        started = perf_counter()
        _run_items(call, envelope, context, values, errors)
        seconds = perf_counter() - started
        used = watch.used() if watch is not None else ()
    events = capture.events if capture is not None else []
    return Reply(values, errors, events, seconds, worker, random_used=used)


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


def _run_items(
    call: Callable[[Any], Any],
    envelope: Envelope,
    context: contextvars.Context,
    values: list[Any],
    errors: dict[int, BaseException],
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
            for item in islice(items, min(look_every, length - before)):
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


def _copier(context: contextvars.Context) -> Callable[[], contextvars.Context]:
    """What makes the context of one call; a `decimal.Context` in it is mutable, and must be copied too."""
    if "decimal" in sys.modules and any(var.name == "decimal_context" for var in context):
        from anypool._context_numbers import isolated

        return lambda: isolated(context)
    return context.copy


# A worker thread's own: what it unpacked, and the initializers it ran. By thread, not by process, so
# that two threads of a pool that isolates its calls do not share one function object.
class _ThreadState(threading.local):
    def __init__(self) -> None:
        self.around: dict[str, Surroundings] = {}
        self.functions: dict[str | bytes, Callable[..., Any]] = {}
        self.large_functions: dict[str | bytes, Callable[..., Any]] = {}
        self.initialized: dict[str, BaseException | None] = {}


_state = _ThreadState()


def _initialize(initializer: Initializer | None) -> BaseException | None:
    """Run `initializer` unless this worker has; return what it raised, this time or the first time."""
    if initializer is None:
        return None
    if initializer.key not in _state.initialized:
        try:
            initializer.fn(*initializer.args)
        except BaseException as exc:
            _state.initialized[initializer.key] = exc.with_traceback(without_ours(exc.__traceback__))
        else:
            _state.initialized[initializer.key] = None
    return _state.initialized[initializer.key]


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


_host: str | None = None


def _this_worker(backend: str) -> Worker:
    global _host
    if _host is None:  # a system call and a quarter of a millisecond; a process does not change its host
        import socket

        _host = socket.gethostname()
    return Worker(backend, _host, os.getpid(), threading.current_thread().name)


# --- packed: what travels where memory is not shared --------------------------------------------------
#
# envelope: (backend, inner threads, surroundings key and bytes, job key, fn bytes, style, keep_going,
#            start, column, length, budget, look_every, whether large buffers may stay in this machine's memory)
# reply:    (column, {offset: Raised}, events, seconds, worker fields, random_used, Raised or None)
# Plain tuples of bytes, str and numbers: any native pool's pickler takes them, and none looks inside.


def pack_surroundings(around: Surroundings) -> bytes:
    """`around`, whose initializer is packed, as bytes."""
    return pickle.dumps(around, _wire.PROTOCOL)


def pack(
    job: Job,
    around_bytes: bytes,
    start: int,
    items: Sequence[Any],
    plan: Plan | None = None,
    store: Store | None = None,
) -> tuple[Any, ...]:
    """An envelope as a tuple of bytes; an item that cannot be sent will raise `SendError` in its place.

    With `store`, large buffers go into it, and those of the reply may come back likewise.
    """

    def refuse(offset: int, why: SendError) -> bytes:
        if job.style == "call":
            return _wire.refusal(_wire.explain_call(*items[offset]) or why)
        return _wire.refusal(SendError(f"the argument of item {start + offset}: {why}"))

    column = _wire.pack_column(items, refuse, store)
    budget, look_every = (plan.budget, plan.look_every) if plan else (None, 1)
    around = job.around
    own_process = around.exclusive and not around.in_caller
    return (
        around.backend,
        around.inner_threads if own_process else None,
        around.key,
        around_bytes,
        job.key,
        job.fn,
        job.style,
        job.keep_going,
        start,
        (column.whole, column.each),
        len(items),
        budget,
        look_every,
        store is not None,
    )


def _unpack(packed: tuple[Any, ...]) -> Envelope:
    _, threads, around_key, around_bytes, key, fn_bytes, style, keep_going, start, column, *plan = packed
    if threads is not None:
        _settle_process(threads)
    around = _state.around.get(around_key)
    if around is None:
        around = _keep(_state.around, around_key, _unpack_surroundings(around_bytes), _KEPT)
    # A map's function is unpacked once. So is a plain function that is submitted again and again; but not what holds
    # data, a partial or a bound method, of which each submitted call gets its own.
    known_as = fn_bytes if style == "call" and type(fn_bytes) is bytes else key
    is_small = type(fn_bytes) is bytes and len(fn_bytes) < _SMALL_FUNCTION
    functions = _state.functions if is_small else _state.large_functions
    fn = functions.get(known_as)
    if fn is None:
        fn = _wire.loads(fn_bytes)
        if style != "call" or (is_small and type(fn) is FunctionType):
            _keep(functions, known_as, fn, _KEPT if is_small else _LARGE_KEPT)
    job = Job(key=key, fn=fn, style=style, keep_going=keep_going, around=around)
    length, budget, look_every, _ = plan
    return Envelope(job, start, _wire.unpack_column(_wire.Column(*column)), length, budget, look_every)


def _unpack_surroundings(data: bytes) -> Surroundings:
    around: Surroundings = pickle.loads(data)
    if isinstance(around.initializer, bytes):
        return replace(around, initializer=_wire.loads(around.initializer))
    return around


def _keep(kept: dict[Any, Any], key: Any, value: Any, at_most: int) -> Any:
    while len(kept) >= at_most:
        kept.pop(next(iter(kept)))
    kept[key] = value
    return value


_segments: Segments | None = None  # of this process, as its pages are; used again from chunk to chunk


def _results() -> Segments:
    """Where this worker keeps large results until the caller has read them."""
    global _segments
    if _segments is None:
        from anypool._segments_owner import Segments

        _segments = Segments()
    return _segments


def claim_reply(packed: Any) -> None:
    """Make sure of the large buffers of a reply as soon as it has arrived: its worker may end at any time."""
    if type(packed) is tuple:
        _wire.claim_column(_wire.Column(*packed[0]))


def _pack_reply(reply: Reply, store: Store | None = None) -> tuple[Any, ...]:
    from anypool._raised_pack import pack as pack_raised

    unsendable: dict[int, SendError] = {}

    def refuse(offset: int, why: SendError) -> bytes:
        unsendable[offset] = SendError(f"the result: {why}")
        return _wire.refusal(why)

    column = _wire.pack_column(reply.values, refuse, store)
    errors = {offset: pack_raised(exc, _wire.dumps) for offset, exc in {**reply.errors, **unsendable}.items()}
    for exc in reply.errors.values():
        exc.__traceback__ = None  # frees the frames, and what they hold, before the next chunk
    worker = reply.worker
    fields = (worker.backend, worker.host, worker.pid, worker.thread)
    broken = None if reply.broken is None else pack_raised(reply.broken, _wire.dumps)
    used = tuple(reply.random_used)
    return ((column.whole, column.each), errors, reply.events, reply.seconds, fields, used, broken)


def unpack_reply(packed: tuple[Any, ...]) -> Reply:
    """The reply in `packed`; a value that cannot be rebuilt here becomes the `SendError` of its item."""
    from anypool._raised_unpack import unpack as unpack_raised

    column, raised, events, seconds, fields, used, broken = packed
    errors: dict[int, BaseException] = {offset: unpack_raised(each, _wire.loads) for offset, each in raised.items()}
    values: list[Any] = []
    rebuilt = iter(_wire.unpack_column(_wire.Column(*column)))
    while True:
        try:
            values.extend(rebuilt)
            break
        except SendError as exc:
            errors.setdefault(len(values), SendError(f"the result {exc}"))
            values.append(None)
    failure = None if broken is None else unpack_raised(broken, _wire.loads)
    return Reply(values, errors, events, seconds, Worker(*fields), used, failure)
