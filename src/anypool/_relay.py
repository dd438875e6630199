"""Output comes home: what a call prints, warns and logs is captured where it runs and replayed by the caller.

::

    worker   print ─► sys.stdout ─► _StreamTap ──────┐
             warn ──► filters ──► _showwarnmsg tap ──┤ which capture?  none ─► where it went before
             log ───► levels ───► Logger.handle tap ─┘      │
                                                            ▼
                                    Capture (one a chunk): (item offset, kind, ...) in order
                                                            │ reply
    caller   replay(events of one item) ◄───────────────────┘
                print ─► sys.stdout as it is now
                warn ──► the caller's filters and registries, which alone decide what is a repetition
                log ───► the caller's logger of that name: its filters, handlers and propagation, once

Who owns a piece of output is found by a `ContextVar`, because `sys.stdout` and the hooks of `warnings` and
`logging` belong to the whole process: the taps are process-wide, and each writer's context says which
capture is its own. The taps are in place only while a capture is open (or for good, in a worker process).

What is particular to warnings is told in `_relay_warnings`.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable
from contextvars import Context
from types import TracebackType

from anypool._relay_events import Event, merged
from anypool._relay_logs import logging_tap, replay_record
from anypool._relay_owner import Owner, claim_the_rest, current_owner, disclaim_all, disclaim_the_rest
from anypool._relay_settings import RelaySettings
from anypool._relay_streams import replay_text, stream_tap
from anypool._relay_warnings import replay_warning, warning_sink, warnings_tap

__all__ = ["Capture", "Event", "RelaySettings", "install_for_good", "replay"]


class Capture:
    """The output of one chunk, in the order in which it happened.

    `with` opens it and installs the taps. Opening alone captures nothing of the thread that opens: calls run
    in a `contextvars.Context` given to `bind` (or in copies of it).

    Parameters
    ----------
    settings : RelaySettings
        What is captured.
    position : callable
        Returns the offset in the chunk of the item whose call is running; asked at each event.
    """

    __slots__ = ("_kinds", "_lock", "_log", "_position", "_sealed", "_sink", "outer", "settings")

    def __init__(self, settings: RelaySettings, position: Callable[[], int]) -> None:
        self.settings = settings
        self._kinds = settings.relayed
        self._position = position
        self.outer: Owner | None = None
        self._sink: tuple[object, ...] = ()
        self._log: list[Event] | None = None
        self._sealed: list[Event] = []
        # Reentrant: a finalizer may warn or print in the midst of an append.
        self._lock = threading.RLock()

    def __enter__(self) -> Capture:
        self._log = []
        if self._kinds:
            _taps.open(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._kinds:
            _taps.close(self)
        self.seal()

    def bind(self, context: Context) -> None:
        """Make what runs in `context`, or in a copy of it, write here.

        A capture that `context` was bound to before becomes the outer one: it gets what this one leaves.
        """
        context.run(self.become_current)

    def become_current(self) -> None:
        """Make what runs in the current context, or in a copy of it, write here."""
        self.outer = current_owner.get()
        self._sink = warning_sink()
        current_owner.set(self)

    @property
    def events(self) -> list[Event]:
        """What was captured so far, as plain tuples that any pickler takes (unless `in_caller`).

        - `(offset, "stdout" or "stderr", text or bytes, flushed)`; adjacent writes are one event;
        - `(offset, "warnings", categories, text, message, filename, lineno, line, module)`;
        - `(offset, "logging", logger, record)`.
        """
        log = self._log
        if log is None:
            return self._sealed
        with self._lock:
            return merged(log)

    def events_since(self, mark: int) -> tuple[list[Event], int]:
        """What was captured after `mark`, while it is open, and the mark for the next time; the first mark is 0."""
        log = self._log or []
        if len(log) == mark:  # without the lock: what comes a moment later, comes the next time
            return [], mark
        with self._lock:
            return merged(log[mark:]), len(log)

    def takes(self, kind: str) -> bool:
        """Whether output of this kind is captured here, now."""
        return self._log is not None and kind in self._kinds

    def add(self, kind: str, *payload: object) -> bool:
        """Add one event of the running item. False if the capture has ended: then nothing was added."""
        with self._lock:
            if self._log is None:
                return False
            self._log.append((self._position(), kind, *payload))
            return True

    def seal(self) -> None:
        """End the capture: whoever still writes, say a thread that outlives its call, writes elsewhere."""
        with self._lock:
            log, self._log = self._log, None
            if log:
                self._sealed = merged(log)

    def abandon(self) -> None:
        """End it in a forked child, whose copy nobody will read, and whose copy of the lock may be held."""
        self._lock = threading.RLock()
        self._log = None

    def is_overruled(self) -> bool:
        """Whether somebody, since the call began, took over the showing of warnings (`catch_warnings`)."""
        return warning_sink() not in (self._sink, _taps.sink)


class _Taps:
    """The taps of this process, in place while a capture is open.

    The one instance is global because what it replaces is: `sys.stdout`, `sys.stderr`, and the hooks of
    `warnings` and `logging`.
    """

    def __init__(self) -> None:
        self.sink: tuple[object, ...] = ()
        self._lock = threading.RLock()
        self._open: dict[Capture, None] = {}
        self._hooks = (stream_tap("stdout"), stream_tap("stderr"), warnings_tap(), logging_tap())
        self._is_installed = False
        self._stays = False
        self._minds_forks = False

    def open(self, capture: Capture) -> None:
        with self._lock:
            self._open[capture] = None
            if capture.settings.exclusive:
                claim_the_rest(capture)
            if not self._is_installed:
                self._install()

    def close(self, capture: Capture) -> None:
        with self._lock:
            self._open.pop(capture, None)
            if capture.settings.exclusive:
                disclaim_the_rest(capture)
            if not self._open and not self._stays:
                self._remove()

    def stay(self) -> None:
        with self._lock:
            self._stays = True
            if not self._is_installed:
                self._install()

    def _install(self) -> None:
        if not self._minds_forks:
            self._minds_forks = True
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=self._leave_forked_child)
        self.sink = warning_sink()
        for hook in self._hooks:
            hook.put()
        self._is_installed = True

    def _remove(self) -> None:
        for hook in self._hooks:
            hook.take_off()
        self._is_installed = False

    def _leave_forked_child(self) -> None:
        # A process that a call forks inherits the capture, but nobody will read the child's copy of it: its
        # output must go to the inherited descriptors.
        self._lock = threading.RLock()
        for capture in self._open:
            capture.abandon()
        self._open, self._stays = {}, False
        disclaim_all()
        self._remove()


_taps = _Taps()


def install_for_good() -> None:
    """Install the taps until the process ends. For a dedicated worker process: a capture then costs less."""
    _taps.stay()


def replay(events: Iterable[Event], *, worker: str) -> None:
    """Write, warn and log here what the calls did there, in the same order.

    Parameters
    ----------
    events : iterable of Event
        Usually those of one item. What is replayed twice happens twice.
    worker : str
        The worker that ran the call; becomes `record.anypool_worker` of each log record.

    Raises
    ------
    Exception
        The first that a stream, a warning filter with action "error" or a log handler raised. The other
        events are replayed before it is raised; what they raise becomes notes of the first.
    """
    failure: Exception | None = None
    for event in events:
        try:
            _replay_event(event, worker)
        except Exception as exc:
            if failure is None:
                failure = exc
            else:
                failure.add_note(f"Replaying the output of the same call also raised {exc!r}")
    if failure is not None:
        raise failure


def _replay_event(event: Event, worker: str) -> None:
    _, kind, *payload = event
    if kind == "warnings":
        replay_warning(*payload)
    elif kind == "logging":
        replay_record(payload[0], payload[1], worker)
    else:
        replay_text(getattr(sys, kind), *payload)
