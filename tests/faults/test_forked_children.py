"""A worker that is killed and leaves a child, forked by C: what it has of the worker's holds up neither caller nor end.

What Python forks is a test of the conformance suite.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only pipes tell of the end of a process here")

_ENDS_WITHIN = 100.0
"""Seconds, of which a busy machine needs some to start; the child lives longer."""

_SCRIPT = """
    import ctypes, os, signal, sys
    import anypool

    here = os.getcwd()

    def fork():
        # The child runs sleep(200) and no Python, whose locks may be held by threads that it does not have.
        system, stack = ctypes.CDLL(None), ctypes.create_string_buffer(1 << 16)
        child = system.clone(system.sleep, ctypes.byref(stack, 1 << 15), signal.SIGCHLD, ctypes.c_void_p(200))
        assert child > 0, child
        return child

    def fork_and_die(item):
        if item == 2:
            child = fork()
            with open(f"{here}/child", "w") as file:
                file.write(str(child))
            os.kill(os.getpid(), 9)
        return item

    with anypool.get_executor(sys.argv[1], max_workers=2) as ex:
        print([type(each).__name__ for each in ex.map(fork_and_die, range(5), chunksize=1, errors="return")])
"""


@pytest.mark.parametrize("backend", ["processes", "loky", "joblib", "dask"])
def test_it_holds_up_nothing(backend: str, tmp_path: Path) -> None:
    if backend != "processes":
        pytest.importorskip("distributed" if backend == "dask" else backend)
    (tmp_path / "script.py").write_text(textwrap.dedent(_SCRIPT))
    command = [sys.executable, "-W", "error", "script.py", backend]
    output = tmp_path / "output"  # a file: loky's tracker would hold a pipe for as long as the child lives
    began = time.monotonic()
    try:
        with output.open("w") as file:
            subprocess.run(command, cwd=tmp_path, stdout=file, stderr=file, timeout=240, check=False)
    finally:
        for child in tmp_path.glob("child"):
            os.kill(int(child.read_text()), signal.SIGKILL)
    assert (tmp_path / "child").exists(), output.read_text()
    assert output.read_text() == "['int', 'int', 'WorkerLost', 'int', 'int']\n"
    assert time.monotonic() - began < _ENDS_WITHIN
