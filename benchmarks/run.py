"""The same workloads on peers, native pools and anypool, interleaved: machine, versions, limits, ratios and spread.

::

    python benchmarks/run.py                                      all, which takes a quarter of an hour
    python benchmarks/run.py --work tiny,latency --on processes --peers stdlib-pool,loky --sweeps none
    python benchmarks/run.py --quick --json record.json           a sign of life; its figures mean nothing
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import goals
import report
import scale
import stages
import where
from field import Field, choose
from machine import describe_machine, describe_versions, say_on_terminal
from measure import measure_group, some_hung
from memory import measure_endless
from subjects import BACKENDS, PEERS
from sweeps import SWEEPS, measure_sweep
from workloads import WORKLOADS, Workload

WORKERS = 2

_MINUTES = {"calls": 5.0, "data": 3.0, "fresh": 1.5}
"""Of each group of workloads; a round that would end later is not begun, but the first one is."""

_SWEEP_SECONDS = 30.0
"""Of each sweep, likewise."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, and print it."""
    started = time.monotonic()
    options = _parser().parse_args(arguments)
    if options.rounds is None:
        options.rounds = 1 if options.quick else 5
    field = choose(options.on, options.peers)
    machine = describe_machine()
    versions = describe_versions(make() for make in field.makers.values())
    settings = {"workers": WORKERS, "rounds": options.rounds, "quick": options.quick}
    works = _works(options.work, field.left_out)
    print(report.heading(machine, versions, settings, field.left_out), flush=True)
    record = report.record([], machine=machine, versions=versions, settings=settings, left_out=field.left_out)
    for _ in _steps(record, works, field, options):
        record["minutes"] = round((time.monotonic() - started) / 60, 1)
        if options.json is not None:  # after each step: what was measured is not lost if the run is ended
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\nwhat it must reach\n{goals.text(goals.judge(record))}\n\n{record['minutes']} minutes")
    if some_hung():  # its threads are not daemons, and the end of the interpreter would wait for them
        sys.stdout.flush()
        os._exit(1)


def _steps(
    record: dict[str, Any], works: Sequence[Workload], field: Field, options: argparse.Namespace
) -> Iterator[None]:
    """Add to the record, step by step."""
    record |= {"sweeps": {}, "endless": []}
    for group, minutes in _MINUTES.items():
        chosen = [work for work in works if work.group == group]
        found = _measure(chosen, field, quick=options.quick, rounds=options.rounds, seconds=60 * minutes)
        record["works"] += [asdict(each) for each in found]
        yield
    for name in options.sweeps:
        record["sweeps"][name] = _sweep(name, field, quick=options.quick)
        yield
    for backend in options.on if options.endless else ():
        if f"anypool/{backend}" in field.makers:
            say_on_terminal(f"endless input: {backend}")
            record["endless"].append(measure_endless(f"anypool/{backend}", WORKERS, quick=options.quick))
            yield
    record["where"] = where.count_afresh()
    say_on_terminal("stages of a call")
    record["stages"] = stages.measure_afresh(quick=options.quick)
    if options.scale:
        record["scale"] = scale.measure_scale(quick=options.quick, say=say_on_terminal)
        say_on_terminal("")
        print(f"\n{scale.text(record['scale'])}", flush=True)
    yield


def _works(names: Iterable[str], left_out: dict[str, str]) -> list[Workload]:
    """The workloads of these names that can be measured here."""
    works = []
    for work in (WORKLOADS[name] for name in names):
        if importlib.util.find_spec(work.needs) is None:
            left_out[f"workload {work.name}"] = f"{work.needs} is not installed"
        else:
            works.append(work)
    return works


def _measure(
    works: Sequence[Workload], field: Field, *, quick: bool, rounds: int, seconds: float
) -> list[report.WorkReport]:
    """One group of workloads; each is printed."""
    cases = [(work, work.build(work.quick if quick else work.full)) for work in works]
    limits = [case.limit(WORKERS, case.items) for _, case in cases]
    found = measure_group(
        cases,
        field.makers,
        workers=WORKERS,
        rounds=rounds,
        seconds=seconds,
        is_wanted=field.is_wanted,
        say=say_on_terminal,
    )
    say_on_terminal("")
    reports = []
    for (work, case), limit in zip(cases, limits, strict=True):
        outcomes = {name: each for name, each in found[work.name].items() if each.seconds or each.problem}
        done = report.make_report(
            work, len(case.items), limit, outcomes, field.subjects, roles=field.roles, raw_of=field.raw_of
        )
        reports.append(done)
        print(f"\n{report.text(done)}", flush=True)
    return reports


def _sweep(name: str, field: Field, *, quick: bool) -> dict[str, Any]:
    sweep = SWEEPS[name]
    done = measure_sweep(
        sweep,
        field.only(sweep.subjects),
        workers=WORKERS,
        quick=quick,
        seconds=_SWEEP_SECONDS,
        say=say_on_terminal,
    )
    say_on_terminal("")
    print(f"\n{done.text()}", flush=True)
    return done.as_json()


def _parser() -> argparse.ArgumentParser:
    description, _, examples = (__doc__ or "").partition("::")
    parser = argparse.ArgumentParser(
        description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=_names(WORKLOADS), default=list(WORKLOADS), help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument(
        "--on", type=_names(BACKENDS), default=list(BACKENDS), help=f"of {', '.join(BACKENDS)}, or none"
    )
    parser.add_argument("--peers", type=_names(PEERS), default=list(PEERS), help=f"of {', '.join(PEERS)}, or none")
    parser.add_argument("--sweeps", type=_names(SWEEPS), default=list(SWEEPS), help=f"of {', '.join(SWEEPS)}, or none")
    parser.add_argument(
        "--endless", action=argparse.BooleanOptionalAction, default=True, help="memory of an endless input"
    )
    parser.add_argument("--scale", action=argparse.BooleanOptionalAction, default=True, help="what one caller can feed")
    parser.add_argument("--rounds", type=int, default=None, help="at most; default: 5; with --quick 1")
    parser.add_argument("--quick", action="store_true", help="small inputs: a sign of life")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the record there, too")
    return parser


def _names(known: Iterable[str]) -> Callable[[str], list[str]]:
    def split(value: str) -> list[str]:
        if value == "none":
            return []
        names = value.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
        return names

    return split


if __name__ == "__main__":
    main()
