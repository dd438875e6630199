"""A call as text, for the notes of errors and for reports."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anypool._envelope import Worker

__all__ = ["add_note", "name_of", "on_worker", "short_call"]


def name_of(fn: object) -> str:
    """The name of a function, or of the class of another callable."""
    return getattr(fn, "__qualname__", None) or type(fn).__qualname__


def short_call(args: Iterable[Any], kwargs: dict[str, Any]) -> str:
    """Arguments as they are written in a call, each cut to a length that can be read."""
    parts = [reprlib.repr(arg) for arg in args]
    parts += [f"{name}={reprlib.repr(value)}" for name, value in kwargs.items()]
    return f"({', '.join(parts)})"


def on_worker(worker: Worker) -> str:
    """Where a call ran; empty where no worker is known."""
    return f", on {worker}" if worker.pid else ""  # what the pool failed with tells itself where


def add_note(exc: BaseException, text: str) -> None:
    """Add a note of ours, if `exc` takes notes."""
    try:
        exc.add_note(f"anypool: {text}")
    except TypeError:  # its __notes__ is no list, which is the user's business
        return
