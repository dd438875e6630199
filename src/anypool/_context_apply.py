"""A snapshot of the caller's surroundings, in force for one chunk, on the worker."""

from __future__ import annotations

import logging
import pickle
import warnings
from contextlib import AbstractContextManager, ExitStack
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from anypool._context_extensions import enter_extension
from anypool._context_numbers import enter_errstate, set_decimal, without_new_decimal
from anypool._context_process import ProcessSettings, process, unpacked_filters
from anypool._context_snapshot import PLAIN, ContextSnapshot, Loads
from anypool._context_variables import contextvar_at
from anypool._frames import stacklevel_of_user

__all__ = ["apply", "leave_nothing"]

_SNAPSHOTS_KEPT = 16


def apply(
    snapshot: ContextSnapshot,
    *,
    exclusive: bool = True,
    in_caller: bool = False,
    stays: bool = False,
    loads: Loads = pickle.loads,
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
    stays : bool
        The process is the pool's own: what belongs to it is put back only when something else is needed, by the next
        chunk or by `leave_nothing`.
    loads : callable
        The inverse of the `dumps` that the snapshot was taken with.

    Notes
    -----
    Mutable values are rebuilt for each chunk, so that what a call does to one does not reach the next chunk.
    The Context starts as a copy of the worker thread's own, which may hold what the pool needs.
    """
    if snapshot.here is not None:
        return _Local(snapshot, snapshot.here, loads)
    return _Foreign(snapshot, exclusive, in_caller, stays, loads)


def leave_nothing() -> None:
    """Put back what stayed: code of the user's is about to be run outside of any call, say to load a function."""
    process.restore()


class _Local:
    """Applies a snapshot that shares the caller's memory."""

    def __init__(self, snapshot: ContextSnapshot, here: Context, loads: Loads) -> None:
        self._snapshot = snapshot
        self._here = here
        self._loads = loads
        self._stack: ExitStack | None = None

    def __enter__(self) -> Context:
        snapshot = self._snapshot
        context = without_new_decimal(self._here.copy())
        if snapshot.errstate is None and not snapshot.extensions:
            return context
        with ExitStack() as stack:
            if snapshot.errstate is not None:
                enter_errstate(snapshot.errstate, context, stack, self._loads)
            for _, reference, value in snapshot.extensions:
                enter_extension(reference, value, context, stack)
            self._stack = stack.pop_all()
        return context

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._stack is not None:
            self._stack.close()


class _Foreign:
    """Applies a snapshot that was sent."""

    def __init__(self, snapshot: ContextSnapshot, exclusive: bool, in_caller: bool, stays: bool, loads: Loads) -> None:
        self._snapshot = snapshot
        self._exclusive = exclusive
        self._in_caller = in_caller
        self._stays = stays
        self._loads = loads
        self._stack: ExitStack | None = None

    def __enter__(self) -> Context:
        prepared = _prepare(self._snapshot, self._loads)
        if not self._in_caller:
            process.enter(prepared.process, sets_environment=self._exclusive)
        try:
            context = without_new_decimal(copy_context())
            if prepared.sets_variables:
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
            process.leave(stays=self._stays)

    def _set_variables(self, prepared: _Prepared) -> None:
        for var, value in prepared.plain_variables:
            var.set(value)
        for var, packed in prepared.other_variables:
            var.set(self._loads(packed))
        if self._snapshot.decimal is not None:
            set_decimal(self._snapshot.decimal)

    def _enter_others(self, context: Context) -> ExitStack:
        with ExitStack() as stack:
            if self._snapshot.errstate is not None:
                enter_errstate(self._snapshot.errstate, context, stack, self._loads)
            for _, reference, value in self._snapshot.extensions:
                enter_extension(reference, self._loads(value), context, stack)
            return stack.pop_all()


@dataclass(kw_only=True, slots=True, eq=False)
class _Prepared:
    """A snapshot in the terms of this process."""

    process: ProcessSettings
    plain_variables: list[tuple[ContextVar[Any], Any]]
    other_variables: list[tuple[ContextVar[Any], bytes]]
    sets_variables: bool


def _prepare(snapshot: ContextSnapshot, loads: Loads) -> _Prepared:
    prepared = _prepared.get(snapshot.key)
    if prepared is not None:
        return prepared
    leave_nothing()
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
        if type(value) in PLAIN:
            plain.append((var, value))
        else:
            other.append((var, packed))
    process_settings = ProcessSettings(
        key=snapshot.key,
        filters=list(unpacked_filters(snapshot.filters, loads)),
        levels=[(logging.getLogger(name or None), level) for name, level in snapshot.levels],
        disabled=snapshot.disabled,
        environment=snapshot.environment,
    )
    sets_variables = bool(plain or other or snapshot.decimal is not None)
    prepared = _Prepared(
        process=process_settings, plain_variables=plain, other_variables=other, sets_variables=sets_variables
    )
    while len(_prepared) >= _SNAPSHOTS_KEPT:
        _prepared.pop(next(iter(_prepared)), None)
    _prepared[snapshot.key] = prepared
    return prepared


# Of this process: the snapshots of the maps that run here, so that the second chunk is quick.
_prepared: dict[str, _Prepared] = {}
