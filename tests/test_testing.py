"""`anypool.testing` itself: marks, effects, subject, score card and the pytest plugin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

import anypool.testing
from anypool.backend import Traits
from anypool.testing import CLAUSES, FEATURES, ExecutorTests, Gate, Tally, clause, needs, offers
from anypool.testing._clauses import clause_of, needs_of, unmet
from anypool.testing._leftovers import existing


def run_pytest(directory: Path, code: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `code` as a test file, in an interpreter of its own."""
    path = directory / "test_users.py"
    path.write_text(code)
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-c", os.devnull, *options, str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)


def suite_tests() -> list[Any]:
    return [getattr(ExecutorTests, name) for name in dir(ExecutorTests) if name.startswith("test_")]


def test_every_test_of_the_suite_has_its_clause() -> None:
    found = {clause_of(test, ExecutorTests) for test in suite_tests()}
    assert found == set(CLAUSES)


def test_every_feature_is_asked_for_by_some_test() -> None:
    asked = frozenset[str]().union(*(needs_of(test) for test in suite_tests()))
    assert asked == set(FEATURES)


def test_no_test_is_overridden_by_one_of_the_same_name() -> None:
    names = [name for cls in ExecutorTests.__mro__ for name in vars(cls) if name.startswith("test_")]
    assert len(names) == len(set(names))


def test_unknown_clauses_features_and_traits_are_refused() -> None:
    with pytest.raises(ValueError, match="no clause 'speed'"):
        clause("speed")
    with pytest.raises(ValueError, match="no feature 'speed'"):
        needs("speed")
    with pytest.raises(ValueError, match="no trait 'speed'"):
        offers(speed=True)


def test_what_is_not_offered_is_said() -> None:
    @needs("errors")
    @offers(remote=True)
    def check() -> None: ...

    everything = frozenset(FEATURES)
    assert unmet(check, Traits(remote=True), everything) is None
    assert unmet(check, Traits(remote=True), frozenset()) == "not offered: `map(errors='return')`"
    assert unmet(check, Traits(), everything) == "made for executors with remote=True"


def test_a_gate_holds_until_it_is_opened(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    with pytest.raises(TimeoutError, match="gate"):
        gate.wait(limit=0.01)
    thread = threading.Thread(target=gate.wait)
    thread.start()
    gate.open()
    thread.join(60)
    assert gate.is_open
    assert not thread.is_alive()


def test_a_tally_counts_each_mark(tmp_path: Path) -> None:
    tally = Tally(tmp_path / "tally")
    for label in (3, "x", 3):
        tally.mark(label)
    assert tally.labels() == ["3", "3", "x"]
    assert len(Tally(tmp_path / "tally")) == 3


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        _ = anypool.testing.nothing_of_that_name  # type: ignore[attr-defined]


@pytest.mark.parametrize("library", ["pytest", "psutil"])
def test_a_library_that_is_missing_is_named_with_the_command(library: str) -> None:
    code = (
        "import importlib.util as util, anypool.testing\n"
        "find = util.find_spec\n"
        f"util.find_spec = lambda name, *rest: None if name == {library!r} else find(name, *rest)\n"
        "anypool.testing.Gate\n"
        "anypool.testing.ExecutorTests\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert f"MissingExtra: anypool.testing needs: pip install {library}\n" in done.stderr


_USES_FIXTURE = """
import anypool

def test_it(anypool_executor):
    assert list(anypool_executor.map(abs, [-1, 2])) == [1, 2]
    with anypool.get_executor() as executor:
        assert executor.backend == anypool_executor.backend
"""


def test_the_fixture_runs_a_test_on_each_chosen_backend(tmp_path: Path) -> None:
    done = run_pytest(
        tmp_path, _USES_FIXTURE, "--anypool-backend", "serial", "--anypool-backend", "threads?max_workers=2"
    )
    assert "test_it[serial] PASSED" in done.stdout
    assert "test_it[threads?max_workers=2] PASSED" in done.stdout
    assert done.returncode == 0


def test_the_fixture_runs_on_serial_unless_told_otherwise(tmp_path: Path) -> None:
    assert "test_it[serial] PASSED" in run_pytest(tmp_path, _USES_FIXTURE).stdout


def test_the_plugin_loads_nothing_until_it_is_used(tmp_path: Path) -> None:
    code = """
import sys

def test_it():
    loaded = {name for name in sys.modules if name.split(".")[0] == "anypool"}
    assert loaded <= {"anypool", "anypool.testing", "anypool.testing.plugin"}
"""
    assert run_pytest(tmp_path, code).returncode == 0


_SUITE = """
from anypool.testing import ExecutorTests

class TestMine(ExecutorTests):
    backend = "serial"
"""


def test_the_suite_runs_without_the_plugin(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, _SUITE, "-p", "no:anypool", "-k", "test_empty_input", "--strict-markers")
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_the_score_card_counts_clause_by_executor(tmp_path: Path) -> None:
    card = tmp_path / "card.json"
    run_pytest(tmp_path, _SUITE, "-k", "test_empty_input or lost_worker", "--anypool-scorecard", str(card))
    found = json.loads(card.read_text())
    assert found["tests"]["Mine"]["test_empty_input_gives_nothing"] == "passed"
    assert found["clauses"]["values"]["Mine"] == {"passed": 1, "failed": 0, "not offered": 0}
    assert found["clauses"]["lost workers"]["Mine"]["not offered"] >= 2
    assert list(found["clauses"]) == list(CLAUSES)


def test_children_and_theirs_are_seen_until_they_have_ended() -> None:
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'print(1, flush=True); input()']).wait()"
    before = existing()
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = existing().children - before.children
        (grandchild,) = psutil.Process(child.pid).children()
        assert {child.pid, grandchild.pid} <= {int(each.split()[1]) for each in found}
        child.communicate(b"\n")
    assert not found & existing().children
