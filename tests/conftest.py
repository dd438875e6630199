"""Every test runs isolated: no setting of the environment reaches it, and it leaves its process as it found it."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import unittest
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from anypool.testing._clauses import clause_of
from anypool.testing._effects import poll
from anypool.testing._leftovers import Existing, existing
from process_state import process_state, what_changed

_ENDS_WITHIN = 20.0  # seconds: what a test has stopped may take its time to be gone
_SHARED = {"executor", "workers"}
_FOUND = pytest.StashKey[dict[str, Any]]()


def pytest_configure() -> None:
    """Show where every thread is if the interpreter itself dies; let what tests start hear of Ctrl-C."""
    if not faulthandler.is_enabled():
        faulthandler.enable()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # run by `sh -c "... &"`, and children would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # An example that took 0.2 s, and 0.1 ms when it was tried again, tells of the machine.
    settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("busy machine")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where soak tests are left out, import none of the libraries that the clients' tests, all of them soak, are of.

    Every process of a run would import scipy and a dozen more, and look through what is in them at each collection of
    garbage.
    """
    leaves_out_soak = config.getoption("markexpr") == "not soak"
    return True if leaves_out_soak and collection_path == Path(__file__).with_name("clients") else None


def pytest_itemcollected(item: pytest.Item) -> None:
    """Leave to `make soak` the clauses that a class of the conformance suite does not name, where it names some."""
    clauses = getattr(getattr(item, "cls", None), "clauses", None)
    if clauses is not None and isinstance(item, pytest.Function) and clause_of(item.function, item.cls) not in clauses:
        item.add_marker(pytest.mark.soak)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Begin with the longest classes and files, where they are what is shared out."""
    if config.getoption("dist") != "loadscope":
        return None
    from schedule import LongestFirst

    return LongestFirst(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Leave alone, in each collection of garbage to come, the tests and modules that stay until the end anyway.

    They are a third of a million objects. To look through them took half of the time of a process that runs tests of
    loky, whose executors collect garbage when they end.
    """
    gc.collect()
    gc.freeze()


# Around all fixtures, which put back what they change.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    """Note what the test finds, but warning filters, which pytest itself puts back."""
    _group(item).stash.setdefault(_FOUND, process_state())
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, Any, Any]:
    """Fail the test that leaves its process other than it was, and not the one that stumbles over that later."""
    result = yield
    group = _group(item)
    if nextitem is not None and _group(nextitem) is group:
        return result
    left = what_changed(group.stash[_FOUND], process_state())
    del group.stash[_FOUND]
    if left and not _is_of_others(item):
        pytest.fail(f"left behind: {'; '.join(left)}", pytrace=False)
    return result


def _is_of_others(item: pytest.Item) -> bool:
    """Whether it is a test of CPython's, or one in which other people's libraries do as they like."""
    is_of_cpython = issubclass(getattr(item, "cls", None) or object, unittest.TestCase)
    return is_of_cpython or item.get_closest_marker("clients") is not None


def _group(item: pytest.Item) -> pytest.Item | pytest.Collector:
    """The test, or the class or module of tests that share an executor, which is there before and after each."""
    if _SHARED.intersection(getattr(item, "fixturenames", ())) and item.parent is not None:
        return item.parent
    return item


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
    if _SHARED.intersection(request.fixturenames):
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
