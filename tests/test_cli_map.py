"""`anypool map`: a line of JSON in, a line of JSON out; what is broken is named; nothing is left running."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

import anypool
from anypool.cli import main
from anypool.testing._effects import poll

SOURCE = str(Path(anypool.__file__).parent.parent)

WORK = """
import os, sys, time
import anypool

def square(x):
    return x * x

def talks(x):
    print("said", x)
    os.write(1, b"past Python\\n")
    return x

def inverse(x):
    return 1 / x

def a_set(x):
    return {x}

def array(x):
    import numpy
    return {"all": numpy.arange(x), "one": numpy.float64(x)}

def draw(x):
    return anypool.random().random()

def leaves(x):
    sys.exit(3)

def pid_then_wait(x):
    if x:
        time.sleep(60)
    return os.getpid()

def letters():
    return iter("abc")
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with `work.py`, which is the working directory; calls run in two threads."""
    (tmp_path / "work.py").write_text(WORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANYPOOL_BACKEND", "threads")
    monkeypatch.setenv("ANYPOOL_MAX_WORKERS", "2")
    return tmp_path


def run(*arguments: str, text: str | bytes = "", **variables: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "anypool", "map", *arguments],
        input=text.encode() if isinstance(text, str) else text,
        env={**os.environ, "PYTHONPATH": SOURCE, **variables},
        capture_output=True,
        timeout=240,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def mapped(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *arguments: str,
    text: str = "",
    status: int = 0,
) -> tuple[list[Any], str]:
    """The results, and what was said on the standard error."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert main(["map", *arguments]) == status
    out, err = capsys.readouterr()
    return [json.loads(line) for line in out.splitlines()], err


@pytest.mark.parametrize("backend", ["serial", "threads", "processes"])
def test_each_line_has_its_result_in_order(backend: str) -> None:
    done = run("work.py:square", "--backend", backend, text="".join(f"{x}\n" for x in range(500)))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "".join(f"{x * x}\n" for x in range(500))


def test_blank_lines_and_no_lines_are_no_items(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mapped(monkeypatch, capsys, "work.py:square", text="\n2\n  \n3") == ([4, 9], "")
    assert mapped(monkeypatch, capsys, "work.py:square") == ([], "")


@pytest.mark.parametrize(
    ("arguments", "results"),
    [
        (["work.py:square", "[2, 3]"], [4, 9]),
        (["work.py:square", "range(3)"], [0, 1, 4]),
        (["builtins:ord", "work.py:letters"], [97, 98, 99]),
        (["work.py:square", "items.jsonl"], [25]),
        (["builtins:pow", "[(2, 3), [3, 2]]", "--starmap"], [8, 9]),
        (["work.py:array", "[2]"], [{"all": [0, 1], "one": 2.0}]),
        (["builtins:str.upper", '["\\u00e9\\ud800"]'], ["\u00c9\ud800"]),
    ],
)
def test_an_input_has_the_forms_of_every_command(
    arguments: list[str], results: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("items.jsonl").write_text("5\n")
    if "\\ud800" in arguments[1]:
        done = run(*arguments)
        assert (json.loads(done.stdout), done.returncode) == (results[0], 0)
        return
    assert mapped(monkeypatch, capsys, *arguments) == (results, "")


def test_the_settings_reach_the_executor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with anypool.get_executor("serial", seed=7) as ex:
        expected = list(ex.map(lambda _: anypool.random().random(), range(5)))
    arguments = [
        "work.py:draw",
        "range(5)",
        "--seed",
        "7",
        "--chunksize",
        "2",
        "--backend",
        "threads",
        "--workers",
        "3",
    ]
    assert mapped(monkeypatch, capsys, *arguments) == (expected, "")


@pytest.mark.parametrize("backend", ["serial", "processes"])
def test_only_results_are_on_the_standard_output(backend: str) -> None:
    done = run("work.py:talks", "--backend", backend, text="1\n2\n")
    assert (done.returncode, done.stdout) == (0, "1\n2\n")
    assert "said 1\nsaid 2\n" in done.stderr.replace("past Python\n", "")
    assert done.stderr.count("past Python") == 2


# --- what is broken -------------------------------------------------------------------------------------------

BROKEN = '1\n{"a": \n\n2\n0\n4\n'


def test_stop_ends_after_the_results_before_the_broken_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results, said = mapped(monkeypatch, capsys, "work.py:inverse", text=BROKEN, status=1)
    assert results == [1.0]
    assert said.splitlines()[0] == "anypool: line 2: not JSON: Expecting value, at column 6"
    assert said.splitlines()[1] == "anypool: 1 result; 1 broken item"


def test_stop_ends_at_the_failed_call_and_shows_its_frames(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results, said = mapped(monkeypatch, capsys, "work.py:inverse", text="2\n4\n0\n1\n", status=1)
    assert results == [0.5, 0.25]
    assert "return 1 / x" in said
    assert "anypool/_map" not in said
    assert "anypool: line 3: ZeroDivisionError: division by zero\n" in said


def test_skip_tells_each_and_leaves_it_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    results, said = mapped(monkeypatch, capsys, "work.py:inverse", "--errors", "skip", text=BROKEN, status=1)
    assert results == [1.0, 0.5, 0.25]
    assert said.splitlines() == [
        "anypool: line 2: not JSON: Expecting value, at column 6",
        "anypool: line 5: ZeroDivisionError: division by zero",
        "anypool: 3 results; 1 broken item, 1 failed call",
    ]


def test_report_tells_each_in_its_place(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["work.py:inverse", "--errors", "report", "--json"]
    results, said = mapped(monkeypatch, capsys, *arguments, text=BROKEN + "[", status=1)
    assert [(each["line"], each.get("result")) for each in results] == [
        (1, 1.0), (2, None), (4, 0.5), (5, None), (6, 0.25), (7, None),
    ]  # fmt: skip
    assert results[3]["error"] == {"in": "call", "type": "ZeroDivisionError", "message": "division by zero"}
    assert results[5]["error"]["in"] == "input"
    assert json.loads(said) == {"results": 3, "broken_items": 2, "failed_calls": 1, "unwritable_results": 0}


@pytest.mark.parametrize("errors", ["stop", "skip", "report"])
def test_a_result_without_a_form_in_json_is_named(
    errors: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results, said = mapped(monkeypatch, capsys, "work.py:a_set", "[1, 2]", "--errors", errors, status=1)
    if errors == "report":
        assert [each["error"]["in"] for each in results] == ["result", "result"]
    else:
        assert results == []
        assert said.count("a result of type set has no form in JSON") == (1 if errors == "stop" else 2)


def test_bytes_that_are_no_text_are_a_broken_line() -> None:
    done = run("work.py:square", "--errors", "skip", text=b"2\n\xff\xfe\xfa\n3\n")
    assert (done.returncode, done.stdout) == (1, "4\n9\n")
    assert done.stderr.startswith("anypool: line 2: not JSON: ")


@pytest.mark.parametrize("errors", ["stop", "skip"])
def test_a_call_that_exits_ends_the_run(
    errors: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results, said = mapped(monkeypatch, capsys, "work.py:leaves", "[1, 2]", "--errors", errors, status=1)
    assert results == []
    assert "anypool: item 1: SystemExit: 3" in said


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["work.py:square", "absent.jsonl"], "cannot be read"),
        (["work.py:absent", "[1]"], "has no 'absent'"),
        (["work.py:square", "nonsense"], "is no input"),
        (["work.py:square", "[1]", "--backend", "thraeds"], "did you mean 'threads'"),
        (["work.py:square", "[1]", "--errors", "ignore"], "Invalid value for '--errors'"),
        (["work.py:square", "[1]", "--workers", "0"], "Invalid value for '--max-workers'"),
    ],
)
def test_wrong_use_is_2_and_nothing_is_read(
    arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results, said = mapped(monkeypatch, capsys, *arguments, status=2)
    assert results == []
    assert told in said


def test_an_item_that_is_no_list_of_arguments_is_a_broken_item(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results, said = mapped(monkeypatch, capsys, "builtins:pow", "--starmap", text='[2, 3]\n"ab"\n', status=1)
    assert results == [8]
    assert "line 2: --starmap: not a list of arguments: 'ab'" in said


# --- ends -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="no SIGPIPE to speak of")
def test_a_reader_that_goes_early_ends_it_cleanly_with_nothing_left_running() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "anypool", "map", "work.py:pid_then_wait", "--backend", "processes", "--chunksize", "1"],
        env={**os.environ, "PYTHONPATH": SOURCE},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        process.stdin.write(b"0\n" * 3 + b"1\n")  # the last one would wait for a minute
        process.stdin.close()
        worker = int(process.stdout.readline())
        family = psutil.Process(process.pid).children(recursive=True)
        assert worker in {each.pid for each in family}
        process.stdout.close()
        process.wait(60)
    except BaseException:
        process.kill()
        process.wait()
        raise
    said = process.stderr.read()
    process.stderr.close()
    assert (process.returncode, said) == (0, b"")
    poll(lambda: not any(each.is_running() for each in family), "the workers are gone")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is always full")
def test_results_that_cannot_be_written_are_told() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "anypool", "map", "work.py:square", "range(3)"],
            env={**os.environ, "PYTHONPATH": SOURCE}, stdout=full, stderr=subprocess.PIPE, text=True, timeout=240,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("anypool: the results cannot be written: ")


# --- without click --------------------------------------------------------------------------------------------


def test_without_click_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "click", None)
    assert main(["backends"]) == 2
    assert capsys.readouterr().err == "anypool: the command line needs click: pip install 'anypool[cli]'\n"


def test_a_typo_in_a_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backend"]) == 2
    assert "there is no command 'backend'; did you mean 'backends'?" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_can_complete(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "_ANYPOOL_COMPLETE" in capsys.readouterr().out


def test_backends_are_completed_after_a_comma() -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": SOURCE,
        "COMP_WORDS": "anypool compare f x --backends serial,th",
        "COMP_CWORD": "5",
        "_ANYPOOL_COMPLETE": "bash_complete",
    }
    done = subprocess.run(
        [sys.executable, "-m", "anypool"], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.stdout == "plain,serial,threads\n"


def test_bench_measures_what_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--backends", "threads", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["backend"] for row in rows] == ["serial", "threads"]
    assert all(row["error"] is None and row["item"] > 0 and row["end"] > 0 for row in rows)
    assert main(["bench", "--backends", "threads"]) == 0
    assert "speed-up" in capsys.readouterr().out
