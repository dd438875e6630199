"""Writes the measured parts of docs/performance.md and of the README, and the plots, from a record and nothing else.

::

    python benchmarks/performance_docs.py            rewrite what is stale
    python benchmarks/performance_docs.py --check    only name what is stale; exit code 1 if anything is

A measured part stands between `<!-- measured: NAME -->` and `<!-- /measured -->`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from goals import EACH, GOALS, Goal, Verdict, judge
from machine import is_quiet, provisional
from report import figures
from scale import saturation

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "benchmarks" / "records" / "performance.json"
PLOTS = ROOT / "docs" / "performance"
PAGES = tuple(
    ROOT / name
    for name in ("docs/performance.md", "docs/how-to/choose-a-backend.md", "docs/explanation/scale.md", "README.md")
)

PART = re.compile(
    r"(?P<open><!-- measured: (?P<name>[^\n]+) -->\n)(?P<text>.*?)(?P<close><!-- /measured -->)", re.DOTALL
)

NAMES = {
    "stdlib-pool": "stdlib `Pool`",
    "stdlib-executor": "stdlib executor",
    "stdlib-forkserver": "stdlib executor, forkserver",
    "stdlib-threads": "stdlib threads",
    "joblib-mp": "joblib (multiprocessing)",
    "dask": "Dask `Client.map`",
    "dask-executor": "Dask `get_executor()`",
    "ray": "Ray `Pool`",
    "bare-processes": "bare processes, no pool",
    "local-pool": "anypool's pool, without the core",
    "loop": "a loop",
}
"""How the tables call a subject whose name does not say it."""

BACKENDS = ("serial", *EACH)

PAIRS = {
    "threads": ("stdlib-threads", "`ThreadPoolExecutor`"),
    "processes": ("stdlib-executor", "`ProcessPoolExecutor`"),
    "loky": ("loky", "`loky.ProcessPoolExecutor`"),
    "joblib": ("joblib", "`joblib.Parallel`"),
    "dask": ("dask-executor", "`Client.get_executor()`"),
}
"""For the README: the backend, what people would use in its place, and how the table calls that."""


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown; numbers to the right of their column."""
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---", *["---:"] * (len(lines[0]) - 1)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# --- the parts ----------------------------------------------------------------------------------------


def conditions(record: Mapping[str, Any]) -> str:
    """The machine, the versions, and how far the figures can be trusted."""
    machine, settings = record["machine"], record["settings"]
    lines = [
        f"{machine['cpus']} CPUs ({machine['cpu']}), {machine['system'].partition('-')[0]}, {machine['python']}; "
        f"{', '.join(f'{name} {number}' for name, number in record['versions'].items())}. "
        f"{settings['workers']} workers, at most {_counted(settings['rounds'], 'round')}, "
        f"{record['minutes']:g} minutes in all.\n"
    ]
    if doubt := provisional(record):
        lines.append(f"\n{doubt} Only large ratios mean anything.\n")
    lines += [f"\nLeft out: {name}, because {why}.\n" for name, why in record["left_out"].items()]
    return "".join(lines)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def verdict(record: Mapping[str, Any]) -> str:
    """Every goal, with what was measured."""
    found = judge(record)
    rows = []
    for goal in GOALS:
        mine = {each.backend: each for each in found if each.goal is goal}
        shown = [_cell(mine[name]) if name in mine else "" for name in BACKENDS]
        if "anypool" in mine:
            shown = [_cell(mine["anypool"]), *[""] * (len(BACKENDS) - 1)]
        rows.append([f"*{goal.work}*", _against(goal, mine.values()), _asked(goal.floor), _asked(goal.stretch), *shown])
    return table(["work", "by", "floor", "stretch", *(f"`{name}`" for name in BACKENDS)], rows)


def _against(goal: Goal, found: Iterable[Verdict]) -> str:
    """What is divided by; for a best of several, which that was."""
    winners = {NAMES.get(each.why, each.why) for each in found if each.ratio is not None and each.why}
    if goal.against.startswith("best ") and len(winners) == 1:
        what = "best peer's first map" if goal.against == "best first" else goal.against
        return f"the {what}: {winners.pop()}"
    plain = {"raw": "its native pool", "limit": "the limit", "window": "a window of 64 MB", "10^6": "10^6 calls"}
    return plain.get(goal.against, NAMES.get(goal.against, f"`{goal.against}`"))


def _asked(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _cell(verdict: Verdict) -> str:
    """The ratio, its range, and whether it is enough."""
    if verdict.ratio is None:
        return "?"
    shown = f"{verdict.ratio:.2f}"
    if verdict.reaches_stretch:
        return f"**{shown}** ★"
    if verdict.reaches_floor is None:
        return shown
    return f"**{shown}** ✓" if verdict.reaches_floor else f"{shown} ✗"


def summary(record: Mapping[str, Any]) -> str:
    """How many goals are reached, and which are not."""
    found = [each for each in judge(record) if each.goal.floor is not None]
    measured = [each for each in found if each.ratio is not None]
    reached = [each for each in measured if each.reaches_floor]
    asked = [each for each in judge(record) if each.goal.stretch is not None and each.ratio is not None]
    stretched = [each for each in asked if each.reaches_stretch]
    text = (
        f"Of {len(measured)} floors that were measured {len(reached)} are reached, of {len(asked)} stretches "
        f"{len(stretched)}.\n"
    )
    missed = [each for each in measured if not each.reaches_floor]
    if missed:
        rows = [
            [
                f"*{each.goal.work}* on `{each.backend}`",
                _against(each.goal, [each]),
                f"{each.goal.floor:g}",
                f"{each.ratio:.2f}",
                "" if each.low is None or each.low == each.high else f"{each.low:.2f} to {each.high:.2f}",
            ]
            for each in missed
        ]
        text += "\nNot reached:\n\n" + table(["what", "by", "floor", "measured", "in single rounds"], rows)
    unknown = [each for each in found if each.ratio is None]
    if unknown:
        text += f"\nNot measured: {', '.join(f'*{each.goal.work}* on `{each.backend}`' for each in unknown)}.\n"
    return text


def workload(name: str, record: Mapping[str, Any]) -> str:
    """The table of one workload."""
    work = next((each for each in record["works"] if each["name"] == name), None)
    if work is None:
        return "Not in this record.\n"
    limit = "" if work["limit"] is None else f" The limit is {figures(work['limit'])} {work['unit']}."
    rows = [_row(row, work) for row in work["rows"] if row["values"] or row["problem"]]
    text = f"{work['description'][0].upper()}{work['description'][1:]}; {work['unit']}.{limit}\n\n"
    return text + table(["", "median", "spread", "by the limit", "by the best peer", "by its native pool"], rows)


def _row(row: Mapping[str, Any], work: Mapping[str, Any]) -> list[str]:
    name = NAMES.get(row["subject"], row["subject"])
    if row["role"] == "anypool":
        name = f"**anypool on `{row['subject'].removeprefix('anypool/')}`**"
    if row["median"] is None:
        return [name, row["problem"].partition(":")[0], "", "", "", ""]
    spread = "one round" if len(row["values"]) == 1 else f"{row['spread']:.0%}"
    ratios = [_times(row[each]) for each in ("over_limit", "over_best_peer", "over_raw")]
    best = " (best)" if row["subject"] in work["best_peers"].values() else ""
    return [name + best, figures(row["median"]), spread, *ratios]


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.2f}"


def overhead(record: Mapping[str, Any]) -> str:
    """For the README: each pool, and anypool on it."""
    works = {work["name"]: {row["subject"]: row for row in work["rows"]} for work in record["works"]}
    rows = []
    for backend, (peer, plain) in PAIRS.items():
        pairs = []
        for work in ("tiny", "latency"):
            theirs, ours = works[work].get(peer), works[work].get(f"anypool/{backend}")
            if theirs is None or ours is None or theirs["median"] is None or ours["median"] is None:
                break
            pairs.append(f"{figures(theirs['median'])}, **{figures(ours['median'])}**")
        else:
            rows.append([plain, f"`{backend}`", *pairs])
    head = [
        "pool",
        "anypool on",
        "map of tiny calls, µs an item: pool, anypool",
        "one call there and back, µs: pool, anypool",
    ]
    return table(head, rows) + f"\n{_in_short(record)} More in [performance](docs/performance.md).\n"


def choice(record: Mapping[str, Any]) -> str:
    """For whoever chooses: what each backend costs."""
    works = {work["name"]: {row["subject"]: row for row in work["rows"]} for work in record["works"]}
    head = {
        "cold": "start and first map, s",
        "latency": "one call there and back, µs",
        "millis": "1,000 calls of 1 ms of CPU, s",
        "results": "30 arrays of 8 MB come back, s",
    }
    rows = []
    for backend in BACKENDS:
        found = [works.get(work, {}).get(f"anypool/{backend}", {}).get("median") for work in head]
        rows.append([f"`{backend}`", *("-" if median is None else figures(median) for median in found)])
    return table(["backend", *head.values()], rows) + f"\n{_in_short(record)}\n"


def _in_short(record: Mapping[str, Any]) -> str:
    machine = record["machine"]
    provisional = "" if is_quiet(machine) else " Provisional: the machine did other work."
    return (
        f"Defaults of each, {record['settings']['workers']} workers, medians; {machine['cpus']} CPUs "
        f"({machine['cpu']}), {machine['python']}.{provisional}"
    )


def scale_costs(record: Mapping[str, Any]) -> str:
    """What the caller pays for each item, chunk, call and worker."""
    found = record["scale"]
    caller, local = found["caller"], found["local_worker"]
    dask = found.get("dask")
    rows = [
        ["an item in a chunk", f"{1e6 * caller['item']:.2f} µs", ""],
        [
            "a chunk",
            f"{1e6 * caller['chunk']:.0f} µs",
            _bytes(found["memory_per_worker"]) + " for each worker that is busy",
        ],
        ["a submitted call", f"{1e6 * caller['call']:.0f} µs", ""],
        [
            "a worker of `processes`",
            "",
            f"{local['threads']:.0f} thread, {local['files']:.0f} open files, {_bytes(local['bytes'])}",
        ],
    ]
    if dask is not None:
        rows.append(["a chunk on `dask`, with its client", f"{1e6 * dask['caller']:.0f} µs", ""])
        rows.append(["a chunk in Dask's scheduler", f"{1e6 * dask['busiest_other']:.0f} µs", "of another process"])
    return table(["what", "CPU time", "beside that"], rows)


def _bytes(count: float) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{max(0.0, count) / 1e3:.1f} kB"


def scale_saturation(record: Mapping[str, Any]) -> str:
    """How many chunks a second each part can pass on, and how many workers that keeps busy."""
    names = {
        "core": "the core alone",
        "dask client": "the core with Dask's client, in the caller",
        "dask scheduler": "Dask's scheduler",
    }
    rows = [
        [names[name], f"{_round(rate):,}", *(f"{max(1, _round(rate * seconds)):,}" for seconds in (0.001, 0.1, 10))]
        for name, rate in saturation(record["scale"]).items()
    ]
    return table(["", "chunks a second", "workers at 1 ms a chunk", "at 100 ms", "at 10 s"], rows)


def _round(value: float) -> int:
    """Two figures: more would not be true tomorrow."""
    digits = max(0, len(str(int(value))) - 2)
    return round(value / 10**digits) * 10**digits


def scale_simulated(record: Mapping[str, Any]) -> str:
    """How busy simulated workers were."""
    rows = [
        [
            f"{1e3 * each['seconds']:g} ms",
            f"{each['workers']:,}",
            f"{each['workers'] / each['seconds']:,.0f}",
            f"{each['busy']:.0%}",
        ]
        for each in record["scale"]["simulated"]
    ]
    return table(["a chunk takes", "workers", "chunks a second that they could do", "time that they worked"], rows)


def where(record: Mapping[str, Any]) -> str:
    """The files in which most of the bytecodes of a call, a chunk and an item are."""
    found = record.get("where")
    if not found:
        return "Not in this record.\n"
    totals = [sum(found[name].values()) for name in _UNITS]
    files = {file for name in _UNITS for file in list(found[name])[:_MOST_FILES]}
    ordered = sorted(files, key=lambda file: (-sum(found[name].get(file, 0.0) for name in _UNITS), file))
    rows = [["all", *(f"{total:,.0f}" for total in totals)]]
    rows += [
        [f"`{file}`", *(_share(found[name].get(file, 0.0), total) for name, total in zip(_UNITS, totals, strict=True))]
        for file in ordered
    ]
    return table(["file", *_UNITS.values()], rows)


def stages(record: Mapping[str, Any]) -> str:
    """What a submitted call on `processes` waits for, and how much of it the core would take alone."""
    found = record.get("stages")
    if not found:
        return "Not in this record.\n"
    rows = [[f"until {_STAGES[name]}", f"{each:.0f}"] for name, each in found["stages"].items()]
    rows.append(["all of it", f"{sum(found['stages'].values()):.0f}"])
    rows += [[f"the core alone, one call {name} the other", f"{each:.0f}"] for name, each in _core_times(found)]
    return table(["a submitted call on `processes`", "microseconds"], rows)


def _core_times(found: Mapping[str, Any]) -> list[tuple[str, float]]:
    core = found["core"]
    return [("after", core["back to back"]), ("a millisecond after", core["after a pause"])]


def dask_cpu(record: Mapping[str, Any]) -> str:
    """What a call on Dask takes of the CPUs."""
    found = record.get("stages", {}).get("dask")
    if not found:
        return "Not in this record.\n"
    shown = {name: f"{each:.1f} ms" for name, each in found.items()}
    return (
        f"One call there and back takes {shown['dask']} of CPU time with Dask's own `Client.submit`, and "
        f"{shown['anypool/dask']} with anypool on it, beyond what the call itself does.\n"
    )


_STAGES = {
    "packed": "the core has packed it",
    "framed": "the pool has laid out the message",
    "the call begins": "the call begins on the worker",
    "the reply is read": "a thread of the pool has read the reply",
    "the future is done": "the future is done",
    "the caller goes on": "the caller, who waits for it, goes on",
}

_UNITS = {"submit": "a submitted call", "chunks": "a chunk of a map", "items": "an item in a large chunk"}
_MOST_FILES = 10


def _share(number: float, total: float) -> str:
    return f"{number / total:.0%}" if number >= 0.005 * total else ""


PARTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "conditions": conditions,
    "verdict": verdict,
    "summary": summary,
    "overhead": overhead,
    "choice": choice,
    "where": where,
    "stages": stages,
    "dask cpu": dask_cpu,
    "scale costs": scale_costs,
    "scale saturation": scale_saturation,
    "scale simulated": scale_simulated,
}
"""The parts that stand alone; `workload NAME` is the table of one."""


def part(name: str, record: Mapping[str, Any]) -> str:
    """The text of a measured part."""
    kind, _, of = name.partition(" ")
    return workload(of, record) if kind == "workload" else PARTS[name](record)


def filled(text: str, record: Mapping[str, Any]) -> str:
    """A page with its measured parts as the record says."""
    return PART.sub(lambda found: found["open"] + part(found["name"], record) + found["close"], text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite stale pages and draw the plots, or only name what is stale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only name what is stale")
    parser.add_argument("--record", type=Path, default=RECORD)
    options = parser.parse_args(arguments)
    record = json.loads(options.record.read_text(encoding="utf-8"))
    stale = []
    for page in PAGES:
        old = page.read_text(encoding="utf-8")
        new = filled(old, record)
        if new != old:
            stale.append(page.relative_to(ROOT).as_posix())
            if not options.check:
                page.write_text(new, encoding="utf-8")
    if not options.check:
        from plots import draw_all

        stale += [path.relative_to(ROOT).as_posix() for path in draw_all(record, PLOTS)]
    print("\n".join(stale))
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
