"""How a worker of the local pool came to its end, told so that a person can act on it."""

from __future__ import annotations

import os
import signal
from typing import IO, Final

from anypool._pool_start import WorkerProcess

__all__ = ["WorkerDied", "post_mortem"]

_LAST_WORDS: Final = 4096
"""Bytes of faulthandler's report that an error quotes, from its beginning."""


class WorkerDied(Exception):
    """The worker process that ran the call is gone.

    Attributes
    ----------
    exitcode : int or None
        Its exit code, negative for a signal; None where nobody can know.
    pid : int or None
        Its process id; None if it never was.
    """

    def __init__(self, message: str, *, exitcode: int | None = None, pid: int | None = None) -> None:
        super().__init__(message)
        self.exitcode = exitcode
        self.pid = pid

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), self.args, self.__dict__)


def post_mortem(
    name: str, process: WorkerProcess | None, faults: IO[bytes] | None, error: OSError | None
) -> WorkerDied:
    """Say how worker `name` ended, or why it never began."""
    if process is None:
        died = WorkerDied(f"worker {name} could not be started: {error}")
        died.__cause__ = error
        return died
    end = _describe_end(process.exitcode)
    words = "" if faults is None else _last_words(faults)
    return WorkerDied(f"worker {name} (pid {process.pid}) {end}{words}", exitcode=process.exitcode, pid=process.pid)


def _describe_end(code: int | None) -> str:
    if code is None:
        return "ended; its exit code is not known"
    if code >= 0:
        return f"exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "signal"
    hint = ", which the kernel also sends when memory runs out" if name == "SIGKILL" else ""
    return f"was ended by {name} ({code}){hint}"


def _last_words(file: IO[bytes]) -> str:
    """Return what faulthandler wrote in the worker."""
    size = file.seek(0, os.SEEK_END)
    # Its beginning: that has the innermost frames, which a deep stack would push out of a tail.
    file.seek(0)
    text = file.read(_LAST_WORDS).decode("utf-8", "backslashreplace").strip()
    if size > _LAST_WORDS:
        text += "\n..."
    return f"\n{text}" if text else ""
