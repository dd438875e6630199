"""Runs the core of the fault suite so often in a row, and stops at the first run that fails.

    python tests/faults/again.py 200

A test that fails once in a hundred runs is a bug that users meet once a day.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

CORE = Path(__file__).with_name("test_core.py")
LIMIT = 300.0
"""Seconds for one run, which takes seconds: beyond it something hangs that pytest's own limits did not see."""


def main(runs: int) -> int:
    """The exit code of the first run that failed; 0."""
    began = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--no-header", str(CORE)]
    for number in range(1, runs + 1):
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
        if done.returncode:
            print(done.stdout, done.stderr, sep="\n")
            print(f"run {number} of {runs} failed")
            return done.returncode
        if number % 10 == 0 or number == runs:
            print(f"{number} of {runs} runs, none failed, {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1))
