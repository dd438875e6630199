"""The end of a program that shut nothing down, or only half: what was promised is done, and nothing is said of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts import BACKENDS, LIMIT, run_script

pytestmark = pytest.mark.parametrize("backend", BACKENDS)

_LINES = "".join(f"ran {number}\n" for number in range(20))

# More calls than any backend is given at once, so that the queue is not empty when the program ends.
_NEVER_SHUT_DOWN = """
import time
import anypool

def call(number):
    time.sleep(0.01)
    print("ran", number)

ex = anypool.get_executor()
for number in range(20):
    ex.submit(call, number)
"""


def test_what_is_queued_runs_before_the_interpreter_ends(backend: str, tmp_path: Path) -> None:
    assert run_script(_NEVER_SHUT_DOWN, backend, tmp_path) == _LINES


def test_what_is_queued_runs_after_a_shutdown_that_nobody_waited_for(backend: str, tmp_path: Path) -> None:
    assert run_script(f"{_NEVER_SHUT_DOWN}\nex.shutdown(wait=False)\n", backend, tmp_path) == _LINES


def test_a_map_that_nobody_read_runs_before_the_interpreter_ends(backend: str, tmp_path: Path) -> None:
    script = """
import anypool

def call(number):
    print("ran", number)

ex = anypool.get_executor()
ex.map(call, range(20))
"""
    assert run_script(script, backend, tmp_path) == _LINES


def test_an_exit_hook_is_refused_a_new_call(backend: str, tmp_path: Path) -> None:
    script = """
import atexit
import anypool

@atexit.register
def last():
    try:
        ex.submit(abs, -1)
    except RuntimeError as exc:
        print(str(exc)[:28])

ex = anypool.get_executor()
print(ex.submit(abs, -2).result())
"""
    assert run_script(script, backend, tmp_path) == "2\ncannot schedule new futures \n"


@pytest.mark.skipif(sys.platform == "win32", reason="a console's Ctrl-C goes to all of its programs, this one too")
def test_ctrl_c_ends_the_wait_for_running_calls(backend: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import time\n"
        "import anypool\n"
        "with anypool.get_executor() as ex:\n"
        "    print(ex.traits.stops_running_calls, flush=True)\n"
        "    if ex.traits.stops_running_calls:\n"
        "        futures = [ex.submit(time.sleep, 600) for _ in range(8)]\n"
        "        print('submitted', flush=True)\n"
    )
    with _started(script, backend) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        if process.stdout.readline() != "True\n":
            pytest.skip("this backend cannot end a call that runs")
        assert process.stdout.readline() == "submitted\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) != 0
        assert "KeyboardInterrupt" in process.stderr.read()


@contextmanager
def _started(script: Path, backend: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "ANYPOOL_CONFIG": "none", "ANYPOOL_BACKEND": backend, "ANYPOOL_MAX_WORKERS": "2"}
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=script.parent,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()
