"""What anypool adds to the pool below it: microseconds an item of a map, and one call there and back.

::

    python benchmarks/overhead.py                   prints the table
    python benchmarks/overhead.py --write-readme    puts it between the README's markers
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from measure import Outcome, measure
from report import describe_machine, describe_versions, figures, say_on_terminal
from subjects import PEERS, AnypoolSubject, Subject
from workloads import WORKLOADS, Scale

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- overhead -->", "<!-- /overhead -->"
WORKERS = 2

PAIRS = {
    "threads": ("stdlib-threads", "`ThreadPoolExecutor`"),
    "processes": ("stdlib-executor", "`ProcessPoolExecutor`"),
    "loky": ("loky", "`loky.ProcessPoolExecutor`"),
    "joblib": ("joblib", "`joblib.Parallel`"),
    "dask": ("dask-executor", "`Client.get_executor()`"),
}
"""The backend, the peer that people would use in its place, and how the table calls that."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One backend: microseconds an item of a map and a call, each of the plain pool and of anypool.

    `spread` is the widest of the four.
    """

    backend: str
    plain: str
    item: tuple[float, float]
    call: tuple[float, float]
    spread: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print or write the table."""
    options = _parser().parse_args(arguments)
    pairs = {name: pair for name, pair in PAIRS.items() if name in options.on and _is_installed(name)}
    rounds = options.rounds or (1 if options.quick else 7)
    makers = _makers(pairs)
    tiny = _measure("tiny", makers, rounds, quick=options.quick)
    latency = _measure("latency", makers, rounds, quick=options.quick)
    say_on_terminal("")
    lines = [_line(name, pair, tiny, latency) for name, pair in pairs.items()]
    table = _table(lines, makers, rounds)
    if options.write_readme:
        README.write_text(replace_between(README.read_text(encoding="utf-8"), table), encoding="utf-8")
    else:
        print(table)


def _is_installed(backend: str) -> bool:
    return AnypoolSubject(backend).missing() is None


def _makers(pairs: Mapping[str, tuple[str, str]]) -> dict[str, Callable[[], Subject]]:
    makers: dict[str, Callable[[], Subject]] = {}
    for backend, (peer, _) in pairs.items():
        makers[peer] = PEERS[peer]
        makers[f"anypool/{backend}"] = lambda backend=backend: AnypoolSubject(backend)  # type: ignore[misc]
    return makers


def _measure(
    name: str, makers: Mapping[str, Callable[[], Subject]], rounds: int, *, quick: bool
) -> dict[str, list[float]]:
    """Microseconds an item, one for each round."""
    work = WORKLOADS[name]
    scale: Scale = work.quick if quick else work.full
    outcomes = measure(work, work.build(scale), makers, workers=WORKERS, rounds=rounds, say=say_on_terminal)
    return {subject: _micros(subject, outcome) for subject, outcome in outcomes.items()}


def _micros(subject: str, outcome: Outcome) -> list[float]:
    if outcome.problem is not None:
        raise SystemExit(f"{subject}: {outcome.problem}")
    return [1e6 * seconds / outcome.items for seconds in outcome.seconds]


def _line(
    backend: str, pair: tuple[str, str], tiny: Mapping[str, list[float]], latency: Mapping[str, list[float]]
) -> Line:
    peer, plain = pair
    ours = f"anypool/{backend}"
    measured = (tiny[peer], tiny[ours], latency[peer], latency[ours])
    return Line(
        backend=backend,
        plain=plain,
        item=(median(tiny[peer]), median(tiny[ours])),
        call=(median(latency[peer]), median(latency[ours])),
        spread=max((max(each) - min(each)) / median(each) for each in measured),
    )


def _table(lines: Sequence[Line], makers: Mapping[str, Callable[[], Subject]], rounds: int) -> str:
    """The table in Markdown, with what the figures depend on below it. No date, no name of a host."""
    machine = describe_machine()
    versions = describe_versions(make() for make in makers.values())
    rows = [
        f"| {line.plain} | `{line.backend}` | {_pair(line.item)} | {_pair(line.call)} | {line.spread:.0%} |"
        for line in lines
    ]
    return "\n".join(
        [
            "| pool | anypool on | map of tiny calls, µs an item: pool, anypool | one call there and back, µs: "
            "pool, anypool | spread |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"Defaults of each, {WORKERS} workers, medians of {rounds} interleaved rounds; spread: the widest of "
            "the row, (largest - smallest) / median. "
            f"{machine['cpus']} CPUs ({machine['cpu']}), {machine['system'].partition('-')[0]}, {machine['python']}; "
            f"{', '.join(f'{name} {number}' for name, number in versions.items())}. "
            "Made by `benchmarks/overhead.py`.",
        ]
    )


def _pair(values: tuple[float, float]) -> str:
    return f"{figures(values[0])}, **{figures(values[1])}**"


def replace_between(text: str, table: str) -> str:
    """`text` with `table` between the markers.

    Raises
    ------
    SystemExit
        The markers are not there, once each and in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise SystemExit(f"{README.name} needs {BEGIN} and then {END}, once each")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--on", type=lambda value: value.split(","), default=list(PAIRS), help=f"of {', '.join(PAIRS)}")
    parser.add_argument("--rounds", type=int, default=None, help="default: 7; with --quick 1")
    parser.add_argument("--quick", action="store_true", help="small inputs: a sign of life")
    parser.add_argument("--write-readme", action="store_true", help="put the table between the README's markers")
    return parser


if __name__ == "__main__":
    main()
