"""Which frames count as ours, and which of a traceback are cut for it."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

import pytest

from anypool._frames import is_ours, without_ours


def within(module: str) -> Callable[..., Any]:
    """Return a function of the module of that name, which calls what it is given."""
    namespace: dict[str, Any] = {"__name__": module}
    exec(compile("def call(fn, *args): return fn(*args)", f"<{module}>", "exec"), namespace)
    call: Callable[..., Any] = namespace["call"]
    return call


def fails() -> None:
    raise ZeroDivisionError


def raised_through(*modules: str) -> TracebackType | None:
    """Return the traceback of an error, from the outermost of these modules on."""
    outermost, *others = map(within, modules)
    with pytest.raises(ZeroDivisionError) as caught:
        outermost(*others, fails)
    return caught.tb.tb_next


def modules_of(tb: TracebackType | None) -> list[str]:
    return [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(tb)]


def test_leading_frames_of_ours_are_cut() -> None:
    assert modules_of(without_ours(raised_through("anypool._worker", "anypool"))) == [__name__]


def test_later_frames_of_ours_stay_since_a_users_callback_may_pass_through_us() -> None:
    modules = ["theirs", "anypool._worker", __name__]
    assert modules_of(without_ours(raised_through("anypool", "theirs", "anypool._worker"))) == modules


@pytest.mark.parametrize("module", ["anypoolish", "anypool.testing._calls", "their.anypool"])
def test_what_is_only_called_alike_and_the_suite_is_a_users(module: str) -> None:
    assert not is_ours(module)
    assert modules_of(without_ours(raised_through(module))) == [module, __name__]


def test_of_an_error_of_ours_alone_nothing_is_left() -> None:
    tb = raised_through("anypool", "anypool._worker")
    assert tb is not None
    assert tb.tb_next is not None
    tb.tb_next.tb_next = None
    assert without_ours(tb) is None
    assert without_ours(None) is None
