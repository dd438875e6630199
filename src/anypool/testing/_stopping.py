"""Time: a call that runs too long is stopped, and so is one that is cancelled while it runs; or asking is an error."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from anypool._process_tree import KNOWS_CHILDREN
from anypool.backend import StopsCalls
from anypool.errors import CallTimeout, Unsupported
from anypool.testing import _calls
from anypool.testing._clauses import clause, needs, offers
from anypool.testing._effects import LIMIT, poll
from anypool.testing._faults import Faults
from anypool.testing._leftovers import lives
from anypool.testing._subject import SubjectFixtures

__all__ = ["StoppingTests"]

_ALLOWED = 0.8
"""Seconds that a call may run; a call that does not hang takes far less, also on a busy machine."""

_SEEN_WITHIN = 1.0
"""Seconds after its limit within which one of three calls must have failed: a busy machine may be late at times."""


def _stops_calls(executor: Any) -> bool:
    return isinstance(executor._backend, StopsCalls) and executor.traits.stops_running_calls


def _raise_timeout(item: int) -> int:
    if item == 1:
        raise TimeoutError("the function's own")
    return item


@clause("time")
class StoppingTests(SubjectFixtures):
    """Clause "time": what stops a call that runs."""

    @pytest.fixture
    def _stops_calls(self, executor: Any) -> None:
        if not _stops_calls(executor):
            pytest.skip("made for executors that can stop a running call")

    @pytest.fixture
    def stopper(self, _stops_calls: None, expendable: Any) -> Any:
        """An executor whose running calls can be stopped."""
        list(expendable.map(time.sleep, [0.01] * 4, chunksize=1))  # its workers are up
        return expendable

    @needs("call_timeout")
    def test_where_a_call_cannot_be_stopped_a_limit_is_refused(self, executor: Any) -> None:
        if _stops_calls(executor):
            pytest.skip("made for executors that cannot stop a running call")
        with pytest.raises(Unsupported, match="cannot stop a call that runs"):
            executor.map(str, range(3), call_timeout=1.0)
        with pytest.raises(Unsupported, match="cannot stop a call that runs"):
            executor.options(call_timeout=1.0).submit(str, 1)

    @needs("call_timeout")
    @offers(stops_running_calls=True)
    @pytest.mark.parametrize("how", ["hang", "hang, GIL held", "hang, SIGTERM ignored"])
    def test_a_call_that_runs_too_long_is_stopped_and_its_neighbours_are_not(
        self, stopper: Any, place: Path, how: str
    ) -> None:
        for attempt in range(3):  # a busy machine may hold a neighbour up for so long, but not in each attempt
            faults = Faults(place / f"faults-{attempt}", {5: [how]})
            got = list(stopper.map(faults, range(10), call_timeout=_ALLOWED, chunksize=5, errors="return"))
            if sum(isinstance(each, CallTimeout) for each in got) == 1:
                break
        assert isinstance(got[5], CallTimeout)
        assert isinstance(got[5], TimeoutError)
        assert [*got[:5], *got[6:]] == [*range(5), *range(6, 10)]
        assert faults.ran_again() == {}
        assert stopper.submit(str, 1).result(timeout=LIMIT) == "1"

    @needs("call_timeout", "options")
    @offers(stops_running_calls=True)
    def test_the_limit_is_kept_to_the_second(self, stopper: Any, place: Path) -> None:
        took = []
        for attempt in range(3):
            faults = Faults(place / f"faults-{attempt}", {1: ["hang"]})
            exc = stopper.options(call_timeout=_ALLOWED).submit(faults, 1).exception(timeout=LIMIT)
            seen = time.monotonic()
            assert isinstance(exc, CallTimeout)
            (run,) = faults.record()
            took.append(seen - run.began)
            if took[-1] < _ALLOWED + _SEEN_WITHIN:
                break
        assert _ALLOWED * 0.9 <= min(took) < _ALLOWED + _SEEN_WITHIN

    @needs("call_timeout")
    @offers(stops_running_calls=True)
    def test_the_limit_is_of_each_call_and_not_of_the_chunk(self, stopper: Any, place: Path) -> None:
        for attempt in range(3):  # a busy machine may hold one call up for so long, but not in each attempt
            faults = Faults(place / f"faults-{attempt}", {item: [0.25] for item in range(6)})
            got = list(stopper.map(faults, range(6), call_timeout=_ALLOWED, chunksize=6, errors="return"))
            if got == list(range(6)):
                break
        assert got == list(range(6))
        assert set(faults.counts().values()) == {1}

    @needs("call_timeout", "retries")
    @offers(stops_running_calls=True)
    def test_a_call_that_was_stopped_can_be_run_again(self, stopper: Any, place: Path) -> None:
        faults = Faults(place / "faults", {2: ["hang"]})
        assert list(stopper.map(faults, range(4), call_timeout=_ALLOWED, retries=1, chunksize=2)) == list(range(4))
        faults.check(range(4))

    @needs("call_timeout")
    @offers(stops_running_calls=True)
    def test_a_timeout_error_of_the_function_is_no_call_timeout(self, stopper: Any) -> None:
        results = stopper.map(_raise_timeout, range(3), call_timeout=LIMIT)
        assert next(results) == 0
        with pytest.raises(TimeoutError, match="the function's own") as caught:
            next(results)
        assert not isinstance(caught.value, CallTimeout)

    @needs("cancel_running")
    @offers(stops_running_calls=True)
    def test_a_running_call_can_be_cancelled_and_its_neighbours_go_on(self, stopper: Any, place: Path) -> None:
        faults = Faults(place / "faults", {1: ["hang"], 2: [0.3]})
        hanging, other = stopper.submit(faults, 1), stopper.submit(faults, 2)
        queued = [stopper.submit(faults, item) for item in (3, 4, 5)]
        poll(lambda: "1" in faults.counts(), "the call begins")
        assert not hanging.cancel()
        assert stopper.cancel(hanging, running=True)
        with pytest.raises(CancelledError):
            hanging.result(timeout=LIMIT)
        assert [future.result(timeout=LIMIT) for future in (other, *queued)] == [2, 3, 4, 5]
        assert faults.ran_again() == {}

    @needs("cancel_running")
    def test_what_has_ended_cannot_be_cancelled(self, executor: Any) -> None:
        future = executor.submit(str, 1)
        assert future.result(timeout=LIMIT) == "1"
        assert not executor.cancel(future, running=True)
        assert future.result(timeout=LIMIT) == "1"

    @needs("call_timeout", "cancel_running")
    @offers(stops_running_calls=True, remote=False)
    @pytest.mark.skipif(not KNOWS_CHILDREN, reason="this system does not tell what a process has started")
    @pytest.mark.parametrize("how", ["cancel", "call_timeout", "leaving by an error"])
    def test_a_call_that_is_stopped_takes_along_the_programs_that_it_has_started(
        self, stopper: Any, place: Path, how: str
    ) -> None:
        programs = place / "programs"
        try:
            for _ in range(3):  # a busy machine may start a program later than the limit stops the call
                _stop_a_program(stopper, programs, how)
                if programs.exists():
                    break
            pids = _pids(programs)
            assert len(pids) == 2
            poll(lambda: not any(map(lives, pids)), "they end")
        finally:
            for pid in filter(lives, _pids(programs)):
                os.kill(pid, signal.SIGKILL)

    @needs("cancel_running")
    @offers(stops_running_calls=True)
    def test_leaving_by_an_error_does_not_wait_for_what_can_be_stopped(self, stopper: Any, place: Path) -> None:
        faults = Faults(place / "faults", {0: ["hang"], 1: ["hang"]})
        with pytest.raises(LookupError, match="the caller's own"):
            with stopper:
                results = stopper.map(faults, range(50), chunksize=1)
                poll(lambda: "0" in faults.counts(), "the first call begins")
                raise LookupError("the caller's own")
        del results
        assert len(faults.record()) <= 2 + 4 * stopper.max_workers


def _pids(path: Path) -> list[int]:
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def _stop_a_program(executor: Any, programs: Path, how: str) -> None:
    """Stop a call that runs a program, which writes there what is to end with it; nothing comes of the call."""
    if how == "call_timeout":
        future = executor.options(call_timeout=_ALLOWED).submit(_calls.run_program, programs)
        assert isinstance(future.exception(timeout=LIMIT), CallTimeout)
    elif how == "cancel":
        future = executor.submit(_calls.run_program, programs)
        poll(programs.exists, "the program runs")
        assert executor.cancel(future, running=True)
        assert future.cancelled()
    else:
        with pytest.raises(LookupError, match="the caller's own"), executor:
            future = executor.submit(_calls.run_program, programs)
            poll(programs.exists, "the program runs")
            raise LookupError("the caller's own")
        assert future.cancelled() or future.exception(timeout=LIMIT) is not None
