"""What only a fresh interpreter can show of memory: how much one map adds, in the caller and in all workers together.

Run as a script it is that interpreter: ``memory.py <subject> <workers>`` starts the subject, says so, and then runs a
map for each line that it reads, ``endless <items>`` or ``tiny <items>``, and says how many seconds it took.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["ENDLESS_BUFFERSIZE", "measure_endless", "measure_tiny", "status_bytes"]

ENDLESS_ITEMS, ENDLESS_QUICK_ITEMS = 10_000, 100
ENDLESS_BYTES = 1_000_000
ENDLESS_BUFFERSIZE = 64
"""Items in the window of the endless input, so that a window is 64 MB."""

_LOOKS_EVERY = 0.05
_LIMIT = 180.0
_TINY_LIMIT, _TINY_ENOUGH = 8.0, 3.0
"""Seconds: what one subject may take for all it is asked; for one map; after which a map is not repeated."""


def measure_endless(subject: str, workers: int, *, quick: bool) -> dict[str, Any]:
    """10,000 results of 1 MB from an endless input.

    Returns
    -------
    dict
        ``subject``; ``items``; ``seconds``; ``window_bytes``; ``peak_bytes``, the most memory in use at once above what
        was in use before, sampled; ``problem``, or None.
    """
    items = ENDLESS_QUICK_ITEMS if quick else ENDLESS_ITEMS
    found = {"subject": subject, "items": items, "window_bytes": ENDLESS_BUFFERSIZE * ENDLESS_BYTES}
    with _Fresh(subject, workers) as fresh:
        before = peak = _in_use(fresh.processes())

        def look() -> None:
            nonlocal peak
            peak = max(peak, _in_use(fresh.processes()))

        seconds = fresh.ask(f"endless {items}", look)
    return found | {"seconds": seconds, "peak_bytes": peak - before if seconds else None, "problem": fresh.problem}


def measure_tiny(subject: str, workers: int, counts: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """Maps of so many squares, summed up as they come; what would take too long is left out.

    Returns
    -------
    list of dict
        ``items``; ``seconds``, one for each repeat; ``peak_bytes``, by the high-water marks of all processes,
        above what they had before the first map.
    """
    points: list[dict[str, Any]] = []
    with _Fresh(subject, workers) as fresh:
        before = sum(status_bytes(pid, "VmRSS") for pid in fresh.processes())
        for items in counts:
            if points and min(points[-1]["seconds"]) * items / points[-1]["items"] > _TINY_LIMIT:
                break
            for pid in fresh.processes():
                _reset_high_water(pid)
            seconds: list[float] = []
            while len(seconds) < repeats and sum(seconds) < _TINY_ENOUGH:
                once = fresh.ask(f"tiny {items}")
                if once is None:
                    return points
                seconds.append(once)
            peak = sum(status_bytes(pid, "VmHWM") for pid in fresh.processes())
            points.append({"items": items, "seconds": seconds, "peak_bytes": peak - before})
    return points


# --- from outside -------------------------------------------------------------------------------------


class _Fresh:
    """A fresh interpreter with a started subject in it; it is killed if it takes too long."""

    problem: str | None = None

    def __init__(self, subject: str, workers: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, subject, str(workers)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self._timer = threading.Timer(_LIMIT, self._kill)

    def __enter__(self) -> _Fresh:
        self._timer.start()
        self._read_line()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.problem is None:
            self._process.communicate()  # its input ends, and so does it
        self._timer.cancel()
        self._timer.join()
        self._kill()
        self._process.communicate()

    def processes(self) -> list[int]:
        """The interpreter and all processes below it. Linux tells; elsewhere it is that process."""
        found, ahead = [], [self._process.pid]
        while ahead:
            one = ahead.pop()
            found.append(one)
            for children in Path(f"/proc/{one}/task").glob("*/children"):
                ahead += map(int, _read(children).split())
        return found

    def ask(self, line: str, look: Callable[[], None] = lambda: None) -> float | None:
        """The seconds that the map took; None if there is a problem. `look` is called while it runs."""
        if self.problem is not None:
            return None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        answer: list[str] = []
        reader = threading.Thread(target=lambda: answer.append(self._read_line()))
        reader.start()
        while reader.is_alive():
            reader.join(_LOOKS_EVERY)
            look()
        return None if self.problem else float(answer[0])

    def _read_line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            assert self._process.stderr is not None
            said = self._process.stderr.read().strip().splitlines()
            self.problem = said[-1] if said else f"more than {_LIMIT:.0f} s"
        return line

    def _kill(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has ended
            return


def _in_use(pids: list[int]) -> int:
    """Bytes that these processes have to themselves, and those in files that are memory, each file once."""
    files: dict[tuple[int, int], int] = {}
    total = 0
    for pid in pids:
        total += status_bytes(pid, "RssAnon")
        for link in _entries(f"/proc/{pid}/fd"):
            try:
                if os.readlink(link).startswith(("/memfd:", "/dev/shm/")):
                    file = os.stat(link)
                    files[file.st_dev, file.st_ino] = 512 * file.st_blocks
            except OSError:  # closed meanwhile
                continue
    return total + sum(files.values())


def _entries(directory: str) -> Iterator[str]:
    try:
        names = os.listdir(directory)
    except OSError:  # the process has ended
        return
    yield from (f"{directory}/{name}" for name in names)


def _reset_high_water(pid: int) -> None:
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
    except OSError:  # not Linux; or the process has ended
        return


def status_bytes(pid: int, name: str) -> int:
    """What Linux says of a process under `name`, in bytes; 0 where it says nothing."""
    for line in _read(Path(f"/proc/{pid}/status")).splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:  # the process has ended
        return ""


# --- inside -------------------------------------------------------------------------------------------


def megabyte(index: int) -> bytes:
    """A megabyte that is not the same as the last."""
    return index.to_bytes(4, "big") * (ENDLESS_BYTES // 4)


def _run_endless(subject: Any, count: int) -> bool:
    results = subject._executor.map(megabyte, itertools.count(), buffersize=ENDLESS_BUFFERSIZE)
    are_right = all(
        len(value) == ENDLESS_BYTES and value[-4:] == index.to_bytes(4, "big")
        for index, value in enumerate(itertools.islice(results, count))
    )
    results.close()
    return are_right


def _run_tiny(subject: Any, count: int) -> bool:
    from workloads import square

    executor = getattr(subject, "_executor", None)
    # What has an executor gives results as they come; what has not, as a list.
    results = subject.map(square, range(count)) if executor is None else executor.map(square, range(count))
    return bool(sum(results) == (count - 1) * count * (2 * count - 1) // 6)


def main() -> None:
    """Run the maps that are asked for here."""
    from measure import warm_up
    from subjects import make_subject

    name, workers = sys.argv[1], int(sys.argv[2])
    subject: Any = make_subject(name)
    subject.start(workers)
    warm_up(subject, workers)
    print("ready", flush=True)
    for line in sys.stdin:
        what, items = line.split()
        started = time.perf_counter()
        is_right = _run_endless(subject, int(items)) if what == "endless" else _run_tiny(subject, int(items))
        seconds = time.perf_counter() - started
        if not is_right:
            sys.exit("wrong results")
        print(seconds, flush=True)
    subject.stop()


if __name__ == "__main__":
    main()
