"""What a new user sees who gets something wrong: what happened, to what, and what to do; no noise, no hang."""

from __future__ import annotations

import ast
import gc
import inspect
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from pathlib import Path

import pytest

import anypool
from anypool import errors
from scripts import run_python

PACKAGE = Path(anypool.__file__).parent
BACKENDS = ("threads", "processes")


def said(script: str, directory: Path, *, backend: str = "processes", status: int = 1, **modules: str) -> str:
    """What a script that fails writes to the standard error."""
    (directory / "script.py").write_text(textwrap.dedent(script), encoding="utf-8")
    for name, text in modules.items():
        (directory / f"{name}.py").write_text(text, encoding="utf-8")
    done = run_python(["script.py"], backend=backend, directory=directory)
    assert done.returncode == status, done.stderr
    return done.stderr


def last_line(text: str) -> str:
    return text.rstrip("\n").splitlines()[-1]


def test_a_typo_names_the_nearest_and_the_known(tmp_path):
    text = said("import anypool\nanypool.get_executor('procesess')", tmp_path)
    assert last_line(text) == (
        "anypool.errors.UnknownBackend: no backend 'procesess'; did you mean 'processes'? "
        "known: serial, threads, processes, loky, joblib, dask"
    )


@pytest.mark.parametrize(
    ("elsewhere", "here"), [("n_jobs", "max_workers"), ("batch_size", "chunksize"), ("random_state", "seed")]
)
def test_what_another_library_calls_it_is_told_by_our_name(elsewhere, here, tmp_path, monkeypatch):
    with pytest.raises(anypool.UnknownOption, match=f"has no option '{elsewhere}'; did you mean '{here}'"):
        anypool.get_executor("threads", **{elsewhere: 2})
    (tmp_path / "some.toml").write_text(f"{elsewhere} = 2")
    monkeypatch.setenv("ANYPOOL_CONFIG", str(tmp_path / "some.toml"))
    with pytest.raises(anypool.UnknownOption, match=f"unknown key '{elsewhere}', from .*; did you mean '{here}'"):
        anypool.get_executor()


@pytest.mark.parametrize(
    "line",
    [
        "list(anypool.get_executor(max_workers=1).map(lambda x: (lock, x), [1]))",
        "anypool.get_executor(max_workers=1).submit(lambda x: (lock, x), 1).result()",
        "anypool.get_executor('lokky')",
        "anypool.get_executor(max_worker=1)",
    ],
)
def test_a_mistake_is_told_without_the_way_through_our_files(line):
    with pytest.raises(anypool.AnypoolError) as raised:
        eval(line, {"anypool": anypool, "lock": threading.Lock()})
    frames = [entry for entry in raised.traceback if Path(str(entry.path)).is_relative_to(PACKAGE)]
    assert len(frames) <= 3
    # What led to it is all there.
    assert raised.value.__cause__ is None or raised.value.__cause__.__traceback__ is not None


def test_a_prompt_shows_a_report_as_it_is_printed():
    with anypool.get_executor("serial", trace=True) as ex:
        list(ex.map(abs, [-1]))
    for each in (ex.report(), anypool.explain(), anypool.compare(abs, [-1], backends=["threads"])):
        assert repr(each) == str(each)
    assert repr(anypool.PoolExecutor("processes")) == "<anypool executor 'processes', open>"


def test_a_missing_extra_says_who_asked_for_it(tmp_path):
    script = "import sys\nsys.modules['loky'] = None\nimport anypool\nanypool.get_executor()"
    line = last_line(said(script, tmp_path, backend="loky"))
    assert line.endswith("backend 'loky', from environment ANYPOOL_BACKEND, needs: pip install 'anypool[loky]'")


@pytest.mark.parametrize("name", ["loky", "joblib", "dask"])
def test_a_missing_extra_says_what_to_install(name, tmp_path):
    script = f"""
        import sys
        sys.modules["loky"] = sys.modules["joblib"] = sys.modules["distributed"] = None
        import anypool
        anypool.get_executor({name!r})
    """
    assert last_line(said(script, tmp_path)).endswith(f"backend {name!r} needs: pip install 'anypool[{name}]'")


@pytest.mark.parametrize("backend", [*BACKENDS, "loky", "dask"])
def test_a_failed_call_shows_its_source_line_and_its_item(backend, tmp_path):
    script = """
        import anypool

        def inverse(x):
            return 1 / x

        with anypool.get_executor() as ex:
            list(ex.map(inverse, [1, 0]))
    """
    text = said(script, tmp_path, backend=backend)
    assert f'File "{tmp_path}/script.py", line 5, in inverse\n    return 1 / x\n' in text.replace("./script", "script")
    assert f"ZeroDivisionError: division by zero\nanypool: item 1, inverse(0), on {backend!r}" in text


def test_a_lambda_that_holds_a_lock_is_told_which_one_and_what_to_do(tmp_path):
    script = """
        import threading
        import anypool

        lock = threading.Lock()
        with anypool.get_executor() as ex:
            list(ex.map(lambda x: (lock, x), [1, 2]))
    """
    line = last_line(said(script, tmp_path))
    assert line.startswith("anypool.errors.SendError: global 'lock' of function '<lambda>' (a lock) cannot be sent: ")
    assert line.endswith("; send what it is made from, and make it where it is used")


@pytest.mark.parametrize(
    ("define", "told"),
    [
        (
            "async def call(x): return x",
            "a coroutine cannot be sent: .*; run it in the call, with asyncio.run, and return what it comes to",
        ),
        ("def call(x): yield x", "a generator cannot be sent: .*; return a list of what it yields"),
    ],
    ids=["coroutine function", "generator function"],
)
def test_what_is_not_a_result_yet_is_told_with_what_to_return(define, told):
    spaces = {}
    exec(define, spaces)
    with anypool.get_executor("serial", strict=True) as ex, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the coroutine that was never awaited
        with pytest.raises(anypool.SendError, match=f"^the result: {told}(?m:$)"):
            list(ex.map(spaces["call"], [1]))
        gc.collect()


def test_joblib_that_is_missing_is_told_with_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "joblib", None)
    with pytest.raises(anypool.MissingExtra, match=r"register_joblib\(\) needs: pip install 'anypool\[joblib\]'"):
        anypool.register_joblib()


def test_a_scheduler_that_is_not_there_is_told_with_its_address(tmp_path):
    line = last_line(said("import anypool\nanypool.get_executor('dask://127.0.0.1:1?connect_timeout=0.5')", tmp_path))
    assert line.startswith(
        "anypool.errors.StartError: no Dask scheduler answered at tcp://127.0.0.1:1 within 0.5 s; is it running there? "
        "connect_timeout= waits longer"
    )


def test_a_large_closure_is_warned_of_with_its_size_its_name_and_what_to_do(tmp_path):
    script = """
        import anypool

        table = bytes(70_000_000)

        def look_up(place):
            return table[place]

        with anypool.get_executor(max_workers=1) as ex:
            print(list(ex.map(look_up, [1, 2])))
    """
    text = said(script, tmp_path, status=0)
    assert text.count("Warning") == 1
    assert "script.py:10: RuntimeWarning: function 'look_up' is 70 MB when it is sent" in text
    assert "most of it global 'table' (70 MB)" in text
    assert "ex.share(" in text
    assert said(script, tmp_path, backend="threads", status=0) == ""


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
@pytest.mark.parametrize("backend", BACKENDS)
def test_ctrl_c_ends_with_one_short_traceback(backend, tmp_path):
    script = """
        import time
        import anypool

        with anypool.get_executor(max_workers=2) as ex:
            for result in ex.map(time.sleep, [0.01, 200, 200]):
                print("ready", flush=True)
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    environment = {**os.environ, "ANYPOOL_BACKEND": backend, "ANYPOOL_CONFIG": "none"}
    process = subprocess.Popen(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "ready\n"
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, text = process.communicate(timeout=240)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    assert time.monotonic() - begin < 100
    assert process.returncode == -signal.SIGINT
    assert text.count("Traceback") == 1
    assert last_line(text) == "KeyboardInterrupt"


# --- every error that is raised ---------------------------------------------------------------------------------

FROM_STDLIB = {
    "AttributeError", "CancelledError", "ConnectionResetError", "ImportError", "NotImplementedError", "RuntimeError",
    "TimeoutError", "TypeError", "ValueError", "AssertionError", "StopIteration", "KeyboardInterrupt", "LookupError",
    "OSError", "EOFError", "FileNotFoundError", "NameError", "StopAsyncIteration", "SystemExit", "BrokenExecutor",
}  # fmt: skip
"""Classes of the standard library that the package may raise: where the stdlib does, or for wrong use of Python."""

CAUGHT_BEFORE_THE_USER = {
    "Revoked",  # by the worker that was about to run a chunk that was given up
    "BegunBefore",  # by a worker that gets what another had begun; likewise
    "SchedulerLostError",  # by the core, which makes it the WorkerLost of each call
    "FallbackToBackend",  # by joblib: its way of asking for another backend
}


@pytest.fixture(scope="module")
def raised() -> list[tuple[str, ast.Raise]]:
    """Every `raise` of the package with its file: read when it is asked for, and not whenever tests are collected."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if "testing" not in path.relative_to(PACKAGE).parts:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            name = path.relative_to(PACKAGE).as_posix()
            found += [(name, node) for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc is not None]
    return found


def called(node: ast.Raise) -> str:
    """The last name of what is raised: the class, or the function or the variable that has the error."""
    what = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    return ast.unparse(what).rpartition(".")[2]


def test_what_is_raised_is_ours_or_the_standard_librarys(raised):
    """Names in lower case are errors that were made, or came, elsewhere; private ones do not leave their file."""
    known = {*errors.__all__, *FROM_STDLIB, *CAUGHT_BEFORE_THE_USER}
    unknown = {
        f"{name}:{node.lineno}: {called(node)}"
        for name, node in raised
        if called(node)[0].isupper() and called(node) not in known and "cli/" not in name
    }
    assert unknown == set()


def test_an_error_of_ours_has_a_message_that_says_more_than_its_name(raised):
    short = set()
    for name, node in raised:
        if called(node) in errors.__all__:
            words = node.exc.args[0] if isinstance(node.exc, ast.Call) and node.exc.args else None
            if words is None or (isinstance(words, ast.Constant | ast.JoinedStr) and len(ast.unparse(words)) < 20):
                short.add(f"{name}:{node.lineno}: {ast.unparse(node)}")
    assert short == set()


def test_an_error_is_documented_with_a_way_to_get_it_and_what_to_do():
    text = (PACKAGE.parent.parent / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    for name in errors.__all__:
        section = sections[name]
        assert "*What to do:*" in section, name
        assert "```python" in section or "*A minimal way to get it:*" in section, name


def test_every_error_says_in_its_docstring_when_it_is_raised():
    for name in errors.__all__:
        assert len(inspect.getdoc(getattr(errors, name)).split()) >= 4, name
