"""Every test runs isolated: no setting of the environment reaches it, and it leaves no thread, process or file open."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
from collections.abc import Iterator

import pytest

from anypool.testing._effects import poll
from anypool.testing._leftovers import Existing, existing

_ENDS_WITHIN = 5.0  # seconds: what a test has stopped may take its time to be gone


def pytest_configure() -> None:
    """Show where every thread is if the interpreter itself dies; let what tests start hear of Ctrl-C."""
    if not faulthandler.is_enabled():
        faulthandler.enable()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # run by `sh -c "... &"`, and children would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_anypool_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test sees no ``ANYPOOL_*`` variable but those it sets, and no file but those it makes."""
    for name in [name for name in os.environ if name.startswith("ANYPOOL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ANYPOOL_CONFIG", "none")


@pytest.fixture(scope="class", autouse=True)
def nothing_is_left_by_a_class(request: pytest.FixtureRequest) -> Iterator[None]:
    """What the tests of a class share is gone after the last of them."""
    if request.cls is None:
        yield
        return
    before = existing()
    yield
    _check(before)


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test started is gone after it.

    Not asked of tests that share an executor, which starts and opens what it needs when it is needed:
    `nothing_is_left_by_a_class` looks after those of a class.
    """
    if {"executor", "workers"}.intersection(request.fixturenames):
        yield
        return
    before = existing()
    yield
    _check(before)


def _check(before: Existing) -> None:
    if not existing().beyond(before):
        return
    gc.collect()
    try:
        poll(lambda: not existing().beyond(before), "what was started is gone", limit=_ENDS_WITHIN)
    except TimeoutError:
        pytest.fail(f"left behind: {', '.join(existing().beyond(before))}")
