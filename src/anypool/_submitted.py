"""Who watches the submitted calls of an executor: one meter and one record for all of them. Loaded only for that."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from anypool._call_text import short_call
from anypool._observers import kind_shown, meter_parts

if TYPE_CHECKING:
    from anypool._envelope import Observed, Reply
    from anypool._settings import Settings
    from anypool._submitted_meter import SubmittedMeter
    from anypool._trace import Recorder, Run
    from anypool.backend import Backend, Traits

__all__ = ["Submitted", "WatchedCall", "key_of"]

_NAME = "submitted calls"


def key_of(settings: Settings) -> tuple[Any, bool]:
    """What calls have in common that are watched together."""
    kind: Any = settings.progress
    try:
        hash(kind)
    except TypeError:  # a callable object that is compared by value
        kind = id(kind)
    return kind, settings.trace is not False


class Submitted:
    """The submitted calls of an executor, and of its views, that are watched together. Thread-safe.

    Parameters
    ----------
    settings : Settings
        What is shown, and whether receipts are kept.
    runs : list of Run
        Gets the receipts.
    at_end : callable
        Is given what is to be called when the executor has ended.
    """

    def __init__(self, settings: Settings, runs: list[Run], at_end: Callable[[Callable[[], object]], object]) -> None:
        self._settings = settings
        self._runs = runs
        self._at_end = at_end
        self._lock = threading.RLock()
        self._has_begun = False
        self._count = 0
        self._meter: SubmittedMeter | None = None
        self._recorder: Recorder | None = None
        self._run: Run | None = None
        self._open: set[int] = set()
        self.observed: Observed | None = None

    def begin(self, backend: Backend, traits: Traits, workers: int) -> None:
        """Put up the display, and begin the record, unless that was done.

        Raises
        ------
        MissingExtra
            The library that was asked for is not installed.
        """
        with self._lock:
            if self._has_begun:
                return
            notes = None
            kind = kind_shown(self._settings.progress)
            if kind is not False:
                found = meter_parts(kind, backend, traits, _NAME, 1, lambda: None)
                if found is not None:
                    from anypool._submitted_meter import SubmittedMeter

                    display, inbox = found
                    notes = inbox.address
                    self._meter = SubmittedMeter(display, inbox, name=_NAME, makes_room=not callable(kind))
            if self._settings.trace is not False:
                from anypool._trace import Recorder, Run

                self._run = Run(name=_NAME, backend=backend.name, workers=workers, is_submitted=True)
                self._runs.append(self._run)
                self._recorder = Recorder(self._run, _describe, _arguments)
            if self._meter is not None or self._run is not None:
                self.observed = (self._run is not None, notes)
                self._at_end(self.close)
            self._has_begun = True

    def add(
        self, name: str, index: int, call: tuple[tuple[Any, ...], dict[str, Any]], payload: Any, began: float
    ) -> WatchedCall | None:
        """What is to be told of a call that is about to be given to the pool, and was packed since `began`.

        `index` is what it is called in notes.
        """
        if self.observed is None:
            return None
        with self._lock:
            watched = WatchedCall(self, self._count, index, ((name, *call),))
            self._count += 1
            self._open.add(watched.start)
            if self._run is not None:
                self._run.ended = 0.0
            if self._recorder is not None:
                self._recorder.sent(watched, payload, began)
        if self._meter is not None:
            self._meter.submitted(index)
        return watched

    def arrived(self, call: WatchedCall, packed: Any, reply: Reply | None, arrived_at: float) -> None:
        """A reply came, and was unpacked since `arrived_at`; None: the call was lost."""
        if self._recorder is not None:
            with self._lock:
                self._recorder.arrived(call, packed, reply, arrived_at, arrived_at)

    def ended(self, call: WatchedCall, reply: Reply, attempts: dict[int, int]) -> None:
        """A call has come to `reply`. Told before whoever waits for it."""
        with self._lock:
            if not self._close_call(call):
                return
            if self._recorder is not None:
                runs = dict.fromkeys((call.start,), max(attempts.values())) if attempts else {}
                self._recorder.held(call.start, reply, runs)
        if self._meter is not None:
            self._meter.ended(call.index, "failed" if reply.errors else "done")

    def gone(self, call: WatchedCall, error: BaseException | None) -> None:
        """A call has ended; if that was not told before, it was cancelled, or the pool failed it with `error`."""
        with self._lock:
            if not self._close_call(call):
                return
            if self._run is not None and error is not None:
                self._run.errors[call.start] = type(error).__qualname__
        if self._meter is not None:
            self._meter.ended(call.index, "cancelled" if error is None else "failed")

    def _close_call(self, call: WatchedCall) -> bool:
        if call.start not in self._open:
            return False
        self._open.discard(call.start)
        if self._run is not None and not self._open:
            self._run.ended = perf_counter()
        return True

    def aside(self) -> AbstractContextManager[object]:
        """Inside of it, output of a call is shown."""
        return nullcontext() if self._meter is None else self._meter.aside()

    def close(self) -> None:
        """Take the display down: the executor has ended."""
        if self._recorder is not None:
            self._recorder.ended()
        if self._meter is not None:
            self._meter.close()


@dataclass(slots=True)
class WatchedCall:
    """One submitted call, as a chunk of one item. `start` counts the calls that are watched together."""

    watch: Submitted
    start: int
    index: int
    items: Sequence[Any]
    sent_at: float = 0.0

    def arrived(self, packed: Any, reply: Reply | None, arrived_at: float, sent_at: float) -> None:
        """A reply came; None: it was lost."""
        self.sent_at = sent_at
        self.watch.arrived(self, packed, reply, arrived_at)

    def ended(self, reply: Reply, attempts: dict[int, int]) -> None:
        """It has come to `reply`."""
        self.watch.ended(self, reply, attempts)

    def gone(self, error: BaseException | None) -> None:
        """It has ended, by `error` or by being cancelled, unless something else was told before."""
        self.watch.gone(self, error)

    def aside(self) -> AbstractContextManager[object]:
        """Inside of it, its output is shown."""
        return self.watch.aside()


def _describe(item: tuple[str, tuple[Any, ...], dict[str, Any]]) -> str:
    name, args, kwargs = item
    return f"{name}{short_call(args, kwargs)}"


def _arguments(item: tuple[str, tuple[Any, ...], dict[str, Any]]) -> Sequence[Any]:
    _, args, kwargs = item
    return (*args, *kwargs.values())
