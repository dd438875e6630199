"""Calls that fail as a script says, by item and attempt, and write down themselves what really ran.

::

    faults = Faults(place, {3: [OSError("disk"), "SIGKILL"], 5: ["exit"]})
    results = executor.map(faults, range(8), retries=2, on_lost="retry")
    faults.counts()      # {0: 1, 1: 1, 2: 1, 3: 3, ...}: item 3 raised, was killed, and then was well

The record is made of files that the calls write, never of what the executor says: it is the second road on which
a test checks the first. Each line is one `write` to a file opened for appending, so that no two mix, and what a call
wrote before its process was killed is there.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anypool.testing._fault_kinds import FAULTS

__all__ = ["Faults", "Invocation"]

Step = str | float | BaseException | Callable[[Any], Any]

_RECORD = "record"


@dataclass(frozen=True, kw_only=True, slots=True)
class Invocation:
    """One time that a call ran, as it wrote itself.

    Parameters
    ----------
    item : str
        The item, as `str` has it.
    attempt : int
        1 for the first time that this item ran.
    pid : int
        The process that ran it.
    began, ended : float
        `time.monotonic()`, which all processes of one machine share. `ended` is None for a call that never came to
        its end: it was killed, or it still runs.
    """

    item: str
    attempt: int
    pid: int
    began: float
    ended: float | None


class Faults:
    """A function for `map` and `submit` that does what a script says, and otherwise calls `fn`.

    It pickles, so that it runs on any backend whose workers see `directory`.

    Parameters
    ----------
    directory : Path
        Where the calls write; made if it does not exist; of this object alone.
    script : mapping
        For an item, one step for each attempt; after the last one, and for all other items, calls are well. A step is
        the name of one of `FAULTS`, an exception to raise, a number of seconds to sleep first, or a function that is
        called with the item in place of `fn`.
    fn : callable
        What a call that is well returns for its item; by default the item.

    Raises
    ------
    ValueError
        No fault has that name.
    """

    def __init__(
        self, directory: Path, script: Mapping[Any, Sequence[Step]] | None = None, *, fn: Callable[[Any], Any] = str
    ) -> None:
        self.directory = directory
        self.script: dict[Any, tuple[Step, ...]] = {item: tuple(steps) for item, steps in (script or {}).items()}
        self._fn = None if fn is str else fn
        for step in itertools.chain.from_iterable(self.script.values()):
            if isinstance(step, str) and step not in FAULTS:
                raise ValueError(f"no fault {step!r}; the faults are {', '.join(FAULTS)}")
        directory.mkdir(parents=True, exist_ok=True)

    def __call__(self, item: Any) -> Any:
        """Run the step that this attempt of `item` has."""
        steps = self.script.get(item, ())
        attempt = self._claim(item) if steps else 0
        token = f"{item} {os.getpid()} {threading.get_ident()} {time.monotonic_ns()}"
        self._write(f"began {token} {attempt}\n")
        try:
            return self._run(item, steps[attempt - 1] if 0 < attempt <= len(steps) else None)
        finally:
            self._write(f"ended {token} {time.monotonic_ns()}\n")

    def _run(self, item: Any, step: Step | None) -> Any:
        if isinstance(step, BaseException):
            raise step
        if isinstance(step, str):
            return FAULTS[step].act(item)
        if callable(step):
            return step(item)
        if step is not None:
            time.sleep(step)
        return item if self._fn is None else self._fn(item)

    def _claim(self, item: Any) -> int:
        """The number of this attempt, which no other one can have: a file that is there only once."""
        for attempt in itertools.count(1):
            try:
                os.close(os.open(self.directory / f"{item}.{attempt}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            except FileExistsError:
                continue
            return attempt
        raise AssertionError("counting ends by finding a number")

    def _write(self, line: str) -> None:
        file = os.open(self.directory / _RECORD, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)

    # --- the second road --------------------------------------------------------------------------------

    def record(self) -> list[Invocation]:
        """Every invocation, in the order in which they began."""
        began: dict[str, int] = {}
        ended: dict[str, float] = {}
        for line in self._lines():
            word, _, rest = line.partition(" ")
            token, _, last = rest.rpartition(" ")
            if word == "began":
                began[token] = int(last)
            else:
                ended[token] = int(last) / 1e9
        found, times = [], Counter[str]()
        for token, attempt in began.items():
            item, pid, _, at = token.rsplit(" ", 3)
            times[item] += 1
            found.append(
                Invocation(
                    item=item,
                    attempt=attempt or times[item],
                    pid=int(pid),
                    began=int(at) / 1e9,
                    ended=ended.get(token),
                )
            )
        return sorted(found, key=lambda each: each.began)

    def counts(self) -> dict[str, int]:
        """How many times each item ran; items that never ran are not in it."""
        return dict(Counter(each.item for each in self.record()))

    def ran_again(self) -> dict[str, int]:
        """The items that ran more than once, and how often."""
        return {item: count for item, count in self.counts().items() if count > 1}

    def pids(self) -> set[int]:
        """The processes that ran calls."""
        return {each.pid for each in self.record()}

    def check(self, items: Iterable[Any], *, attempts: int | None = None) -> None:
        """Make sure that each of `items` ran as often as the script asks for: once after its last fault.

        Parameters
        ----------
        items : iterable
            The input of the map.
        attempts : int, optional
            At most so many times, where the executor may not go on until a call is well.

        Raises
        ------
        AssertionError
            Names the items that ran more or less often.
        """
        expected = {str(item): 1 + len(self.script.get(item, ())) for item in items}
        if attempts is not None:
            expected = {item: min(count, attempts) for item, count in expected.items()}
        found = self.counts()
        wrong = {
            item: f"ran {found.get(item, 0)} times, not {expected.get(item, 0)}"
            for item in expected.keys() | found.keys()
            if found.get(item, 0) != expected.get(item, 0)
        }
        if wrong:
            raise AssertionError(f"invocations: {wrong}")

    def _lines(self) -> list[str]:
        try:
            text = (self.directory / _RECORD).read_text()
        except FileNotFoundError:
            return []
        return text.splitlines()
