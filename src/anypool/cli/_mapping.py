"""One run of `anypool map`: results and problems merged into the order of the input, and counted."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from anypool._executor import PoolExecutor
from anypool._frames import without_ours
from anypool.cli._lines import BrokenItem, Entry, Input
from anypool.cli._output import complain, one_line
from anypool.cli._reader import ReaderGone
from anypool.cli._results import as_json

__all__ = ["Mapping", "Tally"]

Place = Literal["input", "call", "result"]


@dataclass(kw_only=True, slots=True)
class Tally:
    """How many items had a result, and what the others had."""

    results: int = 0
    broken_items: int = 0
    failed_calls: int = 0
    unwritable_results: int = 0

    @property
    def problems(self) -> int:
        """The number of items that were read and have no result."""
        return self.broken_items + self.failed_calls + self.unwritable_results

    def count(self, place: Place) -> None:
        """Count an item that has no result, by where that went wrong."""
        self.broken_items += place == "input"
        self.failed_calls += place == "call"
        self.unwritable_results += place == "result"

    def to_dict(self) -> dict[str, int]:
        """Return the counts by name."""
        return asdict(self)

    def __str__(self) -> str:
        said = [
            f"{number} {name if number == 1 else name + 's'}"
            for name, number in (
                ("broken item", self.broken_items),
                ("failed call", self.failed_calls),
                ("result without a form in JSON", self.unwritable_results),
            )
            if number
        ]
        return f"{self.results} result{'s' * (self.results != 1)}; {', '.join(said)}"


class Stopped(Exception):
    """The run ends here, and it has been said why."""


class Mapping:
    """One run.

    Parameters
    ----------
    items : Input
        What is read, and what of it has no result yet.
    write : callable
        Writes a line of results.
    errors : {"stop", "skip", "report"}
        What becomes of an item that has no result.
    unit : str
        What an item is called: "line" or "item".
    """

    def __init__(
        self, items: Input, *, write: Callable[[str], None], errors: Literal["stop", "skip", "report"], unit: str
    ) -> None:
        self._items = items
        self._write = write
        self._errors = errors
        self._unit = unit
        self.tally = Tally()
        self.is_running = False
        """Whether it reads, waits or writes, and so may be left by an exception."""

    def run(self, ex: PoolExecutor, function: Callable[..., Any], *, starmap: bool) -> None:
        """Make the calls, and write what comes of them.

        Raises
        ------
        ReaderGone, NotWritten
            The results have nowhere to go; the calls that run are for the executor to end.
        """
        apply = ex.starmap if starmap else ex.map
        results = apply(function, self._items, errors="raise" if self._errors == "stop" else "return")
        self.is_running = True
        try:
            self._take(results)
        except Stopped:
            results.close()  # type: ignore[attr-defined]
        finally:
            self.is_running = False

    def _take(self, results: Any) -> None:
        while True:
            try:
                result = next(results)
            except ReaderGone:
                raise
            except StopIteration:
                self._tell_broken()
                return
            except BrokenItem as exc:
                self._problem(self._items.unanswered[-1], "input", exc)
                raise Stopped from exc
            except (Exception, SystemExit) as exc:
                self._ended_by(exc)
                raise Stopped from exc
            self._tell_broken()
            entry = self._items.unanswered.popleft()
            if isinstance(result, Exception) and self._errors != "stop":
                self._problem(entry, "call", result)
            else:
                self._result(entry, result)

    def _ended_by(self, exc: BaseException) -> None:
        """Tell of a call that ended the map, with the frames of its function."""
        self._tell_broken()
        frames = without_ours(exc.__traceback__)
        if frames is not None:
            sys.stderr.writelines(traceback.format_exception(type(exc), exc, frames))
        waiting = self._items.unanswered
        self._problem(waiting[0] if waiting else None, "call", exc)

    def _tell_broken(self) -> None:
        for entry in self._items.broken():
            self._problem(entry, "input", None)

    def _result(self, entry: Entry, result: Any) -> None:
        try:
            line = as_json({self._unit: entry.number, "result": result} if self._errors == "report" else result)
        except (TypeError, ValueError, RecursionError) as exc:
            self._problem(entry, "result", exc)
            if self._errors == "stop":
                raise Stopped from exc
            return
        self._write(line)
        self.tally.results += 1

    def _problem(self, entry: Entry | None, place: Place, exc: BaseException | None) -> None:
        self.tally.count(place)
        broken = entry is not None and entry.problem is not None
        said = str(entry.problem) if entry is not None and broken else one_line(exc) if exc is not None else ""
        if self._errors != "report" or entry is None:
            complain(said if entry is None else f"{self._unit} {entry.number}: {said}")
            return
        error = {
            "in": place,
            "type": "BrokenItem" if broken or exc is None else type(exc).__qualname__,
            "message": said if broken else str(exc),
        }
        self._write(as_json({self._unit: entry.number, "error": error}))
