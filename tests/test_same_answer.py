"""One program that does everything a call can do: its transcript is the same wherever its calls ran."""

from __future__ import annotations

import contextlib
import io
import random
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import anypool
from scripts import run_script

PROGRAM = """
import contextvars, logging, random, sys, traceback, warnings
import anypool

user = contextvars.ContextVar("user", default="nobody")
log = logging.getLogger("program")
logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s", stream=sys.stdout)
sys.stderr = sys.stdout
warnings.simplefilter("always")


class Refused(Exception):
    def __init__(self, item, why):
        super().__init__(f"{item}: {why}")
        self.item = item


def inner(x):
    raise LookupError("inner", x)


def call(x):
    print("call", x, "for", user.get())
    if x % 3 == 0:
        warnings.warn(f"third {x}")
    log.info("logged %d", x)
    print("to stderr", x, file=sys.stderr)
    if x == 7:
        try:
            inner(x)
        except LookupError as exc:
            raise Refused(x, "seven") from exc
    return x, round(anypool.random().random(), 9)


def user_frames(exc):
    frames = traceback.extract_tb(exc.__traceback__)
    return [(frame.name, frame.lineno, frame.line) for frame in frames if "anypool" not in frame.filename]


user.set("somebody")
for workers in (1, 2, 4):
    with anypool.get_executor(max_workers=workers, seed=11) as ex:
        for chunksize in (1, 3, None):
            print("--", chunksize)
            try:
                for result in ex.map(call, range(10), chunksize=chunksize):
                    print("got", result)
            except Refused as exc:
                print(type(exc).__name__, exc, exc.item, exc.args, user_frames(exc))
                print(repr(exc.__cause__), user_frames(exc.__cause__))
            print(list(ex.map(call, [5, 4], chunksize=chunksize)))
"""

ELSEWHERE = [
    "serial?strict=true",
    "threads",
    "threads?strict=true",
    "processes",
    "processes?start_method=spawn",
    "processes?start_method=fork",
    "loky",
    "joblib",
    "joblib://threading",
    "joblib://multiprocessing",
    "dask",
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("same")


@pytest.fixture(scope="module")
def reference(directory: Path) -> str:
    return transcript(directory, "serial")


def transcript(directory: Path, backend: str) -> str:
    return re.sub(r"pid \d+ .*", "pid", run_script(PROGRAM, backend, directory))


@pytest.mark.parametrize("backend", ELSEWHERE)
def test_the_transcript_is_the_same(backend: str, directory: Path, reference: str) -> None:
    assert reference.count("got") == 63
    assert "LookupError('inner', 7)" in reference
    assert transcript(directory, backend) == reference


# --- random programs ------------------------------------------------------------------------------------------

step = st.one_of(
    st.tuples(st.just("print"), st.text(max_size=3)),
    st.tuples(st.just("warn"), st.sampled_from([UserWarning, RuntimeWarning])),
    st.tuples(st.just("draw"), st.none()),
    st.tuples(st.just("raise"), st.sampled_from([ValueError, KeyError, StopIteration, OSError])),
)
programs = st.lists(st.lists(step, max_size=4), max_size=8)


def perform(steps: list[tuple[str, Any]]) -> list[Any]:
    done: list[Any] = []
    for kind, what in steps:
        if kind == "print":
            print(what)
        elif kind == "warn":
            warnings.warn("a warning", what, stacklevel=1)
        elif kind == "draw":
            done.append(anypool.random().random())
        else:
            raise what("raised", len(done))
    return done


def outcome(ex: anypool.PoolExecutor, program: list[list[Any]], chunksize: int | None) -> Any:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = [
            (type(each), each.args) if isinstance(each, Exception) else each
            for each in ex.map(perform, program, chunksize=chunksize, errors="return", seed=5)
        ]
    return results, out.getvalue(), [(w.category, str(w.message), w.lineno) for w in caught]


@pytest.fixture(scope="module", params=["serial?strict=true", "threads", "processes", "loky", "joblib", "dask"])
def executor(request: pytest.FixtureRequest) -> Iterator[anypool.PoolExecutor]:
    with anypool.get_executor(request.param, max_workers=2) as executor:
        yield executor


@given(programs, st.sampled_from([1, 3, None]))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_random_program_does_the_same_as_on_serial(
    executor: anypool.PoolExecutor, program: list[list[Any]], chunksize: int | None
) -> None:
    before = random.getstate()
    with anypool.get_executor("serial") as serial:
        expected = outcome(serial, program, chunksize)
    assert outcome(executor, program, chunksize) == expected
    assert random.getstate() == before


@pytest.mark.parametrize("backend", ["processes", "loky", "serial"])
def test_chosen_environment_variables_reach_the_calls(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    with anypool.get_executor(backend, max_workers=1) as ex:
        list(ex.map(abs, [1]))  # the worker is there before the variable
        monkeypatch.setenv("PROGRAM_MODE", "quick")
        view = ex.options(environment=("PROGRAM_MODE",))
        assert view.submit(os.environ.get, "PROGRAM_MODE").result() == "quick"
