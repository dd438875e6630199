"""What becomes of each item of a chunk that came back, or whose worker was lost: done, run again, or not begun.

::

    reply, or what its ticket tells ──settle──> Outcome: held    what is final, to be delivered in its turn
                                                         back    to be sent at once: not begun, or lost
                                                         later   to be sent after a while: failed, and may be retried

No clock, no thread: told what happened, it says what to do. One for each map, and one for an executor's submitted
calls.
"""

from __future__ import annotations

import copy
import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from anypool._envelope import Reply, Worker
from anypool._flow import Part
from anypool._packing import unpack_note
from anypool._retry import LOST_AGAIN, Retry
from anypool.errors import CallTimeout, WorkerLost

if TYPE_CHECKING:
    from anypool._tickets import Seen

__all__ = ["Attempts", "Outcome"]

_UNBEGUN_AGAIN = 10
"""How often a chunk that no worker had begun is sent again after a loss: a pool beyond help must be given up."""

NEVER = 1 << 62


@dataclass(slots=True, eq=False)
class Outcome:
    """What to do with the items of one chunk.

    Attributes
    ----------
    held : list of (start, reply, items)
        Final answers. `items` is empty where no note needs them.
    back : list of Part
        To be sent again at once.
    later : list of (seconds, Part)
        To be sent again after so many seconds.
    fails_at : int
        The lowest item whose error ends the map.
    attempts : dict of int to int
        How often an item that is final ran, where that was more than once.
    """

    held: list[tuple[int, Reply, Sequence[Any]]] = field(default_factory=list)
    back: list[Part] = field(default_factory=list)
    later: list[tuple[float, Part]] = field(default_factory=list)
    fails_at: int = NEVER
    attempts: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Runs:
    """The runs of one item that have failed."""

    errors: list[str] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    retries: int = 0
    losses: int = 0


class Attempts:
    """The policies of one map, and the items that ran more than once.

    Parameters
    ----------
    retry : Retry, optional
        Which errors are run again.
    on_lost : {"raise", "retry"}
        What becomes of a call whose worker was lost.
    is_returned : callable
        Whether an error is delivered as a value, so that the map goes on after it.
    """

    def __init__(
        self,
        retry: Retry | None,
        on_lost: Literal["raise", "retry"],
        is_returned: Callable[[BaseException], bool] = lambda _: False,
    ) -> None:
        self._retry = retry
        self._on_lost = on_lost
        self._is_returned = is_returned
        self._budget = NEVER if retry is None or retry.budget is None else retry.budget
        self._runs: dict[int, _Runs] = {}
        self._unbegun: dict[int, int] = {}

    def are_over(self, count: int, reply: Reply) -> bool:
        """Whether `reply` to `count` items is all there is to be said: each ran once, and none failed."""
        return not reply.errors and not self._runs and len(reply.values) == count

    def settle(self, start: int, items: Sequence[Any], reply: Reply) -> Outcome:
        """What to do after a reply to the chunk `items` that begins with item `start`."""
        if self.are_over(len(items), reply):
            return Outcome(held=[(start, reply, ())])
        done = len(reply.values)
        outcome = Outcome()
        self._settle(start, items, reply, outcome)
        if done < len(items):
            outcome.back.append(Part(start + done, items[done:]))
        return outcome

    def settle_loss(self, start: int, items: Sequence[Any], error: BaseException, seen: Seen | None) -> Outcome:
        """What to do after `error`, the pool's own trouble with the chunk; `seen` is what its ticket tells."""
        outcome = Outcome()
        if not isinstance(error, (WorkerLost, CallTimeout)):
            self._fail(start, items, error, outcome)
            return outcome
        if seen is None:  # which of them was running is not known, so each may have been
            self._lose(start, items, error, outcome)
            return outcome
        if not seen.begun:
            self._unbegun[start] = self._unbegun.get(start, 0) + 1
            if self._unbegun[start] > _UNBEGUN_AGAIN:
                self._fail(start, items, error, outcome)
            else:
                outcome.back.append(Part(start, items))
            return outcome
        at = 0
        for count, note in seen.log:
            self._settle(start + at, items[at : at + count], unpack_note(note), outcome)
            at += count
        running = min(seen.running, len(items) - at)
        if outcome.fails_at == NEVER:
            self._lose(start + at, items[at : at + running], error, outcome)
            at += running
        if at < len(items):
            outcome.back.append(Part(start + at, items[at:]))
        return outcome

    def _settle(self, start: int, items: Sequence[Any], reply: Reply, outcome: Outcome) -> None:
        """Hold what is final in `reply`, in one piece where nothing in it runs again."""
        first = 0
        for offset in sorted(reply.errors):
            error = reply.errors[offset]
            if self._may_retry(start + offset, error):
                self._hold(start, items, reply, first, offset, outcome)
                first = offset + 1
                events = [event for event in reply.events if event[0] == offset]
                delay = self._again(start + offset, error, events)
                outcome.later.append((delay, Part(start + offset, items[offset : offset + 1])))
            elif not self._is_returned(error):
                outcome.fails_at = min(outcome.fails_at, start + offset)
        self._hold(start, items, reply, first, len(reply.values), outcome)

    def _hold(self, start: int, items: Sequence[Any], reply: Reply, first: int, end: int, outcome: Outcome) -> None:
        if first == end:
            return
        if first or end != len(reply.values):
            reply = _piece(reply, first, end)
            start, items = start + first, items[first:end]
        if self._runs:
            self._tell_runs(start, reply, outcome)
        outcome.held.append((start, reply, items if reply.errors else ()))

    def _may_retry(self, index: int, error: BaseException) -> bool:
        if self._retry is None or not self._budget:
            return False
        runs = self._runs.get(index)
        return self._retry.allows(error, 1 if runs is None else runs.retries + 1)

    def _again(self, index: int, error: BaseException, events: Iterable[Any]) -> float:
        """Note that item `index` runs again because of `error`; in how many seconds."""
        assert self._retry is not None
        runs = self._runs.setdefault(index, _Runs())
        runs.errors.append(reprlib.repr(error))
        runs.events += events
        runs.retries += 1
        self._budget -= 1
        return self._retry.wait(index, runs.retries)

    def _lose(self, start: int, items: Sequence[Any], error: BaseException, outcome: Outcome) -> None:
        """Decide on items one of which was running when the worker was lost, or was ended for it."""
        for offset in range(len(items)):
            index, item = start + offset, items[offset : offset + 1]
            each = _copy(error) if offset else error
            if isinstance(each, CallTimeout):
                self._settle(index, item, _failed(each), outcome)
                continue
            runs = self._runs.get(index)
            if self._on_lost == "raise" or (runs is not None and runs.losses >= LOST_AGAIN):
                self._fail(index, item, each, outcome)
                continue
            runs = self._runs.setdefault(index, _Runs())
            runs.errors.append(type(each).__name__)
            runs.losses += 1
            outcome.back.append(Part(index, item, alone=True))

    def _fail(self, start: int, items: Sequence[Any], error: BaseException, outcome: Outcome) -> None:
        """The pool's trouble with a chunk is each of its items'."""
        count = len(items) if self._is_returned(error) else 1
        errors = {offset: _copy(error) if offset else error for offset in range(count)}
        self._hold(start, items, Reply([None] * count, errors, [], 0.0, _NOBODY), 0, count, outcome)
        if not self._is_returned(error):
            outcome.fails_at = min(outcome.fails_at, start)

    def _tell_runs(self, start: int, reply: Reply, outcome: Outcome) -> None:
        """Put before what the last run of an item wrote what the earlier ones did, and a note to its error."""
        for index in _within(self._runs, start, start + len(reply.values)):
            offset = index - start
            runs = self._runs.pop(index)
            outcome.attempts[index] = len(runs.errors) + 1
            if runs.events:
                reply.events = sorted(
                    [*((offset, *event[1:]) for event in runs.events), *reply.events], key=lambda event: event[0]
                )
            error = reply.errors.get(offset)
            if error is not None:
                error.add_note(f"anypool: attempt {outcome.attempts[index]}; before it: {', '.join(runs.errors)}")


_NOBODY = Worker("", "", 0, "")


def _within(indices: Iterable[int], start: int, end: int) -> Iterator[int]:
    return iter([index for index in indices if start <= index < end])


def _failed(error: BaseException) -> Reply:
    return Reply([None], {0: error}, [], 0.0, _NOBODY)


def _piece(reply: Reply, first: int, end: int) -> Reply:
    """The part of `reply` from offset `first` to `end`."""
    piece = Reply(
        reply.values[first:end],
        {offset - first: error for offset, error in reply.errors.items() if first <= offset < end},
        [(event[0] - first, *event[1:]) for event in reply.events if first <= event[0] < end],
        reply.seconds,
        reply.worker,
    )
    piece.random_used = reply.random_used
    return piece


def _copy(error: BaseException) -> BaseException:
    """Another of the same, as each item's gets notes of its own."""
    other = copy.copy(error)
    other.__cause__ = error.__cause__
    return other
