"""The same workloads on peers, native pools and anypool, interleaved: machine, versions, limits, ratios and spread.

::

    python benchmarks/run.py                                      all, which takes half an hour
    python benchmarks/run.py --work tiny,latency --on processes --peers stdlib-pool,loky
    python benchmarks/run.py --quick --json record.json           a sign of life; its figures mean nothing
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import report
from measure import measure, some_hung
from subjects import BACKENDS, PEERS, RAW, Subject, anypool_subjects
from workloads import WORKLOADS, Workload

WORKERS = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, and print it."""
    options = _parser().parse_args(arguments)
    if options.rounds is None:
        options.rounds = 1 if options.quick else 5
    makers, raw_of, left_out = _choose(options.on, options.peers)
    peers = [name for name in options.peers if name in makers]
    subjects = {name: make() for name, make in makers.items()}
    machine, versions = report.describe_machine(), report.describe_versions(subjects.values())
    settings = {"workers": WORKERS, "rounds": options.rounds, "quick": options.quick}
    print(report.heading(machine, versions, settings, left_out))
    reports = []
    for work in (WORKLOADS[name] for name in options.work):
        if importlib.util.find_spec(work.needs) is None:
            left_out[f"workload {work.name}"] = f"{work.needs} is not installed"
            print(f"\n{work.name}: left out: {work.needs} is not installed")
            continue
        done = _measure(work, makers, subjects, peers, raw_of, quick=options.quick, rounds=options.rounds)
        reports.append(done)
        print(f"\n{report.text(done)}", flush=True)
    if options.json is not None:
        everything = report.record(reports, machine=machine, versions=versions, settings=settings, left_out=left_out)
        options.json.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    if some_hung():  # its threads are not daemons, and the end of the interpreter would wait for them
        sys.stdout.flush()
        os._exit(1)


def _measure(
    work: Workload,
    makers: dict[str, Callable[[], Subject]],
    subjects: dict[str, Subject],
    peers: Sequence[str],
    raw_of: dict[str, str],
    *,
    quick: bool,
    rounds: int,
) -> report.WorkReport:
    case = work.build(work.quick if quick else work.full)
    limit = case.limit(WORKERS, case.items)
    able = {name: make for name, make in makers.items() if work.kind != "import" or subjects[name].modules}
    outcomes = measure(work, case, able, workers=WORKERS, rounds=rounds, say=report.say_on_terminal)
    report.say_on_terminal("")
    return report.make_report(
        work,
        len(case.items),
        limit,
        outcomes,
        subjects,
        peers=[name for name in peers if name in able],
        raw_of={name: raw for name, raw in raw_of.items() if name in able},
    )


def _choose(
    backends: Iterable[str], peers: Iterable[str]
) -> tuple[dict[str, Callable[[], Subject]], dict[str, str], dict[str, str]]:
    """How to make each subject that is installed, the native pool of each of anypool's, and why others are not here."""
    makers: dict[str, Callable[[], Subject]] = {name: PEERS[name] for name in peers}
    raw_of = {}
    for backend in backends:
        raw = RAW[backend]
        makers.setdefault(raw.name, raw)
        raw_of[f"anypool/{backend}"] = raw.name
    makers.update(anypool_subjects(backends))
    left_out = {}
    for name, make in list(makers.items()):
        missing = make().missing()
        if missing is not None:
            left_out[name] = f"{missing} is not installed"
            del makers[name]
    return makers, {name: raw for name, raw in raw_of.items() if name in makers}, left_out


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
    parser.add_argument("--rounds", type=int, default=None, help="default: 5; with --quick 1")
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
