"""CPython's own tests of `multiprocessing.Pool`, run on anypool's: the notebook's code does what it did.

As in `test_cpython`, the tests are taken from where they are installed, and what is left out is named below, with
the reason.
"""

from __future__ import annotations

import importlib
import unittest
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

import anypool
from cpython_tests import find_tests, workers_find
from scripts import BACKENDS

pytestmark = pytest.mark.soak

_LEFT_OUT = {
    "test_make_pool": "it counts the processes in `_pool`; test_as_pool asks that there is no pool of none",
    "test_imap_handle_iterable_exception": (
        "it asks that items before an error of the input are lost with their chunk; chunks are invisible here, "
        "which test_as_pool asks"
    ),
    "test_map_no_failfast": "it asks that calls run that had not begun when another failed; `map` runs none of them",
    "test_map_unplicklable": "the error is `SendError`, which is caused by what pickling raised, and names the item",
    "test_traceback": "the error has the worker's own frames in its traceback, not their text as its cause",
    "test_unpickleable_result": "the error is `SendError`, not `MaybeEncodingError`",
    "test_resource_warning": "it sets internal state; a pool that nobody holds just ends, as an executor does",
    "test_pool_worker_lifetime": "maxtasksperchild is `Unsupported`, which says so",
    "test_pool_worker_lifetime_early_close": "maxtasksperchild is `Unsupported`, which says so",
    "test_pool_maxtasksperchild_invalid": "maxtasksperchild is `Unsupported`, which says so",
    "test_worker_finalization_via_atexit_handler_of_multiprocessing": "its script imports Pool from multiprocessing",
}

_RUNS_IN_SUBMIT = "the backend runs a call before `apply_async` returns, so that no result is ever awaited"
_LEFT_OUT_WHERE: dict[str, tuple[Callable[[anypool.Traits], bool], str]] = {
    "test_async": (lambda traits: traits.synchronous, _RUNS_IN_SUBMIT),
    "test_async_timeout": (lambda traits: traits.synchronous, _RUNS_IN_SUBMIT),
    "test_terminate": (
        lambda traits: not traits.stops_running_calls,
        "its calls sleep for minutes, and the backend cannot end a call that runs",
    ),
}

_TESTS, _FOLDER = find_tests("_test_multiprocessing")


@pytest.fixture(scope="module", autouse=True)
def _workers_find_the_tests() -> Iterator[None]:
    with workers_find(_FOLDER):
        yield


@pytest.fixture
def nothing_is_left() -> None:
    """Not asked after each test: a class shares one pool, whose workers start when they are needed."""


class _Multiprocessing:
    """What the tests of a module that says `multiprocessing.Pool` get for it."""

    def __init__(self, pool: Callable[..., anypool.Pool]) -> None:
        self.Pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module("multiprocessing"), name)


def _traits(backend: str) -> anypool.Traits:
    with anypool.get_executor(backend, max_workers=1) as executor:
        return executor.traits


def _unless(test: Callable[[Any], None], is_left_out: Callable[[anypool.Traits], bool], reason: str) -> Any:
    def run(self: Any) -> None:
        if is_left_out(self.traits):
            self.skipTest(reason)
        test(self)

    return run


def _test_class(name: str, mixin: type, backend: str) -> type:
    tests = importlib.import_module(_TESTS)
    pool = partial(anypool.Pool, backend=backend)

    def set_up_class(cls: Any) -> None:
        cls.traits = _traits(backend)
        cls.TYPE = "threads" if cls.traits.shares_memory else "processes"
        cls.multiprocessing, tests.multiprocessing = tests.multiprocessing, _Multiprocessing(pool)
        super(cls, cls).setUpClass()

    def tear_down_class(cls: Any) -> None:
        super(cls, cls).tearDownClass()
        tests.multiprocessing = cls.multiprocessing

    body: dict[str, Any] = {
        "__module__": __name__,
        "TYPE": "processes",
        "Pool": staticmethod(pool),
        "setUpClass": classmethod(set_up_class),
        "tearDownClass": classmethod(tear_down_class),
    }
    for test, reason in _LEFT_OUT.items():
        if hasattr(mixin, test):
            body[test] = unittest.skip(reason)(getattr(mixin, test))
    for test, (is_left_out, reason) in _LEFT_OUT_WHERE.items():
        if hasattr(mixin, test):
            body[test] = _unless(getattr(mixin, test), is_left_out, reason)
    return type(name, (mixin, unittest.TestCase), body)


for _backend in BACKENDS:
    for _mixin in ("_TestPool", "_TestPoolWorkerErrors", "_TestPoolWorkerLifetime"):
        _name = f"Test{_backend.capitalize()}{_mixin.removeprefix('_Test')}"
        globals()[_name] = _test_class(_name, getattr(importlib.import_module(_TESTS), _mixin), _backend)
