"""Which frames of the stack are ours, and which are the user's."""

from __future__ import annotations

import sys
from types import TracebackType

__all__ = ["is_ours", "stacklevel_of_user", "without_ours"]


def is_ours(module: str) -> bool:
    """Whether `module` belongs to the machinery. The conformance suite does not: it is a user."""
    return module == "anypool" or (module.startswith("anypool.") and not module.startswith("anypool.testing"))


def stacklevel_of_user() -> int:
    """The `stacklevel` with which the caller of this function warns in the nearest frame that is not ours."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and is_ours(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    return level


def without_ours(traceback: TracebackType | None) -> TracebackType | None:
    """`traceback` without the leading frames that are ours."""
    while traceback is not None and is_ours(traceback.tb_frame.f_globals.get("__name__", "")):
        traceback = traceback.tb_next
    return traceback
