"""The suite catches backends that are wrong on purpose, and passes the right one that they are made from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from anypool.testing.wrong import WRONG, Right

pytestmark = pytest.mark.timeout(600)  # the first test runs them all

CASES = Path(__file__).with_name("wrong_cases.py")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What became of each wrong backend's test, and of the same test of the right one."""
    card = tmp_path_factory.mktemp("wrong") / "scorecard.json"
    nodes = {f"{CASES}::Test{each.__name__}::{each.caught_by}" for each in WRONG}
    nodes |= {f"{CASES}::Test{each.__name__}::{each.still_passes}" for each in WRONG}
    nodes |= {f"{CASES}::Test{_reference(each)}::{each.caught_by}" for each in WRONG}
    command = [
        *(sys.executable, "-m", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider"),
        *("--noconftest", "-c", os.devnull, "--rootdir", str(CASES.parent)),
        *("--anypool-scorecard", str(card), *sorted(nodes)),
    ]
    environment = {**os.environ, "PYTEST_ANYPOOL_LIMIT": "1.5", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment, check=False)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    tests: dict[str, dict[str, str]] = json.loads(card.read_text())["tests"]
    return tests


def _reference(wrong: type[Right]) -> str:
    if wrong.is_of_processes:
        return "RightOfProcesses"
    return "RightStrict" if wrong.is_strict else "Right"


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
def test_the_suite_catches_a_backend_that(wrong: type[Right], outcomes: dict[str, dict[str, str]]) -> None:
    assert outcomes[_reference(wrong)][wrong.caught_by] == "passed"
    assert outcomes[wrong.__name__][wrong.caught_by] == "failed"
    assert outcomes[wrong.__name__][wrong.still_passes] == "passed"


def test_every_wrong_backend_is_listed() -> None:
    assert set(WRONG) == set(Right.__subclasses__())
