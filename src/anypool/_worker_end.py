"""How a worker process came to its end, told so that a person can act on it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
from typing import IO, Final

__all__ = ["WorkerDied", "fault_file", "post_mortem", "read_faults"]

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
    host : str or None
        Its host, where known.
    """

    def __init__(
        self, message: str, *, exitcode: int | None = None, pid: int | None = None, host: str | None = None
    ) -> None:
        super().__init__(message)
        self.exitcode = exitcode
        self.pid = pid
        self.host = host

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), self.args, self.__dict__)


def fault_file() -> IO[bytes]:
    """Return a new file without a name, for the last words of a worker (a traceback of faulthandler)."""
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):  # refused by a sandbox, say
            return open(os.memfd_create("anypool-faults"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def post_mortem(
    name: str,
    *,
    pid: int | None,
    exitcode: int | None = None,
    words: str = "",
    host: str | None = None,
    where: str = "",
) -> WorkerDied:
    """Say how worker `name` ended.

    Parameters
    ----------
    name : str
        The worker, as people know it.
    pid, exitcode : int, optional
        Of its process, as far as anybody knows.
    words : str
        What it wrote by faulthandler.
    host : str, optional
        Where it was. By default this machine.
    where : str
        What else tells it from other workers: its address.
    """
    end = _describe_end(exitcode)
    place = ", ".join(part for part in (where, "" if pid is None else f"pid {pid}") if part)
    return WorkerDied(
        f"worker {name} ({place or 'pid unknown'}) {end}" + (f"\n{words}" if words else ""),
        exitcode=exitcode,
        pid=pid,
        host=socket.gethostname() if host is None else host,
    )


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


def read_faults(file: IO[bytes] | None) -> str:
    """Return what faulthandler wrote in the worker; nothing if there is no file."""
    if file is None:
        return ""
    size = file.seek(0, os.SEEK_END)
    # Its beginning: that has the innermost frames, which a deep stack would push out of a tail.
    file.seek(0)
    text = file.read(_LAST_WORDS).decode("utf-8", "backslashreplace").strip()
    return text + "\n..." if size > _LAST_WORDS else text
