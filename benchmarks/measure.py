"""The loop of every benchmark here: rounds, and in each round every subject once, alone on the machine.

::

    for each group of workloads:
        for each round: for each subject, beginning with another one each round:
            start ─> warm up ─> for each workload: measure ─> check ─> stop

Only one subject is alive at a time: an idle cluster would cost the others time, and a pool that forks must not
inherit the threads of another. Rounds spread what the machine does meanwhile over all subjects alike.
"""

from __future__ import annotations

import contextlib
import gc
import math
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from fresh import measure_cold, measure_import
from subjects import Subject
from workloads import Case, Workload, spin

__all__ = ["Outcome", "Outcomes", "measure", "measure_group", "some_hung", "warm_up"]

START_LIMIT = 60.0
RUN_LIMIT = 120.0
STOP_LIMIT = 20.0
"""Seconds after which a subject counts as hung."""

_ENOUGH = 1.5
"""Seconds of one round of a workload that is reported per item; what would take longer gets fewer items."""

_PROBE = 0.01
"""Share of the items that tells how long all would take."""

_PROBED = 0.1
"""Share of the seconds of a round that is not too much for finding that out."""

_IMPORTS = 5
"""How often an import is measured in one round: it is short."""

_AGAIN = 2.0
"""A map that took more seconds than this is not measured again on the same pool: it cannot be the best."""


@dataclass(kw_only=True)
class Outcome:
    """What one subject did with one workload.

    Attributes
    ----------
    seconds : list of float
        One for each round that ended well.
    items : int
        How many items a round had: fewer than the workload has, for a subject that is slow at them.
    problem : str or None
        ``wrong``, ``hung`` or the error; nothing more was measured after it.
    """

    items: int
    seconds: list[float] = field(default_factory=list)
    problem: str | None = None


Outcomes = dict[str, Outcome]
"""By the name of the subject."""


class _HungError(Exception):
    """Raised by the alarm."""


class _WrongError(Exception):
    """The results are not those that the function gives."""


# Whoever hung may hold threads that the end of the interpreter would wait for.
_hung: list[str] = []


def some_hung() -> bool:
    """Whether a subject could not be stopped, so that the interpreter may not be able to end by itself."""
    return bool(_hung)


def measure(
    work: Workload,
    case: Case,
    makers: Mapping[str, Callable[[], Subject]],
    *,
    workers: int,
    rounds: int,
    say: Callable[[str], None] = lambda text: None,
) -> Outcomes:
    """Every subject on one workload, `rounds` times, interleaved; the parameters are those of `measure_group`."""
    return measure_group([(work, case)], makers, workers=workers, rounds=rounds, say=say)[work.name]


def measure_group(
    works: Sequence[tuple[Workload, Case]],
    makers: Mapping[str, Callable[[], Subject]],
    *,
    workers: int,
    rounds: int,
    seconds: float = math.inf,
    is_wanted: Callable[[Workload, str, Outcomes], bool] = lambda work, name, outcomes: True,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Outcomes]:
    """Every subject on some workloads, `rounds` times, interleaved; outcomes by the name of the workload.

    Parameters
    ----------
    works : sequence of (Workload, Case)
        What is measured one after the other on the same pool.
    makers : mapping of str to callable
        How to make each subject, by name; a new one is made for each round.
    seconds : float
        No round is begun that would end later, as far as the one before it tells: what each subject took then, of those
        that are still wanted.
    is_wanted : callable
        ``is_wanted(work, name, outcomes)``: whether to measure that subject, after what the rounds so far have shown.
    say : callable
        Told who is being measured.
    """
    found: dict[str, Outcomes] = {
        work.name: {name: Outcome(items=len(case.items)) for name in makers} for work, case in works
    }
    names = list(makers)
    began = time.monotonic()
    took: dict[str, float] = {}
    for number in range(rounds):
        shift = number % max(1, len(names))
        for name in names[shift:] + names[:shift]:
            left = _left(name, works, found, is_wanted)
            started = time.monotonic()
            while left:
                say(f"round {number + 1} of {rounds}, {left[0][0].name} and on: {name}")
                left = left[_measure_until_trouble(name, makers[name], left, workers) :]
            took[name] = time.monotonic() - started
        next_takes = sum(took[name] for name in names if _left(name, works, found, is_wanted))
        if time.monotonic() + next_takes > began + seconds:
            break
    return found


def _left(
    name: str,
    works: Sequence[tuple[Workload, Case]],
    found: Mapping[str, Outcomes],
    is_wanted: Callable[[Workload, str, Outcomes], bool],
) -> list[tuple[Workload, Case, Outcome]]:
    """What that subject is still measured on."""
    return [
        (work, case, found[work.name][name])
        for work, case in works
        if found[work.name][name].problem is None and is_wanted(work, name, found[work.name])
    ]


def _measure_until_trouble(
    name: str, make: Callable[[], Subject], works: Sequence[tuple[Workload, Case, Outcome]], workers: int
) -> int:
    """Measure one workload after the other on one pool, up to the first in which something goes wrong; how many."""
    gc.collect()
    count = 0
    try:
        if works[0][0].group == "fresh":
            count = 1
            _measure_fresh(name, *works[0], workers)
            return count
        subject = make()
        with _running(subject, workers):
            seen: dict[int, float] = {}
            for work, case, outcome in works:
                count += 1
                if work.kind == "again" and seen.get(id(case.fn), 0.0) > _AGAIN:
                    outcome.problem = f"left out: the first map took {seen[id(case.fn)]:.0f} s"
                    continue
                _measure_here(work, case, subject, outcome, workers, is_first=id(case.fn) not in seen)
                seen[id(case.fn)] = outcome.seconds[-1]
    except _HungError as exc:
        problem = f"hung: {exc}"
        _hung.append(name)
    except TimeoutError as exc:
        problem = f"hung: {exc}"
    except _WrongError:
        problem = "wrong"
    except Exception as exc:  # a peer that fails is a result
        problem = f"{type(exc).__name__}: {str(exc).splitlines()[0] if str(exc) else ''}"
    else:
        return count
    if count == 0:  # it did not start, and would not for the next workload
        for _, _, outcome in works:
            outcome.problem = problem
        return len(works)
    works[count - 1][2].problem = problem
    return count


def _measure_fresh(name: str, work: Workload, case: Case, outcome: Outcome, workers: int) -> None:
    if work.kind == "import":
        from subjects import make_subject

        modules = make_subject(name).modules
        outcome.seconds.append(median(measure_import(modules, RUN_LIMIT) for _ in range(_IMPORTS)))
    else:
        outcome.seconds.append(measure_cold(name, workers, len(case.items), RUN_LIMIT))


@contextlib.contextmanager
def _running(subject: Subject, workers: int) -> Iterator[None]:
    try:
        with _bounded(START_LIMIT, "to start"):
            subject.start(workers)
        try:
            with _bounded(START_LIMIT, "for the first map"):
                warm_up(subject, workers)
            yield
        finally:
            with _bounded(STOP_LIMIT, "to stop"):
                subject.stop()
    except _HungError:
        for child in multiprocessing.active_children():  # so that they cost those that follow no time
            child.kill()
        raise


def warm_up(subject: Subject, workers: int) -> None:
    """Have every worker up, by calls of which every worker gets one."""
    # Each other than the next, and than any item measured.
    subject.map(spin, [0.003 + 1e-6 * index for index in range(4 * workers)])


def _measure_here(
    work: Workload, case: Case, subject: Subject, outcome: Outcome, workers: int, *, is_first: bool
) -> None:
    run = _time_calls if work.kind == "call" else _time_map
    if work.kind == "again" and is_first:
        with _bounded(RUN_LIMIT, "for the map before"):
            subject.map(case.fn, case.items)
    if work.is_per_item and not outcome.seconds:
        outcome.items = _affordable(run, case, subject)
    items = case.items[: outcome.items]
    with _bounded(RUN_LIMIT, "for the calls" if work.kind == "call" else "for the map"):
        seconds, results = run(subject, case, items)
    if not _is_right(case, results, items):
        raise _WrongError
    outcome.seconds.append(seconds)


def _is_right(case: Case, results: Sequence[Any], items: Sequence[Any]) -> bool:
    try:
        return case.is_right(results, items)
    except (TypeError, IndexError, ValueError):  # not even of the right shape
        return False


def _affordable(run: Callable[[Subject, Case, Sequence[Any]], tuple[float, Any]], case: Case, subject: Subject) -> int:
    """How many items fit into a round.

    A few tell, and more where these do not take long: a pool that adapts is slow at the first of many.
    """
    length = len(case.items)
    count = max(10, int(length * _PROBE))
    while True:
        probe = range(length, length + count)  # items that are not measured
        with _bounded(RUN_LIMIT, "for a few items"):
            seconds, _ = run(subject, case, probe)
        fit = int(_ENOUGH * count / seconds)
        if fit >= length or seconds > _ENOUGH * _PROBED or count * 10 > length:
            return max(10, min(length, fit))
        count *= 10


def _time_map(subject: Subject, case: Case, items: Sequence[Any]) -> tuple[float, list[Any]]:
    started = time.perf_counter()
    results = subject.map(case.fn, items)
    return time.perf_counter() - started, results


def _time_calls(subject: Subject, case: Case, items: Sequence[Any]) -> tuple[float, list[Any]]:
    """One call after the other; the median of them, times their number."""
    times, results = [], []
    for item in items:
        started = time.perf_counter()
        results.append(subject.call(case.fn, item))
        times.append(time.perf_counter() - started)
    return median(times) * len(items), results


@contextlib.contextmanager
def _bounded(seconds: float, what: str) -> Iterator[None]:
    """Raise in this, the main thread, after so many seconds. Where there is no alarm (Windows), never."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(signum: int, frame: Any) -> None:
        raise _HungError(f"more than {seconds:.0f} s {what}")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
