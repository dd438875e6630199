"""`verify`: each way of not being portable is found, named and explained; what is portable passes."""

from __future__ import annotations

import enum
import functools
import itertools
import json
import logging
import os
import random
import re
import sys
import threading
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import anypool
from anypool import _registry
from anypool._verify import ADVICE, Finding, Verification, _sample, _spread, verify, verify_calls
from anypool._watch import Watched
from anypool.cli import main
from anypool.errors import ConfigError, NotPortable, StartError, UnknownBackend

THREADS = ["threads"]
BOTH = ["threads", "processes"]

total = 0
cache: dict[int, int] = {}
prefix = "p"


@dataclass
class Point:
    x: int


class Tally:
    count = 0
    shown: ClassVar[list[int]] = []

    def __init__(self) -> None:
        self.own = 0

    def bump(self, x: int) -> int:
        self.own += 1
        return x

    def __call__(self, x: int) -> int:
        self.own += x
        return x

    def plain(self, x: int) -> int:
        return x + self.own


class Colour(enum.Enum):
    RED = [1]


@pytest.fixture(autouse=True)
def _state_is_restored(monkeypatch: pytest.MonkeyPatch) -> Any:
    global total
    monkeypatch.setenv("ANYPOOL_CONFIG", "none")
    generators = random.getstate(), np.random.get_state()
    path = sys.path[:]
    place = os.getcwd()
    environment = dict(os.environ)
    yield
    total = 0
    cache.clear()
    Tally.count = 0
    Tally.shown.clear()
    random.setstate(generators[0])
    np.random.set_state(generators[1])
    sys.path[:] = path
    os.chdir(place)
    os.environ.clear()
    os.environ.update(environment)


def kinds(verification: Verification, *backends: str) -> set[str]:
    return {each.kind for each in verification.findings if not backends or each.backend in backends}


def finding(verification: Verification, kind: str) -> Finding:
    return next(each for each in verification.findings if each.kind == kind)


def square(x: int) -> int:
    return x * x


def where_it_runs(x: int) -> str:
    worker = anypool.current_worker()
    return worker.backend


# --- portable ---------------------------------------------------------------------------------------------------


def talks(x: int) -> int:
    print("item", x)
    print("worse", x, file=sys.stderr)
    warnings.warn(f"warned of {x % 2}", UserWarning, stacklevel=1)
    logging.getLogger("verify.talks").warning("logged %s", x)
    return x


def fails(x: int) -> int:
    if x % 3 == 1:
        raise KeyError(prefix, x)
    return x


def draws(x: int) -> tuple[float, float]:
    return float(anypool.rng().random()), anypool.random().random()


def norm(values: Any) -> Any:
    return np.sort(values).cumsum()


@pytest.mark.parametrize(
    ("fn", "items"),
    [
        (square, range(6)),
        (fails, range(6)),
        (draws, range(6)),
        (norm, [np.arange(5.0), np.array([np.nan, 1.0])]),
        (lambda x: [x, {x: None}], range(4)),
        (functools.partial(pow, 2), range(4)),
        (Tally().plain, range(4)),
        (str.upper, ["a", "b"]),
        (re.escape, ["a", "b"]),
        (re.compile, ["[a]", "[b]"]),  # re remembers what it compiled
        (Point, range(3)),
    ],
)
@pytest.mark.filterwarnings("default")
def test_what_is_portable_passes(fn: Any, items: Any) -> None:
    verification = verify(fn, items, backends=BOTH)
    assert verification.findings == ()
    assert verification.portable
    assert verification.backends == ("serial", *BOTH)
    assert "is portable" in str(verification)
    verification.require_portable()


@pytest.mark.filterwarnings("default")
def test_output_of_every_kind_is_portable_and_is_not_shown(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    verification = verify(talks, range(6), backends=BOTH)
    assert verification.findings == ()
    assert capsys.readouterr() == ("", "")
    assert caplog.records == []


def test_by_default_every_installed_backend_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "backend_names", lambda: ["serial", "threads", "loky"])
    monkeypatch.setitem(sys.modules, "loky", None)
    verification = verify(square, range(3))
    assert verification.backends == ("serial", "threads")
    assert verification.left_out == (("loky", "backend 'loky' needs: pip install 'anypool[loky]'"),)
    assert "left out: backend 'loky' needs: pip install" in str(verification)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.one_of(st.integers(), st.floats(), st.text(), st.lists(st.integers())), min_size=1, max_size=6))
def test_a_function_of_its_arguments_alone_is_portable(items: list[Any]) -> None:
    assert verify(repr, items, backends=THREADS).findings == ()


# --- each kind --------------------------------------------------------------------------------------------------


def test_a_value_that_depends_on_the_backend() -> None:
    verification = verify(where_it_runs, range(3), backends=THREADS)
    found = finding(verification, "value")
    assert (found.backend, found.item) == ("threads", 0)
    assert found.what == "expected 'serial', got 'threads' (and 2 more items)"
    assert not verification.portable
    with pytest.raises(NotPortable, match="where_it_runs is not portable"):
        verification.require_portable()


def test_an_error_that_depends_on_the_backend() -> None:
    def fails_there(x: int) -> int:
        if x == 2 and where_it_runs(x) == "threads":
            raise OSError("no such place")
        return x

    found = finding(verify(fails_there, range(4), backends=THREADS), "error")
    assert (found.backend, found.item) == ("threads", 2)
    assert found.what == "raised OSError: 'no such place', where serial gave 2"


def test_another_error_and_no_error_are_told_apart() -> None:
    def fails_elsewhere(x: int) -> int:
        if x == 1 or where_it_runs(x) == "serial":
            raise KeyError(where_it_runs(x))
        return x

    verification = verify(fails_elsewhere, [0], backends=THREADS)
    assert finding(verification, "error").what == "gave 0, where serial raised KeyError: \"'serial'\""
    verification = verify(fails_elsewhere, [1], backends=THREADS)
    assert finding(verification, "error").what.startswith("raised another error: .args[0]")


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("way", ["stdout", "stderr", "warnings", "logging"])
def test_output_that_depends_on_the_backend(way: str) -> None:
    def says(x: int) -> int:
        text = f"on {where_it_runs(x)}" if x == 1 else "as ever"
        if way == "warnings":
            warnings.warn(text, UserWarning, stacklevel=1)
        elif way == "logging":
            logging.getLogger("verify.says").error(text)
        else:
            print(text, file=getattr(sys, way))
        return x

    verification = verify(says, range(3), backends=THREADS)
    assert kinds(verification) == {"output"}
    found = finding(verification, "output")
    assert (found.backend, found.item) == ("threads", 1)
    assert "on threads" in found.what
    assert "on serial" in found.what


def test_a_changed_argument() -> None:
    def grow(items: list[int]) -> int:
        items.append(1)
        return len(items)

    inputs: list[list[int]] = [[], [0]]
    verification = verify(grow, inputs, backends=THREADS)
    assert kinds(verification) == {"argument"}
    found = finding(verification, "argument")
    assert (found.backend, found.item) == ("serial", 0)
    assert found.what == "argument 0 was changed: was 0 items, is 1: [] and [1]"
    assert inputs == [[], [0]]


def test_a_changed_array_and_a_changed_object() -> None:
    def scale(values: Any, point: Point) -> None:
        values *= 2
        point.x += 1

    found = verify(scale, [np.ones(3)], [Point(1)], backends=[]).findings
    assert [each.kind for each in found] == ["argument", "argument"]
    assert found[0].what.startswith("argument 0 was changed: [0]")
    assert found[1].what == "argument 1 was changed: .x: was 1, is 2"


@pytest.mark.parametrize(
    ("fn", "item", "what"),
    [
        (lambda x: x, [1], "the result is argument 0"),
        (lambda x: {"a": (x,)}, [1], "the result['a'][0] is argument 0"),
        (lambda x: x["deep"], {"deep": [1]}, "the result is argument 0['deep']"),
        (lambda x: x[1:], np.arange(3), "the result is argument 0"),
    ],
)
def test_a_result_that_is_a_part_of_an_argument_is_noted(fn: Any, item: Any, what: str) -> None:
    verification = verify(fn, [item], backends=THREADS)
    assert kinds(verification) == {"alias"}
    assert finding(verification, "alias").what.startswith(what)
    assert finding(verification, "alias").is_note
    assert verification.portable  # every backend gives an equal result
    assert "note, alias" in str(verification)


@pytest.mark.parametrize("item", [1, "text", (1, 2), None, Colour.RED, frozenset({1}), threading])
def test_to_return_what_cannot_be_changed_is_no_alias(item: Any) -> None:
    assert verify(lambda x: x, [item], backends=[]).findings == ()


def test_what_an_import_draws_and_sets_is_not_the_calls(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imported_late.py").write_text(
        "import os, random\nrandom.random()\nos.environ['VERIFY_IMPORTED'] = '1'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    def imports(x: int) -> int:
        import imported_late  # noqa: F401

        return x

    def draws_too(x: int) -> int:
        imports(x)
        random.random()
        return x

    for fn, found in ((imports, set()), (draws_too, {"random"})):
        monkeypatch.delitem(sys.modules, "imported_late", raising=False)
        assert kinds(verify(fn, [1], backends=[])) == found


def test_what_is_too_large_to_copy_is_watched_by_identity() -> None:
    large = [np.zeros(3_000_000)]

    def replaces(x: int) -> int:
        large[0] = np.zeros(3_000_000)
        return x

    (found,) = verify(replaces, [1], backends=[]).findings
    assert (found.kind, found.item) == ("state", 0)


@pytest.mark.parametrize("name", ["random", "numpy.random"])
def test_draws_from_a_global_generator(name: str) -> None:
    def draw(x: int) -> float:
        return random.random() if name == "random" else float(np.random.random())

    verification = verify(draw, range(3), backends=[])
    assert kinds(verification) == {"random"}
    found = finding(verification, "random")
    assert found.what == f"draws from the global generator of {name}"
    assert "anypool.rng()" in found.advice


def counts(x: int) -> int:
    global total
    total += 1
    return x


def remembers(x: int) -> int:
    return cache.setdefault(x, x)


def shows(x: int) -> int:
    Tally.shown.append(x)
    return x


def default(x: int, seen: list[int] = []) -> int:  # noqa: B006
    seen.append(x)
    return x


def sets_environment(x: int) -> int:
    os.environ["VERIFY_TOUCHED"] = str(x)
    return x


def adds_path(x: int) -> int:
    sys.path.append(f"/nowhere/{x}")
    return x


def changes_directory(x: int) -> int:
    os.chdir("/")
    return x


def closes_over() -> Any:
    seen: list[int] = []

    def remember(x: int) -> int:
        seen.append(x)
        return x

    return remember


def decorated() -> Any:
    inner = closes_over()

    @functools.wraps(inner)
    def outer(x: int) -> int:
        return inner(x)

    return outer


def attributed() -> Any:
    def fn(x: int) -> int:
        fn.last = x  # type: ignore[attr-defined]
        return x

    return fn


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: counts, f"the global total of {__name__} was changed: was 0, is 1"),
        (lambda: remembers, f"the global cache of {__name__} was changed"),
        (lambda: shows, f"the class attribute Tally.shown of {__name__} was changed"),
        (lambda: default, "a default of default was changed"),
        (lambda: sets_environment, "the environment variable VERIFY_TOUCHED was set"),
        (lambda: adds_path, "sys.path was changed"),
        (lambda: changes_directory, "the working directory was changed"),
        (closes_over, "the closure variable seen of closes_over.<locals>.remember was changed"),
        (decorated, "the closure variable seen of closes_over.<locals>.remember was changed"),
        (attributed, "the attribute last of attributed.<locals>.fn was set"),
        (lambda: list.append.__get__([]), "the list that list.append is a method of was changed: was 0 items, is 1"),
        (lambda: Tally().bump, "the Tally that Tally.bump is a method of was changed: .own: was 0, is 1"),
        (lambda: Tally(), "the Tally that is called was changed: .own: was 0, is 1"),
        (lambda: functools.partial(counts), f"the global total of {__name__} was changed"),
        (lambda: lambda x: counts(x), f"the global total of {__name__} was changed"),
    ],
)
def test_state_that_outlives_the_call_is_named(make: Any, what: str) -> None:
    verification = verify(make(), [1, 2, 3], backends=[])
    assert kinds(verification) == {"state"}
    (found,) = verification.findings
    assert found.what.startswith(what)
    assert (found.backend, found.item) == ("serial", 0)


def test_what_is_put_back_is_not_touched() -> None:
    def borrows(x: int) -> int:
        here = os.getcwd()
        os.chdir("/")
        os.chdir(here)
        return x

    assert verify(borrows, range(2), backends=[]).findings == ()


def test_state_that_cannot_be_pickled_is_watched_by_identity() -> None:
    held: list[Any] = [threading.Lock()]

    def more(x: int) -> int:
        held.append(threading.Lock())
        return x

    watched = Watched(more)
    assert watched(1) == 1
    assert [touch.kind for touch in watched.touches] == ["state"]
    assert "closure variable held" in watched.touches[0].what


@pytest.mark.parametrize(
    ("fn", "items", "what"),
    [
        ((lambda lock: lambda x: lock.locked())(threading.Lock()), [1, 2], "lock"),
        (lambda x: threading.Lock(), [1, 2], "result"),
        (lambda lock: lock.locked(), [threading.Lock()], "argument"),
    ],
)
def test_what_cannot_be_sent_is_named(fn: Any, items: Any, what: str) -> None:
    verification = verify(fn, items, backends=["processes"])
    sent = [each for each in verification.findings if each.kind == "send"]
    assert {each.backend for each in sent} == {"serial?strict=true", "processes"}
    assert all(what in each.what and "lock" in each.what for each in sent)
    assert not verification.portable


def test_runs_that_differ() -> None:
    numbers = itertools.count()

    def fresh(x: int) -> int:
        return next(numbers) if x else 0

    verification = verify(fresh, range(3), backends=THREADS)
    found = finding(verification, "determinism")
    assert (found.backend, found.item) == ("serial", 1)
    # Its values differ everywhere, which is told once.
    assert kinds(verification, "threads") == set()


def test_a_generator_without_a_seed_is_not_deterministic() -> None:
    assert "determinism" in kinds(verify(lambda x: np.random.default_rng().random(), range(2), backends=[]))


def test_what_depends_on_the_order() -> None:
    last = [-1]

    def rises(x: int) -> bool:
        before, last[0] = last[0], x
        return x == 0 or before == x - 1

    found = finding(verify(rises, range(5), backends=[]), "order")
    assert (found.backend, found.item) == ("serial?strict=true", 1)


def test_random_numbers_of_an_item_do_not_depend_on_the_order() -> None:
    assert verify(draws, range(5), backends=[], seed=3).findings == ()


@dataclass(kw_only=True)
class Unstartable:
    name: ClassVar[str] = "unstartable"
    max_workers: int | None = None

    def start(self) -> Any:
        raise StartError("no\nroom")

    def submit(self, call: Any, payload: Any, /) -> Any:
        raise AssertionError

    def stop(self, *, cancel: bool) -> None: ...


def test_a_backend_that_fails_is_a_finding_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_registry._registered, "unstartable", Unstartable)
    verification = verify(square, range(3), backends=["unstartable", "threads"])
    (found,) = verification.findings
    assert (found.kind, found.backend, found.item) == ("backend", "unstartable", None)
    assert found.what == "StartError: no room"
    assert verification.backends == ("serial", "unstartable", "threads")


def test_an_interrupt_ends_it() -> None:
    def interrupted(x: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify(interrupted, [1], backends=[])


# --- the sample and the report ----------------------------------------------------------------------------------


@given(st.integers(0, 500), st.integers(1, 60))
def test_a_sample_is_spread_evenly_with_both_ends(total: int, size: int) -> None:
    indices = _spread(total, size)
    assert len(indices) == min(total, size)
    assert sorted(set(indices)) == indices
    assert set(indices) <= set(range(total))
    if indices:
        assert indices[0] == 0
        assert size == 1 or indices[-1] == total - 1
        steps = {b - a for a, b in itertools.pairwise(indices)}
        assert not steps or max(steps) - min(steps) <= 1


def test_an_endless_input_is_read_no_further_than_the_sample() -> None:
    read = itertools.count()
    assert verify(square, read, backends=[], sample=3).items == (0, 1, 2)
    assert next(read) == 3
    assert _sample((range(100), "abc"), 2) == ([0, 2], [(0, "a"), (2, "c")], 3)


def test_an_item_is_named_by_its_index_in_the_input() -> None:
    def fails_late(x: int) -> int:
        return 1 // (x != 99 or where_it_runs(x) == "serial")

    verification = verify(fails_late, range(100), backends=THREADS, sample=3)
    assert finding(verification, "error").item == 99
    assert "3 of 100 items" in str(verification)


def test_calls_may_be_of_any_length() -> None:
    assert verify_calls(max, [(1, 2), (1, 2, 3), ([4],)], backends=THREADS).items == (0, 1, 2)


@pytest.mark.parametrize(
    ("fn", "items", "options", "told"),
    [
        (square, [], {}, "nothing to verify"),
        (3, [1], {}, "a function is needed"),
        (square, [1], {"sample": 0}, "sample must be 1 or more"),
        (square, [1], {"max_workers": 0}, "max_workers"),
        (square, [1], {"seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_verified_is_refused(fn: Any, items: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        verify(fn, items, backends=THREADS, **options)


def test_an_unknown_backend_is_refused_before_anything_runs() -> None:
    ran: list[int] = []
    with pytest.raises(UnknownBackend, match="did you mean 'threads'"):
        verify(ran.append, [1], backends=["thraeds"])
    assert ran == []


def test_the_report_says_each_thing_once_with_its_advice() -> None:
    def grows(items: list[int]) -> int:
        items.append(0)
        return len(items) if where_it_runs(0) == "serial" else 0

    verification = verify(grows, [[1], [2]], backends=["threads", "threads?strict=true"])
    text = str(verification)
    assert text.startswith(
        "test_the_report_says_each_thing_once_with_its_advice.<locals>.grows is not portable: 2 items"
    )
    assert text.count("value (item 0, threads, threads?strict=true): expected 2, got 0") == 1
    assert text.index("argument") < text.index("value (")  # causes first
    assert ADVICE["argument"] in text
    assert max(map(len, verification.render(60).splitlines())) <= 60


def test_json_holds_all_of_it() -> None:
    told = json.loads(json.dumps(verify(where_it_runs, range(3), backends=THREADS).to_dict()))
    assert told["portable"] is False
    assert told["items"] == [0, 1, 2]
    assert told["total"] == 3
    assert told["backends"] == ["serial", "threads"]
    assert told["left_out"] == []
    (found,) = told["findings"]
    assert found == {
        "kind": "value",
        "backend": "threads",
        "item": 0,
        "what": "expected 'serial', got 'threads' (and 2 more items)",
        "advice": ADVICE["value"],
        "is_note": False,
    }


# --- the command ------------------------------------------------------------------------------------------------

WORK = """
import os
seen = []
items = [[1], [2]]
pairs = [[2, 3], [3, 2]]

def good(x):
    print("the call prints")
    return x + [0]

def bad(x):
    x.append(len(seen))
    return len(x)
"""


@pytest.fixture
def work(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work.py").write_text(WORK)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("work")
def test_the_command_reports_and_its_status_tells(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "work.py:good", ":items", "--backends", "threads"]) == 0
    assert capsys.readouterr().out == "good is portable: 2 items on serial, threads\n"
    assert main(["verify", "work.py:bad", ":items", "--backends", "threads"]) == 1
    assert "argument (item 0, serial): argument 0 was changed" in capsys.readouterr().out
    assert main(["verify", "builtins:pow", "[(2, 3), (3, 2)]", "--starmap", "--backends", "threads"]) == 0


@pytest.mark.usefixtures("work")
def test_the_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["verify", "work.py:bad", ":items", "--backends", "threads", "--sample", "1", "--json"]
    assert main(command) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["portable"] is False
    assert told["items"] == [0]
    assert told["total"] == 2
    assert told["findings"][0]["kind"] == "argument"


@pytest.mark.parametrize("command", [["math:sqrt"], ["math:sqrt", "[1]", "--sample", "0"], ["math:no", "[1]"]])
def test_wrong_use_is_2(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", *command]) == 2
    assert capsys.readouterr().out == ""
