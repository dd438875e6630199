"""What goes to a worker and what comes back, as objects: job, envelope, reply.

A reply is columnar, one list of values and sparse errors and events, not an object an item: measured, 1.5 against
11 microseconds an item. What is made anew for each call or chunk is not frozen: that would triple what it costs. What
nobody compares has no `==`, here and in other files that each program loads: a method that a dataclass writes takes a
tenth of a millisecond when it is defined.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from anypool._context_snapshot import ContextSnapshot
    from anypool._relay_settings import RelaySettings
    from anypool._seeds import Seed
    from anypool._wire import Parcel

__all__ = ["Envelope", "Initializer", "Job", "Notes", "Observed", "Reply", "Surroundings", "Worker"]

Notes: TypeAlias = tuple[str, tuple[int, int, int, int] | None, str | None]
"""Where notes of calls go: a key in the caller's process, a pipe of this machine, a function of the backend's."""

Observed: TypeAlias = tuple[bool, Notes | None]
"""Whether calls are timed, and where their notes go."""


@dataclass(kw_only=True, slots=True, eq=False)
class Initializer:
    """What runs once on each worker, before its first call. `key` is unique to the executor.

    `call` is the function and its arguments, packed on its way to a worker that shares no memory; that unpacks it
    only if it has not run it yet.
    """

    key: str
    call: tuple[Callable[..., object], tuple[Any, ...]] | None = None
    parcel: Parcel | None = None


@dataclass(kw_only=True, slots=True, eq=False)
class Surroundings:
    """What is the same for all calls of an executor, while nothing around them changes.

    Parameters
    ----------
    key : str
        Unique; a worker thread unpacks the surroundings once under it.
    backend : str
        Name of the backend, for `current_worker` and notes.
    exclusive, in_caller, remote : bool
        The process runs one call at a time; it is the caller's own; it may be on another machine.
    depth : int
        How many executors deep the call runs: 1 for one of the main program.
    nested : tuple
        The backends for the levels below; empty: serial.
    seed, inner_threads, context, relay : optional
        See `_seeds`, `_inner_threads`, `_context`, `_relay`.
    """

    key: str
    backend: str
    exclusive: bool = True
    in_caller: bool = False
    remote: bool = False
    depth: int = 1
    nested: tuple[Any, ...] = ()
    seed: Seed | None = None
    inner_threads: int | None = None
    context: ContextSnapshot | None = None
    relay: RelaySettings | None = None


@dataclass(kw_only=True, slots=True, eq=False)
class Job:
    """What is the same for all chunks of a map, or for one submitted call.

    Parameters
    ----------
    key : str
        Unique to a map; a worker thread unpacks its function once under it. Empty for a submitted call.
    fn : callable or parcel
        The user's function; packed on its way to a worker that shares no memory.
    style : {"one", "star", "call"}
        ``fn(item)``, ``fn(*item)`` or ``fn(*item[0], **item[1])``.
    keep_going : bool
        Run the items after one that failed.
    around : Surroundings
        What does not depend on the function.
    initializer : Initializer, optional
        Not among the surroundings: it may be large, and these are unpacked again whenever something changes.
    observed : tuple, optional
        What the worker does besides, because somebody watches: whether each call is timed, and where notes of
        calls go (see `_observed`).
    """

    key: str
    fn: Callable[..., Any] | Parcel
    style: Literal["one", "star", "call"]
    keep_going: bool
    around: Surroundings
    initializer: Initializer | None = None
    observed: Observed | None = None


@dataclass(slots=True, eq=False)
class Envelope:
    """One chunk on its way: the job, the index of its first item, its items, and how patient to be.

    `timed`: its ticket tells since when the current item runs.
    """

    job: Job
    start: int
    items: Iterable[Any]
    length: int
    budget: float | None = None
    look_every: int = 1
    timed: bool = False


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


class Reply:
    """What came of one chunk. Fewer values than items: the rest was not begun.

    `values` has None in the place of a call that raised; `errors` has its exception by offset; `events`
    is the relayed output, each with its offset; `seconds` is the time that the calls took. `receipts` has the times
    of each call, where they are wanted (see `_observed`). `pickles` are what the first `pickled` values were noted as,
    so that they need not be pickled again. `is_plain`: the values are small and hold nothing else.

    No dataclass: what is rare is the class's until it is set.
    """

    random_used: Collection[str] = ()
    broken: BaseException | None = None
    receipts: bytes | None = None
    pickles: Sequence[bytes] = ()
    pickled = 0
    weight = 0  # bytes of `values`, where they were not packed
    is_plain = False

    def __init__(
        self, values: list[Any], errors: dict[int, BaseException], events: list[Any], seconds: float, worker: Worker
    ) -> None:
        self.values = values
        self.errors = errors
        self.events = events
        self.seconds = seconds
        self.worker = worker
