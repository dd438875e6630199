"""What of the caller's surroundings holds for its calls, wherever they run.

========================  ==========================  ===================  =============================
piece                     other process               caller's process     belongs to
========================  ==========================  ===================  =============================
context variables         set in the calls' Context   a copy of Context    the call
`decimal` context         set in the calls' Context   the same             the call
NumPy's `errstate`        set in the calls' Context   the same             the call
extensions                entered around the chunk    the same             what the extension says
warning filters           for the chunk's duration    are the caller's     the process
logging levels            for the chunk's duration    are the caller's     the process
chosen environment        for the chunk's duration    is the caller's      the process
========================  ==========================  ===================  =============================

Which context variables travel: those that are set and that a module's attribute holds, `__main__` included,
except those of the standard library, of NumPy, of pool libraries and our own, which describe the process they
are in or have a public API that is used instead. Variables without such a home are the private business of a
library: skipped, unless a function that was sent refers to one (`reduce_contextvar`). A value that cannot be
pickled is skipped too; of a public variable (one whose name has no leading underscore) that is said once.

What belongs to a process is shared by the calls that run in it at once: see `_context_process`. A worker process of the
pool's own is left as its last chunk had it, until something else is needed there.
"""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import sys
from collections.abc import Sequence
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from itertools import starmap
from typing import Any

from anypool._context_extensions import packed_extensions, registered
from anypool._context_numbers import decimal_arguments, errstate_now, numpy_uses_contextvars
from anypool._context_process import current_filters, levels_mark, packed_filters
from anypool._context_snapshot import PLAIN, ContextSnapshot, Dumps, hold_the_same
from anypool._context_variables import Home, homes, packed_variables

__all__ = ["ContextSnapshot", "capture_context"]


def capture_context(
    env: Sequence[str] = (), *, dumps: Dumps = pickle.dumps, shares_memory: bool = False
) -> ContextSnapshot:
    """Return what of the caller's surroundings is to hold for its calls.

    The same object again while nothing has changed: that is checked without looking at each logger (any
    `setLevel` clears the levels that the root logger has cached, and with them our mark), and without
    pickling, unless a variable or an extension holds something mutable. A variable that no function refers to
    yet, and that no module holds, is not seen: so pickle the function first.

    Parameters
    ----------
    env : sequence of str
        Names of environment variables to carry. Default none: they describe the machine.
    dumps : callable
        Pickles one value. What it refuses is skipped, with one RuntimeWarning that names it.
    shares_memory : bool
        The calls get the caller's own objects: nothing is pickled, and the snapshot cannot be.
    """
    if shares_memory:
        return _capturer.capture_here(dumps)
    return _capturer.capture(tuple(env), dumps)


@dataclass(kw_only=True, slots=True, eq=False)
class _Seen:
    """A snapshot, and what was looked at for it.

    Attributes
    ----------
    marks : tuple
        All that is compared by value.
    here : contextvars.Context
        Whose variables are compared by identity.
    carried : list of (home, variable)
        Those of them that travel.
    snapshot : ContextSnapshot
        What came of it.
    """

    marks: tuple[Any, ...]
    here: Context
    carried: list[tuple[Home, ContextVar[Any]]]
    snapshot: ContextSnapshot

    def still_holds(self, marks: tuple[Any, ...]) -> bool:
        """Whether a snapshot that is taken now, of the same variables, would be the same."""
        return self.marks == marks and (not self.carried or all(starmap(homes.holds, self.carried)))


class _Capturer:
    """Remembers the last snapshot of this process, and by what to see that it still holds.

    One instance, global as what it looks at is. A race between threads costs a second snapshot, no more.
    """

    def __init__(self) -> None:
        self._last: ContextSnapshot | None = None
        self._last_here: ContextSnapshot | None = None
        self._seen: _Seen | None = None  # None also where looking is not enough to know
        self._levels: tuple[object, int, tuple[tuple[str, int], ...]] = (None, 0, ())
        self._numbers = itertools.count()
        self._token = os.urandom(16).hex()

    def capture_here(self, dumps: Dumps) -> ContextSnapshot:
        """A snapshot for calls that share the caller's memory."""
        here = copy_context()
        extensions = tuple((name, each.apply, each.capture()) for name, each in registered().items())
        errstate = None if numpy_uses_contextvars() else errstate_now(dumps)
        last = self._last_here
        if last is None or extensions or last.extensions or errstate != last.errstate or not last.is_of(here):
            self._last_here = last = ContextSnapshot(key="", here=here, extensions=extensions, errstate=errstate)
        return last

    def capture(self, env: tuple[str, ...], dumps: Dumps) -> ContextSnapshot:
        """A snapshot for calls elsewhere."""
        here = copy_context()
        seen = self._seen
        is_same_here = seen is not None and hold_the_same(seen.here, here)
        filters = tuple(current_filters())
        levels = self._current_levels()
        disabled = logging.root.manager.disable
        decimal = decimal_arguments() if "decimal" in sys.modules else None
        errstate = None
        if "numpy" in sys.modules:
            known = seen if is_same_here and numpy_uses_contextvars() else None
            errstate = errstate_now(dumps) if known is None else known.snapshot.errstate
        environment = tuple([(name, os.environ.get(name)) for name in env]) if env else ()
        marks = (dumps, filters, levels, disabled, decimal, errstate, environment, homes.version(), registered())
        if seen is not None and is_same_here and seen.still_holds(marks):
            return seen.snapshot
        carried = [(var, home, value) for var, value in here.items() if (home := homes.find(var)) is not None]
        snapshot = ContextSnapshot(
            key=f"{self._token}-{os.getpid()}-{next(self._numbers)}",
            variables=tuple(packed_variables(carried, dumps)),
            filters=tuple(packed_filters(filters, dumps)),
            levels=levels,
            disabled=disabled,
            decimal=decimal,
            errstate=errstate,
            environment=environment,
            extensions=tuple(packed_extensions(dumps)),
        )
        if snapshot == self._last:
            snapshot = self._last
        self._last = snapshot
        # Mutable values and extensions have to be pickled to see whether they changed.
        self._seen = None
        if not registered() and all(type(value) in PLAIN for _, _, value in carried):
            found = [(home, var) for var, home, _ in carried]
            self._seen = _Seen(marks=marks, here=here, carried=found, snapshot=snapshot)
        return snapshot

    def _current_levels(self) -> tuple[tuple[str, int], ...]:
        loggers = logging.root.manager.loggerDict
        mark = levels_mark()
        marked, count, levels = self._levels
        if mark is not marked or count != len(loggers):
            explicit = [
                (name, logger.level)
                for name, logger in sorted(loggers.copy().items())
                if isinstance(logger, logging.Logger) and logger.level != logging.NOTSET
            ]
            levels = (("", logging.root.level), *explicit)
            self._levels = (mark, len(loggers), levels)
        return levels


_capturer = _Capturer()
