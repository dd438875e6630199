"""The receipts of one map: what each of its calls cost, and what the caller's own thread did meanwhile.

All times are of the caller's `time.perf_counter`. That of a worker is another clock where it is on another machine: it
is set by what must hold for each chunk, that it is sent before it enters and leaves before it arrives.
"""

from __future__ import annotations

import heapq
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter, time
from typing import TYPE_CHECKING, Any

from anypool import _packing
from anypool._observe import Observer
from anypool._observed import CallTimes, column_bytes, parcel_bytes, unpack_receipts

if TYPE_CHECKING:
    from anypool._envelope import Reply, Worker
    from anypool._observe import SentChunk

__all__ = ["Chunk", "Interval", "Recorder", "Run"]

SLOWEST_KEPT = 20
# Arguments are weighed of so many calls at most: it takes as long as sending them once more.
_WEIGHED = 8
_HEAVY = 32_768  # bytes; what is less is not worth weighing


@dataclass(slots=True)
class Interval:
    """What the caller's thread did from `begin` to `end`: "read", "pack", "unpack" or "use"."""

    kind: str
    begin: float
    end: float


@dataclass(slots=True)
class Chunk:
    """One chunk that ran: when it was packed, sent, entered its worker, left it, arrived."""

    start: int
    worker: Worker
    packed_at: float
    sent_at: float
    entered: float
    left: float
    arrived_at: float
    receipts: bytes
    sent_bytes: list[int]
    ahead: float = 0.0
    """How much its worker's clock is ahead of ours."""

    @property
    def calls(self) -> list[CallTimes]:
        """The receipts of its calls, by the caller's clock."""
        calls = unpack_receipts(self.receipts).calls
        return calls if not self.ahead else [call._replace(start=call.start - self.ahead) for call in calls]


@dataclass(slots=True)
class Run:
    """All that was recorded of one map, or of the submitted calls of an executor."""

    name: str
    backend: str
    workers: int
    is_submitted: bool = False
    clock: float = field(default_factory=time)
    began: float = field(default_factory=perf_counter)
    ended: float = 0.0
    chunks: list[Chunk] = field(default_factory=list)
    caller: list[Interval] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    lost: int = 0
    slowest: list[tuple[float, int, str]] = field(default_factory=list)
    """A heap of (seconds, item, the call in words)."""
    weights: dict[int, list[int]] = field(default_factory=dict)
    """Bytes of each argument, by its place, of the calls that were weighed."""
    repeated: set[int] = field(default_factory=set)
    """The places at which it was the same object in each of them."""
    function_bytes: int = 0

    @property
    def is_over(self) -> bool:
        """Whether the map has ended."""
        return self.ended > 0

    @property
    def seconds(self) -> float:
        """From its call to its end, or until now."""
        return (self.ended or perf_counter()) - self.began

    def by_worker(self) -> dict[tuple[str, int, str], list[Chunk]]:
        """The chunks of each worker in the order of their begin."""
        found: dict[tuple[str, int, str], list[Chunk]] = {}
        for chunk in sorted(self.chunks, key=lambda chunk: chunk.entered):
            found.setdefault((chunk.worker.host, chunk.worker.pid, chunk.worker.thread), []).append(chunk)
        return found

    def calls(self) -> Iterator[tuple[int, Chunk, CallTimes, int]]:
        """Item, chunk, times and bytes sent of each call."""
        for chunk in self.chunks:
            for offset, call in enumerate(chunk.calls):
                sent = chunk.sent_bytes[offset] if offset < len(chunk.sent_bytes) else 0
                yield chunk.start + offset, chunk, call, sent

    def set_clocks(self) -> None:
        """Bring the times of workers elsewhere to the caller's clock, once the map has ended."""
        for chunks in self.by_worker().values():
            # Its clock is ahead of ours by something between these two.
            least = min(chunk.entered - chunk.sent_at for chunk in chunks)
            most = max(chunk.left - chunk.arrived_at for chunk in chunks)
            if most <= 0 <= least:  # it may be the same clock, so it is
                continue
            ahead = (most + least) / 2
            for chunk in chunks:
                chunk.entered, chunk.left, chunk.ahead = chunk.entered - ahead, chunk.left - ahead, ahead


class Recorder(Observer):
    """Keeps the receipts of one map.

    Parameters
    ----------
    run : Run
        Is filled.
    describe : callable
        The call of an item, in words.
    arguments : callable
        The arguments of the call of an item.
    """

    def __init__(self, run: Run, describe: Callable[[Any], str], arguments: Callable[[Any], Sequence[Any]]) -> None:
        self._run = run
        self._describe = describe
        self._arguments = arguments
        self._out: dict[int, tuple[float, list[int]]] = {}
        self._away_since = 0.0
        self._weighed = 0
        self._last_weighed: Sequence[Any] = ()

    def began(self) -> None:
        """Note when."""
        self._run.began = perf_counter()

    def read(self, began: float, count: int, total: int | None) -> None:  # noqa: ARG002
        """Note how long it took."""
        self._run.caller.append(Interval("read", began, perf_counter()))

    def sent(self, task: SentChunk, payload: Any, began: float) -> None:
        """Note when it was packed, and how large it is."""
        now = perf_counter()
        sizes: list[int] = []
        if type(payload) is tuple:
            fn, column = _packing.parcels_of(payload)
            sizes = column_bytes(column, len(task.items))
            self._run.function_bytes = max(self._run.function_bytes, parcel_bytes(fn))
            self._run.caller.append(Interval("pack", began, now))
            if max(sizes, default=0) >= _HEAVY:
                self._weigh(task.items)
        self._out[id(task)] = (began, sizes)

    def arrived(self, task: SentChunk, packed: Any, reply: Reply | None, arrived_at: float, began: float) -> None:
        """Keep its receipts."""
        packed_at, sizes = self._out.pop(id(task), (task.sent_at, []))
        if type(packed) is tuple:
            self._run.caller.append(Interval("unpack", began, perf_counter()))
        if reply is None or reply.receipts is None:
            self._run.lost += 1
            return
        entered, left, calls = unpack_receipts(reply.receipts)
        if not calls:
            return
        last = calls[-1].start + calls[-1].seconds
        self._run.chunks.append(
            Chunk(
                start=task.start, worker=reply.worker, packed_at=packed_at, sent_at=task.sent_at, entered=entered,
                left=left or last, arrived_at=arrived_at, receipts=reply.receipts, sent_bytes=sizes,
            )
        )  # fmt: skip
        self._keep_slowest(task, calls)

    def held(self, start: int, reply: Reply, attempts: dict[int, int]) -> None:
        """Note what failed, and what ran more than once."""
        for offset, error in reply.errors.items():
            self._run.errors[start + offset] = type(error).__qualname__
        self._run.attempts.update(attempts)

    def away(self) -> None:
        """From here on the caller uses results."""
        self._away_since = perf_counter()

    def back(self) -> None:
        """Until here."""
        if self._away_since:
            self._run.caller.append(Interval("use", self._away_since, perf_counter()))
        self._away_since = 0.0

    def ended(self) -> None:
        """Note when."""
        if not self._run.is_over:
            self._run.ended = perf_counter()
            self._run.set_clocks()

    def _keep_slowest(self, task: SentChunk, calls: Sequence[CallTimes]) -> None:
        slowest = self._run.slowest
        for offset, call in enumerate(calls):
            if len(slowest) < SLOWEST_KEPT or call.seconds > slowest[0][0]:
                entry = (call.seconds, task.start + offset, self._describe(task.items[offset]))
                (heapq.heappush if len(slowest) < SLOWEST_KEPT else heapq.heapreplace)(slowest, entry)

    def _weigh(self, items: Sequence[Any]) -> None:
        for item in items:
            if self._weighed >= _WEIGHED:
                return
            arguments = self._arguments(item)
            for place, argument in enumerate(arguments):
                self._run.weights.setdefault(place, []).append(_weight(argument))
            same = {place for place, (a, b) in enumerate(zip(arguments, self._last_weighed, strict=False)) if a is b}
            if self._weighed == 1:
                self._run.repeated |= same
            elif self._weighed > 1:
                self._run.repeated &= same
            self._last_weighed = arguments if self._weighed + 1 < _WEIGHED else ()
            self._weighed += 1


def _weight(obj: Any) -> int:
    """About how many bytes `obj` takes on its way."""
    if isinstance(obj, bytes | bytearray | str):
        return len(obj)
    buffers: list[pickle.PickleBuffer] = []
    try:
        data = pickle.dumps(obj, 5, buffer_callback=buffers.append)
    except Exception:  # what plain pickle refuses is sent all the same; here a guess will do
        return sys.getsizeof(obj)
    return len(data) + sum(buffer.raw().nbytes for buffer in buffers)
