"""The results of `anypool map`: lines of JSON on the standard output, which nothing else may write to."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from typing import Any

from anypool.cli._reader import ReaderGone
from anypool.errors import AnypoolError

__all__ = ["NotWritten", "Results", "as_json", "results_apart"]


class NotWritten(AnypoolError):
    """The results cannot be written: a full disk, say."""


def as_json(value: object) -> str:
    """Return `value` on one line. Arrays and scalars of NumPy, and what else has `tolist`, are lists and numbers.

    Raises
    ------
    TypeError, ValueError, RecursionError
        JSON has no form for it.
    """
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a result of type {type(value).__qualname__} has no form in JSON")


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """Where the results go.

    Parameters
    ----------
    write : callable
        Writes a line. It raises `ReaderGone` or `NotWritten`.
    descriptor : int or None
        The number of the file, where it is one of the process.
    """

    write: Callable[[str], None]
    descriptor: int | None = None


@contextmanager
def results_apart() -> Iterator[Results]:
    """Give where results can be written; all else that is printed in the block goes to the standard error.

    So do prints of calls, and what their processes write past Python: those have the descriptors of this one.
    """
    try:
        descriptor = sys.stdout.fileno()
        errors = sys.stderr.fileno()
    except (OSError, AttributeError):  # not those of a process: a test's, a notebook's
        out = sys.stdout
        with redirect_stdout(sys.stderr):
            yield Results(write=lambda line: _write(line, out.write))
        return
    sys.stdout.flush()
    kept = os.dup(descriptor)
    os.dup2(errors, descriptor)
    try:
        with redirect_stdout(sys.stderr):
            write_all = partial(_write_all, kept)
            yield Results(write=lambda line: _write(line, write_all), descriptor=kept)
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)


def _write(line: str, write: Callable[[str], object]) -> None:
    try:
        write(line + "\n")
    except OSError as exc:
        # Windows says EINVAL where the reader of a pipe has gone.
        if isinstance(exc, BrokenPipeError) or (os.name == "nt" and exc.errno == errno.EINVAL):
            raise ReaderGone from exc
        raise NotWritten(f"the results cannot be written: {exc}; those before are") from exc


def _write_all(descriptor: int, text: str) -> None:
    """Write at once, so that a result is seen when it is there, and is not lost with this process."""
    # A lone surrogate becomes \udc80, which is how JSON writes it.
    data = memoryview(text.encode("utf-8", "backslashreplace"))
    while data:
        with contextlib.suppress(BlockingIOError):
            data = data[os.write(descriptor, data) :]
