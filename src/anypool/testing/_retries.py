"""Once, unless one asks for more: `retries` runs again what raised, and nothing else, with the same dice."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from anypool import _seeds
from anypool.errors import WorkerLost
from anypool.testing._clauses import clause, needs, offers
from anypool.testing._effects import LIMIT
from anypool.testing._faults import Faults
from anypool.testing._subject import SubjectFixtures

__all__ = ["RetriesTests"]


class _Draws:
    """Draws a number, and writes it down: that of a run which fails is seen, too."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(self, item: int) -> float:
        drawn = _seeds.random().random()
        with open(self.directory / f"drawn-{item}", "a") as file:
            print(drawn, file=file)
        with open(self.directory / f"drawn-{item}") as file:
            runs = len(file.readlines())
        if item == 2 and runs < 3:
            raise OSError("not yet")
        return drawn


@clause("once")
class RetriesTests(SubjectFixtures):
    """Clause "once": more than once where it was asked for."""

    @needs("retries")
    @pytest.mark.parametrize("chunksize", [1, 4])
    def test_what_raised_runs_again_and_nothing_else(self, executor: Any, place: Path, chunksize: int) -> None:
        faults = Faults(place / "faults", {1: ["raise"], 5: [OSError("once"), KeyError("twice")]})
        assert list(executor.map(faults, range(8), retries=2, chunksize=chunksize)) == list(range(8))
        faults.check(range(8))

    @needs("retries")
    def test_a_call_that_goes_on_failing_fails_as_itself_after_the_last_retry(self, executor: Any, place: Path) -> None:
        faults = Faults(place / "faults", {3: [OSError("first"), OSError("second"), KeyError("last")]})
        results = executor.map(faults, range(5), retries=2, chunksize=2)
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(KeyError, match="last") as caught:
            next(results)
        assert any("attempt 3" in note and "first" in note for note in caught.value.__notes__)
        assert faults.counts()["3"] == 3

    @needs("retries")
    def test_only_the_named_exceptions_are_run_again(self, executor: Any, place: Path) -> None:
        from anypool import Retry

        faults = Faults(place / "faults", {1: ["raise"], 2: [LookupError("no")]})
        got = list(executor.map(faults, range(4), retries=Retry(times=3, on=(OSError,)), errors="return"))
        assert got[:2] == [0, 1]
        assert isinstance(got[2], LookupError)
        assert faults.ran_again() == {"1": 2}

    @needs("retries", "seed")
    def test_a_retry_draws_the_same_numbers(self, executor: Any, place: Path) -> None:
        draws = _Draws(place)
        got = list(executor.map(draws, range(4), seed=11, retries=2, chunksize=2))
        runs = (place / "drawn-2").read_text().split()
        assert runs == [str(got[2])] * 3
        assert got == list(executor.map(_Draws(_emptied(place)), range(4), seed=11, retries=2, chunksize=1))

    @needs("retries", "options")
    def test_a_submitted_call_is_run_again(self, executor: Any, place: Path) -> None:
        faults = Faults(place / "faults", {1: ["raise", "raise"]})
        assert executor.options(retries=2).submit(faults, 1).result(timeout=LIMIT) == 1
        assert faults.counts() == {"1": 3}

    @needs("retries", "worker_lost", "options")
    @offers(notices_lost_workers=True, reruns_lost_calls=False)
    def test_retries_are_not_for_lost_workers(self, make_fresh: Any, place: Path) -> None:
        executor = make_fresh()
        assert executor.submit(os.getpid).result(timeout=LIMIT) != os.getpid()
        faults = Faults(place / "faults", {1: ["exit"]})
        exc = executor.options(retries=5).submit(faults, 1).exception(timeout=LIMIT)
        assert isinstance(exc, WorkerLost)


def _emptied(place: Path) -> Path:
    for path in place.glob("drawn-*"):
        path.unlink()
    return place
