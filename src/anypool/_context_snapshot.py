"""The caller's surroundings at one moment, as plain data; what cannot be sent is skipped, and said once."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field
from operator import is_
from typing import Any, TypeAlias

from anypool._frames import stacklevel_of_user

__all__ = ["PLAIN", "ContextSnapshot", "Dumps", "Errstate", "Loads", "hold_the_same", "try_dumps"]

Dumps: TypeAlias = Callable[[Any], bytes]
Loads: TypeAlias = Callable[[bytes], Any]

Errstate: TypeAlias = tuple[tuple[tuple[str, str], ...], bytes | None]
"""NumPy's modes by kind of error, and the pickled handler or None."""

PLAIN = (str, int, float, bool, bytes, type(None))


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextSnapshot:
    """The caller's surroundings at one moment, as plain data.

    Attributes
    ----------
    key : str
        Unique; equal keys mean equal snapshots, across processes.
    variables : tuple of (module, attribute, name, default, value)
        Context variables; default (a 1-tuple, or None if unknown) and value are pickled.
    filters : tuple
        Warning filters, strongest first: (action, message, category, module, line).
    levels : tuple of (logger, level)
        The levels that are set explicitly; the root logger is "".
    disabled : int
        `logging.root.manager.disable`.
    decimal : tuple or None
        Arguments of `decimal.Context`; None for the pristine one.
    errstate : tuple or None
        NumPy's error modes, and the pickled handler or None; None for the pristine ones.
    environment : tuple of (name, value or None)
        The chosen environment variables.
    extensions : tuple of (name, reference, value)
        What `register_context` added; the value is pickled unless `here`.
    here : contextvars.Context or None
        The caller's, where calls share its memory.
    """

    key: str = field(compare=False)
    variables: tuple[tuple[str, str, str, bytes | None, bytes], ...] = ()
    filters: tuple[tuple[Any, ...], ...] = ()
    levels: tuple[tuple[str, int], ...] = ()
    disabled: int = 0
    decimal: tuple[Any, ...] | None = None
    errstate: Errstate | None = None
    environment: tuple[tuple[str, str | None], ...] = ()
    extensions: tuple[tuple[str, str, Any], ...] = ()
    here: Context | None = None

    def is_of(self, here: Context) -> bool:
        """Whether it has the variables of `here`, where calls share the caller's memory."""
        return self.here is not None and hold_the_same(self.here, here)


def hold_the_same(one: Context, other: Context) -> bool:
    """Whether the same objects are set in both. No object is asked: an array's `==` is no answer."""
    return (
        len(one) == len(other)
        and all(map(is_, one.values(), other.values()))
        and all(map(is_, one.keys(), other.keys()))
    )


def try_dumps(value: object, dumps: Dumps, what: str | None) -> bytes | None:
    """Return the pickle, or None; then say once that `what` is not carried (if there is anything to say)."""
    try:
        return dumps(value)
    except Exception as exc:  # whatever a `__reduce__` of the user's raises; it is reported
        if what is not None and what not in _reported:
            _reported.add(what)
            message = f"{what} cannot be sent to workers, and is not carried: {type(exc).__name__}: {exc}"
            warnings.warn(message, RuntimeWarning, stacklevel=stacklevel_of_user())
        return None


# Once for a process, as the variable is the process's.
_reported: set[str] = set()
