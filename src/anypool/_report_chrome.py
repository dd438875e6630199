"""Traced maps in the format of Chrome's trace viewer, which Perfetto opens, too.

The format: "Trace Event Format", https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from anypool._current import this_worker

if TYPE_CHECKING:
    from anypool._trace import Chunk, Run

__all__ = ["as_trace_events"]

_CALLER = {"read": "read the input", "pack": "pack arguments", "unpack": "unpack results", "use": "use results"}


def as_trace_events(runs: Sequence[Run]) -> str:
    """The JSON of the trace. Times are in microseconds from the first map."""
    origin = min((run.began for run in runs), default=0.0)
    events: list[dict[str, Any]] = []
    lanes: dict[tuple[str, int, str], tuple[int, int]] = {}
    pids: dict[tuple[str, int], int] = {}
    caller = this_worker("")
    events += _name_of(os.getpid(), 0, f"caller, pid {os.getpid()} on {caller.host}", "map")
    pids[caller.host, os.getpid()] = os.getpid()
    for run in runs:
        events.append(
            _event(run.name, "map", origin, run.began, run.seconds, (os.getpid(), 0), {"backend": run.backend})
        )
        for each in run.caller:
            span = (each.begin, each.end - each.begin)
            events.append(_event(_CALLER[each.kind], "caller", origin, *span, (os.getpid(), 0), {}))
        for worker, chunks in run.by_worker().items():
            if worker not in lanes:
                host, pid, thread = worker
                shown = pids.setdefault((host, pid), pid if pid not in pids.values() else 1_000_000 + len(pids))
                lanes[worker] = (shown, len(lanes) + 1)
                events += _name_of(*lanes[worker], f"worker, pid {pid} on {host}", thread)
            for chunk in chunks:
                events += _events_of(run, chunk, origin, lanes[worker])
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})


def _events_of(run: Run, chunk: Chunk, origin: float, lane: tuple[int, int]) -> Iterator[dict[str, Any]]:
    calls = chunk.calls
    last = calls[-1].start + calls[-1].seconds
    length = {"items": len(calls), "first item": chunk.start}
    if calls[0].start > chunk.entered:
        yield _event("unpack", "chunk", origin, chunk.entered, calls[0].start - chunk.entered, lane, length)
    for offset, call in enumerate(calls):
        item = chunk.start + offset
        told: dict[str, Any] = {"item": item, "cpu": f"{call.cpu_seconds:.6f} s"}
        if offset < len(chunk.sent_bytes):
            told |= {"bytes sent": chunk.sent_bytes[offset], "bytes received": call.received}
        if call.peak:
            told["peak memory"] = call.peak
        if item in run.attempts:
            told["attempts"] = run.attempts[item]
        if item in run.errors:
            told["error"] = run.errors[item]
        yield _event(run.name, "call", origin, call.start, call.seconds, lane, told)
    if chunk.left > last:
        yield _event("pack", "chunk", origin, last, chunk.left - last, lane, length)


def _event(
    name: str, kind: str, origin: float, begin: float, seconds: float, lane: tuple[int, int], args: dict[str, Any]
) -> dict[str, Any]:
    pid, tid = lane
    return {
        "name": name,
        "cat": kind,
        "ph": "X",
        "ts": round((begin - origin) * 1e6, 3),
        "dur": round(max(0.0, seconds) * 1e6, 3),
        "pid": pid,
        "tid": tid,
        "args": args,
    }


def _name_of(pid: int, tid: int, process: str, thread: str) -> list[dict[str, Any]]:
    return [
        {"name": "process_name", "ph": "M", "pid": pid, "tid": tid, "args": {"name": process}},
        {"name": "thread_name", "ph": "M", "pid": pid, "tid": tid, "args": {"name": thread}},
    ]
