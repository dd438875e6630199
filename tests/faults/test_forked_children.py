"""A worker that is killed and leaves a child: what the child has of the worker's holds up neither caller nor end."""

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
    import ctypes, os, sys, time
    import anypool

    forked_by, here = sys.argv[2], os.getcwd()

    def fork_and_die(item):
        if item == 2:
            if (os.fork if forked_by == "Python" else ctypes.CDLL(None).fork)() == 0:
                with open(f"{here}/child", "w") as file:
                    file.write(str(os.getpid()))
                os.rename(f"{here}/child", f"{here}/pid")
                os.close(1)
                os.close(2)
                time.sleep(200)
                os._exit(0)
            os.kill(os.getpid(), 9)
        return item

    with anypool.get_executor(sys.argv[1], max_workers=2) as ex:
        print([type(each).__name__ for each in ex.map(fork_and_die, range(5), chunksize=1, errors="return")])
"""


@pytest.mark.parametrize("forked_by", ["Python", "C"])
@pytest.mark.parametrize("backend", ["processes", "loky", "joblib", "dask"])
def test_it_holds_up_nothing(backend: str, forked_by: str, tmp_path: Path) -> None:
    if backend != "processes":
        pytest.importorskip("distributed" if backend == "dask" else backend)
    (tmp_path / "script.py").write_text(textwrap.dedent(_SCRIPT))
    command = [sys.executable, "-W", "error", "script.py", backend, forked_by]
    output = tmp_path / "output"  # a file: loky's tracker would hold a pipe for as long as the child lives
    began = time.monotonic()
    try:
        with output.open("w") as file:
            subprocess.run(command, cwd=tmp_path, stdout=file, stderr=file, timeout=240, check=False)
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert output.read_text() == "['int', 'int', 'WorkerLost', 'int', 'int']\n"
    assert time.monotonic() - began < _ENDS_WITHIN
