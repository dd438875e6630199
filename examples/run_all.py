"""Runs every example on every installed backend, and checks that each prints the same, byte for byte.

    python examples/run_all.py [SCRIPT ...] [--backends serial,threads]

What a script prints on `serial` is the reference. The exit code is 1 where an example fails, or prints anything
else on another backend.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anypool

REFERENCE = "serial"
LIMIT = 300.0
"""Seconds for one example on one backend; the longest takes ten on two idle CPUs."""

LINES = 12
"""Shown of a traceback, from its end, or of a difference."""

NO_EXAMPLES = {Path(__file__).name, "make_notebook.py"}

RUN_ONCE = {"cpu_or_io.py": "names its backends and prints times"}
"""Examples that are not compared, and why."""

VARIES = {"who_am_i.py": re.compile(rb"'\w+' pid \d+ on \S+, thread \S+")}
"""What an example prints that is different in each run, and so is left out of the comparison."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What came of one example on one backend. `complaint` is empty where all is as it should be."""

    output: bytes
    seconds: float
    complaint: str = ""


def run(script: Path, backend: str | None) -> Run:
    """Run a script in a process of its own, with its backend chosen by the environment."""
    # Nothing but the backend is chosen: no file, and no variable of the caller's.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANYPOOL_")}
    environment |= {"ANYPOOL_CONFIG": "none", "PYTHONIOENCODING": "utf-8"}
    if backend is not None:
        environment["ANYPOOL_BACKEND"] = backend
    start = time.perf_counter()
    try:
        done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return Run(output=b"", seconds=LIMIT, complaint=f"not done after {LIMIT:.0f} s")
    seconds = time.perf_counter() - start
    complaint = ""
    if done.returncode:
        complaint = f"exit code {done.returncode}"
    elif done.stderr:
        complaint = "writes to stderr"
    if complaint:
        complaint += "\n" + "\n".join(done.stderr.decode(errors="replace").rstrip().splitlines()[-LINES:])
    return Run(output=normal(script.name, done.stdout), seconds=seconds, complaint=complaint)


def normal(name: str, output: bytes) -> bytes:
    """The output of an example without what varies from run to run."""
    return VARIES[name].sub(b"<worker>", output) if name in VARIES else output


def difference(expected: bytes, got: bytes) -> str:
    """How two outputs differ, as a short diff; empty where they are the same."""
    if expected == got:
        return ""
    lines = difflib.unified_diff(
        expected.decode(errors="backslashreplace").splitlines(),
        got.decode(errors="backslashreplace").splitlines(),
        REFERENCE, "here", lineterm="", n=0,
    )  # fmt: skip
    return "\n".join(["prints something else than on serial", *list(lines)[:LINES]])


def is_installed(backend: str) -> bool:
    """Whether the library of a backend is here. Starts nothing."""
    try:
        anypool.PoolExecutor(backend)
    except anypool.MissingExtra:
        return False
    except anypool.AnypoolError:
        return True  # what else is wrong with it, the examples show
    return True


def run_everywhere(script: Path, backends: Sequence[str]) -> list[str]:
    """Run one example on each backend, print its row of the table; return the complaints."""
    once = RUN_ONCE.get(script.name)
    places: Sequence[str | None] = [None] if once else backends
    print(f"{script.name:20}", end="", flush=True)
    complaints, reference = [], None
    for backend in places:
        got = run(script, backend)
        reference = got.output if reference is None else reference
        complaint = got.complaint or difference(reference, got.output)
        if complaint:
            complaints.append(f"{script.name} on {backend or 'the default'}: {complaint}")
        print(f"{got.seconds:9.1f}{'!' if complaint else ' '}", end="", flush=True)
    print(f"  {'FAILED' if complaints else once or 'identical'}", flush=True)
    return complaints


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of all examples and backends; 0 where all is well, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scripts", metavar="SCRIPT", nargs="*", type=Path, help="default: all beside this one")
    parser.add_argument("--backends", metavar="NAMES", help="separated by commas; default: all that are installed")
    chosen = parser.parse_args(argv)
    here = Path(__file__).parent
    scripts = chosen.scripts or [each for each in sorted(here.glob("*.py")) if each.name not in NO_EXAMPLES]
    named = chosen.backends.split(",") if chosen.backends else anypool.backend_names()
    backends = [REFERENCE, *(name for name in named if name != REFERENCE and is_installed(name))]

    print(f"{'seconds':20}" + "".join(f"{name:>9} " for name in backends))
    complaints = [complaint for script in scripts for complaint in run_everywhere(script, backends)]
    if absent := [name for name in named if name not in backends]:
        print(f"not installed: {', '.join(absent)}")
    for complaint in complaints:
        print(f"\n{complaint}")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
