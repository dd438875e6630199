"""A library, imported without what its import does to the caller's process."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["import_without_traces", "start_method_kept"]

# Two threads at once would see, and put back, each other's changes; and distributed's imports are circular.
_lock = threading.RLock()

_SET_BY_IMPORTS = ("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK")
"""What threadpoolctl and joblib put into the environment. Whatever else changes there meanwhile is somebody else's."""

_OWN_LOGGERS = ("distributed", "tornado")
"""Of libraries that configure them for themselves: what happens in their threads is not for the caller's log."""


def import_without_traces(name: str) -> Any:
    """The module `name`; the environment, logging and multiprocessing are as before it was imported."""
    with _lock:
        if name in sys.modules:
            return importlib.import_module(name)
        with _environment_kept(), _loggers_kept(), start_method_kept():
            return importlib.import_module(name)


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    before = {each: os.environ.get(each) for each in _SET_BY_IMPORTS}
    try:
        yield
    finally:
        for each, value in before.items():
            if value is None:
                os.environ.pop(each, None)


@contextlib.contextmanager
def _loggers_kept() -> Iterator[None]:
    """Put back how loggers were; those that are new get no level and no handler, unless they are the library's own.

    distributed sets the levels of its own loggers, tornado's and bokeh's when it is imported, and prints what they say
    where the root logger has no handler. Whoever imports it asked for that; a user of anypool did not.
    """
    before = {id(each): (each.level, each.propagate, each.handlers[:]) for each in _loggers()}
    try:
        yield
    finally:
        import logging

        for logger in _loggers():
            is_new = id(logger) not in before
            if is_new and logger.name.partition(".")[0] in _OWN_LOGGERS:
                continue
            nothing = [each for each in logger.handlers if is_new and isinstance(each, logging.NullHandler)]
            level, propagate, handlers = before.get(id(logger), (logging.NOTSET, True, nothing))
            logger.setLevel(level)
            logger.propagate = propagate
            logger.handlers[:] = handlers


def _loggers() -> list[Any]:
    logging = sys.modules.get("logging")
    if logging is None:
        return []
    known = logging.root.manager.loggerDict.copy().values()
    return [logging.root, *(each for each in known if isinstance(each, logging.Logger))]


@contextlib.contextmanager
def start_method_kept() -> Iterator[None]:
    """Leave multiprocessing without a start method if it has none: to ask for one settles it, and joblib does."""
    was_settled = "multiprocessing" in sys.modules and _settled_start_method() is not None
    try:
        yield
    finally:
        if not was_settled and "multiprocessing" in sys.modules and _settled_start_method() is not None:
            sys.modules["multiprocessing"].set_start_method(None, force=True)


def _settled_start_method() -> str | None:
    found: str | None = sys.modules["multiprocessing"].get_start_method(allow_none=True)
    return found
