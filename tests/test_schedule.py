"""What takes longest is begun first, and what belongs together stays in one process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import schedule

HERE = Path(__file__).parent
CONFTEST = """
from schedule import LongestFirst

def pytest_xdist_make_scheduler(config, log):
    return LongestFirst(config, log)
"""


def test_the_longest_is_begun_first_and_what_belongs_together_stays_so(tmp_path: Path) -> None:
    tests = "import pytest\n@pytest.mark.parametrize('x', range({}))\ndef test(x): pass\n"
    (tmp_path / "tests").mkdir()
    for name, count in {"a_few": 2, "many": 40, "pool": 3}.items():  # known by its name to take long
        (tmp_path / "tests" / f"test_{name}.py").write_text(tests.format(count), encoding="utf-8")
    (tmp_path / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    (tmp_path / "pytest.ini").touch()
    environment = {**os.environ, "PYTHONPATH": str(HERE), "PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    options = ["-v", "-p", "xdist", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadscope"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "tests"],
        capture_output=True, text=True, cwd=tmp_path, env=environment, check=False,
    )  # fmt: skip
    assert "45 passed" in done.stdout, done.stdout + done.stderr
    ran = re.findall(r"^\[(gw\d)\].* PASSED tests/(test_\w+)\.py", done.stdout, re.MULTILINE)
    of_process: dict[str, list[str]] = {}
    for process, file in ran:
        files = of_process.setdefault(process, [])
        if file not in files:
            files.append(file)
    assert sorted(files[0] for files in of_process.values()) == ["test_many", "test_pool"]
    assert sorted(sum(of_process.values(), [])) == ["test_a_few", "test_many", "test_pool"]


def test_what_is_said_to_take_long_is_there() -> None:
    for scope in schedule._SECONDS:
        assert (HERE.parent / scope.partition("::")[0]).is_file(), scope
