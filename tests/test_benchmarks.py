"""The benchmarks run, check what they measure, and say what they left out."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"

if not BENCHMARKS.is_dir():  # tests that were installed without the checkout
    pytest.skip("the benchmarks are not here", allow_module_level=True)


def run_benchmark(script: str, *arguments: str) -> str:
    """What a benchmark prints. In a process of its own: its peers fork, and leave threads and warnings behind."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANYPOOL_")}
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments],
        capture_output=True, text=True, encoding="utf-8", env=environment | {"ANYPOOL_CONFIG": "none"}, timeout=55,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of the benchmarks, which live in a directory and not in a package; it is gone afterwards."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = {path.stem for path in BENCHMARKS.glob("*.py")}

    def load(name: str) -> ModuleType:
        return __import__(name)

    yield load
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    file = tmp_path_factory.mktemp("benchmarks") / "record.json"
    arguments = ["--quick", "--work", "tiny,latency", "--on", "processes", "--peers", "stdlib-pool"]
    out = run_benchmark("run.py", *arguments, "--json", str(file))
    return out, json.loads(file.read_text(encoding="utf-8"))


def test_record_has_each_subject_of_each_workload_measured(quick_run: tuple[str, dict[str, Any]]) -> None:
    _, record = quick_run
    assert [work["name"] for work in record["works"]] == ["tiny", "latency"]
    for work in record["works"]:
        rows = {row["subject"]: row for row in work["rows"]}
        assert {name: row["role"] for name, row in rows.items()} == {
            "stdlib-pool": "peer", "local-pool": "raw", "anypool/processes": "anypool",
        }  # fmt: skip
        assert all(row["problem"] is None for row in rows.values())
        assert all(value > 0 for row in rows.values() for value in row["values"])


def test_ratios_of_the_record_follow_from_its_figures(quick_run: tuple[str, dict[str, Any]]) -> None:
    _, record = quick_run
    for work in record["works"]:
        assert work["best_peers"] == {"processes": "stdlib-pool"}
        rows = {row["subject"]: row for row in work["rows"]}
        mine = rows["anypool/processes"]
        assert math.isclose(mine["over_limit"], mine["median"] / work["limit"])
        assert math.isclose(mine["over_best_peer"], mine["median"] / rows["stdlib-pool"]["median"])
        assert math.isclose(mine["over_raw"], mine["median"] / rows["local-pool"]["median"])


def test_machine_and_versions_are_printed_and_recorded_without_the_name_of_the_host(
    quick_run: tuple[str, dict[str, Any]],
) -> None:
    import platform

    out, record = quick_run
    assert record["machine"]["cpus"] >= 1
    assert platform.python_version() in record["machine"]["python"]
    assert "anypool" in record["versions"]
    assert record["machine"]["cpu"] in out
    assert "anypool/processes" in out
    assert platform.node() not in json.dumps(record["machine"])


def test_a_peer_that_is_not_installed_is_left_out_and_said_so(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run, subjects = module("run"), module("subjects")
    monkeypatch.setattr(subjects.RayPeer, "modules", ("a_module_that_nobody_has",))
    makers, _, left_out = run._choose([], ["stdlib-threads", "ray"])
    assert list(makers) == ["stdlib-threads"]
    assert left_out == {"ray": "a_module_that_nobody_has is not installed"}


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (lambda fn, items: [fn(item) for item in items][:-1], "wrong"),
        (lambda fn, items: None, "wrong"),
        (lambda fn, items: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
    ids=["one missing", "nothing", "raises"],
)
def test_a_subject_that_is_wrong_or_fails_is_reported_and_not_timed(module: Any, answer: Any, problem: str) -> None:
    measure, subjects, workloads = module("measure"), module("subjects"), module("workloads")

    class Bad(subjects.Loop):  # type: ignore[misc]
        def map(self, fn: Any, items: Any) -> Any:
            return [fn(item) for item in items] if fn is workloads.spin else answer(fn, items)

    work = workloads.WORKLOADS["millis"]
    case = work.build(workloads.Scale(items=3))
    object.__setattr__(case, "fn", abs)
    outcome = measure.measure(work, case, {"bad": Bad}, workers=1, rounds=2)["bad"]
    assert outcome.problem == problem
    assert outcome.seconds == []


@pytest.mark.skipif(not hasattr(__import__("signal"), "setitimer"), reason="no alarm here")
def test_a_subject_that_hangs_is_bounded_and_the_others_go_on(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    measure, subjects, workloads = module("measure"), module("subjects"), module("workloads")
    monkeypatch.setattr(measure, "START_LIMIT", 0.2)

    class Hangs(subjects.Loop):  # type: ignore[misc]
        def start(self, workers: int) -> None:
            threading.Event().wait()

    work = workloads.WORKLOADS["latency"]
    case = work.build(workloads.Scale(items=3))
    outcomes = measure.measure(work, case, {"hangs": Hangs, "loop": subjects.Loop}, workers=1, rounds=2)
    assert outcomes["hangs"].problem == "hung: more than 0 s to start"
    assert outcomes["loop"].problem is None
    assert len(outcomes["loop"].seconds) == 2


def test_every_check_refuses_results_that_are_not_the_functions(module: Any) -> None:
    pytest.importorskip("numpy")
    workloads = module("workloads")
    for work in workloads.WORKLOADS.values():
        case = work.build(work.quick)
        if not case.items or work.name in ("millis", "skew", "tail"):  # those return their items at once
            continue
        right = [case.fn(item) for item in case.items]
        assert case.is_right(right, case.items), work.name
        assert not case.is_right(right[:-1], case.items), work.name
        assert not case.is_right(right[::-1], case.items), work.name


def test_readme_is_changed_between_the_markers_only(module: Any) -> None:
    overhead = module("overhead")
    text = f"before\n{overhead.BEGIN}\nold\n{overhead.END}\nafter\n"
    assert overhead.replace_between(text, "new") == f"before\n{overhead.BEGIN}\nnew\n{overhead.END}\nafter\n"
    with pytest.raises(SystemExit, match="once each"):
        overhead.replace_between("no markers", "new")


@pytest.mark.parametrize(
    ("script", "arguments", "shown"),
    [
        ("overhead.py", ("--quick", "--on", "threads"), "| `ThreadPoolExecutor` | `threads` |"),
        ("fidelity.py", ("--quick", "--on", "threads"), "tiny on threads"),
    ],
)
def test_the_other_benchmarks_run(script: str, arguments: tuple[str, ...], shown: str) -> None:
    assert shown in run_benchmark(script, *arguments)
