"""A journal in a folder that another process serves: without locks, and when its server goes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import folder
import pytest

pytestmark = pytest.mark.skipif(folder.why_not() is not None, reason=folder.why_not() or "")

_SCRIPT = """
    import os, sys
    import anypool

    def work(x):
        with open("ran", "a") as file:
            file.write(f"{x}\\n")
        if x == 60 and len(sys.argv) > 1 and sys.argv[1] == "die":
            os.kill(os.getpid(), 9)
        return x * x

    with anypool.get_executor("serial") as ex:
        try:
            for y in ex.map(work, range(100), journal="mounted/run.journal"):
                print(y, flush=True)
                if y == 30 * 30 and sys.argv[1:] == ["cut"]:
                    open("backing/cut", "w").close()
        except anypool.JournalError as exc:
            print(exc)
"""


def _run(place: Path, locks: str, *words: str) -> list[str]:
    for name in ("backing", "mounted"):
        (place / name).mkdir(exist_ok=True)
    (place / "script.py").write_text(textwrap.dedent(_SCRIPT))
    (place / "backing" / "cut").unlink(missing_ok=True)
    command = [sys.executable, folder.__file__, locks, "backing", "mounted", sys.executable, "script.py", *words]
    environment = {**os.environ, "ANYPOOL_CONFIG": "none"}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr == ""
    return done.stdout.splitlines()


def _ran(place: Path) -> Counter[int]:
    path = place / "ran"
    return Counter(map(int, path.read_text().split())) if path.exists() else Counter()


def test_a_folder_that_keeps_no_locks_is_said_before_the_first_call(tmp_path: Path) -> None:
    (told,) = _run(tmp_path, "refused")
    assert "keeps no locks" in told
    assert "in use" not in told
    assert not _ran(tmp_path)


@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_that_cannot_be_written_is_said_before_the_first_call(tmp_path: Path, is_there: bool) -> None:
    ran = _ran(tmp_path)
    if is_there:
        _run(tmp_path, "kept", "die")
        ran = _ran(tmp_path)
    (told,) = _run(tmp_path, "read-only")
    assert "cannot be written" in told
    assert _ran(tmp_path) == ran


@pytest.mark.parametrize("how", ["die", "cut"])
def test_a_map_whose_program_or_folder_goes_goes_on_where_it_was(tmp_path: Path, how: str) -> None:
    first = _run(tmp_path, "kept", how)
    told = [line for line in first if line.isdigit()]
    if how == "cut":
        assert "journal" in first[-1]
        assert "cannot be written" in first[-1]
    assert 31 <= len(told) < 100
    assert _run(tmp_path, "kept") == [str(x * x) for x in range(100)]
    ran = _ran(tmp_path)
    assert set(ran) == set(range(100))
    assert all(ran[x] == 1 for x in range(len(told)))
    assert os.listdir(tmp_path / "backing") == ["run.journal"]
