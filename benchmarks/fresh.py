"""What only a fresh interpreter can show: how long an import takes, and a start with the first map.

Run as a script it is that interpreter: ``fresh.py <subject> <workers> <items>`` prints the seconds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time

__all__ = ["measure_cold", "measure_import"]

_IMPORT = """
import sys, time
started = time.perf_counter()
for name in sys.argv[1:]:
    __import__(name)
print(time.perf_counter() - started)
"""


def measure_import(modules: tuple[str, ...], limit: float) -> float:
    """Seconds that importing `modules` takes.

    Raises
    ------
    TimeoutError
        It took longer than `limit` seconds.
    RuntimeError
        The interpreter failed; the message is the end of what it said.
    """
    return float(_run(["-c", _IMPORT, *modules], limit))


def measure_cold(subject: str, workers: int, items: int, limit: float) -> float:
    """Seconds from the start of that subject to the last result of its first map, its library being imported.

    Raises
    ------
    TimeoutError
        It took longer than `limit` seconds.
    RuntimeError
        The interpreter failed, or the results were wrong.
    """
    return float(_run([os.path.abspath(__file__), subject, str(workers), str(items)], limit))


def _run(arguments: list[str], limit: float) -> float:
    # A session of its own, so that the workers of a pool that hangs can end with it; and a folder without a project,
    # whose configuration nobody reads.
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd=folder,
        )
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            _kill(process)
            raise TimeoutError(f"more than {limit:.0f} s") from None
    if process.returncode != 0:
        raise RuntimeError(err.strip().splitlines()[-1] if err.strip() else f"exit code {process.returncode}")
    return float(json.loads(out.strip().splitlines()[-1]))


def _kill(process: subprocess.Popen[str]) -> None:
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.communicate()


def main() -> None:
    """Measure one cold start here."""
    from subjects import make_subject
    from workloads import square

    name, workers, items = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    subject = make_subject(name)
    subject.load()
    started = time.perf_counter()
    subject.start(workers)
    results = subject.map(square, range(items))
    seconds = time.perf_counter() - started
    subject.stop()
    if results != [item * item for item in range(items)]:
        sys.exit("wrong results")
    print(seconds)


if __name__ == "__main__":
    main()
