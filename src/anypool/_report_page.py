"""A report as one page of HTML that needs nothing else: the template beside this file, with the data in it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anypool._report_advice import shown_bytes, shown_seconds
from anypool._report_times import PARTS

if TYPE_CHECKING:
    from anypool._trace import Chunk, Run

__all__ = ["as_page"]

_TEMPLATE = Path(__file__).with_name("_report_page.html")
# With more calls than this, those that follow each other closely are drawn as one.
_DRAWN_SINGLY = 6000
_PIECES = 1500
_WORKERS_LISTED = 64
_SHOWN_FROM = 0.0005  # of the workers' time

_CALL, _UNPACK, _PACK, _CALLS, _FAILED, _MAP, _START = 0, 1, 2, 7, 8, 9, 10
_CALLER = {"read": 3, "pack": 4, "unpack": 5, "use": 6}

_Key = tuple[str, int, str]


def as_page(summary: Mapping[str, Any], runs: Sequence[Run]) -> str:
    """The page.

    Parameters
    ----------
    summary : mapping
        The fields of a `Report`.
    runs : sequence of Run
        Its maps.
    """
    page = _TEMPLATE.read_text(encoding="utf-8")
    # No text of a user's can end the element that it is in.
    data = json.dumps(_data(summary, runs), separators=(",", ":")).replace("<", "\\u003c")
    return page.replace("/*DATA*/", data)


def _data(summary: Mapping[str, Any], runs: Sequence[Run]) -> dict[str, Any]:
    origin = min((run.began for run in runs), default=0.0)
    ended = max((run.began + run.seconds for run in runs), default=0.0)
    lanes: dict[_Key, int] = {}
    spans: list[list[Any]] = []
    for run in runs:
        spans.append([0, _micro(run.began - origin), _micro(run.seconds), _MAP, 0])
        spans += _caller_spans(run, origin)
        singly = summary["calls"] <= _DRAWN_SINGLY
        shortest = 0.0 if singly else (ended - origin) / _PIECES
        for worker, chunks in run.by_worker().items():
            lane = lanes.setdefault(worker, len(lanes) + 1)
            for chunk in chunks:
                unpacks = _START if chunk is chunks[0] else _UNPACK
                spans += ([lane, *span] for span in _chunk_spans(run, chunk, origin, shortest, unpacks))
    parts = sorted(summary["parts"].items(), key=lambda part: -part[1])
    total = sum(summary["parts"].values())
    return {
        "title": ", ".join(dict.fromkeys(run.name for run in runs)) or "nothing was traced",
        "sub": _sub(runs),
        "advice": summary["advice"],
        "tiles": _tiles(summary),
        "parts": [[name, PARTS[name], seconds] for name, seconds in parts if seconds >= _SHOWN_FROM * total],
        "seconds": max(ended - origin, 1e-6),
        "lanes": [["caller", f"pid {os.getpid()}"], *_lane_names(lanes)],
        "spans": spans,
        "slowest": [list(each) for each in summary["slowest"]],
        "workers": _workers(runs, lanes),
    }


def _sub(runs: Sequence[Run]) -> str:
    if not runs:
        return ""
    first = runs[0]
    maps = "" if len(runs) == 1 else f"{len(runs)} maps, "
    when = datetime.fromtimestamp(first.clock).strftime("%Y-%m-%d %H:%M")
    return f"{maps}backend {first.backend}, {first.workers} worker{'s' * (first.workers != 1)}, {when}"


def _tiles(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    failed = f", {summary['failed']:,} failed" if summary["failed"] else ""
    tiles = [
        (f"{summary['efficiency']:.0%}", "efficiency"),
        (f"{summary['calls']:,}", f"calls{failed}"),
        (shown_seconds(summary["seconds"]), "in all"),
        (shown_seconds(summary["overhead"]), "overhead a call"),
        (shown_bytes(summary["bytes_sent"]), "sent"),
        (shown_bytes(summary["bytes_received"]), "received"),
    ]
    if summary["peak_memory"]:
        tiles.append((shown_bytes(summary["peak_memory"]), "peak memory"))
    return tiles


def _lane_names(lanes: Mapping[_Key, int]) -> Iterator[list[str]]:
    hosts = {host for host, _, _ in lanes}
    processes = {(host, pid) for host, pid, _ in lanes}
    for host, pid, thread in lanes:
        where = f"pid {pid}" if len(hosts) == 1 else f"pid {pid} on {host}"
        yield [where, thread if len(processes) < len(lanes) else ""]


def _caller_spans(run: Run, origin: float) -> Iterator[list[Any]]:
    shortest = run.seconds / (4 * _PIECES)
    last: list[Any] | None = None
    for each in sorted(run.caller, key=lambda interval: interval.begin):
        kind, begin, end = _CALLER[each.kind], each.begin - origin, each.end - origin
        if last is not None and (last[3] == kind or end - begin < shortest) and begin - (last[1] + last[2]) < shortest:
            last[2] = _micro(end - last[1])  # one of a crowd
            continue
        if last is not None:
            yield last
        last = [0, _micro(begin), _micro(end - begin), kind, 0]
    if last is not None:
        yield last


def _chunk_spans(run: Run, chunk: Chunk, origin: float, shortest: float, unpacks: int) -> Iterator[list[Any]]:
    calls = chunk.calls
    last = calls[-1].start + calls[-1].seconds
    if calls[0].start - chunk.entered >= shortest:
        yield [_micro(chunk.entered - origin), _micro(calls[0].start - chunk.entered), unpacks, chunk.start]
    crowd: list[Any] | None = None
    for offset, call in enumerate(calls):
        item = chunk.start + offset
        begin = _micro(call.start - origin)
        if call.seconds < shortest and item not in run.errors:
            if crowd is None:
                crowd = [begin, 0.0, _CALLS, item, [0]]
            crowd[1] = _micro(call.start + call.seconds - origin) - crowd[0]
            crowd[4][0] += 1
            if crowd[1] >= shortest:
                yield crowd
                crowd = None
            continue
        if crowd is not None:
            yield crowd
            crowd = None
        sent = chunk.sent_bytes[offset] if offset < len(chunk.sent_bytes) else 0
        error, attempts = run.errors.get(item, ""), run.attempts.get(item, 1)
        told = [_micro(call.cpu_seconds), sent, call.received, call.peak, attempts, error, run.name]
        yield [begin, _micro(call.seconds), _FAILED if error else _CALL, item, told]
    if crowd is not None:
        yield crowd
    if chunk.left - last >= shortest:
        yield [_micro(last - origin), _micro(chunk.left - last), _PACK, chunk.start]


def _workers(runs: Sequence[Run], lanes: Mapping[_Key, int]) -> list[list[Any]]:
    seconds = sum(run.seconds for run in runs) or 1.0
    rows = {worker: [0, 0.0, 0] for worker in lanes}
    for run in runs:
        for worker, chunks in run.by_worker().items():
            for chunk in chunks:
                for call in chunk.calls:
                    row = rows[worker]
                    row[0], row[1], row[2] = row[0] + 1, row[1] + call.seconds, max(row[2], call.peak)
    names = [" ".join(filter(None, name)) for name in _lane_names(lanes)]
    listed = [
        [name, count, min(1.0, busy / seconds), peak]
        for name, (count, busy, peak) in zip(names, rows.values(), strict=True)
    ]
    return listed[:_WORKERS_LISTED]


def _micro(seconds: float) -> float:
    return round(seconds, 7)
