"""What the guarantees cost: output relayed, randomness seeded, context carried, each on against off.

::

    python benchmarks/fidelity.py [--on processes,threads] [--rounds N] [--quick]
"""

from __future__ import annotations

import argparse
import contextvars
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

from machine import describe_machine, describe_versions, say_on_terminal
from measure import Outcome, measure
from report import align, figures
from subjects import AnypoolSubject, Subject
from workloads import WORKLOADS, Workload

WORKERS = 2
WORKS = ("tiny", "millis")
BACKENDS = ("processes", "threads")

# Module attributes, because only such variables travel.
user: contextvars.ContextVar[str] = contextvars.ContextVar("user")
request: contextvars.ContextVar[int] = contextvars.ContextVar("request")
options: contextvars.ContextVar[dict[str, int]] = contextvars.ContextVar("options")
trace: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("trace")


class ContextSubject(AnypoolSubject):
    """anypool whose caller has set context variables, or has none at all."""

    def __init__(self, backend: str, *, carries: bool, **settings: Any) -> None:
        super().__init__(backend, **settings)
        self._context = contextvars.Context()
        if carries:
            self._context.run(_set_variables)

    def map(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return self._context.run(super().map, fn, items)


def _set_variables() -> None:
    user.set("somebody")
    request.set(17)
    options.set({"verbose": 1})
    trace.set(("a", "b"))


# "nothing" is what the others are compared with: each turns on one guarantee. "default" is what people get.
VARIANTS: dict[str, dict[str, Any]] = {
    "nothing": {"relay": False, "seed": None, "carries": False},
    "relay": {"relay": True, "seed": None, "carries": False},
    "seed": {"relay": False, "seed": 0, "carries": False},
    "context": {"relay": False, "seed": None, "carries": True},
    "default": {"carries": False},
    "all": {"relay": True, "seed": 0, "carries": True},
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table for each workload."""
    chosen = _parser().parse_args(arguments)
    rounds = chosen.rounds or (1 if chosen.quick else 9)
    machine = describe_machine()
    print(f"{machine['cpus']} CPUs ({machine['cpu']}), {machine['system']}, {machine['python']}")
    versions = describe_versions([AnypoolSubject("serial")])
    print(", ".join(f"{name} {number}" for name, number in versions.items()))
    print(f"medians of {rounds} interleaved rounds; +: more than with nothing on")
    for name in WORKS:
        work = WORKLOADS[name]
        case = work.build(work.quick if chosen.quick else work.full)
        for backend in chosen.on:
            makers = {variant: partial(ContextSubject, backend, **settings) for variant, settings in VARIANTS.items()}
            outcomes = _measured(work, case, makers, rounds)
            print(f"\n{name} on {backend}, µs an item\n{_table(outcomes)}", flush=True)


def _measured(
    work: Workload, case: Any, makers: Mapping[str, Callable[[], Subject]], rounds: int
) -> dict[str, Outcome]:
    outcomes = measure(work, case, makers, workers=WORKERS, rounds=rounds, say=say_on_terminal)
    say_on_terminal("")
    return outcomes


def _table(outcomes: Mapping[str, Outcome]) -> str:
    rows = [["on", "median", "min", "spread", "+", ""]]
    medians = {
        name: median(_micros(outcome)) for name, outcome in outcomes.items() if outcome.seconds and not outcome.problem
    }
    base = medians.get("nothing")
    for name, outcome in outcomes.items():
        if name not in medians:
            rows.append([name, "-", "-", "", "", outcome.problem or ""])
            continue
        micros, middle = _micros(outcome), medians[name]
        more = "" if base is None or name == "nothing" else f"{middle - base:+.2f}"
        spread = f"{(max(micros) - min(micros)) / middle:.0%}"
        rows.append([name, figures(middle), figures(min(micros)), spread, more, ""])
    return align(rows)


def _micros(outcome: Outcome) -> list[float]:
    return [1e6 * seconds / outcome.items for seconds in outcome.seconds]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--on", type=lambda value: value.split(","), default=list(BACKENDS), help=f"of {', '.join(BACKENDS)}"
    )
    parser.add_argument("--rounds", type=int, default=None, help="default: 9; with --quick 1")
    parser.add_argument("--quick", action="store_true", help="small inputs: a sign of life")
    return parser


if __name__ == "__main__":
    main()
