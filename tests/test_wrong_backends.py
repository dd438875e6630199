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
    caught = {f"{CASES}::Test{each.__name__}::{each.caught_by}" for each in WRONG}
    passes = {f"{CASES}::Test{each.__name__}::{each.still_passes}" for each in WRONG}
    passes |= {f"{CASES}::Test{_reference(each)}::{each.caught_by}" for each in WRONG}
    place = tmp_path_factory.mktemp("wrong")
    # What must fail may hang until the limit; what must pass has the time that a busy machine takes.
    runs = [_start(place / "caught.json", caught, limit=1.5), _start(place / "passes.json", passes, limit=60)]
    tests: dict[str, dict[str, str]] = {}
    for card, process in runs:
        output, _ = process.communicate(timeout=400)
        assert process.returncode in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED), output
        for name, found in json.loads(card.read_text())["tests"].items():
            tests.setdefault(name, {}).update(found)
    return tests


def _start(card: Path, nodes: set[str], *, limit: float) -> tuple[Path, subprocess.Popen[str]]:
    """Where the run of these tests will write its score card, and the run."""
    command = [
        *(sys.executable, "-m", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider"),
        *("--noconftest", "-c", os.devnull, "--rootdir", str(CASES.parent)),
        *("--anypool-scorecard", str(card), *sorted(nodes)),
    ]
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTEST_ANYPOOL_LIMIT": str(limit), "PYTHONPATH": path}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return card, subprocess.Popen(command, text=True, env=environment, **pipes)


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
