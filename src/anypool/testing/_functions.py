"""Any function: whatever can be called here can be called on a worker."""

from __future__ import annotations

import functools
import json
import operator
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anypool.testing import _calls
from anypool.testing._clauses import clause, needs
from anypool.testing._effects import LIMIT, Tally
from anypool.testing._subject import Subject, SubjectFixtures

__all__ = ["FunctionsTests", "run_script"]


def _closure() -> Callable[[int], int]:
    offset = 10

    def add_offset(item: int) -> int:
        return item + offset

    return add_offset


def _recursive() -> Callable[[int], int]:
    def factorial(item: int) -> int:
        return 1 if item < 2 else item * factorial(item - 1)

    return factorial


def _mutually_recursive() -> Callable[[int], bool]:
    def even(item: int) -> bool:
        return item == 0 or odd(item - 1)

    def odd(item: int) -> bool:
        return item != 0 and even(item - 1)

    return even


def _method_of_a_local_class() -> Callable[[int], int]:
    class Scale:
        def __init__(self, factor: int) -> None:
            self.factor = factor

        def apply(self, item: int) -> int:
            return self.factor * item

    return Scale(3).apply


def _decorated() -> Callable[[int], int]:
    def twice(fn: Callable[[int], int]) -> Callable[[int], int]:
        @functools.wraps(fn)
        def wrapper(item: int) -> int:
            return 2 * fn(item)

        return wrapper

    @twice
    def increment(item: int) -> int:
        return item + 1

    return increment


def _cached() -> Callable[[int], int]:
    @functools.lru_cache(maxsize=3)
    def double(item: int) -> int:
        return 2 * item

    return double


def _cached_recursion() -> Callable[[int], int]:
    @functools.cache
    def fibonacci(item: int) -> int:
        return item if item < 2 else fibonacci(item - 1) + fibonacci(item - 2)

    return fibonacci


def _with_defaults() -> Callable[[int], int]:
    def call(item: int, *rest: int, factor: int = 7) -> int:
        return item * factor + len(rest)

    return call


# From the name of a kind to the function: made in the test, so that nothing is shared between executors.
_KINDS: dict[str, Callable[[], Callable[[int], Any]]] = {
    "function of a module": lambda: _calls.double,
    "builtin": lambda: bin,
    "class": lambda: complex,
    "partial": lambda: functools.partial(_calls.add, 1, third=5),
    "bound method": lambda: _calls.Account(3).times,
    "class method": lambda: _calls.Account.opening,
    "static method": lambda: _calls.Account.negative,
    "callable with state": lambda: _calls.Account(100),
    "method of a builtin": lambda: (5).__add__,
    "operator": lambda: operator.attrgetter("real"),
}
_UNIMPORTABLE_KINDS: dict[str, Callable[[], Callable[[int], Any]]] = {
    "lambda": lambda: lambda item: item + 1,
    "closure": _closure,
    "recursion": _recursive,
    "mutual recursion": _mutually_recursive,
    "method of a local class": _method_of_a_local_class,
    "decorated": _decorated,
    "cached": _cached,
    "cached recursion": _cached_recursion,
    "defaults": _with_defaults,
    "partial of a lambda": lambda: functools.partial(lambda first, item: first - item, 50),
    "lambda with a nested lambda": lambda: lambda item: (lambda inner: inner * 2)(item) + 1,
}

_SCRIPT = """
import json, sys
import anypool

FACTOR = 3
backend, options = json.loads(sys.argv[1])

class Box:
    def __init__(self, value):
        self.value = value

def triple(box):
    return Box(box.value * FACTOR)

def size(box):
    return isinstance(box, Box)

executor = anypool.get_executor(backend, **options)
boxes = list(executor.map(triple, [Box(1), Box(2), Box(3)]))
print([box.value for box in boxes], all(isinstance(box, Box) for box in boxes), flush=True)
print(list(executor.map(size, boxes)), flush=True)
LAST = 1
"""


def run_script(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script in an interpreter of its own, with this one's module search path."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=2 * LIMIT,
        stdin=subprocess.DEVNULL,
        env=environment,
        check=False,
    )


@clause("any function")
class FunctionsTests(SubjectFixtures):
    """Clause "any function"."""

    @pytest.mark.parametrize("kind", sorted(_KINDS))
    def test_importable_callables_run(self, executor: Any, kind: str) -> None:
        fn = _KINDS[kind]()
        assert list(executor.map(fn, range(4))) == [fn(item) for item in range(4)]
        assert executor.submit(fn, 6).result(timeout=LIMIT) == fn(6)

    @needs("any_function")
    @pytest.mark.parametrize("kind", sorted(_UNIMPORTABLE_KINDS))
    def test_callables_that_no_worker_can_import_run(self, executor: Any, kind: str) -> None:
        fn = _UNIMPORTABLE_KINDS[kind]()
        assert list(executor.map(fn, range(4))) == [fn(item) for item in range(4)]
        assert executor.submit(fn, 6).result(timeout=LIMIT) == fn(6)

    @needs("any_function")
    def test_a_function_returns_a_function(self, executor: Any) -> None:
        made = list(executor.map(lambda item: lambda other: item + other, range(3)))
        assert [fn(10) for fn in made] == [10, 11, 12]

    @needs("any_function")
    def test_a_function_is_sent_as_it_is_now(self, executor: Any) -> None:
        offsets = [1]

        def call(item: int) -> int:
            return item + offsets[0]

        assert list(executor.map(call, range(3))) == [1, 2, 3]
        offsets[0] = 100
        assert list(executor.map(call, range(3))) == [100, 101, 102]

    def test_the_function_runs_where_calls_belong(self, executor: Any, subject: Subject, place: Path) -> None:
        tally = Tally(place / "pids")
        list(executor.map(functools.partial(_mark_pid, tally), range(4)))
        is_here = set(map(int, tally.labels())) == {os.getpid()}
        assert is_here is subject.traits.in_caller

    @needs("checked_arguments")
    def test_what_is_not_callable_is_refused_at_once(self, executor: Any) -> None:
        with pytest.raises(TypeError, match="callable"):
            executor.submit(3)
        with pytest.raises(TypeError, match="callable"):
            executor.map("abs", [1])

    @needs("any_function", "configuration")
    def test_a_script_without_a_main_guard_runs_its_own_functions_and_ends_silently(self, place: Path) -> None:
        if not isinstance(self.backend, str):
            pytest.skip("the backend of this executor has no name")
        script = place / "users_script.py"
        script.write_text(_SCRIPT)
        done = run_script(script, json.dumps([self.backend, dict(self.options)]))
        assert done.stdout == "[3, 6, 9] True\n[True, True, True]\n", done.stderr
        assert (done.returncode, done.stderr) == (0, "")


def _mark_pid(tally: Tally, _: int) -> None:
    tally.mark(os.getpid())
