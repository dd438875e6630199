"""What a map tells to whoever watches it: the progress display, the recorder of receipts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from anypool._envelope import Reply

__all__ = ["Observer", "Observers", "SentChunk"]


class SentChunk(Protocol):
    """What an observer may know of a chunk on its way."""

    start: int
    items: Sequence[Any]
    sent_at: float


class Observer:
    """Is told what happens in one map, by the thread that asks for results; makes nothing of it, unless it says so.

    Times are of `time.perf_counter`.
    """

    def began(self) -> None:
        """The map was called."""

    def read(self, began: float, count: int, total: int | None) -> None:
        """`count` items were read since `began`; `total` is how many there were, once the input has ended."""

    def sent(self, task: SentChunk, payload: Any, began: float) -> None:
        """A chunk, which was packed since `began`, is given to the pool."""

    def arrived(self, task: SentChunk, packed: Any, reply: Reply | None, arrived_at: float, began: float) -> None:
        """A reply came at `arrived_at`, and was unpacked since `began`; None: the chunk was lost."""

    def held(self, start: int, reply: Reply, attempts: dict[int, int]) -> None:
        """The items of `reply` are final; of those that ran more than once, by index, how often."""

    def away(self) -> None:
        """The caller does something else from now on ..."""

    def back(self) -> None:
        """... and asks for the next results."""

    def waits(self, patience: float) -> float:
        """The map waits; after so many seconds, at most `patience`, it asks again."""
        return patience

    def aside(self) -> AbstractContextManager[object]:
        """Inside of it, output of a call is shown."""
        return ExitStack()

    def ended(self) -> None:
        """The map is over, however it ended. May be called again."""


class Observers(Observer):
    """Several as one."""

    def __init__(self, *observers: Observer) -> None:
        self._all = observers

    def began(self) -> None:
        """Tell all."""
        for each in self._all:
            each.began()

    def read(self, began: float, count: int, total: int | None) -> None:
        """Tell all."""
        for each in self._all:
            each.read(began, count, total)

    def sent(self, task: SentChunk, payload: Any, began: float) -> None:
        """Tell all."""
        for each in self._all:
            each.sent(task, payload, began)

    def arrived(self, task: SentChunk, packed: Any, reply: Reply | None, arrived_at: float, began: float) -> None:
        """Tell all."""
        for each in self._all:
            each.arrived(task, packed, reply, arrived_at, began)

    def held(self, start: int, reply: Reply, attempts: dict[int, int]) -> None:
        """Tell all."""
        for each in self._all:
            each.held(start, reply, attempts)

    def away(self) -> None:
        """Tell all."""
        for each in self._all:
            each.away()

    def back(self) -> None:
        """Tell all."""
        for each in self._all:
            each.back()

    def waits(self, patience: float) -> float:
        """The least that any of them says."""
        return min(each.waits(patience) for each in self._all)

    def aside(self) -> AbstractContextManager[object]:
        """Inside of all of them."""
        stack = ExitStack()
        for each in self._all:
            stack.enter_context(each.aside())
        return stack

    def ended(self) -> None:
        """Tell all, also those after one that fails."""
        with ExitStack() as stack:
            for each in self._all:
                stack.callback(each.ended)
