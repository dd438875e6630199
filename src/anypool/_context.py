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

What belongs to a process is shared by the calls that run in it at once. Chunks with the same snapshot
share it; with different snapshots the last applied wins, until no chunk is left and all is as before.
The environment is left alone where other calls run beside: C code that reads it meanwhile may crash.
"""

from __future__ import annotations

import importlib
import itertools
import logging
import os
import pickle
import re
import sys
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from functools import lru_cache
from types import ModuleType, TracebackType
from typing import Any, TypeAlias, cast

from anypool._frames import stacklevel_of_user

__all__ = [
    "ContextSnapshot",
    "apply",
    "capture_context",
    "contextvar_at",
    "isolated",
    "reduce_contextvar",
    "register_context",
]

Dumps: TypeAlias = Callable[[Any], bytes]
Loads: TypeAlias = Callable[[bytes], Any]
Home: TypeAlias = tuple[str, str]
"""Module and attribute that hold a variable; ("", token) for one that no module holds."""

Errstate: TypeAlias = tuple[tuple[tuple[str, str], ...], bytes | None]
"""NumPy's modes by kind of error, and the pickled handler or None."""

_PLAIN = (str, int, float, bool, bytes, type(None))

# Their variables describe the process or the pool they are in. NumPy's and decimal's travel by public API.
_NOT_CARRIED = frozenset({"anypool", "numpy", "dask", "distributed", "joblib", "loky", "ray", *sys.stdlib_module_names})

_SNAPSHOTS_KEPT = 16

_PRISTINE_DECIMAL = (28, "ROUND_HALF_EVEN", -999999, 999999, 1, 0)
_PRISTINE_ERRSTATE = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}


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


# --- in the caller: capture ---------------------------------------------------------------------------------


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
        values = tuple((name, each.apply, each.capture()) for name, each in _extensions.copy().items())
        errstate = None if _numpy_uses_contextvars() else _errstate(dumps)
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
        variables = [(var, _homes.find(var), value) for var, value in copy_context().items()]
        carried = [(var, home, value) for var, home, value in variables if home is not None]
        filters = tuple(_current_filters())
        levels = self._current_levels()
        disabled = logging.root.manager.disable
        decimal = _decimal_arguments()
        errstate = _errstate(dumps)
        environment = tuple((name, os.environ.get(name)) for name in env)
        seen: tuple[Any, ...] = (dumps, filters, levels, disabled, decimal, errstate, environment)
        seen = (*seen, *((var, type(value), value) for var, _, value in carried))
        # Mutable values and extensions have to be pickled to see whether they changed.
        quick = not _extensions and all(type(value) in _PLAIN for _, _, value in carried)
        last = self._last
        if quick and last is not None and last[0] == seen:
            return last[1]
        snapshot = ContextSnapshot(
            key=f"{self._token}-{os.getpid()}-{next(self._numbers)}",
            variables=tuple(_packed_variables(carried, dumps)),
            filters=tuple(_packed_filters(filters, dumps)),
            levels=levels,
            disabled=disabled,
            decimal=decimal,
            errstate=errstate,
            environment=environment,
            extensions=tuple(_packed_extensions(dumps)),
        )
        if last is not None and last[1] == snapshot:
            snapshot = last[1]
        self._last = (seen if quick else (), snapshot)
        return snapshot

    def _current_levels(self) -> tuple[tuple[str, int], ...]:
        loggers = logging.root.manager.loggerDict
        mark = _levels_mark()
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


def _levels_mark() -> object:
    """Return an object that stays the same while no logging level is set.

    It sits in the root logger's cache of enabled levels; `setLevel` and `logging.disable` clear that of every
    logger. A level that somebody assigns without `setLevel` is not noticed, nor is it by logging itself.
    """
    cache = getattr(logging.root, "_cache", None)
    if cache is None:  # another implementation of logging: as if it always changed
        return object()
    return cache.setdefault("anypool", object())


def _current_filters() -> Sequence[tuple[Any, ...]]:
    # Python 3.14 may keep the filters of `catch_warnings` in the context.
    get_filters = getattr(warnings, "_get_filters", None)
    return cast("Sequence[tuple[Any, ...]]", warnings.filters if get_filters is None else get_filters())


def _packed_filters(filters: Sequence[tuple[Any, ...]], dumps: Dumps) -> Iterator[tuple[Any, ...]]:
    for action, message, category, module, lineno in filters:
        packed: object = _reference(category)
        if packed is None:
            packed = _try_dumps(category, dumps, f"the warning filter for {category.__qualname__}")
        if packed is not None:
            yield (action, _packed_pattern(message), packed, _packed_pattern(module), lineno)


def _packed_pattern(pattern: re.Pattern[str] | str | None) -> tuple[str, int] | str | None:
    return (pattern.pattern, pattern.flags) if isinstance(pattern, re.Pattern) else pattern


def _packed_variables(
    carried: Sequence[tuple[ContextVar[Any], Home, Any]], dumps: Dumps
) -> Iterator[tuple[str, str, str, bytes | None, bytes]]:
    for var, (module, name), value in carried:
        what = None
        if module in ("", "__main__") or not name.startswith("_"):
            what = f"the context variable {var.name!r}" + (f" ({module}.{name})" if module else "")
        packed = _try_dumps(value, dumps, what)
        if packed is None:
            continue
        default = None
        if module in ("", "__main__"):  # the worker has to make it
            default = _try_dumps(_default_of(var), dumps, None)
        yield (module, name, var.name, default, packed)


def _packed_extensions(dumps: Dumps) -> Iterator[tuple[str, str, Any]]:
    for name, extension in _extensions.copy().items():
        packed = _try_dumps(extension.capture(), dumps, f"the registered context {name!r}")
        if packed is not None:
            yield (name, extension.apply, packed)


def _decimal_arguments() -> tuple[Any, ...] | None:
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


def _errstate(dumps: Dumps) -> Errstate | None:
    numpy = sys.modules.get("numpy")
    get_modes = getattr(numpy, "geterr", None)  # absent while numpy is being imported
    if numpy is None or get_modes is None:
        return None
    modes = get_modes()
    if modes == _PRISTINE_ERRSTATE:
        return None
    handler = numpy.geterrcall() if {"call", "log"}.intersection(modes.values()) else None
    packed = None if handler is None else _try_dumps(handler, dumps, "the handler of numpy.seterrcall")
    return tuple(modes.items()), packed


def _numpy_uses_contextvars() -> bool:
    """Whether `numpy.errstate` is kept in a context variable; before NumPy 2 it is the thread's."""
    version = getattr(sys.modules.get("numpy"), "__version__", "2")
    return int(version.partition(".")[0]) >= 2


def _try_dumps(value: object, dumps: Dumps, what: str | None) -> bytes | None:
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


# --- where a context variable lives -------------------------------------------------------------------------


class _Homes:
    """Finds the module attribute that holds a variable, and the variable that a home means here.

    One instance: it describes `sys.modules`. Variables are remembered by id, with a reference that keeps the
    id from being given to another: they cannot be referred to weakly, and are made to live for ever.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._known: dict[int, tuple[ContextVar[Any], Home]] = {}
        self._homeless: dict[int, tuple[ContextVar[Any], object]] = {}
        self._scanned: set[str] = set()
        self._made: dict[Home, ContextVar[Any]] = {}

    def find(self, var: ContextVar[Any]) -> Home | None:
        """Return the home of a variable that travels; None for one that does not."""
        known = self._known.get(id(var))
        if known is not None and self._holds(known[1], var):
            return known[1] if _is_carried(known[1]) else None
        main = sys.modules.get("__main__")
        version = (len(sys.modules), len(vars(main)) if main is not None else 0)
        homeless = self._homeless.get(id(var))
        if homeless is not None and homeless[1] == version:
            return None
        with self._lock:
            # The first time in all modules: it may have been put into one that was scanned before.
            self._scan(known is None and homeless is not None)
            known = self._known.get(id(var))
            if known is not None and self._holds(known[1], var):
                self._homeless.pop(id(var), None)
                return known[1] if _is_carried(known[1]) else None
            self._known.pop(id(var), None)
            self._homeless[id(var)] = (var, version)
        return None

    def name(self, var: ContextVar[Any]) -> Home:
        """Return the home of any variable; one that has none is given a token."""
        self.find(var)
        with self._lock:
            known = self._known.get(id(var))
            if known is None:
                home = ("", f"{uuid.uuid4().hex}")
                self._made[home] = var
                known = self._known[id(var)] = (var, home)
        return known[1]

    def make(self, home: Home, name: str, default: tuple[Any, ...] | None) -> ContextVar[Any]:
        """Return this process's variable for a home that no module here has; the same one each time."""
        with self._lock:
            var = self._made.get(home)
            if var is None:
                var = ContextVar(name, default=default[0]) if default else ContextVar(name)
                self._made[home] = var
                self._known[id(var)] = (var, home)
            return var

    def _holds(self, home: Home, var: ContextVar[Any]) -> bool:
        # A notebook cell that runs again binds the name to a new variable, and the old one is nobody's.
        return self._made.get(home) is var or getattr(sys.modules.get(home[0]), home[1], None) is var

    def _scan(self, only_new: bool) -> None:
        modules = [(name, module) for name, module in sys.modules.copy().items() if name != "__main__"]
        if only_new:
            modules = [(name, module) for name, module in modules if name not in self._scanned]
        # `__main__` last: of a variable imported there, the module it is from is the better home.
        for name, module in [*modules, ("__main__", sys.modules.get("__main__"))]:
            self._scanned.add(name)
            if isinstance(module, ModuleType):
                self._scan_module(name, module)

    def _scan_module(self, module_name: str, module: ModuleType) -> None:
        for name, value in vars(module).copy().items():
            if type(value) is ContextVar:
                known = self._known.get(id(value))
                if known is None or not self._holds(known[1], value):
                    self._known[id(value)] = (value, (module_name, name))


def _is_carried(home: Home) -> bool:
    module = home[0]
    return module.partition(".")[0] not in _NOT_CARRIED or module.startswith("anypool.testing")


_homes = _Homes()


def reduce_contextvar(var: ContextVar[Any]) -> tuple[Callable[..., ContextVar[Any]], tuple[Any, ...]]:
    """Return the reduce value of a variable, for a pickler: rebuilt, it is the variable of its home there.

    With its default, for the worker that has to make it: if its home is in `__main__`, or if no module holds
    it, say a variable that a closure refers to.
    """
    module, name = _homes.name(var)
    default = _default_of(var) if module in ("", "__main__") else None
    return contextvar_at, (module, name, var.name, default)


def contextvar_at(module: str, name: str, label: str, default: tuple[Any, ...] | None = None) -> ContextVar[Any]:
    """Return the context variable of that home in this process, made if there is none.

    Parameters
    ----------
    module, name : str
        Its home: a module, imported if need be, and an attribute; or "" and a token.
    label : str
        The variable's own name. An attribute that holds a variable of another name is another one.
    default : 1-tuple or None
        Its default, if it has one.
    """
    made = _homes._made.get((module, name))
    if made is not None:
        return made
    found = getattr(_module_named(module), name, None) if module else None
    if isinstance(found, ContextVar) and found.name == label:
        return found
    return _homes.make((module, name), label, default)


def _module_named(name: str) -> ModuleType | None:
    loaded = sys.modules.get(name)
    if loaded is not None:
        return loaded
    try:
        return importlib.import_module(name)
    except ImportError:
        return None  # then no call here can have got the variable by importing it either


def _default_of(var: ContextVar[Any]) -> tuple[Any, ...] | None:
    try:
        return (Context().run(var.get),)
    except LookupError:
        return None


# --- extensions ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Extension:
    capture: Callable[[], object]
    apply: str


# Global, because what is registered is a library's setting, which is the process's or the thread's.
_extensions: dict[str, _Extension] = {}


def register_context(
    name: str, capture: Callable[[], object], apply: Callable[[Any], AbstractContextManager[Any]] | str
) -> None:
    """Carry a library's setting to the calls, on every backend.

    Parameters
    ----------
    name : str
        The setting's name, for messages. Registering it again replaces it.
    capture : callable
        Called by the caller for each map and submit; returns the setting, which must pickle. Keep it quick.
    apply : callable or "module:attribute"
        Called on the worker with that setting; returns a context manager that is entered in the thread and
        in the context in which the calls of a chunk run. Workers import it, from a module that they have.

    Raises
    ------
    ValueError
        `apply` cannot be imported, by the name it has, from the module it says it is from.

    Examples
    --------
    >>> import sklearn  # doctest: +SKIP
    >>> register_context("sklearn", sklearn.get_config, "anypool_sklearn:restored")  # doctest: +SKIP
    """
    reference = apply if isinstance(apply, str) else _reference(apply)
    if reference is None or ":" not in reference:
        raise ValueError(
            f"register_context({name!r}): workers cannot import {apply!r}. "
            "Define it at the top of a module that they have, or name it as 'module:attribute'."
        )
    _extensions[name] = _Extension(capture=capture, apply=reference)


def _reference(obj: Any) -> str | None:
    """Return "module:qualname" if that leads back to `obj` and another process can follow it."""
    module, qualname = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(qualname, str) or module == "__main__":
        return None
    try:
        return f"{module}:{qualname}" if _referred(f"{module}:{qualname}") is obj else None
    except (ImportError, AttributeError):
        return None


def _referred(reference: str) -> Any:
    module, _, qualname = reference.partition(":")
    found: Any = sys.modules.get(module) or importlib.import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name)
    return found


# --- on the worker: apply -----------------------------------------------------------------------------------


def apply(
    snapshot: ContextSnapshot, *, exclusive: bool = True, in_caller: bool = False, loads: Loads = pickle.loads
) -> AbstractContextManager[Context]:
    """Return a context manager, for one chunk, whose value is the `contextvars.Context` of its calls.

    Parameters
    ----------
    snapshot : ContextSnapshot
        The caller's.
    exclusive : bool
        The process runs one call at a time. Where not, the environment is left alone, and chunks of several
        snapshots may overlap: of filters and levels the last applied win.
    in_caller : bool
        This is the caller's process: what belongs to the process is left alone. So it is, too, with a
        snapshot that shares memory.
    loads : callable
        The inverse of the `dumps` that the snapshot was taken with.

    Notes
    -----
    Mutable values are rebuilt for each chunk, so that what a call does to one does not reach the next chunk.
    The Context starts as a copy of the worker thread's own, which may hold what the pool needs.
    """
    if snapshot.here is not None:
        return _Local(snapshot, snapshot.here, loads)
    return _Foreign(snapshot, exclusive, in_caller, loads)


class _Local:
    """Applies a snapshot that shares the caller's memory."""

    def __init__(self, snapshot: ContextSnapshot, here: Context, loads: Loads) -> None:
        self._snapshot = snapshot
        self._here = here
        self._loads = loads
        self._stack = ExitStack()

    def __enter__(self) -> Context:
        snapshot = self._snapshot
        context = self._here.copy()
        with ExitStack() as stack:
            if snapshot.errstate is not None:
                _enter_errstate(snapshot.errstate, context, stack, self._loads)
            for _, reference, value in snapshot.extensions:
                _enter_extension(reference, value, context, stack)
            self._stack = stack.pop_all()
        return context

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()


class _Foreign:
    """Applies a snapshot that was sent."""

    def __init__(self, snapshot: ContextSnapshot, exclusive: bool, in_caller: bool, loads: Loads) -> None:
        self._snapshot = snapshot
        self._exclusive = exclusive
        self._in_caller = in_caller
        self._loads = loads
        self._stack: ExitStack | None = None

    def __enter__(self) -> Context:
        prepared = _prepare(self._snapshot, self._loads)
        if not self._in_caller:
            _process.enter(prepared, sets_environment=self._exclusive)
        try:
            context = copy_context()
            context.run(self._set_variables, prepared)
            if self._snapshot.errstate is not None or self._snapshot.extensions:
                self._stack = self._enter_others(context)
        except BaseException:
            self._leave()
            raise
        return context

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._stack is not None:
                self._stack.close()
        finally:
            self._leave()

    def _leave(self) -> None:
        if not self._in_caller:
            _process.leave()

    def _set_variables(self, prepared: _Prepared) -> None:
        for var, value in prepared.plain_variables:
            var.set(value)
        for var, packed in prepared.other_variables:
            var.set(self._loads(packed))
        if self._snapshot.decimal is not None:
            _set_decimal(self._snapshot.decimal)

    def _enter_others(self, context: Context) -> ExitStack:
        with ExitStack() as stack:
            if self._snapshot.errstate is not None:
                _enter_errstate(self._snapshot.errstate, context, stack, self._loads)
            for _, reference, value in self._snapshot.extensions:
                _enter_extension(reference, self._loads(value), context, stack)
            return stack.pop_all()


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


def _set_decimal(arguments: tuple[Any, ...]) -> None:
    import decimal

    prec, rounding, low, high, capitals, clamp, traps = arguments
    signals = [getattr(decimal, name) for name in traps]
    decimal.setcontext(decimal.Context(prec, rounding, low, high, capitals, clamp, flags=[], traps=signals))


def _enter_errstate(errstate: Errstate, context: Context, stack: ExitStack, loads: Loads) -> None:
    import numpy

    modes, packed = errstate
    chosen: dict[str, Any] = dict(modes)
    if packed is not None:
        chosen["call"] = loads(packed)
    if _numpy_uses_contextvars():
        context.run(numpy.errstate(**chosen).__enter__)  # that Context ends with the chunk
    else:
        stack.enter_context(numpy.errstate(**chosen))


def _enter_extension(reference: str, value: object, context: Context, stack: ExitStack) -> None:
    manager = _referred(reference)(value)
    context.run(type(manager).__enter__, manager)
    stack.callback(context.run, type(manager).__exit__, manager, None, None, None)


@dataclass(kw_only=True, slots=True)
class _Prepared:
    """A snapshot in the terms of this process."""

    key: str
    filters: list[tuple[Any, ...]]
    levels: list[tuple[logging.Logger, int]]
    disabled: int
    environment: tuple[tuple[str, str | None], ...]
    plain_variables: list[tuple[ContextVar[Any], Any]]
    other_variables: list[tuple[ContextVar[Any], bytes]]
    # The levels that have to be changed here, and the mark under which that is so.
    changes: list[tuple[logging.Logger, int]] = field(default_factory=list)
    mark: object = None


def _prepare(snapshot: ContextSnapshot, loads: Loads) -> _Prepared:
    prepared = _prepared.get(snapshot.key)
    if prepared is not None:
        return prepared
    plain: list[tuple[ContextVar[Any], Any]] = []
    other: list[tuple[ContextVar[Any], bytes]] = []
    for module, name, label, default, packed in snapshot.variables:
        var = contextvar_at(module, name, label, None if default is None else loads(default))
        try:
            value = loads(packed)
        except Exception as exc:  # whatever a constructor of the user's raises; it is reported
            message = f"the context variable {label!r} cannot be rebuilt here, and is not set: {exc!r}"
            warnings.warn(message, RuntimeWarning, stacklevel=stacklevel_of_user())
            continue
        if type(value) in _PLAIN:
            plain.append((var, value))
        else:
            other.append((var, packed))
    prepared = _Prepared(
        key=snapshot.key,
        filters=list(_unpacked_filters(snapshot.filters, loads)),
        levels=[(logging.getLogger(name or None), level) for name, level in snapshot.levels],
        disabled=snapshot.disabled,
        environment=snapshot.environment,
        plain_variables=plain,
        other_variables=other,
    )
    while len(_prepared) >= _SNAPSHOTS_KEPT:
        _prepared.pop(next(iter(_prepared)), None)
    _prepared[snapshot.key] = prepared
    return prepared


# Of this process: the snapshots of the maps that run here, so that the second chunk is quick.
_prepared: dict[str, _Prepared] = {}


def _unpacked_filters(filters: Sequence[tuple[Any, ...]], loads: Loads) -> Iterator[tuple[Any, ...]]:
    for action, message, packed, module, lineno in filters:
        try:
            category = loads(packed) if isinstance(packed, bytes) else _referred(packed)
        except (ImportError, AttributeError):
            continue  # a category that does not exist here is warned by nobody here
        yield (action, _unpacked_pattern(message), category, _unpacked_pattern(module), lineno)


def _unpacked_pattern(packed: tuple[str, int] | str | None) -> re.Pattern[str] | str | None:
    return re.compile(*packed) if isinstance(packed, tuple) else packed


class _Process:
    """What belongs to this whole process, as one snapshot wants it, while chunks of that snapshot run."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._holders = 0
        self._applied: _Prepared | None = None
        self._filters: list[tuple[Any, ...]] = []
        self._filters_before: list[Any] = []
        self._added: list[tuple[Any, ...]] = []
        self._disabled_before = 0
        self._levels_before: list[tuple[logging.Logger, int, int]] = []
        self._environment_before: list[tuple[str, str | None]] = []

    def enter(self, prepared: _Prepared, *, sets_environment: bool) -> None:
        with self._lock:
            applied = self._applied
            if applied is None or applied.key != prepared.key:
                if applied is not None:
                    self._restore(applied)
                self._apply(prepared, prepared.environment if sets_environment else ())
                self._applied = prepared
            self._holders += 1

    def leave(self) -> None:
        with self._lock:
            self._holders -= 1
            if self._holders == 0 and self._applied is not None:
                self._restore(self._applied)
                self._applied = None

    def _apply(self, prepared: _Prepared, environment: Sequence[tuple[str, str | None]]) -> None:
        self._environment_before = [(name, os.environ.get(name)) for name, _ in environment]
        for name, value in environment:
            _set_environment(name, value)
        self._filters_before = cast("list[Any]", warnings.filters)
        # What the caller has too is as strong as it is there.
        added = [entry for entry in self._added if entry not in prepared.filters]
        self._filters = [*added, *prepared.filters]
        if warnings.filters == self._filters:
            # The same tuples, not equal ones: then the comparisons of the next chunk are quick.
            self._filters = self._filters_before.copy()
            prepared.filters = self._filters[len(added) :]
        else:
            _set_filters(self._filters.copy())
        mark = _levels_mark()
        if prepared.mark is not mark:
            prepared.changes = [(logger, level) for logger, level in prepared.levels if logger.level != level]
        self._disabled_before = logging.root.manager.disable
        self._levels_before = [(logger, logger.level, level) for logger, level in prepared.changes]
        _set_levels(prepared.changes)
        if prepared.disabled != self._disabled_before:
            logging.disable(prepared.disabled)

    def _restore(self, prepared: _Prepared) -> None:
        for name, value in self._environment_before:
            _set_environment(name, value)
        if warnings.filters != self._filters:
            # A module that a call imported added filters. It is imported once: they stay, for later chunks.
            added = [entry for entry in warnings.filters if entry not in self._filters]
            self._added[:0] = added
            self._filters_before[:0] = [entry for entry in added if entry not in self._filters_before]
        if warnings.filters is not self._filters_before:
            _set_filters(self._filters_before)
        # A level that a call has set since, say by an import, is kept.
        undone = [(logger, before) for logger, before, level in self._levels_before if logger.level == level]
        whole = len(undone) == len(self._levels_before)
        _set_levels(undone)
        if self._disabled_before != prepared.disabled == logging.root.manager.disable:
            logging.disable(self._disabled_before)
        prepared.mark = _levels_mark() if whole else None


_process = _Process()


def _set_levels(levels: Sequence[tuple[logging.Logger, int]]) -> None:
    for logger, level in levels[:-1]:
        logger.level = level
    for logger, level in levels[-1:]:
        logger.setLevel(level)  # which makes all loggers forget what they cached: once is enough


def _set_filters(filters: list[Any]) -> None:
    warnings.filters = filters
    with warnings.catch_warnings():
        pass  # The public way to say that the filters changed: modules forget what they have warned about.


def _set_environment(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
