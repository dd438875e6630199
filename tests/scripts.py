"""Scripts run in a process of their own, as users do, on each backend that is here."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import anypool

LIMIT = 240.0
"""Seconds for one script; a cluster that starts on a busy machine takes most of them."""


def _installed() -> list[str]:
    names = []
    for name in anypool.backend_names():
        try:
            anypool.PoolExecutor(name)  # starts nothing
        except anypool.MissingExtra:
            continue
        except anypool.AnypoolError:
            pass  # it is here but broken: its tests fail, and say how
        names.append(name)
    return names


BACKENDS = _installed()


def run_python(
    arguments: Sequence[str], *, backend: str | None = None, directory: Path, stdin: str = "", limit: float = LIMIT
) -> subprocess.CompletedProcess[str]:
    """Run Python with no configuration but a backend and two workers."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANYPOOL_")}
    environment |= {"ANYPOOL_CONFIG": "none", "ANYPOOL_MAX_WORKERS": "2", "PYTHONIOENCODING": "utf-8"}
    if backend is not None:
        environment["ANYPOOL_BACKEND"] = backend
    return subprocess.run(
        [sys.executable, *arguments],
        input=stdin, capture_output=True, text=True, encoding="utf-8",
        env=environment, cwd=directory, timeout=limit, check=False,
    )  # fmt: skip


def run_script(text: str, backend: str, directory: Path, *, by: str = "file") -> str:
    """What a script prints; `by` says whether Python reads it from a file, from stdin or from its command line."""
    script = directory / "script.py"
    script.write_text(text, encoding="utf-8")
    arguments = {"file": [str(script)], "stdin": ["-"], "command": ["-c", text]}[by]
    done = run_python(arguments, backend=backend, directory=directory, stdin=text if by == "stdin" else "")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout
