"""How many items go into one call to a worker. Pure: it is told times, it reads no clock.

A chunk costs something to send (a pipe's 50 microseconds, a cluster's milliseconds); an item costs
what its call takes. Sizes grow until the cost of sending is small beside the work, shrink when calls turn
slow, and are guided towards the end of an input of known length, so that all workers end together. A chunk
that takes far longer than planned is handed back in part by its worker (`budget`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from anypool._weight import HEAVIEST_CHUNK

# A chunk should run this many times longer than it costs to send it ...
_WORTH = 20.0
# ... but between these bounds, in seconds: under the first what each chunk costs of CPU, on both sides, is taken from
# the calls, as that is hidden from the clock but not from the machine; over the second nobody gains.
_SHORTEST = 0.1
_LONGEST = 0.25
# Calls that take next to nothing go by so many at most: a few chunks of them, with their results, are a few megabytes,
# however long the input is.
_MOST_ITEMS = 10_000
# ... of a map with a journal this, since what is in no reply yet is not in the journal.
JOURNALED = 0.002
# A size may grow by this factor at once: five steps from one item to a million, and a first impression of
# one quick item cannot commit the rest of the input. By the second, to what should run no longer than it costs to send.
_GROWTH = 16
_GROWTH_AT_NO_COST = 256
# With the length known, this many chunks for each worker are always left to even out.
_GUIDED = 2
# ... but none is smaller than this many times what it costs to send it: evening out more finely gains nothing.
_LEAST_WORTH = 2.0
# A worker hands back what it has not begun once a chunk takes this many times longer than planned; or than so many
# seconds, if it was to take less, since another process may have had its CPU for a while.
_PATIENCE = 2.0
_SOONEST = 0.008
# It looks at the clock this many times in a chunk that runs as planned.
_LOOKS = 64


@dataclass(slots=True, eq=False)
class Plan:
    """One chunk to be: at most `size` items; hand back the rest after `budget` seconds, if given."""

    size: int
    budget: float | None = None
    look_every: int = 1


class ChunkSizes:
    """Sizes of the chunks to come, from the times of those that came back.

    Parameters
    ----------
    workers : int
        How many chunks run at once.
    chunksize : int, optional
        A fixed size: obeyed, nothing is measured.
    longest : float
        Seconds that no chunk shall run longer than, unless it is one call.
    """

    def __init__(self, workers: int, chunksize: int | None = None, *, longest: float = _LONGEST) -> None:
        self._workers = workers
        self._longest = longest
        self._fixed = chunksize
        self._largest = 0
        self._per_item: float | None = None
        self._overhead: float | None = None
        self._weight = 0.0  # bytes an item, there and back

    @property
    def target(self) -> float:
        """How long a chunk should run, in seconds."""
        return min(self._longest, max(_SHORTEST, _WORTH * (self._overhead or 0.0)))

    def plan(self, remaining: int | None) -> Plan:
        """The next chunk, with `remaining` items left to read (None: unknown)."""
        if self._fixed is not None:
            return Plan(self._fixed)
        if self._per_item is None:
            return Plan(1)
        per_item, overhead = max(self._per_item, 1e-9), self._overhead or 0.0
        size = max(1, min(_MOST_ITEMS, int(self.target / per_item)))
        if remaining is not None:
            # No worker is to have two of the last items while another has none, as they may be the longest.
            least = min(int(_LEAST_WORTH * overhead / per_item), math.ceil(remaining / self._workers))
            size = min(size, max(1, least, math.ceil(remaining / (_GUIDED * self._workers))))
        at_no_cost = min(self._largest * _GROWTH_AT_NO_COST, int(overhead / per_item))
        size = min(size, max(self._largest * _GROWTH, at_no_cost))
        if self._weight:
            size = max(1, min(size, int(HEAVIEST_CHUNK / self._weight)))
        return Plan(size, _PATIENCE * max(_SOONEST, size * per_item), max(1, size // _LOOKS))

    def observe(self, items: int, run_seconds: float, overhead_seconds: float) -> None:
        """Learn from a chunk that came back: `items` calls in `run_seconds`, the rest of its way.

        The least overhead counts: what is more was waiting for a worker, which costs nothing.
        """
        if items < 1 or self._fixed is not None:
            return
        per_item = run_seconds / items
        self._per_item = per_item if self._per_item is None else (self._per_item + per_item) / 2
        self._largest = max(self._largest, items)
        if self._overhead is None or overhead_seconds < self._overhead:
            self._overhead = max(0.0, overhead_seconds)

    def observe_weight(self, items: int, weight: int) -> None:
        """Learn how many bytes `items` items are, there and back; quick to believe in many, slow to forget them."""
        each = weight / items
        self._weight = each if each > self._weight else (self._weight + each) / 2


def read(items: Iterator[Any], size: int, into: list[Any]) -> Iterator[None]:
    """Add the next `size` items to `into`, in steps of doubling length, so that the reader can look at its clock.

    What `items` raises is raised; `into` then has what came before.
    """
    step = 1
    while size > 0:
        before = len(into)
        into.extend(islice(items, min(step, size)))  # not list(...), which would lose what came before an error
        count = len(into) - before
        if not count:
            return
        yield
        size -= count
        step *= 2
