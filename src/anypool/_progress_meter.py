"""Counts the items of one map and keeps a display of it up to date, without ever harming the map."""

from __future__ import annotations

import contextvars
import threading
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from anypool._frames import stacklevel_of_user
from anypool._observe import Observer
from anypool._progress import Note, Progress

if TYPE_CHECKING:
    from anypool._envelope import Reply
    from anypool._observe import SentChunk

__all__ = ["Display", "Meter"]

# How often the map looks up from waiting, in seconds.
_LOOK_EVERY = 0.1
# A clock on a screen stands still no longer than this.
_BEAT_EVERY = 1.0
_NOTES_SHOWN = 16


class Display(Protocol):
    """Shows `Progress`. Called in the context of the caller of `map`."""

    every: float
    """Not more often than once in so many seconds ..."""
    beats: bool
    """... and also when only time has passed."""

    def show(self, progress: Progress) -> None:
        """Show it; the last time with ``is_over``."""
        ...

    def aside(self) -> AbstractContextManager[object]:
        """Inside of it, somebody else writes to the terminal."""
        ...


class Meter(Observer):
    """The progress of one map.

    Parameters
    ----------
    display : Display
        Where it is shown. One that raises is warned of, once, and not called again.
    lines : callable
        Returns what calls have sent since the last time, in words (see `_notes`).
    name : str
        The function's.
    total : int, optional
        How many items there may be.
    close : callable
        Called at the end.
    """

    def __init__(
        self,
        display: Display,
        lines: Callable[[], Iterable[list[str]]],
        *,
        name: str,
        total: int | None,
        close: Callable[[], object],
    ) -> None:
        self._display: Display | None = display
        self._lines = lines
        self._name = name
        self._total = total
        self._close = close
        self._began_at = perf_counter()
        self._done = 0
        self._failed = 0
        self._most = 0
        self._running: dict[int, int] = {}  # start of a chunk that runs -> how many of its items have ended
        self._notes: dict[int, Note] = {}
        self._shown: tuple[Any, ...] | None = None
        self._due = 0.0
        self._beat_due = 0.0
        self._is_over = False
        self._thread = 0
        # Inside of a call, which in the caller's own thread may send a note, output is the call's: a display is not.
        self._context = contextvars.copy_context()
        self._lock = threading.RLock()
        self._is_showing = False
        self._trouble: Exception | None = None  # what showing raised, not warned of yet
        self._warning: Warning | None = None

    # --- what the map tells ---------------------------------------------------------------------------

    def began(self) -> None:
        """Show that nothing is done yet."""
        self._began_at = perf_counter()
        self._refresh()

    def read(self, began: float, count: int, total: int | None) -> None:  # noqa: ARG002
        """Learn how many there are."""
        if total is not None:
            self._total = total

    def sent(self, task: SentChunk, payload: Any, began: float) -> None:  # noqa: ARG002
        """Remember in which thread calls run, if they run in the caller's."""
        self._thread = threading.get_ident()

    def arrived(self, task: SentChunk, packed: Any, reply: Reply | None, arrived_at: float, began: float) -> None:  # noqa: ARG002
        """A chunk no longer runs."""
        with self._lock:
            self._read_lines()  # those of this chunk came before it
            self._running.pop(task.start, None)
            for item in [item for item in self._notes if task.start <= item < task.start + len(task.items)]:
                del self._notes[item]

    def held(self, start: int, reply: Reply, attempts: dict[int, int]) -> None:  # noqa: ARG002
        """Count."""
        self._done += len(reply.values)
        self._failed += len(reply.errors)
        self._refresh()

    def back(self) -> None:
        """Show what came while the caller was away."""
        self._refresh()

    def waits(self, patience: float) -> float:
        """Show what there is, before the wait."""
        self._refresh()
        return patience if self._display is None else min(patience, _LOOK_EVERY)

    def aside(self) -> AbstractContextManager[object]:
        """Make room for output of a call."""
        return nullcontext() if self._display is None else self._display.aside()

    def ended(self) -> None:
        """Show the last state, and take the display down."""
        with self._lock:
            if self._is_over:
                return
            self._is_over = True
            self._notes.clear()
            self._due = 0.0
        try:
            self._refresh()
        finally:
            self._close()
            self._display = None
        self._raise_kept()

    # --- what calls tell ------------------------------------------------------------------------------

    def note_is_here(self) -> None:
        """A call of this process has sent a line."""
        if threading.get_ident() == self._thread:  # nobody else will look before the call ends
            self._refresh(warns=False)

    def _read_lines(self) -> None:
        for words in self._lines():
            try:
                if words[0] == "n":
                    self._take_note(words)
                elif words[0] == "c":
                    self._running[int(words[1])] = int(words[2])
            except (IndexError, ValueError):  # a line that lost its beginning
                continue

    def _take_note(self, words: list[str]) -> None:
        item = int(words[1])
        fraction = None if words[2] == "-" else float(words[2])
        self._notes.pop(item, None)  # the newest stand last
        self._notes[item] = Note(item=item, text=words[3] if len(words) > 3 else "", fraction=fraction)

    # --- showing --------------------------------------------------------------------------------------

    def _refresh(self, *, warns: bool = True) -> None:
        if warns and self._trouble is not None:
            self._warn()
        now = perf_counter()
        if now < self._due or self._display is None or self._is_showing:
            return
        with self._lock:
            self._is_showing = True
            try:
                self._show(self._display, now)
            except Exception as exc:
                self._give_up(exc)
            finally:
                self._is_showing = False
        if warns and self._trouble is not None:
            self._warn()

    def _show(self, display: Display, now: float) -> None:
        self._read_lines()
        self._most = max(self._most, self._done + sum(self._running.values()))
        notes = tuple(reversed(self._notes.values()))[:_NOTES_SHOWN]
        state = (self._most, self._total, self._failed, notes, self._is_over)
        if state == self._shown and not (display.beats and now >= self._beat_due):
            return
        self._shown = state
        self._due, self._beat_due = now + display.every, now + max(display.every, _BEAT_EVERY)
        progress = Progress(
            done=self._most,
            total=self._total,
            elapsed=now - self._began_at,
            failed=self._failed,
            notes=notes,
            name=self._name,
            is_over=self._is_over,
        )
        self._context.run(display.show, progress)

    def _give_up(self, exc: Exception) -> None:
        self._display = None
        self._trouble = exc

    def _warn(self) -> None:
        exc, self._trouble = self._trouble, None
        text = f"the progress of {self._name!r} is not shown any more, because showing it raised {exc!r}"
        try:
            warnings.warn(text, RuntimeWarning, stacklevel=stacklevel_of_user())
        except Warning as warning:
            warning.__cause__ = exc
            self._warning = warning

    def _raise_kept(self) -> None:
        """Raise the warning, where warnings are errors: at the end, when no result can be lost by it."""
        warning, self._warning = self._warning, None
        if warning is not None:
            raise warning
