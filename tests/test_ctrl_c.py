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
from scripts import BACKENDS

pytestmark = [
    pytest.mark.parametrize("backend", BACKENDS),
    pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX"),
]

_RETURNS_WITHIN = 2.0
_WORKERS_GO_WITHIN = 5.0
_ALLOWANCE = 3.0
"""Seconds more, for a machine that runs other tests beside: within them is one of three attempts at least."""

_IN_A_BLOCK = """
    import signal, time
    import anypool

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        with anypool.get_executor() as ex:
            list(ex.map(abs, range(4)))
            print("ready", flush=True)
            list(ex.map(time.sleep, [60] * 8))
    except KeyboardInterrupt:
        print("handlers restored", before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)))
        raise
"""

_WITHOUT = """
    import time
    import anypool

    ex = anypool.get_executor()
    list(ex.map(abs, range(4)))
    print("ready", flush=True)
    list(ex.map(time.sleep, [60] * 8))
"""


def _interrupted(
    text: str, backend: str, how: signal.Signals, folder: Path, group: bool = False
) -> tuple[float, str, str]:
    """Seconds until the program and all its processes were gone, and what it wrote."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANYPOOL_")}
    environment |= {"ANYPOOL_CONFIG": "none", "ANYPOOL_BACKEND": backend, "ANYPOOL_MAX_WORKERS": "2"}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(text)]
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as program:  # fmt: skip
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        time.sleep(0.3)  # for the calls to begin, on any backend: an earlier signal is no harder
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


@pytest.mark.parametrize("group", [False, True], ids=["program", "terminal"])
def test_ctrl_c_in_a_block_returns_at_once(backend: str, group: bool, tmp_path: Path) -> None:
    def took() -> float:
        seconds, output, errors = _interrupted(_IN_A_BLOCK, backend, signal.SIGINT, tmp_path, group)
        assert output == "handlers restored True\n"
        assert errors.count("Traceback") == 1
        assert "KeyboardInterrupt" in errors.splitlines()
        return seconds

    assert least_of_three(took, _RETURNS_WITHIN + _ALLOWANCE) < _RETURNS_WITHIN + _ALLOWANCE


def test_ctrl_c_ends_a_program_that_shuts_nothing_down(backend: str, tmp_path: Path) -> None:
    def took() -> float:
        seconds, _, errors = _interrupted(_WITHOUT, backend, signal.SIGINT, tmp_path)
        assert errors.count("Traceback") == 1
        assert "KeyboardInterrupt" in errors.splitlines()
        return seconds

    assert least_of_three(took, _RETURNS_WITHIN + _ALLOWANCE) < _RETURNS_WITHIN + _ALLOWANCE


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_workers_go_with_a_program_that_is_killed(backend: str, how: signal.Signals, tmp_path: Path) -> None:
    _, _, errors = _interrupted(_IN_A_BLOCK, backend, how, tmp_path)
    assert "Traceback" not in errors
