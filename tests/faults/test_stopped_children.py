"""A call that is stopped takes along what it started: a program that it waits for does not stay behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

import anypool
from anypool._process_tree import KNOWS_CHILDREN
from anypool.testing._effects import LIMIT, poll
from scripts import BACKENDS

pytestmark = pytest.mark.skipif(not KNOWS_CHILDREN, reason="this system does not tell what a process has started")

_PROGRAM = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open("started", "w") as file:
    file.write(f"{os.getpid()} {child.pid}")
os.rename("started", "pids")
child.wait()
"""

CHOICES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in BACKENDS},
    "processes-spawn": ("processes", {"start_method": "spawn"}),
}


def run_program(place: Path) -> None:
    subprocess.run([sys.executable, "-c", _PROGRAM], cwd=place, check=False)


@pytest.mark.parametrize(("choice", "how"), [*((name, "cancel") for name in CHOICES), ("processes", "call_timeout")])
def test_a_stopped_call_takes_along_the_program_that_it_runs(choice: str, how: str, tmp_path: Path) -> None:
    backend, options = CHOICES[choice]
    with anypool.get_executor(backend, max_workers=2, **options) as executor:
        if not executor.traits.stops_running_calls:
            pytest.skip("it cannot stop a call")
        view = executor.options(call_timeout=5.0) if how == "call_timeout" else executor
        future = view.submit(run_program, tmp_path)
        poll(lambda: (tmp_path / "pids").exists(), "the program runs")
        programs = [psutil.Process(int(pid)) for pid in (tmp_path / "pids").read_text().split()]
        assert len(programs) == 2
        if how == "cancel":
            assert executor.cancel(future, running=True)
        else:
            assert isinstance(future.exception(timeout=LIMIT), anypool.CallTimeout)
        poll(lambda: not any(map(_lives, programs)), "it has ended")
        assert executor.submit(abs, -1).result(timeout=LIMIT) == 1


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
