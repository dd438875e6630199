"""Lost workers: only what ran on the lost worker fails, as `WorkerLost`; the rest, and the pool, go on."""

from __future__ import annotations

import os
import signal
import sys
from concurrent.futures import BrokenExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from anypool.errors import WorkerLost
from anypool.testing import _calls
from anypool.testing._clauses import clause, needs, offers
from anypool.testing._effects import LIMIT, Gate, Tally, poll
from anypool.testing._fault_kinds import FAULTS
from anypool.testing._faults import Faults
from anypool.testing._leftovers import lives
from anypool.testing._subject import Subject, SubjectFixtures, end

__all__ = ["LostTests"]


@clause("lost workers")
class LostTests(SubjectFixtures):
    """Clause "lost workers"."""

    @pytest.fixture
    def doomed_executor(self, expendable: Any) -> Any:
        """An executor whose workers may be killed: none of them is this process."""
        pids = set(expendable.map(_calls.where, range(4)))
        assert os.getpid() not in pids, "calls run in the caller's process, so it cannot notice lost workers"
        return expendable

    @needs("worker_lost")
    @offers(notices_lost_workers=True)
    @pytest.mark.parametrize("way", ["exit", "signal"])
    def test_the_call_of_a_lost_worker_fails_and_the_executor_goes_on(self, doomed_executor: Any, way: str) -> None:
        fatal = _calls.die_if if way == "exit" else _calls.kill_self_if
        exc = doomed_executor.submit(fatal, 1, 1).exception(timeout=LIMIT)
        assert isinstance(exc, WorkerLost)
        assert isinstance(exc, BrokenExecutor)
        if exc.exitcode is not None and sys.platform != "win32":
            assert exc.exitcode == (3 if way == "exit" else -signal.SIGKILL)
        assert list(doomed_executor.map(_calls.double, range(8))) == [2 * item for item in range(8)]

    @needs("worker_lost", "errors")
    @offers(notices_lost_workers=True, loses_only_running=True)
    def test_only_the_item_of_the_lost_worker_fails(self, doomed_executor: Any) -> None:
        call = partial(_calls.die_if, fatal=5)
        got = list(doomed_executor.map(call, range(12), chunksize=1, errors="return"))
        assert isinstance(got[5], WorkerLost)
        assert [each for each in got if not isinstance(each, WorkerLost)] == [0, 1, 2, 3, 4, *range(6, 12)]

    @needs("worker_lost", "errors")
    @offers(notices_lost_workers=True, loses_only_running=True, reruns_lost_calls=False)
    @pytest.mark.parametrize("how", ["exit", "SIGKILL", "SIGSEGV"])
    def test_of_a_chunk_only_the_running_item_is_lost_and_nothing_runs_again(
        self, doomed_executor: Any, place: Path, how: str
    ) -> None:
        faults = Faults(place / "faults", {5: [how]})
        got = list(doomed_executor.map(faults, range(16), chunksize=8, errors="return"))
        assert isinstance(got[5], WorkerLost)
        if got[5].exitcode is not None and sys.platform != "win32":
            assert got[5].exitcode == FAULTS[how].exitcode
        if got[5].pid is not None:
            assert got[5].pid == next(each.pid for each in faults.record() if each.item == "5")
        assert [*got[:5], *got[6:]] == [*range(5), *range(6, 16)]
        assert faults.ran_again() == {}

    @needs("on_lost")
    @offers(notices_lost_workers=True, reruns_lost_calls=False)
    @pytest.mark.parametrize("chunksize", [1, 4])
    def test_a_lost_call_runs_again_where_that_is_asked_for(
        self, doomed_executor: Any, subject: Subject, place: Path, chunksize: int
    ) -> None:
        faults = Faults(place / "faults", {3: ["exit"], 6: ["SIGKILL", "exit"]})
        assert list(doomed_executor.map(faults, range(8), chunksize=chunksize, on_lost="retry")) == list(range(8))
        if subject.traits.loses_only_running:
            faults.check(range(8))

    @needs("on_lost", "errors")
    @offers(notices_lost_workers=True, loses_only_running=True, reruns_lost_calls=False)
    def test_a_call_that_kills_every_worker_is_given_up_alone(self, doomed_executor: Any, place: Path) -> None:
        faults = Faults(place / "faults", {2: ["exit"] * 50})
        got = list(doomed_executor.map(faults, range(8), chunksize=4, on_lost="retry", errors="return"))
        assert isinstance(got[2], WorkerLost)
        assert [*got[:2], *got[3:]] == [0, 1, *range(3, 8)]
        assert 1 < faults.ran_again().pop("2") < 10
        assert faults.ran_again().keys() == {"2"}

    @needs("on_lost", "options")
    @offers(notices_lost_workers=True, reruns_lost_calls=False)
    def test_a_submitted_call_that_was_lost_runs_again(self, doomed_executor: Any, place: Path) -> None:
        faults = Faults(place / "faults", {1: ["exit"]})
        assert doomed_executor.options(on_lost="retry").submit(faults, 1).result(timeout=LIMIT) == 1
        assert faults.counts() == {"1": 2}

    @needs("worker_lost", "errors")
    @offers(notices_lost_workers=True, reruns_lost_calls=False)
    def test_no_call_runs_again_because_a_worker_was_lost(self, doomed_executor: Any, place: Path) -> None:
        tally = Tally(place / "tally")
        list(doomed_executor.map(partial(_mark_and_die, tally, 5), range(12), chunksize=1, errors="return"))
        assert tally.labels().count("5") == 1
        assert len(set(tally.labels())) == len(tally)

    @needs("worker_lost")
    @offers(notices_lost_workers=True, loses_only_running=True)
    def test_a_call_on_another_worker_is_not_touched(self, doomed_executor: Any, subject: Subject, place: Path) -> None:
        if not subject.is_parallel:
            pytest.skip("made for executors with more than one worker")
        tally, gate = Tally(place / "tally"), Gate(place / "gate")
        other = doomed_executor.submit(_calls.mark_and_wait, tally, gate, "here")
        poll(lambda: len(tally), "the call begins")
        assert isinstance(doomed_executor.submit(_calls.die_if, 1, 1).exception(timeout=LIMIT), WorkerLost)
        gate.open()
        assert other.result(timeout=LIMIT) == "here"
        assert tally.labels() == ["here"]

    @needs("worker_lost")
    @offers(notices_lost_workers=True)
    def test_a_map_that_lost_a_worker_raises_in_order(self, doomed_executor: Any) -> None:
        results = doomed_executor.map(partial(_calls.die_if, fatal=3), range(4), chunksize=1, buffersize=1)
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(WorkerLost):
            next(results)

    @needs("worker_lost")
    @offers(notices_lost_workers=True, remote=False)
    @pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only pipes tell of the end of a process here")
    def test_a_child_that_a_lost_call_had_forked_holds_up_neither_caller_nor_end(
        self, doomed_executor: Any, place: Path
    ) -> None:
        child = place / "child"
        try:
            assert isinstance(doomed_executor.submit(_calls.fork_and_die, child).exception(timeout=LIMIT), WorkerLost)
            assert doomed_executor.submit(_calls.double, 1).result(timeout=LIMIT) == 2
            end(doomed_executor)  # within the limit
            assert lives(int(child.read_text()))
        finally:
            if child.exists() and lives(pid := int(child.read_text())):
                os.kill(pid, signal.SIGKILL)


def _mark_and_die(tally: Tally, fatal: int, item: int) -> Any:
    tally.mark(item)
    return _calls.die_if(item, fatal)
