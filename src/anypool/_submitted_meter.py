"""Counts the submitted calls of an executor, and keeps a display of them up to date.

::

    submit, and what ends a call (any thread) ──> events ──> a thread of its own ──> Meter: counts, shows

Nothing is shown by the threads that bring home results: a terminal may be slow, and a progress callable may wait for
other calls of the executor.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Literal

from anypool._envelope import Reply, Worker
from anypool._progress_meter import Display, Meter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anypool._notes_inbox import Inbox

__all__ = ["SubmittedMeter"]

_LOOKS_EVERY = 0.1  # seconds

_NOBODY = Worker("", "", 0, "")

_End = Literal["done", "failed", "cancelled"]


@dataclass(slots=True)
class _Ended:
    """A call that has ended, as a chunk of one item."""

    start: int
    items: Sequence[object] = (None,)
    sent_at: float = 0.0


class _Meter(Meter):
    """A meter that is told and shown in a thread of ours, and warns where the user's code is."""

    def _refresh(self, *, warns: bool = False) -> None:
        super()._refresh(warns=warns)

    def warn(self) -> None:
        """Say that the display has failed, if it has."""
        if self._trouble is not None:
            self._warn()

    def ended(self) -> None:
        """Show the last state, and take the display down."""
        super().ended()
        self.warn()
        self._raise_kept()


class SubmittedMeter:
    """The progress of the submitted calls of an executor, until its end. Thread-safe.

    Parameters
    ----------
    display : Display
        Where it is shown.
    inbox : Inbox
        Where notes of the calls arrive; closed at the end.
    name : str
        What it is the progress of.
    makes_room : bool
        The display is on a terminal, and steps aside for output of calls.
    """

    def __init__(self, display: Display, inbox: Inbox, *, name: str, makes_room: bool) -> None:
        def notes() -> Iterator[list[str]]:
            return (words for words in inbox.read() if words[0] == "n")  # calls are counted here, by their ends

        self._meter = _Meter(display, notes, name=name, total=0, close=inbox.close)
        self._makes_room = makes_room
        self._every = display.every
        self._events: SimpleQueue[tuple[int, _End | None] | None] = SimpleQueue()
        self._showing = threading.RLock()
        self._pid = os.getpid()  # a forked child has no thread that would let go of it
        self._is_closing = threading.Event()
        self._total = 0
        self._ended = 0
        self._thread = threading.Thread(target=self._run, name="anypool-progress", daemon=True)
        self._thread.start()

    def submitted(self, index: int) -> None:
        """There is another call."""
        self._events.put((index, None))
        self._meter.warn()

    def ended(self, index: int, how: _End) -> None:
        """That call has ended."""
        self._events.put((index, how))

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Inside of it, output of a call is shown."""
        # Nor must whoever reads a result wait for a callable, which may wait for it; or for the parent's thread.
        if not self._makes_room or self._pid != os.getpid():
            yield
            return
        with self._showing, self._meter.aside():
            yield

    def close(self) -> None:
        """Show the last state. Returns when the thread has ended, unless this is it."""
        self._is_closing.set()
        self._events.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join()
        with self._showing:
            self._take_events()
            self._meter.ended()

    def _run(self) -> None:
        patience: float | None = _LOOKS_EVERY
        while not self._is_closing.is_set():
            try:
                event = self._events.get(timeout=patience)
            except Empty:
                event = None
            with self._showing:
                self._take(event)
                self._take_events()
                self._meter.waits(0.0)
            # Of an idle executor once more, for what it was too early to show, and no more until somebody submits.
            idle = None if event is None else self._every
            patience = _LOOKS_EVERY if self._ended < self._total else idle
            self._is_closing.wait(_LOOKS_EVERY)  # what comes meanwhile is taken together

    def _take_events(self) -> None:
        while not self._events.empty():
            self._take(self._events.get())

    def _take(self, event: tuple[int, _End | None] | None) -> None:
        if event is None:
            return
        index, how = event
        if how is None or how == "cancelled":
            self._total += 1 if how is None else -1
            self._meter.read(0.0, 1, self._total)
        if how is not None:
            self._meter.arrived(_Ended(index), None, None, 0.0, 0.0)
        if how is not None and how != "cancelled":
            self._ended += 1
            errors: dict[int, BaseException] = {0: Exception()} if how == "failed" else {}
            self._meter.held(index, Reply([None], errors, [], 0.0, _NOBODY), {})
