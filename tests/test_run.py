"""The second chance of tests that failed: what it is given to, and that nobody can overlook it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import run

PROGRAM = Path(run.__file__)
ONE_FAILED = int(pytest.ExitCode.TESTS_FAILED)

STEADY = "def test_steady(): pass\n"
UNSTEADY = """
def test_unsteady(tmp_path_factory):
    seen = pathlib.Path("seen")
    if not seen.exists():
        seen.touch()
        raise ValueError("a busy machine")
"""
WRONG = "def test_wrong(): raise ValueError('each time')\n"
SKIPS_AT_LAST = """
def test_skips_at_last():
    seen = pathlib.Path("skipping")
    if seen.exists():
        pytest.skip("nothing is shown by this")
    seen.touch()
    raise ValueError("the first time")
"""
CRASHES = "def test_crashes(): os._exit(3)\n"


def run_tests(directory: Path, tests: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run these tests by the program, in a folder with hooks of their own, with a file for its notes."""
    some = directory / "some"
    some.mkdir()
    (some / "conftest.py").touch()
    (some / "test_some.py").write_text("import os\nimport pathlib\nimport pytest\n" + tests, encoding="utf-8")
    command = [sys.executable, str(PROGRAM), "-q", "-p", "no:cacheprovider", *options, "some/test_some.py"]
    environment = {
        **os.environ,
        "UNSTEADY": str(directory / "notes"),
        "PYTEST_ADDOPTS": "",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    return subprocess.run(command, capture_output=True, text=True, cwd=directory, env=environment, check=False)


def test_a_test_that_passes_alone_lets_the_run_pass_and_is_named_last(tmp_path: Path) -> None:
    done = run_tests(tmp_path, STEADY + UNSTEADY)
    assert done.returncode == 0, done.stdout
    last = done.stdout[done.stdout.index("!!!!") :]
    assert last.rstrip().endswith("!!!!")
    assert "unsteady: some/test_some.py::test_unsteady\n" in last
    assert "ValueError: a busy machine" in last
    assert "test_steady" not in last
    assert (tmp_path / "notes").read_text() == last


def test_a_run_fails_unless_all_that_failed_pass_alone(tmp_path: Path) -> None:
    done = run_tests(tmp_path, UNSTEADY + WRONG)
    assert done.returncode == ONE_FAILED, done.stdout
    assert "once more, alone" in done.stdout
    assert "unsteady: " not in done.stdout
    assert not (tmp_path / "notes").exists()


def test_a_test_that_is_skipped_the_second_time_has_not_passed(tmp_path: Path) -> None:
    assert run_tests(tmp_path, SKIPS_AT_LAST).returncode == ONE_FAILED


def test_a_worker_process_that_crashes_has_no_second_chance(tmp_path: Path) -> None:
    done = run_tests(tmp_path, STEADY + CRASHES, "-p", "xdist", "-n", "1")
    assert done.returncode == ONE_FAILED, done.stdout
    assert "no second chance: " in done.stdout
    assert "once more" not in done.stdout


def test_a_file_that_cannot_be_collected_has_no_second_chance(tmp_path: Path) -> None:
    done = run_tests(tmp_path, "import nowhere_at_all\n")
    assert done.returncode != 0
    assert "once more" not in done.stdout


def test_a_run_without_failures_says_nothing_more(tmp_path: Path) -> None:
    done = run_tests(tmp_path, STEADY)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].startswith("1 passed")


def test_many_failures_and_those_of_the_fault_core_have_no_second_chance() -> None:
    few = {f"tests/test_x.py::test_{number}": "" for number in range(run.MOST)}
    assert run.why_not_again(ONE_FAILED, run.Record(failed=few)) is None
    many = {**few, "tests/test_y.py::test": ""}
    assert "more than" in str(run.why_not_again(ONE_FAILED, run.Record(failed=many)))
    core = {f"{run.NEVER_AGAIN[0]}::test_a": ""}
    assert "each time" in str(run.why_not_again(ONE_FAILED, run.Record(failed=core)))
    assert run.why_not_again(ONE_FAILED, run.Record(failed=few, trouble=["gw0 crashed\n"])) == "gw0 crashed"
    assert run.why_not_again(int(pytest.ExitCode.INTERNAL_ERROR), run.Record(failed=few)) is not None


def test_the_tests_that_must_pass_each_time_are_there() -> None:
    root = PROGRAM.parents[1]
    assert all((root / name).is_file() for name in run.NEVER_AGAIN)
