"""How numbers are computed: the context of `decimal` and NumPy's `errstate`, read and set."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from contextvars import Context
from functools import lru_cache
from types import ModuleType
from typing import Any

from anypool._context_snapshot import Dumps, Errstate, Loads, try_dumps

__all__ = [
    "decimal_arguments",
    "enter_errstate",
    "errstate_now",
    "isolated",
    "numpy_uses_contextvars",
    "set_decimal",
    "without_new_decimal",
]

_PRISTINE_DECIMAL = (28, "ROUND_HALF_EVEN", -999999, 999999, 1, 0)
_DECIMAL_SETTINGS = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp", "traps")
_PRISTINE_ERRSTATE = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}


def decimal_arguments() -> tuple[Any, ...] | None:
    """Return the arguments that make `decimal.Context` like this thread's; None if it is pristine."""
    decimal = sys.modules.get("decimal")
    if decimal is None:
        return None
    now = decimal.getcontext()
    plain = (now.prec, now.rounding, now.Emin, now.Emax, now.capitals, now.clamp)
    if plain == _PRISTINE_DECIMAL and now.traps == _pristine(decimal).traps:
        return None
    # Without the flags: they say what happened before, and are no setting.
    return (*plain, tuple(sorted(signal.__name__ for signal, is_on in now.traps.items() if is_on)))


@lru_cache(maxsize=1)
def _pristine(decimal: ModuleType) -> Any:
    # The context, not its traps: those are a view that does not keep it alive.
    return decimal.Context(traps=[decimal.DivisionByZero, decimal.InvalidOperation, decimal.Overflow])


def errstate_now(dumps: Dumps) -> Errstate | None:
    numpy = sys.modules.get("numpy")
    get_modes = getattr(numpy, "geterr", None)  # absent while numpy is being imported
    if numpy is None or get_modes is None:
        return None
    modes = get_modes()
    if modes == _PRISTINE_ERRSTATE:
        return None
    handler = numpy.geterrcall() if {"call", "log"}.intersection(modes.values()) else None
    packed = None if handler is None else try_dumps(handler, dumps, "the handler of numpy.seterrcall")
    return tuple(modes.items()), packed


def numpy_uses_contextvars() -> bool:
    """Whether `numpy.errstate` is kept in a context variable; before NumPy 2 it is the thread's."""
    return _is_in_context(getattr(sys.modules.get("numpy"), "__version__", "2"))


@lru_cache(maxsize=2)
def _is_in_context(version: str) -> bool:
    return int(version.partition(".")[0]) >= 2


def without_new_decimal(context: Context) -> Context:
    """Return `context` without a `decimal` context that is as a new one would be, and need not be copied for each call.

    A call that computes with decimals then makes its own, as a new thread does.
    """
    decimal = sys.modules.get("decimal")
    if decimal is None or "decimal_context" not in [var.name for var in context]:
        return context
    rest = Context()
    for var, value in context.items():
        if var.name != "decimal_context" or not _equals(value, decimal.DefaultContext):
            rest.run(var.set, value)
    return rest


def _equals(one: Any, other: Any) -> bool:
    """Whether two `decimal` contexts say the same, but for what has happened in them."""
    return all(getattr(one, name) == getattr(other, name) for name in _DECIMAL_SETTINGS)


def isolated(context: Context) -> Context:
    """Return a copy of `context` for one call, with a `decimal` context of its own where decimal is in use.

    A plain copy shares the mutable `decimal.Context`: a call that sets its precision sets the next call's.
    """
    copy = context.copy()
    decimal = sys.modules.get("decimal")
    if decimal is not None:
        copy.run(_copy_decimal, decimal)
    return copy


def _copy_decimal(decimal: ModuleType) -> None:
    decimal.setcontext(decimal.getcontext().copy())


def set_decimal(arguments: tuple[Any, ...]) -> None:
    import decimal

    prec, rounding, low, high, capitals, clamp, traps = arguments
    signals = [getattr(decimal, name) for name in traps]
    decimal.setcontext(decimal.Context(prec, rounding, low, high, capitals, clamp, flags=[], traps=signals))


def enter_errstate(errstate: Errstate, context: Context, stack: ExitStack, loads: Loads) -> None:
    import numpy

    modes, packed = errstate
    chosen: dict[str, Any] = dict(modes)
    if packed is not None:
        chosen["call"] = loads(packed)
    if numpy_uses_contextvars():
        context.run(numpy.errstate(**chosen).__enter__)  # that Context ends with the chunk
    else:
        stack.enter_context(numpy.errstate(**chosen))
