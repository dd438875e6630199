"""Where what a call costs goes: bytecodes by file, of a submitted call, of a chunk, and of an item.

::

    python benchmarks/where.py [--json]

Counted, not timed, on `serial` with the wire between caller and worker: one thread, both sides. What is written in C,
the pickling for the most part, is in none of the figures; `gate.py` counts it in machine instructions.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gate import PER_COUNT, SCENARIOS, running

__all__ = ["count_afresh", "text"]

_COUNTED = ("submit", "chunks", "items")
_FEW, _MANY = 20, 60


def count_afresh() -> dict[str, dict[str, float]]:
    """What `count` gives in an interpreter that has loaded nothing else; `decimal`, for one, would cost each item."""
    done = subprocess.run([sys.executable, __file__, "--json"], capture_output=True, text=True, check=True)
    found: dict[str, dict[str, float]] = json.loads(done.stdout)
    return found


def count() -> dict[str, dict[str, float]]:
    """By scenario, then by file: bytecodes a unit, the most first. Files of no package are `other`."""
    found = {}
    with running() as executor:
        for name in _COUNTED:
            few, many = (
                _by_file(lambda calls=calls, name=name: SCENARIOS[name](executor, calls))  # type: ignore[misc]
                for calls in (_FEW, _MANY)
            )
            units = (_MANY - _FEW) * PER_COUNT[name]
            each = {file: (many[file] - few[file]) / units for file in many if many[file] > few[file]}
            found[name] = dict(sorted(each.items(), key=lambda pair: -pair[1]))
    return found


def _by_file(call: Callable[[], None]) -> Counter[str]:
    codes: Counter[str] = Counter()

    def trace(frame: Any, event: str, argument: Any) -> Any:
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            codes[frame.f_code.co_filename] += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    found: Counter[str] = Counter()
    for path, number in codes.items():
        found[_named(path)] += number
    return found


def _named(path: str) -> str:
    """The file as one speaks of it: `anypool/_map.py`, `threading.py`."""
    parts = Path(path).parts
    if path == "<string>":
        return "methods of dataclasses"
    if path == __file__ or Path(path).name == "gate.py":
        return "the loop that calls"
    if "anypool" in parts:
        return "/".join(parts[len(parts) - 1 - parts[::-1].index("anypool") :])
    return f"concurrent.futures/{parts[-1]}" if "futures" in parts else parts[-1]


def text(found: dict[str, dict[str, float]]) -> str:
    """For a terminal."""
    from report import align, figures

    blocks = []
    for name, files in found.items():
        rows = [[file, figures(number), ""] for file, number in files.items() if number >= 0.01 * sum(files.values())]
        blocks.append(align([[name, "bytecodes", ""], ["all", figures(sum(files.values())), ""], *rows]))
    return "\n\n".join(blocks)


if __name__ == "__main__":
    counted = count()
    print(json.dumps(counted) if "--json" in sys.argv else text(counted))
