"""What belongs to a whole process: warning filters, logging levels and environment, read there and set here.

It is shared by the calls that run in the process at once. Chunks with the same snapshot share it; with
different snapshots the last applied wins, until no chunk is left and all is as before. The environment is
left alone where other calls run beside: C code that reads it meanwhile may crash.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from anypool._context_references import reference_to, referred
from anypool._context_snapshot import Dumps, Loads, try_dumps

__all__ = ["ProcessSettings", "current_filters", "levels_mark", "packed_filters", "process", "unpacked_filters"]


def levels_mark() -> object:
    """Return an object that stays the same while no logging level is set.

    It sits in the root logger's cache of enabled levels; `setLevel` and `logging.disable` clear that of every
    logger. A level that somebody assigns without `setLevel` is not noticed, nor is it by logging itself.
    """
    cache = getattr(logging.root, "_cache", None)
    if cache is None:  # another implementation of logging: as if it always changed
        return object()
    return cache.setdefault("anypool", object())


# Python 3.14 may keep the filters of `catch_warnings` in the context.
current_filters: Callable[[], Sequence[tuple[Any, ...]]]
current_filters = getattr(warnings, "_get_filters", lambda: warnings.filters)


def packed_filters(filters: Sequence[tuple[Any, ...]], dumps: Dumps) -> Iterator[tuple[Any, ...]]:
    for action, message, category, module, lineno in filters:
        packed: object = reference_to(category)
        if packed is None:
            packed = try_dumps(category, dumps, f"the warning filter for {category.__qualname__}")
        if packed is not None:
            yield (action, _packed_pattern(message), packed, _packed_pattern(module), lineno)


def _packed_pattern(pattern: re.Pattern[str] | str | None) -> tuple[str, int] | str | None:
    return (pattern.pattern, pattern.flags) if isinstance(pattern, re.Pattern) else pattern


def unpacked_filters(filters: Sequence[tuple[Any, ...]], loads: Loads) -> Iterator[tuple[Any, ...]]:
    for action, message, packed, module, lineno in filters:
        try:
            category = loads(packed) if isinstance(packed, bytes) else referred(packed)
        except (ImportError, AttributeError):
            continue  # a category that does not exist here is warned by nobody here
        yield (action, _unpacked_pattern(message), category, _unpacked_pattern(module), lineno)


def _unpacked_pattern(packed: tuple[str, int] | str | None) -> re.Pattern[str] | str | None:
    return re.compile(*packed) if isinstance(packed, tuple) else packed


@dataclass(kw_only=True, slots=True, eq=False)
class ProcessSettings:
    """What a snapshot says about a process, in the terms of this one."""

    key: str
    filters: list[tuple[Any, ...]]
    levels: list[tuple[logging.Logger, int]]
    disabled: int
    environment: tuple[tuple[str, str | None], ...]
    # The levels that have to be changed here, and the mark under which that is so.
    changes: list[tuple[logging.Logger, int]] = field(default_factory=list)
    mark: object = None
    # The filters of this process with which there is none to set.
    fits: list[tuple[Any, ...]] | None = None

    def nothing_to_set(self) -> bool:
        """Whether this process is as it says."""
        return (
            warnings.filters == self.fits
            and not self.changes
            and levels_mark() is self.mark
            and self.disabled == logging.root.manager.disable
        )


class _Process:
    """What belongs to this whole process, as one snapshot wants it, while chunks of that snapshot run."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._holders = 0
        self._applied: ProcessSettings | None = None
        self._filters: list[tuple[Any, ...]] = []
        self._filters_before: list[Any] = []
        self._added: list[tuple[Any, ...]] = []
        self._disabled_before = 0
        self._levels_before: list[tuple[logging.Logger, int, int]] = []
        self._environment_before: list[tuple[str, str | None]] = []
        self._is_unchanged = False
        self._environment: Sequence[tuple[str, str | None]] = ()
        self._mark: object = None

    def enter(self, settings: ProcessSettings, *, sets_environment: bool) -> None:
        with self._lock:
            applied = self._applied
            if applied is not None and (applied.key != settings.key or not (self._holders or self._still_holds())):
                self._restore(applied)
                applied = None
            if applied is None:
                self._environment = settings.environment if sets_environment else ()
                self._apply(settings, self._environment)
                self._applied = settings
                self._mark = levels_mark()
            self._holders += 1

    def leave(self, *, stays: bool) -> None:
        """A chunk has ended. `stays`: leave the process as it is, in case that the next one wants the same."""
        with self._lock:
            self._holders -= 1
        if not stays:
            self.restore()

    def restore(self) -> None:
        """Have the process as it was, unless a chunk runs."""
        with self._lock:
            if self._holders == 0 and self._applied is not None:
                self._restore(self._applied)
                self._applied = None

    def _still_holds(self) -> bool:
        """Whether the process is as the last chunk found it: a call may have changed what is to hold for the next."""
        assert self._applied is not None
        return (
            warnings.filters == self._filters
            and levels_mark() is self._mark
            and logging.root.manager.disable == self._applied.disabled
            and all(os.environ.get(name) == value for name, value in self._environment)
        )

    def _apply(self, settings: ProcessSettings, environment: Sequence[tuple[str, str | None]]) -> None:
        self._filters_before = cast("list[Any]", warnings.filters)
        self._is_unchanged = not environment and settings.nothing_to_set()
        if self._is_unchanged:
            self._filters = settings.fits or []
            self._disabled_before, self._levels_before, self._environment_before = settings.disabled, [], []
            return
        self._environment_before = [(name, os.environ.get(name)) for name, _ in environment]
        for name, value in environment:
            _set_environment(name, value)
        # What the caller has too is as strong as it is there.
        added = [entry for entry in self._added if entry not in settings.filters]
        self._filters = [*added, *settings.filters]
        if warnings.filters == self._filters:
            # The same tuples, not equal ones: then the comparisons of the next chunk are quick.
            self._filters = self._filters_before.copy()
            settings.filters = self._filters[len(added) :]
            settings.fits = self._filters
        else:
            _set_filters(self._filters.copy())
        mark = levels_mark()
        if settings.mark is not mark:
            settings.changes = [(logger, level) for logger, level in settings.levels if logger.level != level]
        self._disabled_before = logging.root.manager.disable
        self._levels_before = [(logger, logger.level, level) for logger, level in settings.changes]
        _set_levels(settings.changes)
        if settings.disabled != self._disabled_before:
            logging.disable(settings.disabled)

    def _restore(self, settings: ProcessSettings) -> None:
        if self._is_unchanged and settings.nothing_to_set():
            return
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
        whole = len(undone) == len(self._levels_before) and levels_mark() is self._mark
        _set_levels(undone)
        if self._disabled_before != settings.disabled == logging.root.manager.disable:
            logging.disable(self._disabled_before)
        settings.mark = levels_mark() if whole else None


process = _Process()


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
