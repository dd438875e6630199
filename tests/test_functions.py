"""A function of `__main__` is pickled again whenever anything that it holds has changed, and only then."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from anypool import _functions, _wire


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    module = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    return module


def define(main: ModuleType, source: str) -> None:
    exec(compile(source, "<main>", "exec"), vars(main))


def call(data: Any, *args: Any) -> Any:
    return _wire.loads(data)(*args)


def test_a_plain_function_is_pickled_once(main: ModuleType) -> None:
    define(main, "def f(x): return x * x")
    assert _wire.dumps(main.f) is _wire.dumps(main.f)
    assert call(_wire.dumps(main.f), 4) == 16


def test_a_global_that_was_rebound_is_seen(main: ModuleType) -> None:
    define(main, "factor = 2\ndef f(x): return x * factor")
    assert call(_wire.dumps(main.f), 4) == 8
    main.factor = 3
    assert call(_wire.dumps(main.f), 4) == 12


def test_a_global_that_was_added_or_removed_is_seen(main: ModuleType) -> None:
    define(main, "def f(x): return (lambda: later + x)()")
    with pytest.raises(NameError):
        call(_wire.dumps(main.f), 1)
    main.later = 10
    assert call(_wire.dumps(main.f), 1) == 11
    del main.later
    with pytest.raises(NameError):
        call(_wire.dumps(main.f), 1)


@pytest.mark.parametrize(
    "source",
    [
        "state = []\ndef f(): return len(state)",
        "class State: pass\nstate = State()\nstate.n = 0\ndef f(): return len(vars(state))",
        "def g(): return len(state)\nstate = []\ndef f(): return g()",
    ],
)
def test_what_can_change_in_place_is_pickled_each_time(main: ModuleType, source: str) -> None:
    define(main, source)
    before = call(_wire.dumps(main.f))
    state = main.state
    state.append(1) if isinstance(state, list) else setattr(state, "m", 1)
    assert call(_wire.dumps(main.f)) == before + 1


def test_new_code_defaults_and_attributes_are_seen(main: ModuleType) -> None:
    define(main, "def f(x=1): return x\ndef g(): return 5")
    _wire.dumps(main.f), _wire.dumps(main.g)
    main.f.__defaults__ = (7,)
    assert call(_wire.dumps(main.f)) == 7
    define(main, "def h(): return 6")
    main.g.__code__ = main.h.__code__
    assert call(_wire.dumps(main.g)) == 6


def test_a_closure_is_pickled_each_time(main: ModuleType) -> None:
    define(main, "def make():\n    n = [0]\n    def f(): return len(n)\n    return f, n\nf, n = make()")
    assert call(_wire.dumps(main.f)) == 1
    main.n.append(1)
    assert call(_wire.dumps(main.f)) == 2


def test_a_class_of_main_among_the_globals_is_not_trusted(main: ModuleType) -> None:
    define(main, "class A:\n    n = 1\ndef f(): return A.n")
    _wire.dumps(main.f)
    assert _functions.kept_pickle(main.f) is None


def test_functions_that_are_gone_are_forgotten(main: ModuleType) -> None:
    define(main, "def f(): return 1")
    _wire.dumps(main.f)
    kept = len(_functions._kept)
    del main.f
    assert len(_functions._kept) == kept - 1


def test_a_function_under_a_cache_is_sent_with_how_it_was_made_and_nothing_that_it_remembers(main: ModuleType) -> None:
    define(main, "import functools\n@functools.lru_cache(maxsize=3, typed=True)\ndef f(x): return x * x\nf.unit = 'm'")
    main.f(2)
    sent = _wire.loads(_wire.dumps(main.f))
    assert (sent.cache_parameters(), sent.unit, sent.__name__) == ({"maxsize": 3, "typed": True}, "m", "f")
    assert sent.cache_info().currsize == 0
    assert sent(4) == 16


def test_a_global_under_a_cache_is_sent_with_the_function_that_uses_it(main: ModuleType) -> None:
    define(main, "import functools\n@functools.cache\ndef g(x): return x and g(x - 1) + 2\ndef f(x): return g(x)")
    assert call(_wire.dumps(main.f), 4) == 8
    define(main, "def g(x): return -x")
    assert call(_wire.dumps(main.f), 4) == -4


def test_a_function_under_a_cache_that_a_worker_can_import_is_sent_by_its_name() -> None:
    import fnmatch

    assert _wire.loads(_wire.dumps(fnmatch._compile_pattern)) is fnmatch._compile_pattern
