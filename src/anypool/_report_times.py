"""Where the time of the workers went, in one map: each moment of each worker is given one reason.

::

    a worker   ──idle──┤enters├─ unpack ─┤ call │ call │ ... ├─ pack ─┤leaves├──idle──┤enters ...
                  │                                                          │
                  └ why? what the caller's thread did then: read, pack, unpack, use; else starting,
                    on the way, or, after the last chunk was sent, nothing left to do
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anypool._trace import Chunk, Interval, Run

__all__ = ["PARTS", "parts_of"]

PARTS = {
    "run": "running calls",
    "between": "between calls of a chunk",
    "unpack": "unpacking arguments",
    "pack": "packing results",
    "reads": "waiting while the input was read",
    "sends": "waiting while arguments were packed",
    "receives": "waiting while results were unpacked",
    "uses": "waiting while the caller did other things",
    "starts": "starting, until its first call",
    "travels": "waiting for a chunk on its way",
    "ends": "with nothing left to do",
}
"""What a worker's time goes into, each with words."""

_WHILE = {"read": "reads", "pack": "sends", "unpack": "receives", "use": "uses"}


def parts_of(run: Run) -> dict[str, float]:
    """Seconds of worker time by part; their sum is the number of workers times the seconds of the map."""
    parts = dict.fromkeys(PARTS, 0.0)
    ended = run.began + run.seconds
    caller = sorted(run.caller, key=lambda interval: interval.begin)
    begins = [interval.begin for interval in caller]
    last_sent = max((chunk.sent_at for chunk in run.chunks), default=run.began)
    lanes = list(run.by_worker().values())
    lanes += [[]] * max(0, run.workers - len(lanes))  # workers that never had a call
    for chunks in lanes:
        before = run.began
        for chunk in chunks:
            is_first = chunk is chunks[0]
            if run.is_submitted and before < chunk.packed_at:  # nobody had submitted it
                parts["uses"] += min(chunk.packed_at, chunk.entered) - before
                before = min(chunk.packed_at, chunk.entered)
            _explain(before, chunk.entered, "starts" if is_first else "travels", caller, begins, parts)
            # With its first chunk a worker loads what the calls need.
            _count_chunk(chunk, max(before, chunk.entered), "starts" if is_first else "unpack", parts)
            before = max(before, chunk.left)
        idle = "uses" if run.is_submitted else "travels" if chunks else "starts"
        _explain(before, min(last_sent, ended), idle, caller, begins, parts)
        parts["ends"] += max(0.0, ended - max(before, last_sent))
    return parts


def _count_chunk(chunk: Chunk, entered: float, unpacking: str, parts: dict[str, float]) -> None:
    calls = chunk.calls
    running = sum(call.seconds for call in calls)
    first, last = calls[0].start, calls[-1].start + calls[-1].seconds
    parts["run"] += running
    parts[unpacking] += max(0.0, first - entered)
    parts["between"] += max(0.0, last - first - running)
    parts["pack"] += max(0.0, chunk.left - last)


def _explain(
    begin: float,
    end: float,
    otherwise: str,
    caller: Sequence[Interval],
    begins: Sequence[float],
    parts: dict[str, float],
) -> None:
    """Give the idle time from `begin` to `end` to what the caller did then."""
    if end <= begin:
        return
    explained = 0.0
    for interval in _overlapping(begin, end, caller, begins):
        overlap = min(end, interval.end) - max(begin, interval.begin)
        parts[_WHILE[interval.kind]] += overlap
        explained += overlap
    parts[otherwise] += max(0.0, end - begin - explained)


def _overlapping(begin: float, end: float, caller: Sequence[Interval], begins: Sequence[float]) -> Iterator[Interval]:
    index = max(0, bisect_right(begins, begin) - 1)
    while index < len(caller) and caller[index].begin < end:
        if caller[index].end > begin:
            yield caller[index]
        index += 1
