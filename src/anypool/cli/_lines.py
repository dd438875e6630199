"""The items of `anypool map`: read line by line as they are wanted, each remembered until it has its result."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["BrokenItem", "Entry", "Input", "json_items"]


class BrokenItem(Exception):
    """An item that is none: its line is not JSON, or it is not a list of arguments."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One item that was read and is not yet answered.

    Parameters
    ----------
    number : int
        Its line in the input, or its place among the items; from 1.
    problem : str or None
        Why it cannot be given to a call; None: it is one's.
    """

    number: int
    problem: str | None = None


def json_items(lines: Iterable[str | bytes]) -> Iterator[tuple[int, Callable[[], Any]]]:
    """Give the number of each line that is not blank, and what decodes it or raises `BrokenItem`."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, lambda line=line: _decoded(line)  # type: ignore[misc]


def _decoded(line: str | bytes) -> Any:
    try:
        return json.loads(line.rstrip())
    except json.JSONDecodeError as exc:
        raise BrokenItem(f"not JSON: {exc.msg}, at column {exc.colno}") from exc
    except (ValueError, RecursionError) as exc:  # bytes that are no text, an endless number, a thousand brackets
        raise BrokenItem(f"not JSON: {exc}") from exc


class Input:
    """The input of a map, and the order in which its items were read.

    Parameters
    ----------
    numbered : iterable of (int, callable)
        The number of each item, and what returns it or raises `BrokenItem`.
    starmap : bool
        Each item has to be a list of arguments.
    stops : bool
        A broken item ends the input by its error; otherwise it is passed over, and stays in `unanswered`.
    """

    def __init__(self, numbered: Iterable[tuple[int, Callable[[], Any]]], *, starmap: bool, stops: bool) -> None:
        self._numbered = numbered
        self._starmap = starmap
        self._stops = stops
        self.unanswered: deque[Entry] = deque()
        """What was read and has no result yet, in input order; as long as the window of the map."""

    def __iter__(self) -> Iterator[Any]:
        for number, decode in self._numbered:
            try:
                item = decode()
                if self._starmap and not isinstance(item, list | tuple):
                    raise BrokenItem(f"--starmap: not a list of arguments: {item!r:.100}")
            except BrokenItem as exc:
                self.unanswered.append(Entry(number=number, problem=str(exc)))
                if self._stops:
                    raise
            else:
                self.unanswered.append(Entry(number=number))
                yield item

    def broken(self) -> Iterator[Entry]:
        """Take the broken items that come before the next one that a call has."""
        while self.unanswered and self.unanswered[0].problem is not None:
            yield self.unanswered.popleft()
