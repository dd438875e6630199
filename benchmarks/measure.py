"""The loop of every benchmark here: rounds, and in each round every subject once, alone on the machine.

::

    for each workload: its limit, then
        for each round: for each subject, beginning with another one each round:
            start ─> warm up ─> measure ─> check ─> stop

Only one subject is alive at a time: an idle cluster would cost the others time, and a pool that forks must not
inherit the threads of another. Rounds spread what the machine does meanwhile over all subjects alike.
"""

from __future__ import annotations

import contextlib
import gc
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

__all__ = ["Outcome", "measure", "some_hung"]

START_LIMIT = 60.0
RUN_LIMIT = 120.0
STOP_LIMIT = 20.0
"""Seconds after which a subject counts as hung."""

_ENOUGH = 4.0
"""Seconds of one round of a workload that is reported per item; what would take longer gets fewer items."""

_PROBE = 0.01
"""Share of the items that tells how long all would take."""


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
) -> dict[str, Outcome]:
    """Every subject on one workload, `rounds` times, interleaved.

    Parameters
    ----------
    makers : mapping of str to callable
        How to make each subject, by name; a new one is made for each round.
    say : callable
        Told who is being measured.
    """
    outcomes = {name: Outcome(items=len(case.items)) for name in makers}
    names = list(makers)
    for number in range(rounds):
        shift = number % max(1, len(names))
        for name in names[shift:] + names[:shift]:
            outcome = outcomes[name]
            if outcome.problem is None:
                say(f"{work.name}, round {number + 1} of {rounds}: {name}")
                _measure_once(work, case, name, makers[name](), outcome, workers)
    return outcomes


def _measure_once(work: Workload, case: Case, name: str, subject: Subject, outcome: Outcome, workers: int) -> None:
    gc.collect()
    try:
        if work.kind == "import":
            outcome.seconds.append(measure_import(subject.modules, RUN_LIMIT))
        elif work.kind == "cold":
            outcome.seconds.append(measure_cold(name, workers, len(case.items), RUN_LIMIT))
        else:
            with _running(subject, workers):
                _measure_here(work, case, subject, outcome, workers)
    except _HungError as exc:
        outcome.problem = f"hung: {exc}"
        _hung.append(name)
    except TimeoutError as exc:
        outcome.problem = f"hung: {exc}"
    except _WrongError:
        outcome.problem = "wrong"
    except Exception as exc:  # a peer that fails is a result
        outcome.problem = f"{type(exc).__name__}: {str(exc).splitlines()[0] if str(exc) else ''}"


@contextlib.contextmanager
def _running(subject: Subject, workers: int) -> Iterator[None]:
    try:
        with _bounded(START_LIMIT, "to start"):
            subject.start(workers)
        try:
            yield
        finally:
            with _bounded(STOP_LIMIT, "to stop"):
                subject.stop()
    except _HungError:
        for child in multiprocessing.active_children():  # so that they cost those that follow no time
            child.kill()
        raise


def _measure_here(work: Workload, case: Case, subject: Subject, outcome: Outcome, workers: int) -> None:
    with _bounded(START_LIMIT, "for the first map"):
        # Long enough that every worker gets one; each other than the next, and than any item measured.
        subject.map(spin, [0.003 + 1e-6 * index for index in range(4 * workers)])
    run = _time_map if work.kind == "map" else _time_calls
    if work.is_per_item and not outcome.seconds:
        outcome.items = _affordable(run, case, subject)
    items = case.items[: outcome.items]
    with _bounded(RUN_LIMIT, "for the map" if work.kind == "map" else "for the calls"):
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
    """How many items fit into a round."""
    length = len(case.items)
    probe = range(length, length + max(10, int(length * _PROBE)))  # items that are not measured
    with _bounded(RUN_LIMIT, "for a few items"):
        seconds, _ = run(subject, case, probe)
    return max(10, min(length, int(_ENOUGH * len(probe) / seconds)))


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
