"""What was captured, as plain data that any pickler takes."""

from __future__ import annotations

import pickle
from typing import Any, TypeAlias

__all__ = ["Event", "lost", "merged", "pickled", "unpickled"]

Event: TypeAlias = tuple[Any, ...]
"""(item offset in the chunk, kind, ...): the kind is a field of `RelaySettings`; see `Capture.events`."""


def merged(log: list[Event]) -> list[Event]:
    """Return the events with adjacent writes of one item to one stream made one (`print` writes twice)."""
    events: list[Event] = []
    parts: list[Any] = []
    for event in log:
        kind = event[1]
        last = events[-1] if events else None
        if kind not in ("stdout", "stderr") or last is None or last[:2] != event[:2]:
            _join_last(events, parts)
            events.append(event)
            parts = [event[2]] if kind in ("stdout", "stderr") else []
        elif not event[2]:
            events[-1] = (*last[:3], last[3] or event[3])
        elif not last[2] or type(last[2]) is type(event[2]):
            events[-1] = (*event[:3], last[3] or event[3])
            parts.append(event[2])
        else:
            _join_last(events, parts)
            events.append(event)
            parts = [event[2]]
    _join_last(events, parts)
    return events


def _join_last(events: list[Event], parts: list[Any]) -> None:
    parts = [part for part in parts if part]
    if len(parts) > 1:
        offset, kind, _, flushed = events[-1]
        events[-1] = (offset, kind, type(parts[0])().join(parts), flushed)


class _Lost:
    """What a value becomes that could be pickled there and cannot be rebuilt here."""

    def __repr__(self) -> str:
        return "<cannot be rebuilt here>"


lost = _Lost()


def pickled(value: object) -> bytes | None:
    """Return the pickle, or None if there is none; then the caller of this sends a text instead."""
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception:  # whatever a `__reduce__` of the user's raises
        return None


def unpickled(data: bytes) -> Any:
    try:
        return pickle.loads(data)
    except Exception:  # whatever a constructor of the user's raises; each use of `lost` shows it in its text
        return lost
