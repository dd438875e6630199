"""What anypool must reach: each goal with its floor and its stretch, and whether a record shows that it is reached.

All comparisons are of medians of one run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from report import align, best_of

__all__ = ["GOALS", "Goal", "Verdict", "judge", "text"]

POOLS = ("stdlib-pool", "stdlib-executor", "loky", "joblib", "joblib-mp", "mpire", "pebble", "dask", "dask-executor")
"""The peers that are pools of this machine's processes; Ray is a system of its own."""

LOCAL = ("processes", "loky", "joblib")
OTHERS = ("threads", "loky", "joblib", "dask")
EACH = ("threads", "processes", "loky", "joblib", "dask")


@dataclass(frozen=True, kw_only=True)
class Goal:
    """One row.

    Parameters
    ----------
    work : str
        The workload.
    on : tuple of str
        The backends it holds for.
    against : str
        What is divided by: a subject; ``limit``; ``best peer``; ``best pool``; ``raw``; ``best first``, the best peer's
        first map, of which *broadcast again* is to take a fifth; or, of what is no workload, what is told here.
    floor, stretch : float or None
        The ratio to reach; None: nothing is asked.
    """

    work: str
    on: tuple[str, ...]
    against: str
    floor: float | None
    stretch: float | None


GOALS = (
    Goal(work="tiny", on=("processes",), against="stdlib-pool", floor=1.0, stretch=0.8),
    Goal(work="tiny", on=OTHERS, against="stdlib-pool", floor=3.0, stretch=1.5),
    Goal(work="millis", on=LOCAL, against="limit", floor=1.03, stretch=1.01),
    Goal(work="millis", on=("dask",), against="limit", floor=1.10, stretch=1.04),
    Goal(work="skew", on=LOCAL, against="limit", floor=1.05, stretch=1.02),
    Goal(work="skew", on=("dask",), against="limit", floor=1.15, stretch=1.02),
    Goal(work="tail", on=LOCAL, against="limit", floor=1.06, stretch=1.03),
    Goal(work="tail", on=("dask",), against="limit", floor=1.15, stretch=1.03),
    Goal(work="broadcast", on=LOCAL, against="best peer", floor=0.6, stretch=None),
    Goal(work="broadcast", on=LOCAL, against="limit", floor=None, stretch=1.0),
    Goal(work="broadcast again", on=LOCAL, against="best first", floor=0.2, stretch=None),
    Goal(work="broadcast again", on=LOCAL, against="best peer", floor=None, stretch=None),
    Goal(work="broadcast again", on=LOCAL, against="limit", floor=None, stretch=1.0),
    Goal(work="results", on=LOCAL, against="best pool", floor=0.4, stretch=None),
    Goal(work="results", on=LOCAL, against="ray", floor=1.0, stretch=0.7),
    Goal(work="arguments", on=LOCAL, against="best pool", floor=0.4, stretch=None),
    Goal(work="arguments", on=LOCAL, against="ray", floor=None, stretch=1.0),
    Goal(work="latency", on=("processes",), against="best peer", floor=0.5, stretch=None),
    Goal(work="latency", on=("processes",), against="limit", floor=None, stretch=2.0),
    Goal(work="latency", on=OTHERS, against="raw", floor=1.15, stretch=None),
    Goal(work="cold", on=EACH, against="raw", floor=1.15, stretch=1.0),
    Goal(work="endless", on=("serial", *EACH), against="window", floor=4.0, stretch=None),
    Goal(work="10^7 tiny, time", on=("processes",), against="10^6", floor=1.10, stretch=None),
    Goal(work="10^7 tiny, memory", on=("processes",), against="10^6", floor=1.10, stretch=None),
    Goal(work="import", on=("anypool",), against="import concurrent.futures", floor=1.3, stretch=None),
)
"""The table, in the order in which it was asked for."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One goal on one backend.

    Attributes
    ----------
    ratio : float or None
        What was measured; None if it was not.
    low, high : float or None
        The least and the largest ratio of one round, where both sides were measured in every round.
    why : str
        Which peer was the best; or why there is no ratio.
    """

    goal: Goal
    backend: str
    ratio: float | None
    low: float | None = None
    high: float | None = None
    why: str = ""

    @property
    def reaches_floor(self) -> bool | None:
        """Whether the floor is reached; None: not measured, or none is asked."""
        return None if self.ratio is None or self.goal.floor is None else self.ratio <= self.goal.floor

    @property
    def reaches_stretch(self) -> bool | None:
        """Whether the stretch is reached; None: not measured, or none is asked."""
        return None if self.ratio is None or self.goal.stretch is None else self.ratio <= self.goal.stretch


def judge(record: Mapping[str, Any]) -> list[Verdict]:
    """Every goal on every backend, from the record of one run."""
    works = {work["name"]: work for work in record["works"]}
    return [_verdict(goal, backend, works, record) for goal in GOALS for backend in goal.on]


def _verdict(goal: Goal, backend: str, works: Mapping[str, Any], record: Mapping[str, Any]) -> Verdict:
    if goal.work == "endless":
        return _of_endless(goal, backend, record.get("endless", ()))
    if goal.work.startswith("10^7"):
        return _of_scaling(goal, backend, record.get("sweeps", {}).get("scaling"))
    if goal.work not in works:
        return Verdict(goal=goal, backend=backend, ratio=None, why="not measured")
    work = works[goal.work]
    rows = {row["subject"]: row for row in work["rows"]}
    mine = rows.get("import anypool" if backend == "anypool" else f"anypool/{backend}")
    if mine is None or mine["median"] is None:
        return Verdict(goal=goal, backend=backend, ratio=None, why=mine["problem"] if mine else "not measured")
    if goal.against == "limit":
        values = [value / work["limit"] for value in mine["values"]]
        return Verdict(goal=goal, backend=backend, ratio=mine["over_limit"], low=min(values), high=max(values))
    if goal.against == "best first":
        rows = {row["subject"]: row for row in works.get("broadcast", {"rows": ()})["rows"]}
    other = best_of(_rivals(goal, backend, rows), {name: row["median"] for name, row in rows.items() if row["median"]})
    if other is None:
        return Verdict(goal=goal, backend=backend, ratio=None, why=f"{goal.against} was not measured")
    ratios = []
    if len(rows[other]["values"]) == len(mine["values"]):
        ratios = [ours / theirs for ours, theirs in zip(mine["values"], rows[other]["values"], strict=True)]
    return Verdict(
        goal=goal,
        backend=backend,
        ratio=mine["median"] / rows[other]["median"],
        low=min(ratios, default=None),
        high=max(ratios, default=None),
        why=other,
    )


RAW_OF = {
    "threads": ("stdlib-threads",),
    "processes": ("stdlib-forkserver",),
    "loky": ("loky",),
    "joblib": ("joblib",),
    "dask": ("dask", "dask-executor"),
}
"""The native pool below each backend, or for `processes` that which starts its workers in the same way."""


def _rivals(goal: Goal, backend: str, rows: Mapping[str, Any]) -> Sequence[str]:
    if goal.against in ("best peer", "best first"):
        return [name for name, row in rows.items() if row["role"] == "peer" and row["place"] == "processes"]
    if goal.against == "best pool":
        return POOLS
    if goal.against == "raw":
        return RAW_OF[backend]
    return (goal.against,)


def _of_endless(goal: Goal, backend: str, found: Iterable[Mapping[str, Any]]) -> Verdict:
    for one in found:
        if one["subject"] == f"anypool/{backend}":
            ratio = None if one["peak_bytes"] is None else one["peak_bytes"] / one["window_bytes"]
            return Verdict(goal=goal, backend=backend, ratio=ratio, why=one["problem"] or "")
    return Verdict(goal=goal, backend=backend, ratio=None, why="not measured")


def _of_scaling(goal: Goal, backend: str, sweep: Mapping[str, Any] | None) -> Verdict:
    """The last decade against the one before it: the least time of each, so that one slow round decides nothing."""
    name = f"anypool/{backend}" + (" memory" if goal.work.endswith("memory") else "")
    curve = dict(sweep["curves"].get(name, ())) if sweep is not None else {}
    if 1e7 not in curve or 1e6 not in curve:
        return Verdict(goal=goal, backend=backend, ratio=None, why="not measured")
    return Verdict(goal=goal, backend=backend, ratio=median(curve[1e7]) / median(curve[1e6]))


# --- as text ------------------------------------------------------------------------------------------


def text(verdicts: Sequence[Verdict]) -> str:
    """A table for a terminal, marked `+` where the floor is reached, `*` the stretch, `-` neither."""
    rows = [["work", "against", "floor", "stretch", *(("serial", *EACH)), ""]]
    for goal in GOALS:
        cells = {each.backend: _cell(each) for each in verdicts if each.goal is goal}
        shown = [cells.get(backend, "") for backend in ("serial", *EACH)]
        asked = ["" if each is None else f"{each:g}" for each in (goal.floor, goal.stretch)]
        rows.append([goal.work, goal.against, *asked, *shown, cells.get("anypool", "")])
    return align(rows)


def _cell(verdict: Verdict) -> str:
    if verdict.ratio is None:
        return "?"
    mark = "*" if verdict.reaches_stretch else "-" if verdict.reaches_floor is False else "+"
    if verdict.goal.floor is None and not verdict.reaches_stretch:
        mark = " "
    return f"{verdict.ratio:.2f}{mark}"
