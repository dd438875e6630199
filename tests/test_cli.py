"""The command `anypool`, as a function and as a process."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
import pytest

import anypool
from anypool._table import table
from anypool.cli import main

SOURCE = str(Path(anypool.__file__).parent.parent)

WORK = """
import os
import sibling
from dataclasses import dataclass

with open("runs.txt", "a") as file:
    file.write(f"{os.getpid()}\\n")
print("the module prints")

@dataclass
class Point:
    x: int

class Odd(Exception):
    pass

def numbers():
    return range(6)

points = [Point(1), Point(2)]

def move(point):
    print("the call prints")
    return Point(sibling.twice(point.x))

def fails(x):
    if x == 3:
        raise Odd("three", Point(x))
    return x

def where(x):
    return x, os.getpid() if x == 2 else 0

def boom():
    raise RuntimeError("no input today")

add = lambda a, b: a + b
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with `work.py`, which is the working directory; nothing is configured."""
    (tmp_path / "work.py").write_text(WORK)
    (tmp_path / "sibling.py").write_text("def twice(x):\n    return 2 * x\n")
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("ANYPOOL_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("ANYPOOL_CONFIG", "none")
    return tmp_path


COMMANDS = ("backends", "config", "map", "compare", "verify", "check", "bench", "completion")


def run(*arguments: str, path: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [path, SOURCE]))}
    command = [sys.executable, "-m", "anypool", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, **options)


def answer(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> Any:
    assert main([*arguments, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that wrong use is answered with."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("anypool: ")
    assert err.count("\n") == 1
    return err


# --- the command ------------------------------------------------------------------------------------------------


def test_python_m_anypool_tells_the_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"anypool {anypool.__version__}\n", "")


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_every_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Usage: anypool")
    if command not in (["backends"], ["config"]):
        assert "Examples:" in text
    assert "Exit status:" in text


@pytest.mark.parametrize("command", [[], ["bakends"], ["compare", "math:sqrt"], ["compare", "a", "b", "--repeat", "0"]])
def test_wrong_use_is_2(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 2
    assert capsys.readouterr().err.startswith("Usage: anypool")


# --- backends ---------------------------------------------------------------------------------------------------


def test_backends_are_listed_with_what_a_default_start_has(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYPOOL_PROCESSES_MAX_WORKERS", "3")
    rows = {row["name"]: row for row in answer(capsys, "backends")["backends"]}
    assert list(rows)[:3] == ["serial", "threads", "processes"]
    assert [rows[name]["workers"] for name in ("serial", "threads", "processes")] == [
        1,
        anypool.available_cpus(),
        3,
    ]
    assert "mp" in rows["processes"]["aliases"]
    assert all(row["installed"] for row in list(rows.values())[:3])
    assert rows["threads"]["traits"] is None


def test_what_is_not_installed_says_how_to_install_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "loky", None)
    row = next(row for row in answer(capsys, "backends")["backends"] if row["name"] == "loky")
    assert row["installed"] is False
    assert "pip install 'anypool[loky]'" in row["problem"]
    assert main(["backends"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("loky"))
    assert "not installed" in line
    assert "pip install 'anypool[loky]'" in line


def test_listing_imports_no_library() -> None:
    code = (
        "import sys; from anypool.cli import main; main(['backends']); "
        "sys.exit(bool({'loky', 'joblib', 'dask', 'distributed'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def third_parties(home: Path) -> str:
    """A directory with three distributions: a backend that works, one that is broken, one that cannot start."""
    site = home / "site"
    backend = """
        from dataclasses import dataclass
        from anypool.backends.serial import Serial

        @dataclass(kw_only=True)
        class {name}(Serial):
            name = "{lower}"
            {more}
    """
    fails = 'def start(self): raise RuntimeError("no room")'
    for name, more in (("Good", "pass"), ("Broken", "1 / 0"), ("Unstartable", fails)):
        info = site / f"{name}-1.5.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text(f"[anypool.backends]\n{name.lower()} = module_{name}:{name}\n")
        code = textwrap.dedent(backend).format(name=name, lower=name.lower(), more=more)
        (site / f"module_{name}.py").write_text(code)
    return str(site)


def test_third_parties_are_listed_and_a_broken_one_is_told_in_its_row(third_parties: str) -> None:
    done = run("backends", "--json", path=third_parties)
    assert (done.returncode, done.stderr) == (0, "")
    rows = {row["name"]: row for row in json.loads(done.stdout)["backends"]}
    assert rows["good"]["library"] == "Good 1.5"
    assert rows["good"]["problem"] == ""
    assert "'Broken' 1.5" in rows["broken"]["problem"]
    assert "ZeroDivisionError" in rows["broken"]["problem"]


def test_comparing_goes_on_after_a_backend_that_is_broken(third_parties: str) -> None:
    done = run("compare", "math:sqrt", "[1, 4]", "--json", "--backends", "good,unstartable", path=third_parties)
    assert (done.returncode, done.stderr) == (1, "")
    rows = {row["backend"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["good"]["identical"] is True
    assert rows["unstartable"]["error"].endswith("no room")


def test_start_shows_sizes_and_traits_and_fails_where_one_does_not_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from anypool import _registry

    monkeypatch.setattr(_registry, "backend_names", lambda: ["serial", "threads", "processes"])
    monkeypatch.setenv("ANYPOOL_PROCESSES_MAX_WORKERS", "1")
    rows = {row["name"]: row for row in answer(capsys, "backends", "--start")["backends"]}
    assert rows["processes"]["workers"] == 1
    assert rows["serial"]["traits"]["in_caller"] is True
    assert main(["backends", "--start"]) == 0
    assert "shares memory, in caller" in capsys.readouterr().out
    monkeypatch.setenv("ANYPOOL_PROCESSES_MAX_WORKERS", "none at all")
    rows = {row["name"]: row for row in answer(capsys, "backends", "--start", status=1)["backends"]}
    assert "none at all" in rows["processes"]["problem"]
    assert rows["threads"]["workers"] >= 1


# --- config -----------------------------------------------------------------------------------------------------


def test_config_tells_what_holds_and_what_limits_the_cpus(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYPOOL_BACKEND", "threads")
    monkeypatch.setenv("ANYPOOL_MAX_WORKERS", "1")
    told = answer(capsys, "config")
    assert told["backend"] == "threads"
    assert told["rows"][0] == {
        "key": "backend",
        "value": "threads",
        "source": "environment ANYPOOL_BACKEND",
        "lost": [],
    }
    assert told["available_cpus"] == 1
    assert {"source": "ANYPOOL_MAX_WORKERS", "cpus": 1, "detail": "ANYPOOL_MAX_WORKERS=1"} in told["cpu_limits"]
    assert main(["config", "serial"]) == 0
    text = capsys.readouterr().out
    assert "instead of" in text
    assert "threads (environment ANYPOOL_BACKEND)" in text
    assert "os.cpu_count()" in text


def test_config_fails_where_the_choice_cannot_be_carried_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYPOOL_SEED", "minus one")
    assert main(["config"]) == 1
    assert "error: ConfigError: " in capsys.readouterr().out


def test_config_of_an_unknown_backend_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'threads'" in complaint(capsys, "config", "thraeds")


# --- compare ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "text", "items"),
    [
        ("math:sqrt", "range(5)", 5),
        ("math:sqrt", "range(2, 10, 3)", 3),
        ("math:sqrt", "[1, 4.0]", 2),
        ("builtins:len", "'abc'", 3),
        ("os:path.basename", "{'a/b': 1}", 1),
        ("work.py:fails", ":numbers", 6),
        ("work.py:fails", "work.py:numbers", 6),
        ("work.py:move", "./work.py:points", 2),
        ("sibling:twice", "work.py:numbers", 6),
        ("math:sqrt", "input.jsonl", 2),
        ("math:sqrt", "-", 2),
    ],
)
def test_function_and_input_are_found(
    function: str, text: str, items: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("input.jsonl").write_text("1\n\n4\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("1\n\n4\n"))
    told = answer(capsys, "compare", function, text, "--backends", "threads")
    assert told["identical"] is True
    assert told["items"] == items


def test_items_can_be_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "compare", "work.py:add", "[(1, 2), 'ab']", "--starmap", "--backends", "threads")["identical"]
    assert "item 1 is not a list of arguments: 2" in complaint(
        capsys, "compare", "work.py:add", "[(1, 2), 2]", "--starmap"
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["math:sqrt", "[1]", "--backends", "thraeds"], "did you mean 'threads'"),
        (["math:sqrt", "[1]", "--backends", ","], "names no backend"),
        (["math:sqrt", "[]"], "nothing to compare"),
        (["math:sqrt", "5"], "not iterable"),
        (["math:sqrt", "range(5"], "is no input; an input is"),
        (["math:sqrt", "range(1.5)"], "cannot be evaluated"),
        (["math:sqrt", "__import__('os')"], "is no input"),
        (["math:sqrt", "absent.jsonl"], "cannot be read"),
        (["math:sqrt", "bad.jsonl"], "line 2: not JSON"),
        (["math:sqrt", "work.py:boom"], "RuntimeError: no input today"),
        (["sqrt", "[1]"], "not of the form MODULE:NAME"),
        (["math:squirt", "[1]"], "'math' has no 'squirt'"),
        (["math:pi", "[1]"], "a function is needed"),
        (["absent:f", "[1]"], "ModuleNotFoundError"),
        (["absent.py:f", "[1]"], "there is no file"),
        (["broken.py:f", "[1]"], "ZeroDivisionError"),
        (["script.py:f", "[1]"], "SystemExit: 0"),
    ],
)
def test_wrong_use_is_told_in_one_line(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.jsonl").write_text("1\n{\n")
    Path("broken.py").write_text("1 / 0\n")
    Path("script.py").write_text("raise SystemExit(0)\n")
    assert told in complaint(capsys, "compare", *arguments)


def test_nothing_stays_imported_that_a_file_brought(capsys: pytest.CaptureFixture[str]) -> None:
    before = (sys.path[:], "<work>" in sys.modules, cloudpickle.list_registry_pickle_by_value())
    assert main(["compare", "work.py:fails", ":numbers", "--backends", "threads"]) == 0
    assert (sys.path, "<work>" in sys.modules, cloudpickle.list_registry_pickle_by_value()) == before


def test_classes_and_errors_of_a_file_come_home_from_workers_which_do_not_run_it_again(home: Path) -> None:
    for function, text in (("work.py:move", ":points"), ("work.py:fails", ":numbers")):
        (home / "runs.txt").unlink(missing_ok=True)
        done = run("compare", function, text, "--backends", "processes,loky", "--max-workers", "2")
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert "prints" not in done.stdout
        assert len((home / "runs.txt").read_text().split()) == 1


def test_a_difference_is_1_and_names_the_item_and_both_values() -> None:
    done = run("compare", "work.py:where", ":numbers", "--backends", "threads,processes", "--max-workers", "2")
    assert (done.returncode, done.stderr) == (1, "")
    assert "item 2 on processes: [1]: expected " in done.stdout
    assert "  serial gave (2, " in done.stdout
    assert "  processes gave (2, " in done.stdout
    assert "on threads" not in done.stdout


# --- unpleasant -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to a process group")
@pytest.mark.parametrize("backend", ["serial", "processes"])
def test_an_interrupt_is_130_and_leaves_nothing(backend: str, home: Path) -> None:
    (home / "slow.py").write_text(
        "import os, time\nmain = os.getpid()\n"
        "def f(x):\n"
        f"    if os.getpid() != main or {backend == 'serial'}:\n"
        "        open(f'started-{x}', 'w').close()\n"
        "        time.sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "anypool", "compare", "slow.py:f", "[1]", "--backends", "processes"],
        env={**os.environ, "PYTHONPATH": SOURCE},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: (home / "started-1").exists(), 200)
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=240)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    assert (process.returncode, out) == (130, "")
    assert err == "anypool: interrupted\n"
    wait_until(lambda: not any(each.is_running() for each in family), 60)


def wait_until(fact: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.skipif(os.name == "nt", reason="no SIGPIPE to speak of")
def test_a_reader_that_went_away_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        process = subprocess.run(
            [sys.executable, "-m", "anypool", "backends"],
            env={**os.environ, "PYTHONPATH": SOURCE},
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            timeout=240,
        )
    assert (process.returncode, process.stderr) == (0, "")


def test_a_terminal_without_unicode_is_no_error(home: Path) -> None:
    (home / "snow.py").write_text(
        "import os\ndef f(x):\n    return '\N{SNOWMAN}' + str(os.getpid())\n", encoding="utf-8"
    )
    environment = {**os.environ, "PYTHONPATH": SOURCE, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "anypool", "compare", "snow.py:f", "[1]", "--backends", "processes"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1
    assert "\\u2603" in done.stdout


@pytest.mark.parametrize("columns", ["200", "80", "50"])
def test_lines_fit_the_terminal(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for command in (["backends"], ["compare", "math:sqrt", "range(9)", "--backends", "threads"], ["config"]):
        assert main(command) == 0
        assert max(map(len, capsys.readouterr().out.splitlines())) <= int(columns)


def test_a_table_wraps_its_last_column_then_falls_into_blocks() -> None:
    rows = [["a", "1", "word " * 12], ["long", "10", ""]]
    wide = table(["name", "size", "text"], rows, right={"size"}).splitlines()
    assert [line[:10] for line in wide] == ["name  size", "a        1", "long    10"]
    wrapped = table(["name", "size", "text"], rows, width=45).splitlines()
    assert len(wrapped) == 4
    assert max(map(len, wrapped)) <= 45
    blocks = table(["name", "size", "text"], rows, width=30).splitlines()
    assert blocks[:3] == ["a", "  size  1", "  text  word word word word"]
    assert blocks[-2:] == ["long", "  size  10"]
    assert table(["name"], []) == "name"
