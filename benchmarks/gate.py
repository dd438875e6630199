"""The gate: what a call costs, counted and not timed, may not grow unseen. The counts are the same on a busy machine.

::

    python benchmarks/gate.py              count, and compare with the limits in gate.json; exit code 1 if one is passed
    python benchmarks/gate.py --update     count, and make the counts the limits

Counted are bytecodes and calls of functions written in C, by Python's own tracing; and, where valgrind is installed,
machine instructions, as multiples of those of a piece of the standard library (`reference`), so that they hardly depend
on how the interpreter was built. All of it on `serial` with the wire between caller and worker: one thread, both sides.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from operator import neg
from pathlib import Path
from typing import Any

LIMITS = Path(__file__).with_name("gate.json")
VERSION = ".".join(map(str, sys.version_info[:2]))
ADVICE = "A call costs more than it did. If it must, say why in the commit, and run: python benchmarks/gate.py --update"
TOLERANCE = 1.05
"""A count may be this many times its limit: a new field of a message is none of the gate's business."""

OTHER_VERSION = 1.5
"""... and this many times, where the limits are those of another version of Python."""

_ROUNDED = 2


# --- what is counted ----------------------------------------------------------------------------------


def submit(executor: Any, count: int) -> None:
    """Calls, one after the other."""
    for index in range(count):
        executor.submit(neg, index).result()


def chunks(executor: Any, count: int) -> None:
    """One map whose chunks hold one item each."""
    for _ in executor.map(neg, range(count), chunksize=1):
        pass


def items(executor: Any, count: int) -> None:
    """One map in a few large chunks, for what an item costs."""
    for _ in executor.map(neg, range(count * 200), chunksize=count * 40):
        pass


def reference(executor: Any, count: int) -> None:
    """What a call needs at least, from the standard library: a future, and a pickle there and back."""
    for index in range(10 * count):
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        there = pickle.loads(pickle.dumps((neg, (index,), {}), pickle.HIGHEST_PROTOCOL))
        future.set_result(pickle.loads(pickle.dumps(there[0](*there[1]), pickle.HIGHEST_PROTOCOL)))
        future.result()


PER_COUNT = {"submit": 1, "chunks": 1, "items": 200, "reference": 10}
"""How many units (calls, chunks, items) each does for one of its `count`."""

SCENARIOS: dict[str, Callable[[Any, int], None]] = {
    "submit": submit,
    "chunks": chunks,
    "items": items,
    "reference": reference,
}

Counts = dict[str, dict[str, float]]
"""By what is counted, then by scenario: so many for each unit."""


@contextlib.contextmanager
def running() -> Iterator[Any]:
    """An executor on which each scenario has run."""
    import anypool

    with anypool.get_executor("serial", strict=True) as executor:
        for scenario in SCENARIOS.values():  # what is made once is made
            scenario(executor, 20)
        yield executor


# --- counting -----------------------------------------------------------------------------------------


def count_by_tracing() -> Counts:
    """Bytecodes and C calls of each scenario."""
    found: Counts = {"bytecodes": {}, "C calls": {}}
    with running() as executor:
        for name, scenario in SCENARIOS.items():
            for what, counted in (("bytecodes", _bytecodes), ("C calls", _c_calls)):
                few, many = (counted(lambda count=count: scenario(executor, count)) for count in (20, 60))
                found[what][name] = round((many - few) / (40 * PER_COUNT[name]), _ROUNDED)
    return found


def _bytecodes(call: Callable[[], None]) -> int:
    total = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal total
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            total += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return total


def _c_calls(call: Callable[[], None]) -> int:
    total = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal total
        total += event == "c_call"

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(before)
    return total


def count_by_valgrind() -> Counts:
    """Machine instructions of each scenario, by those of `reference`."""
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            [
                "valgrind", "--tool=cachegrind", "--cache-sim=no", f"--cachegrind-out-file={directory}/%p",
                f"--log-file={directory}/log.%p", sys.executable, __file__, "--forks",
            ],
            capture_output=True, text=True, check=False, env=os.environ | {"PYTHONHASHSEED": "0"},
        )  # fmt: skip
        if done.returncode != 0:
            raise SystemExit(f"valgrind failed:\n{done.stderr}")
        totals = {}
        for line in done.stdout.splitlines():
            scenario, count, pid = line.split()
            log = Path(directory, f"log.{pid}").read_text(encoding="utf-8")
            refs = re.search(r"I +refs: +([\d,]+)", log)
            if refs is None:
                raise SystemExit(f"valgrind counted nothing:\n{log}")
            totals[scenario, int(count)] = int(refs[1].replace(",", ""))
    each = {name: (totals[name, 250] - totals[name, 50]) / (200 * PER_COUNT[name]) for name in SCENARIOS}
    return {"instructions": {name: round(each[name] / each["reference"], 2 + _ROUNDED) for name in SCENARIOS}}


def _run_in_forks() -> None:
    """Run each scenario in a fork of this process: valgrind counts each of them, and all of them start alike."""
    with running():
        pass  # all that is imported is imported before
    for name, scenario in SCENARIOS.items():
        for count in (50, 250):
            pid = os.fork()
            if pid == 0:
                with running() as executor:
                    scenario(executor, count)
                os._exit(0)
            _, status = os.waitpid(pid, 0)
            if status != 0:
                raise SystemExit(f"{name} failed in its fork")
            print(name, count, pid, flush=True)


# --- limits -------------------------------------------------------------------------------------------


def limits() -> dict[str, Any]:
    """What `--update` wrote last: the version of Python, and the counts."""
    found: dict[str, Any] = json.loads(LIMITS.read_text(encoding="utf-8"))
    return found


def excesses(counts: Counts, known: Mapping[str, Any], version: str) -> list[str]:
    """What is above its limit, in words.

    Parameters
    ----------
    known : mapping
        The limits.
    version : str
        Of the Python that counted.
    """
    tolerance = TOLERANCE if known["python"] == version else OTHER_VERSION
    found = []
    for what, row in counts.items():
        for name, count in row.items():
            limit = known["counts"].get(what, {}).get(name)
            if limit is None:
                found.append(f"{what} of {name}: no limit; run with --update")
            elif name != "reference" and count > limit * tolerance + 10**-_ROUNDED:
                found.append(f"{what} of {name}: {count:g}, and the limit is {limit:g} (+{count / limit - 1:.0%})")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, compare or update; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="make the counts the limits")
    parser.add_argument("--no-valgrind", action="store_true", help="only trace")
    parser.add_argument("--forks", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.forks:
        _run_in_forks()
        return 0
    counts = count_by_tracing()
    if shutil.which("valgrind") is None and not options.no_valgrind:
        print(
            "machine instructions are not counted: valgrind is not installed (apt-get install valgrind), or pass "
            "--no-valgrind",
            file=sys.stderr,
        )
        return 2
    if not options.no_valgrind:
        counts |= count_by_valgrind()
    known = limits()
    for what, row in counts.items():
        shown = (f"{name} {count:g} of {known['counts'].get(what, {}).get(name, 0):g}" for name, count in row.items())
        print(f"{what}: {', '.join(shown)}")
    if options.update:
        everything = {"python": VERSION, "counts": known["counts"] | counts}
        LIMITS.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
        return 0
    found = excesses(counts, known, VERSION)
    for line in found:
        print(line, file=sys.stderr)
    if found:
        print(ADVICE, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
