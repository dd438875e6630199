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
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from anypool import _wire
from anypool.errors import SendError

if TYPE_CHECKING:
    from anypool._chunks import Plan
    from anypool._context import ContextSnapshot
    from anypool._relay import RelaySettings
    from anypool._seeds import Seed

__all__ = ["Envelope", "Initializer", "Job", "Reply", "Worker", "current_worker", "run"]

_OURS = ("anypool",)  # modules whose frames are not shown above the user's
_JOBS_KEPT = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Initializer:
    """`fn(*args)`, to run once on each worker, before its first call. `key` is unique to the executor."""

    key: str
    fn: Callable[..., object]
    args: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What is the same for all chunks of a map, or for one submitted call.

    Parameters
    ----------
    key : str
        Unique; a worker thread unpacks the job once under it.
    fn : callable
        The user's function.
    style : {"one", "star", "call"}
        ``fn(item)``, ``fn(*item)`` or ``fn(*item[0], **item[1])``.
    backend : str
        Name of the backend, for `current_worker` and notes.
    keep_going : bool
        Run the items after one that failed.
    exclusive, in_caller : bool
        The process runs one call at a time; it is the caller's own.
    depth : int
        How many executors deep the call runs: 1 for one of the main program.
    nested : tuple
        The backends for the levels below; empty: serial.
    """

    key: str
    fn: Callable[..., Any]
    style: Literal["one", "star", "call"]
    backend: str
    keep_going: bool = False
    exclusive: bool = True
    in_caller: bool = False
    depth: int = 1
    nested: tuple[Any, ...] = ()
    initializer: Initializer | None = None
    seed: Seed | None = None
    watch_random: bool = False
    inner_threads: int | None = None
    context: ContextSnapshot | None = None
    relay: RelaySettings | None = None


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
    return _this_worker(now.job.backend if now else "")


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
        reply = Reply([None], {0: exc}, [], 0.0, _this_worker(payload[0]))
        return _pack_reply(reply)
    return _pack_reply(_run(envelope))


def _run(envelope: Envelope) -> Reply:
    job = envelope.job
    values: list[Any] = []
    errors: dict[int, BaseException] = {}
    worker = _this_worker(job.backend)
    broken = _initialize(job.initializer)
    if broken is not None:
        return Reply(values, errors, [], 0.0, worker, broken=broken)
    with ExitStack() as stack:
        context = _enter_context(stack, job)
        context.run(running.set, Running(job, envelope.start, values.__len__))
        capture = watch = None
        if job.relay is not None:
            from anypool._relay import Capture

            capture = stack.enter_context(Capture(job.relay, values.__len__))
            capture.bind(context)
        if job.watch_random:
            from anypool._seeds import GlobalWatch

            watch = GlobalWatch()
            watch.start()
        started = perf_counter()
        _run_items(_caller(job, envelope.start, values), envelope, context, values, errors)
        seconds = perf_counter() - started
        used = watch.used() if watch is not None else ()
    events = capture.events if capture is not None else []
    return Reply(values, errors, events, seconds, worker, random_used=used)


def _enter_context(stack: ExitStack, job: Job) -> contextvars.Context:
    if job.inner_threads is not None:
        from anypool._cpus import limit_inner_threads

        stack.enter_context(limit_inner_threads(job.inner_threads))
    if job.context is None:
        return contextvars.copy_context() if job.in_caller else contextvars.Context()
    from anypool._context import apply

    return stack.enter_context(apply(job.context, exclusive=job.exclusive, in_caller=job.in_caller))


def _caller(job: Job, start: int, values: list[Any]) -> Callable[[Any], Any]:
    """The function of one item."""
    fn = job.fn
    call: Callable[[Any], Any]
    if job.style == "one":
        call = fn
    elif job.style == "star":

        def call(item: Any) -> Any:
            return fn(*item)
    else:

        def call(item: Any) -> Any:
            return fn(*item[0], **item[1])

    if job.seed is None:
        return call
    from anypool._seeds import seeded

    return seeded(call, job.seed, lambda: start + len(values), seeds_globals=job.exclusive)


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
    copy, append = context.copy, values.append
    look_every = length if envelope.budget is None else envelope.look_every
    deadline = perf_counter() + (envelope.budget or 0.0)
    while len(values) < length:
        try:
            for item in islice(items, min(look_every, length - len(values))):
                append(copy().run(call, item))
        except BaseException as exc:
            errors[len(values)] = _without_our_frames(exc)
            append(None)
            item = None
            if not envelope.job.keep_going or isinstance(exc, (KeyboardInterrupt, SystemExit)):
                return
        if envelope.budget is not None and perf_counter() > deadline:
            return


def _without_our_frames(exc: BaseException) -> BaseException:
    traceback = exc.__traceback__
    while traceback is not None:
        name = traceback.tb_frame.f_globals.get("__name__", "")
        if name != "anypool" and not name.startswith("anypool."):
            break
        traceback = traceback.tb_next
    return exc.with_traceback(traceback)


# A worker thread's own: the jobs it unpacked and the initializers it ran. By thread, not by process, so
# that two threads of a pool that isolates its calls do not share one function object.
class _ThreadState(threading.local):
    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
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
            _state.initialized[initializer.key] = _without_our_frames(exc)
        else:
            _state.initialized[initializer.key] = None
    return _state.initialized[initializer.key]


_host: str | None = None


def _this_worker(backend: str) -> Worker:
    global _host
    if _host is None:  # a system call and a quarter of a millisecond; a process does not change its host
        import socket

        _host = socket.gethostname()
    return Worker(backend, _host, os.getpid(), threading.current_thread().name)


# --- packed: what travels where memory is not shared --------------------------------------------------
#
# envelope: (backend, job key, job bytes, start, column, length, budget, look_every)
# reply:    (column, {offset: Raised}, events, seconds, worker fields, random_used, Raised or None)
# Plain tuples of bytes, str and numbers: any native pool's pickler takes them, and none looks inside.


def pack_job(job: Job) -> bytes:
    """`job` as bytes.

    Raises
    ------
    SendError
        Its function, or its initializer, cannot be sent.
    """
    import pickle

    fn = _wire.dumps(job.fn)
    try:
        initializer = None if job.initializer is None else _wire.dumps(job.initializer)
    except SendError as exc:
        raise SendError(f"the initializer: {exc}") from exc
    return pickle.dumps((fn, initializer, replace(job, fn=_no_function, initializer=None)), _wire.PROTOCOL)


def _unpack_job(data: bytes) -> Job:
    fn, initializer, job = _wire.loads(data)
    return replace(
        job,
        fn=_wire.loads(fn),
        initializer=None if initializer is None else _wire.loads(initializer),
    )


def _no_function() -> None:
    """Stands in a job for the function, which travels beside it."""


def pack(job: Job, job_bytes: bytes, start: int, items: Sequence[Any], plan: Plan | None = None) -> tuple[Any, ...]:
    """An envelope as a tuple of bytes; an item that cannot be sent will raise `SendError` in its place."""

    def refuse(offset: int, why: SendError) -> bytes:
        return _wire.refusal(SendError(f"{_argument(job, start + offset)}: {why}"))

    column = _wire.pack_column(items, refuse)
    packed_column = (column.whole, column.each)
    budget, look_every = (plan.budget, plan.look_every) if plan else (None, 1)
    return (job.backend, job.key, job_bytes, start, packed_column, len(items), budget, look_every)


def _argument(job: Job, index: int) -> str:
    return "an argument of the call" if job.style == "call" else f"the argument of item {index}"


def _unpack(packed: tuple[Any, ...]) -> Envelope:
    _, key, job_bytes, start, column, length, budget, look_every = packed
    jobs = _state.jobs
    job = jobs.get(key)
    if job is None:
        job = _unpack_job(job_bytes)
        while len(jobs) >= _JOBS_KEPT:
            jobs.pop(next(iter(jobs)))
        jobs[key] = job
    if job.style == "call":  # one call, never asked for again
        del jobs[key]
    items = _wire.unpack_column(_wire.Column(*column))
    return Envelope(job, start, items, length, budget, look_every)


def _pack_reply(reply: Reply) -> tuple[Any, ...]:
    from anypool._raised import pack as pack_raised

    unsendable: dict[int, SendError] = {}

    def refuse(offset: int, why: SendError) -> bytes:
        unsendable[offset] = SendError(f"the result: {why}")
        return _wire.refusal(why)

    column = _wire.pack_column(reply.values, refuse)
    errors = {
        offset: pack_raised(exc, _wire.dumps, hide=_OURS)
        for offset, exc in {**reply.errors, **unsendable}.items()
    }
    for exc in reply.errors.values():
        exc.__traceback__ = None  # frees the frames, and what they hold, before the next chunk
    worker = reply.worker
    fields = (worker.backend, worker.host, worker.pid, worker.thread)
    broken = None if reply.broken is None else pack_raised(reply.broken, _wire.dumps, hide=_OURS)
    used = tuple(reply.random_used)
    return ((column.whole, column.each), errors, reply.events, reply.seconds, fields, used, broken)


def unpack_reply(packed: tuple[Any, ...]) -> Reply:
    """The reply in `packed`; a value that cannot be rebuilt here becomes the `SendError` of its item."""
    from anypool._raised import unpack as unpack_raised

    column, raised, events, seconds, fields, used, broken = packed
    errors: dict[int, BaseException] = {
        offset: unpack_raised(each, _wire.loads) for offset, each in raised.items()
    }
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
