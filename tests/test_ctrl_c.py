"""Real signals to real programs: what runs for a minute ends within seconds, says so once, and leaves no process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from anypool.testing._effects import poll
from attempts import least_of_three
from scripts import BACKENDS, LIMIT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
on_every_backend = pytest.mark.parametrize("backend", BACKENDS)

_RETURNS_WITHIN = 2.0
_WORKERS_GO_WITHIN = 5.0
_ALLOWANCE = 3.0
"""Seconds more, for a machine that runs other tests beside: within them is one of three attempts at least."""

_WORK = """
    import os, signal, time
    import anypool

    def work(item):
        open(f"begun-{item}", "x").close()
        time.sleep(60)

"""

_IN_A_BLOCK = """
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        with anypool.get_executor() as ex:
            list(ex.map(abs, range(4)))
            list(ex.map(work, range(8)))
    except KeyboardInterrupt:
        print("handlers restored", before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)))
        raise
"""

_CAUGHT = """
    ex = anypool.get_executor()
    try:
        list(ex.map(work, range(8)))
    except KeyboardInterrupt:
        if ex.traits.in_caller and not ex.traits.synchronous:
            raise  # what runs in another thread cannot be ended, and shutdown waits for it
        ex.shutdown()
        print("ended")
"""

_WITHOUT = """
    ex = anypool.get_executor()
    list(ex.map(abs, range(4)))
    list(ex.map(work, range(8)))
"""


def _interrupted(
    text: str, backend: str, how: signal.Signals, folder: Path, group: bool = False, warn: str = "error"
) -> tuple[float, str, str]:
    """Seconds until the program and all its processes were gone, and what it wrote."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANYPOOL_")}
    environment |= {"ANYPOOL_CONFIG": "none", "ANYPOOL_BACKEND": backend, "ANYPOOL_MAX_WORKERS": "2"}
    for begun in folder.glob("begun-*"):  # in an attempt before this one
        begun.unlink()
    command = [sys.executable, "-W", warn, "-c", textwrap.dedent(_WORK) + textwrap.dedent(text)]
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as program:  # fmt: skip
        poll(lambda: any(folder.glob("begun-*")) or program.poll() is not None, "a call has begun", limit=LIMIT)
        started = psutil.Process(program.pid).children(recursive=True)
        began = time.monotonic()
        (os.killpg if group else os.kill)(program.pid, how)
        try:
            output, errors = program.communicate(timeout=60)
            took = time.monotonic() - began
            poll(lambda: not any(map(_runs, started)), "every process is gone", limit=10 * _WORKERS_GO_WITHIN)
        finally:
            program.kill()
            for each in filter(_runs, started):
                each.kill()
    return took, output, errors


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@on_every_backend
@pytest.mark.parametrize("group", [False, True], ids=["program", "terminal"])
def test_ctrl_c_in_a_block_returns_at_once(backend: str, group: bool, tmp_path: Path) -> None:
    def took() -> float:
        seconds, output, errors = _interrupted(_IN_A_BLOCK, backend, signal.SIGINT, tmp_path, group)
        assert output == "handlers restored True\n"
        assert errors.count("Traceback") == 1
        assert "KeyboardInterrupt" in errors.splitlines()
        return seconds

    assert least_of_three(took, _RETURNS_WITHIN + _ALLOWANCE) < _RETURNS_WITHIN + _ALLOWANCE


@on_every_backend
def test_after_a_ctrl_c_that_was_caught_the_executor_ends_at_once(backend: str, tmp_path: Path) -> None:
    def took() -> float:
        seconds, output, errors = _interrupted(_CAUGHT, backend, signal.SIGINT, tmp_path)
        assert (output, errors) == ("ended\n", "") or "KeyboardInterrupt" in errors.splitlines()
        return seconds

    assert least_of_three(took, _RETURNS_WITHIN + _ALLOWANCE) < _RETURNS_WITHIN + _ALLOWANCE


@on_every_backend
def test_ctrl_c_ends_a_program_that_shuts_nothing_down(backend: str, tmp_path: Path) -> None:
    def took() -> float:
        seconds, _, errors = _interrupted(_WITHOUT, backend, signal.SIGINT, tmp_path)
        assert errors.count("Traceback") == 1
        assert "KeyboardInterrupt" in errors.splitlines()
        return seconds

    assert least_of_three(took, _RETURNS_WITHIN + _ALLOWANCE) < _RETURNS_WITHIN + _ALLOWANCE


@on_every_backend
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_workers_go_with_a_program_that_is_killed(backend: str, how: signal.Signals, tmp_path: Path) -> None:
    _, _, errors = _interrupted(_IN_A_BLOCK, backend, how, tmp_path)
    assert "Traceback" not in errors


@pytest.mark.skipif("joblib" not in BACKENDS, reason="joblib is not installed")
def test_workers_of_multiprocessing_go_with_a_program_that_is_killed(tmp_path: Path) -> None:
    """joblib's folder for arrays is told by its tracker to be left, and removed."""
    _, _, errors = _interrupted(_IN_A_BLOCK, "joblib://multiprocessing", signal.SIGKILL, tmp_path, warn="default")
    assert "Traceback" not in errors
