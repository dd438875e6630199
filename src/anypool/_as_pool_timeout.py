"""The error of a result that was not in time for `get`; a file of its own because multiprocessing comes with it."""

from __future__ import annotations

import multiprocessing

__all__ = ["PoolTimeout"]


class PoolTimeout(multiprocessing.TimeoutError, TimeoutError):
    """The result was not there in time: the error of the standard library's pools, and everybody else's."""
