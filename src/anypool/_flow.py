"""Which results may go out and how much may be read: order and back-pressure, no clock, no thread.

::

    read ──> out (sent, unanswered) ──> held (answered, not its turn) ──> ready ──> delivered
              ^            │
              └─ handed back
    <────────────────────────── at most `window` items ──────────────────────────>
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple


class Part(NamedTuple):
    """Consecutive items that were read and are to be sent, once more or still; `alone`: one by one."""

    start: int
    items: Any
    alone: bool = False


class Flow:
    """The book of one map: what is read, out, held and delivered, counted in items.

    Parameters
    ----------
    window : int
        How many items may be read but not delivered.
    ordered : bool
        Results leave in input order; else as their chunks are answered.
    """

    def __init__(self, window: int, *, ordered: bool) -> None:
        self.window = window
        self._ordered = ordered
        self._next = 0  # the first item that has not left
        self._read = 0
        self._delivered = 0
        self._out: dict[int, int] = {}  # start -> length
        self._held: dict[int, tuple[int, Any]] = {}  # start -> (length, answer)
        self._ready: deque[tuple[int, Any]] = deque()
        self._handed_back: list[Part] = []

    @property
    def room(self) -> int:
        """How many more items may be read now."""
        return max(0, self.window - (self._read - self._delivered))

    @property
    def items_read(self) -> int:
        """How many items were read."""
        return self._read

    @property
    def out(self) -> int:
        """How many chunks are sent and unanswered."""
        return len(self._out)

    @property
    def has_ready(self) -> bool:
        """Whether a result could be delivered now."""
        return bool(self._ready)

    @property
    def is_drained(self) -> bool:
        """Whether nothing is out, held, handed back or ready: all that was read was delivered."""
        return not (self._out or self._held or self._ready or self._handed_back)

    def read(self, count: int) -> int:
        """Note that `count` items were read; return the index of the first."""
        start = self._read
        self._read += count
        return start

    def sent(self, start: int, length: int) -> None:
        """Note that the chunk at `start` is out."""
        self._out[start] = length

    def answered(self, start: int) -> None:
        """Note that the chunk at `start` is not out any more; of each of its items `hold` or `hand_back` tells."""
        del self._out[start]

    def hold(self, start: int, length: int, answer: Any) -> None:
        """Note the answer to the `length` items from `start` on."""
        self._held[start] = (length, answer)
        self._release(start)

    def hand_back(self, part: Part) -> None:
        """Note items that have to be sent again."""
        self._handed_back.append(part)

    def take_handed_back(self) -> Part | None:
        """The earliest part that has to be sent again."""
        if not self._handed_back:
            return None
        first = min(self._handed_back, key=lambda part: part.start)
        self._handed_back.remove(first)
        return first

    def take_ready(self) -> tuple[int, Any] | None:
        """The next answer to deliver: (its length in items, the answer). Count it with `delivered`."""
        return self._ready.popleft() if self._ready else None

    def delivered(self, count: int) -> None:
        """Note that `count` items have reached the caller."""
        self._delivered += count

    def _release(self, start: int) -> None:
        if not self._ordered:
            if start in self._held:
                self._ready.append(self._held.pop(start))
            return
        while self._next in self._held:
            length, answer = self._held.pop(self._next)
            self._next += length
            self._ready.append((length, answer))
