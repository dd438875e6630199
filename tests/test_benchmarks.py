"""The benchmarks run, check what they measure, and say what they left out."""

from __future__ import annotations

import json
import math
import os
import shutil
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
        capture_output=True, text=True, encoding="utf-8", env=environment | {"ANYPOOL_CONFIG": "none"}, timeout=240,
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
    arguments = ["--quick", "--work", "tiny,latency", "--on", "processes", "--peers", "stdlib-pool", "--no-scale"]
    out = run_benchmark("run.py", *arguments, "--json", str(file))
    return out, json.loads(file.read_text(encoding="utf-8"))


def test_record_has_each_subject_of_each_workload_measured(quick_run: tuple[str, dict[str, Any]]) -> None:
    _, record = quick_run
    assert [work["name"] for work in record["works"]] == ["tiny", "latency"]
    for work in record["works"]:
        rows = {row["subject"]: row for row in work["rows"]}
        bare = {"bare-processes": "bare"} if work["name"] == "tiny" else {}
        assert {name: row["role"] for name, row in rows.items()} == bare | {
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
    field, peers = module("field"), module("peers")
    monkeypatch.setattr(peers.RayPeer, "modules", ("a_module_that_nobody_has",))
    chosen = field.choose([], ["stdlib-threads", "ray"])
    assert "stdlib-threads" in chosen.makers
    assert "ray" not in chosen.makers
    assert chosen.left_out == {"ray": "a_module_that_nobody_has is not installed"}


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


# --- sweeps, goals, pages ------------------------------------------------------------------------------------


def test_every_sweep_and_the_memory_of_an_endless_input_are_measured(quick_run: tuple[str, dict[str, Any]]) -> None:
    _, record = quick_run
    assert list(record["sweeps"]) == [
        "overhead", "chunks, even", "chunks, uneven", "arguments", "results", "scaling",
    ]  # fmt: skip
    for name, sweep in record["sweeps"].items():
        assert sweep["problems"] == {}, name
        assert len(sweep["curves"]["anypool/processes"]) == 2, name
    assert "anypool/processes automatic" in record["sweeps"]["chunks, even"]["curves"]
    (endless,) = record["endless"]
    assert endless["problem"] is None
    if sys.platform == "linux":
        assert 0 < endless["peak_bytes"] < 20 * endless["window_bytes"]


def test_every_plot_is_drawn_for_light_and_dark_pages(
    module: Any, quick_run: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    _, record = quick_run
    file = tmp_path / "record.json"
    file.write_text(json.dumps(record), encoding="utf-8")
    run_benchmark("plots.py", str(file), str(tmp_path / "plots"))
    written = {path.name for path in (tmp_path / "plots").iterdir()}
    plots = ("overhead", "chunks", "throughput", "scaling")
    assert written == {f"{name}{end}" for name in plots for end in (".svg", "-light.png", "-dark.png")}
    style, _, drawing = (tmp_path / "plots" / "overhead.svg").read_text(encoding="utf-8").partition("</style>")
    color = module("palette").LIGHT["processes"]
    assert "prefers-color-scheme:dark" in style
    assert color in style
    assert color not in drawing


def row_of(subject: str, role: str, *values: float) -> dict[str, Any]:
    middle = sorted(values)[len(values) // 2]
    return {"subject": subject, "role": role, "place": "processes", "values": values, "median": middle, "problem": None}


def test_a_goal_is_judged_by_medians_and_shows_the_ratios_of_single_rounds(module: Any) -> None:
    goals = module("goals")
    rows = [row_of("stdlib-pool", "peer", 1.0, 2.0, 4.0), row_of("anypool/processes", "anypool", 1.5, 1.6, 2.0)]
    works = [{"name": "tiny", "limit": 0.5, "rows": rows}]
    goal = next(each for each in goals.GOALS if (each.work, each.on) == ("tiny", ("processes",)))
    (verdict,) = [each for each in goals.judge({"works": works}) if each.goal is goal]
    assert (verdict.ratio, verdict.low, verdict.high) == (0.8, 0.5, 1.5)
    assert verdict.reaches_floor
    assert verdict.reaches_stretch
    assert "0.80*" in goals.text([verdict])


def test_what_was_not_measured_reaches_nothing(module: Any) -> None:
    verdicts = module("goals").judge({"works": []})
    assert {each.ratio for each in verdicts} == {None}
    assert {each.reaches_floor for each in verdicts} == {None}


def test_ten_million_calls_are_held_against_a_million(module: Any) -> None:
    curves = {
        "anypool/processes": [[1e6, [4e-7, 5e-7, 9e-7]], [1e7, [5e-7]]],
        "anypool/processes memory": [[1e6, [2e7]], [1e7, [3e7]]],
    }
    verdicts = module("goals").judge({"works": [], "sweeps": {"scaling": {"curves": curves}}})
    found = {each.goal.work: each.ratio for each in verdicts if each.ratio is not None}
    assert found == {"10^7 tiny, time": 1.0, "10^7 tiny, memory": 1.5}


def test_pages_say_what_the_record_says(module: Any) -> None:
    assert module("performance_docs").main(["--check"]) == 0, "run: python benchmarks/performance_docs.py"


def test_the_page_on_processes_and_threads_says_what_its_record_says(module: Any) -> None:
    assert module("cpu_or_io").main(["--pages", "--check"]) == 0, "run: python benchmarks/cpu_or_io.py --pages"


def test_processes_and_threads_are_measured_on_each_kind_of_call_and_drawn(tmp_path: Path) -> None:
    file, plots = tmp_path / "record.json", tmp_path / "plots"
    out = run_benchmark("cpu_or_io.py", "--quick", "--json", str(file), "--plots", str(plots))
    assert "wait on processes" in out
    record = json.loads(file.read_text(encoding="utf-8"))
    assert [kind["name"] for kind in record["kinds"]] == ["python", "numpy", "wait"]
    for kind in record["kinds"]:
        assert [set(point["speed_ups"]) for point in kind["points"]] == [{"threads", "processes"}] * 4
    waiting = record["kinds"][2]["points"][-1]
    assert waiting["length"] >= 0.01
    assert min(waiting["speed_ups"]["threads"]) > 1.5  # sleeping calls overlap, however busy the machine is
    names = {path.name for path in plots.iterdir()}
    assert names == {"cpu-or-io.svg", "cpu-or-io-light.png", "cpu-or-io-dark.png"}


def test_a_page_is_changed_between_the_markers_only(module: Any) -> None:
    pages = module("performance_docs")
    record = json.loads(pages.RECORD.read_text(encoding="utf-8"))
    old = "before\n<!-- measured: conditions -->\nold\n<!-- /measured -->\nafter\n"
    new = pages.filled(old, record)
    assert new.startswith("before\n<!-- measured: conditions -->\n")
    assert new.endswith("<!-- /measured -->\nafter\n")
    assert "old" not in new
    assert record["machine"]["cpu"] in new


def test_a_record_of_a_busy_machine_is_said_to_be_provisional(module: Any) -> None:
    pages = module("performance_docs")
    record = json.loads(pages.RECORD.read_text(encoding="utf-8"))
    record["settings"]["quick"] = False
    record["machine"]["load"] = 0.0
    assert "Provisional" not in pages.conditions(record)
    record["machine"]["load"] = 3.0
    assert "Provisional" in pages.conditions(record)


# --- the gate ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    shutil.which("valgrind") is None and "GATE_NEEDS_VALGRIND" not in os.environ,
    reason="valgrind is not installed: machine instructions are not counted",
)
@pytest.mark.timeout(600)
def test_a_call_costs_no_more_instructions_than_its_limit(module: Any) -> None:
    gate = module("gate")
    counts = gate.count_by_valgrind()
    assert gate.excesses(counts, gate.limits(), gate.VERSION) == [], gate.ADVICE


def test_a_call_costs_no_more_bytecodes_than_its_limit() -> None:
    run_benchmark("gate.py", "--no-valgrind")


def test_the_gate_says_what_is_above_its_limit(module: Any) -> None:
    gate = module("gate")
    limits = {"python": "3.11", "counts": {"bytecodes": {"submit": 1000.0}}}
    assert gate.excesses({"bytecodes": {"submit": 1040.0}}, limits, "3.11") == []
    (told,) = gate.excesses({"bytecodes": {"submit": 1100.0}}, limits, "3.11")
    assert told == "bytecodes of submit: 1100, and the limit is 1000 (+10%)"
    assert gate.excesses({"bytecodes": {"submit": 1100.0}}, limits, "3.12") == []
    (told,) = gate.excesses({"bytecodes": {"chunks": 1.0}}, limits, "3.11")
    assert "no limit" in told


# --- the other scripts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "arguments", "shown"),
    [
        ("fidelity.py", ("--quick", "--on", "threads"), "tiny on threads"),
        ("scale.py", ("--quick",), "chunks a second"),
        ("stages.py", ("--quick",), "the caller goes on"),
        ("where.py", (), "anypool/_map.py"),
    ],
)
def test_the_other_benchmarks_run(script: str, arguments: tuple[str, ...], shown: str) -> None:
    assert shown in run_benchmark(script, *arguments)
