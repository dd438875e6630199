"""Lost workers: only what ran on the lost worker fails, as `WorkerLost`; the rest, and the pool, go on."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from anypool.errors import WorkerLost
from anypool.testing import _calls
from anypool.testing._clauses import clause, needs, offers
from anypool.testing._effects import LIMIT, Gate, Tally, poll
from anypool.testing._subject import Subject, SubjectFixtures

__all__ = ["LostTests"]


@clause("lost workers")
class LostTests(SubjectFixtures):
    """Clause "lost workers"."""

    @needs("worker_lost")
    @offers(notices_lost_workers=True)
    @pytest.mark.parametrize("way", ["exit", "signal"])
    def test_the_call_of_a_lost_worker_fails_and_the_executor_goes_on(
        self, make_fresh: Callable[..., Any], way: str
    ) -> None:
        executor = make_fresh()
        assert executor.submit(_calls.double, 1).result(timeout=LIMIT) == 2
        fatal = _calls.die_if if way == "exit" else _calls.kill_self_if
        exc = executor.submit(fatal, 1, 1).exception(timeout=LIMIT)
        assert isinstance(exc, WorkerLost)
        assert isinstance(exc, BrokenExecutor)
        if exc.exitcode is not None and sys.platform != "win32":
            assert exc.exitcode == (3 if way == "exit" else -signal.SIGKILL)
        assert list(executor.map(_calls.double, range(8))) == [2 * item for item in range(8)]

    @needs("worker_lost", "errors")
    @offers(notices_lost_workers=True, loses_only_running=True)
    def test_only_the_item_of_the_lost_worker_fails(self, make_fresh: Callable[..., Any], place: Path) -> None:
        executor = make_fresh()
        tally = Tally(place / "tally")
        got = list(executor.map(partial(_mark_and_die, tally, 5), range(12), chunksize=1, errors="return"))
        assert isinstance(got[5], WorkerLost)
        assert [each for each in got if not isinstance(each, WorkerLost)] == [0, 1, 2, 3, 4, *range(6, 12)]
        assert sorted(map(int, tally.labels())) == list(range(12))

    @needs("worker_lost")
    @offers(notices_lost_workers=True, loses_only_running=True)
    def test_a_call_on_another_worker_is_not_touched(
        self, make_fresh: Callable[..., Any], subject: Subject, place: Path
    ) -> None:
        if not subject.is_parallel:
            pytest.skip("made for executors with more than one worker")
        executor = make_fresh()
        tally, gate = Tally(place / "tally"), Gate(place / "gate")
        other = executor.submit(_calls.mark_and_wait, tally, gate, "here")
        poll(lambda: len(tally), "the call begins")
        assert isinstance(executor.submit(_calls.die_if, 1, 1).exception(timeout=LIMIT), WorkerLost)
        gate.open()
        assert other.result(timeout=LIMIT) == "here"
        assert tally.labels() == ["here"]

    @needs("worker_lost")
    @offers(notices_lost_workers=True)
    def test_a_map_that_lost_a_worker_raises_in_order(self, make_fresh: Callable[..., Any]) -> None:
        executor = make_fresh()
        results = executor.map(partial(_calls.die_if, fatal=3), range(4), chunksize=1, buffersize=1)
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(WorkerLost):
            next(results)


def _mark_and_die(tally: Tally, fatal: int, item: int) -> Any:
    tally.mark(item)
    return _calls.die_if(item, fatal)
