"""From seconds to what people read: a table for each workload, and a record that programs read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

from measure import Outcome
from subject import Subject
from workloads import Workload

__all__ = ["Row", "WorkReport", "align", "best_of", "figures", "heading", "make_report", "record", "text"]

Role = Literal["peer", "raw", "bare", "anypool"]

NOTES = """\
Peers with their defaults; rounds interleaved; one subject alive at a time; each result checked.
spread: largest less smallest, by the median. limit: measured here without a pool. best: by the best peer whose calls
run in the same place (threads or processes). raw: by the native pool below that backend, used without anypool.
*: fewer items, because all would take too long. once: measured in one round, as it is not among the two best."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One subject on one workload.

    Attributes
    ----------
    values : tuple of float
        One for each round, in the unit of the workload.
    median, minimum, spread : float or None
        Of `values`; the spread is (largest - smallest) / median.
    over_limit, over_best_peer, over_raw : float or None
        The median divided by the limit, by the median of the best peer in the same place, and by that of the
        native pool below; None where there is none.
    items : int
        How many items a round had.
    problem : str or None
        Why it has no values, or fewer.
    """

    subject: str
    role: Role
    place: str
    items: int
    values: tuple[float, ...]
    median: float | None
    minimum: float | None
    spread: float | None
    over_limit: float | None
    over_best_peer: float | None
    over_raw: float | None
    problem: str | None


@dataclass(frozen=True, kw_only=True)
class WorkReport:
    """One workload: its limit, and all subjects."""

    name: str
    description: str
    unit: str
    items: int
    limit: float | None
    best_peers: dict[str, str]
    rows: tuple[Row, ...]


def make_report(
    work: Workload,
    items: int,
    limit_seconds: float | None,
    outcomes: Mapping[str, Outcome],
    subjects: Mapping[str, Subject],
    *,
    roles: Mapping[str, Role],
    raw_of: Mapping[str, Collection[str]],
) -> WorkReport:
    """The figures of one workload in its unit.

    Parameters
    ----------
    items : int
        How many the whole workload has.
    limit_seconds : float or None
        For all of them.
    roles : mapping of str to str
        What each subject is.
    raw_of : mapping of str to collection of str
        The native pools below each subject of anypool; the best of them counts.
    """
    values = {
        name: [_in_unit(work, seconds, outcome.items) for seconds in outcome.seconds]
        for name, outcome in outcomes.items()
    }
    limit = None if limit_seconds is None else _in_unit(work, limit_seconds, items)
    medians = {name: median(each) for name, each in values.items() if each and not outcomes[name].problem}
    peers = [name for name in outcomes if roles[name] == "peer"]
    best = {
        place: name
        for place in {subjects[name].place for name in peers}
        if (name := best_of([each for each in peers if subjects[each].place == place], medians)) is not None
    }
    rows = []
    for name, outcome in outcomes.items():
        place, mine = subjects[name].place, medians.get(name)
        raw = best_of(raw_of.get(name, ()), medians)
        own = values[name] if mine is not None else []
        rows.append(
            Row(
                subject=name,
                role=roles[name],
                place=place,
                items=outcome.items,
                values=tuple(values[name]),
                median=mine,
                minimum=min(own, default=None),
                spread=(max(own) - min(own)) / mine if mine else None,
                over_limit=_ratio(mine, limit),
                over_best_peer=_ratio(mine, medians.get(best.get(place, ""))),
                over_raw=None if raw is None else _ratio(mine, medians[raw]),
                problem=outcome.problem,
            )
        )
    return WorkReport(
        name=work.name,
        description=work.description,
        unit=work.unit,
        items=items,
        limit=limit,
        best_peers=best,
        rows=tuple(rows),
    )


def best_of(names: Collection[str], values: Mapping[str, float]) -> str | None:
    """The name with the least value; None if none has one."""
    return min((name for name in names if name in values), key=lambda name: values[name], default=None)


def _in_unit(work: Workload, seconds: float, items: int) -> float:
    return seconds * work.factor / (max(1, items) if work.is_per_item else 1)


def _ratio(value: float | None, base: float | None) -> float | None:
    return None if value is None or not base else value / base


# --- text and record ----------------------------------------------------------------------------------


def record(
    reports: Sequence[WorkReport],
    *,
    machine: Mapping[str, Any],
    versions: Mapping[str, str],
    settings: Mapping[str, Any],
    left_out: Mapping[str, str],
) -> dict[str, Any]:
    """All of it as what JSON can hold."""
    return {
        "machine": dict(machine),
        "versions": dict(versions),
        "settings": dict(settings),
        "left_out": dict(left_out),
        "works": [asdict(each) for each in reports],
    }


def heading(
    machine: Mapping[str, Any], versions: Mapping[str, str], settings: Mapping[str, Any], left_out: Mapping[str, str]
) -> str:
    """Machine, versions, and what is not measured."""
    lines = [
        f"{machine['cpus']} CPUs ({machine['cpu']}), {machine['system']}, {machine['python']}, load {machine['load']}",
        ", ".join(f"{name} {number}" for name, number in versions.items()),
        ", ".join(f"{name} {value}" for name, value in settings.items()),
        *(f"left out: {name}: {why}" for name, why in left_out.items()),
        "",
        NOTES,
    ]
    return "\n".join(lines)


def text(report: WorkReport) -> str:
    """The table of one workload."""
    limit = "none" if report.limit is None else f"{figures(report.limit)} {report.unit}"
    title = f"{report.name}: {report.description} [{report.unit}; limit {limit}]"
    header = ["subject", "median", "min", "spread", "/limit", "/best", "/raw", ""]
    rounds = max(len(row.values) for row in report.rows) if report.rows else 0
    rows = [
        [
            row.subject + ("*" if row.items < report.items else ""),
            figures(row.median),
            figures(row.minimum),
            _shown_spread(row, rounds),
            _times(row.over_limit),
            _times(row.over_best_peer),
            _times(row.over_raw),
            row.problem or ("best" if row.subject in report.best_peers.values() else ""),
        ]
        for row in report.rows
    ]
    return "\n".join([title, align([header, *rows])])


def _shown_spread(row: Row, rounds: int) -> str:
    if row.spread is None:
        return ""
    return "once" if len(row.values) == 1 < rounds else f"{row.spread:.0%}"


def align(rows: Sequence[Sequence[str]]) -> str:
    """Rows in columns: names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        middle = [cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1], strict=True)]
        lines.append("  ".join(["  " + row[0].ljust(widths[0]), *middle, row[-1]]).rstrip())
    return "\n".join(lines)


def figures(value: float | None) -> str:
    """Three figures that count."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x"
