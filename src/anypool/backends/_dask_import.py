"""distributed, imported once and without what its import does to the caller's logging."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["import_distributed"]

# Clusters started from two threads at once would race in distributed's imports, which are circular.
_import_lock = threading.Lock()


def import_distributed() -> Any:
    """The module `distributed`."""
    with _import_lock:
        if "distributed" in sys.modules:
            return importlib.import_module("distributed")
        with _existing_loggers_kept():
            return importlib.import_module("distributed")


@contextlib.contextmanager
def _existing_loggers_kept() -> Iterator[None]:
    """Put back how the loggers were that existed before.

    distributed configures logging when it is imported: it sets the levels of its own loggers and tornado's, and
    prints what they say where the root logger has no handler. Whoever imports it asked for that; a user of anypool
    did not. Loggers that nobody had asked for before keep what distributed gave them.
    """
    loggers = [each for each in logging.root.manager.loggerDict.copy().values() if isinstance(each, logging.Logger)]
    before = [(each, each.level, each.propagate, each.handlers[:]) for each in [logging.root, *loggers]]
    try:
        yield
    finally:
        for logger, level, propagate, handlers in before:
            logger.setLevel(level)
            logger.propagate = propagate
            logger.handlers[:] = handlers
