"""Where notes of running calls arrive: from this process, by a pipe from others of this machine, by the backend."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from anypool import _notes
from anypool.backend import CarriesNotes

if TYPE_CHECKING:
    from anypool._envelope import Notes
    from anypool.backend import Backend, Traits

__all__ = ["Inbox"]

_KEPT = 10_000  # lines that nobody has read yet: of more, the oldest are old news
_PIECE = 65_536  # as much as a pipe holds


class Inbox:
    """The lines that calls of one map have sent, in the order in which they came.

    Parameters
    ----------
    backend, traits
        Tell which ways there are. Where there is none, nothing arrives.
    on_line : callable
        Called for a line of this process, by the thread that sends it.
    """

    def __init__(self, backend: Backend, traits: Traits, on_line: Callable[[], object]) -> None:
        self._key = f"anypool-notes-{os.urandom(16).hex()}"
        self._lines: deque[str] = deque(maxlen=_KEPT)
        self._on_line = on_line
        self._partial = b""
        self._pipe: int | None = None
        self._function: str | None = None
        self._stop_carrying: Callable[[], object] | None = None
        _notes.open_inbox(self._key, self._take)
        if traits.in_caller:
            return
        if traits.remote:
            if isinstance(backend, CarriesNotes):
                self._function, self._stop_carrying = backend.carry_notes(self._key, self._lines.append)
        elif sys.platform == "linux":
            self._pipe = _pipe()

    @property
    def address(self) -> Notes:
        """What a worker needs to know."""
        pipe = None
        if self._pipe is not None:
            found = os.fstat(self._pipe)
            pipe = (os.getpid(), self._pipe, found.st_dev, found.st_ino)
        return self._key, pipe, self._function

    def _take(self, line: str) -> None:
        self._lines.append(line)
        self._on_line()

    def read(self) -> Iterator[list[str]]:
        """The lines since the last time, in words."""
        while self._lines:
            yield self._lines.popleft().split(" ", 3)
        if self._pipe is None:
            return
        with contextlib.suppress(BlockingIOError):  # some worker has it open, and says nothing
            while data := os.read(self._pipe, _PIECE):
                *lines, self._partial = (self._partial + data).split(b"\n")
                for line in lines:
                    yield line.decode(errors="replace").split(" ", 3)

    def close(self) -> None:
        """Take no more. Idempotent."""
        _notes.close_inbox(self._key)
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            os.close(pipe)
        stop, self._stop_carrying = self._stop_carrying, None
        if stop is not None:
            stop()


def _pipe() -> int:
    """The reading end of a pipe. A worker opens the other end by the number of this one."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    os.close(writing)
    return reading
