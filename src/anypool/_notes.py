"""What a running call says to its caller, while it runs: `report`, and the ways by which it goes.

::

    report("epoch 3", 0.4) ──> line "n <item> <fraction> <text>" ──┬─ the caller's own process: its inbox
                                                                   ├─ a process of this machine: the inbox's pipe
                                                                   └─ elsewhere: a function of the backend's

The pipe has no name: a worker opens it as ``/proc/<pid>/fd/<n>``, as it does with large buffers, and writes lines
that the kernel keeps whole (``PIPE_BUF``). A line that finds no room is dropped: it is news, not a result.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from anypool._current import running

if TYPE_CHECKING:
    from anypool._envelope import Notes

__all__ = ["close_inbox", "open_inbox", "report", "send"]

_LONGEST_TEXT = 200  # of a line, in characters: it is whole in a pipe's 4,096 bytes, and fits beside a bar
_PIPES_KEPT = 4  # of a worker, for maps that take turns on it


def report(text: str = "", fraction: float | None = None) -> None:
    """Say from inside of a call how far it is: shown beside the progress of its map, while the call runs.

    Outside of a call, and in a map whose progress nobody shows, it does nothing, in about a microsecond.

    Parameters
    ----------
    text : str
        A few words, ``"epoch 3"``. Of a longer text the first 200 characters.
    fraction : float, optional
        How much of the call is done, from 0 to 1.

    Raises
    ------
    ValueError
        `fraction` is outside of 0 to 1.

    Examples
    --------
    >>> import anypool
    >>> def train(epochs):
    ...     for epoch in range(epochs):
    ...         anypool.report(f"epoch {epoch}", epoch / epochs)
    ...     return epochs
    >>> with anypool.get_executor("serial") as ex:
    ...     list(ex.map(train, [2, 3]))
    [2, 3]
    """
    if fraction is not None and not 0 <= fraction <= 1:
        raise ValueError(f"a fraction is between 0 and 1, not {fraction!r}")
    now = running.get()
    if now is None or now.job.observed is None or now.job.observed[1] is None:
        return
    words = " ".join(str(text)[:_LONGEST_TEXT].split())
    part = "-" if fraction is None else f"{float(fraction):.4f}"
    send(now.job.observed[1], f"n {now.start + now.position()} {part} {words}")


def send(notes: Notes, line: str) -> None:
    """Bring `line` to the inbox of `notes`, if it is open and has room."""
    key, pipe, function = notes
    inbox = _inboxes.get(key)
    if inbox is not None and inbox[0] == os.getpid():
        inbox[1](line)
    elif pipe is not None:
        _write(pipe, line)
    elif function is not None:
        _load(function)(key, line)


# --- the caller's side --------------------------------------------------------------------------------

_inboxes: dict[str, tuple[int, Callable[[str], object]]] = {}


def open_inbox(key: str, take: Callable[[str], object]) -> None:
    """Have the lines under `key` that are sent in this process given to `take`, by the thread that sends."""
    _inboxes[key] = (os.getpid(), take)  # a forked child has a copy of the table, and is not the caller


def close_inbox(key: str) -> None:
    """Take no more."""
    _inboxes.pop(key, None)


# --- the worker's side --------------------------------------------------------------------------------


class _Descriptor(int):
    """A file descriptor, closed when the last thread that writes to it has done so."""

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self)


_pipes: dict[tuple[int, int, int, int], _Descriptor | None] = {}
_pipes_lock = threading.Lock()
_functions: dict[str, Callable[[str, str], object]] = {}


def _write(pipe: tuple[int, int, int, int], line: str) -> None:
    with _pipes_lock:
        if pipe not in _pipes:
            while len(_pipes) >= _PIPES_KEPT:
                del _pipes[next(iter(_pipes))]
            _pipes[pipe] = _open(pipe)
        descriptor = _pipes[pipe]
    if descriptor is not None:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):  # it is full; nobody reads it any more
            os.write(descriptor, f"{line}\n".encode(errors="replace"))


def _open(pipe: tuple[int, int, int, int]) -> _Descriptor | None:
    """The pipe, if that number is still it; None for good if it is not."""
    pid, number, device, inode = pipe
    path = f"/proc/{pid}/fd/{number}"
    try:
        found = os.stat(path)
        if not stat.S_ISFIFO(found.st_mode) or (found.st_dev, found.st_ino) != (device, inode):
            return None
        return _Descriptor(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:  # the map is over; or its process lives in another namespace of this machine
        return None


def _load(function: str) -> Callable[[str, str], object]:
    found = _functions.get(function)
    if found is None:
        from importlib import import_module

        module, _, name = function.partition(":")
        found = _functions[function] = getattr(import_module(module), name)
    return found
