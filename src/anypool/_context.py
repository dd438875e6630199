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

What belongs to a process is shared by the calls that run in it at once: see `_context_process`.
"""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import uuid
from collections.abc import Sequence
from contextvars import copy_context
from typing import Any

from anypool._context_extensions import packed_extensions, registered
from anypool._context_numbers import decimal_arguments, errstate_now, numpy_uses_contextvars
from anypool._context_process import current_filters, levels_mark, packed_filters
from anypool._context_snapshot import PLAIN, ContextSnapshot, Dumps
from anypool._context_variables import homes, packed_variables

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
        values = tuple((name, each.apply, each.capture()) for name, each in registered().items())
        errstate = None if numpy_uses_contextvars() else errstate_now(dumps)
        return ContextSnapshot(key="", here=copy_context(), extensions=values, errstate=errstate)
    return _capturer.capture(tuple(env), dumps)


class _Capturer:
    """Remembers the last snapshot of this process, and by what to see that it still holds.

    One instance, global as what it looks at is. A race between threads costs a second snapshot, no more.
    """

    def __init__(self) -> None:
        self._last: tuple[tuple[Any, ...], ContextSnapshot] | None = None
        self._levels: tuple[object, int, tuple[tuple[str, int], ...]] = (None, 0, ())
        self._numbers = itertools.count()
        self._token = uuid.uuid4().hex

    def capture(self, env: tuple[str, ...], dumps: Dumps) -> ContextSnapshot:
        variables = [(var, homes.find(var), value) for var, value in copy_context().items()]
        carried = [(var, home, value) for var, home, value in variables if home is not None]
        filters = tuple(current_filters())
        levels = self._current_levels()
        disabled = logging.root.manager.disable
        decimal = decimal_arguments()
        errstate = errstate_now(dumps)
        environment = tuple((name, os.environ.get(name)) for name in env)
        seen: tuple[Any, ...] = (dumps, filters, levels, disabled, decimal, errstate, environment)
        seen = (*seen, *((var, type(value), value) for var, _, value in carried))
        # Mutable values and extensions have to be pickled to see whether they changed.
        quick = not registered() and all(type(value) in PLAIN for _, _, value in carried)
        last = self._last
        if quick and last is not None and last[0] == seen:
            return last[1]
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
        if last is not None and last[1] == snapshot:
            snapshot = last[1]
        self._last = (seen if quick else (), snapshot)
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
