"""CPython's own tests of executors, run on anypool's: where the stdlib says what an executor does, so do we.

The tests are not ours and not in this repository. They are taken from where they are installed: from the
interpreter's own ``test`` package, or from the folder in which Debian's ``libpython3.x-testsuite`` keeps it. Where
there is neither, this file is skipped. Each of CPython's mixins becomes one class for each backend; what is left
out is named below, with the reason.
"""

from __future__ import annotations

import importlib
import time
import unittest
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import anypool
from cpython_tests import find_tests, workers_find
from scripts import BACKENDS

# Each test starts an executor, and many sleep for seconds to see that others do not wait for them.
pytestmark = pytest.mark.soak

# Mixin -> the module that holds it since Python 3.12; before, one module held them all.
_MIXINS = {
    "ExecutorTest": "executor",
    "WaitTests": "test_wait",
    "AsCompletedTests": "test_as_completed",
    "ExecutorShutdownTest": "test_shutdown",
    "InitializerMixin": "test_init",
    "FailingInitializerMixin": "test_init",
}

_NAMES_A_STDLIB_CLASS = (
    "its script imports the executor by its class name from concurrent.futures; "
    "the same is asked of anypool in test_interpreter_exit.py"
)
_LEFT_OUT = {
    "test_interpreter_shutdown": _NAMES_A_STDLIB_CLASS,
    "test_submit_after_interpreter_shutdown": _NAMES_A_STDLIB_CLASS,
    "test_hang_gh83386": _NAMES_A_STDLIB_CLASS,
}

_RUNS_IN_SUBMIT = "the backend runs a call inside `submit`, so that no future of it is ever pending"
_LEFT_OUT_OF_SERIAL = dict.fromkeys(
    [
        "test_cancel_futures",
        "test_first_completed",
        "test_first_completed_some_already_completed",
        "test_first_exception",
        "test_first_exception_one_already_failed",
        "test_first_exception_some_already_complete",
        "test_future_times_out",
        "test_map_timeout",
        "test_timeout",
        "test_zero_timeout",
    ],
    _RUNS_IN_SUBMIT,
)

_LEFT_OUT_OF = {
    "serial": _LEFT_OUT_OF_SERIAL,
}

# Its five seconds are those of calls, and a busy machine may need as many to start a worker.
_NEEDS_WORKERS = "test_map_timeout"


_TESTS, _FOLDER = find_tests("test_concurrent_futures")


@pytest.fixture(scope="module", autouse=True)
def _workers_find_the_tests() -> Iterator[None]:
    with workers_find(_FOLDER):
        yield


def _take(name: str, module: str) -> Any:
    tests = importlib.import_module(_TESTS)
    if not hasattr(tests, "__path__"):
        return getattr(tests, name)
    return getattr(importlib.import_module(f"{_TESTS}.{module}"), name)


def _executor_type(backend: str) -> Callable[..., anypool.PoolExecutor]:
    def create(**options: Any) -> anypool.PoolExecutor:
        return anypool.get_executor(backend, **options)

    return create


def _when_workers_run(test: Callable[[Any], None]) -> Callable[[Any], None]:
    def run(self: Any) -> None:
        list(self.executor.map(time.sleep, [0.1] * self.worker_count, chunksize=1))
        test(self)

    return run


def _test_class(name: str, mixin: type, backend: str) -> type:
    body: dict[str, Any] = {
        "__module__": __name__,
        "executor_type": staticmethod(_executor_type(backend)),
        "worker_count": 2,  # CPython starts five for each test, and these need two at once
    }
    left_out = _LEFT_OUT | _LEFT_OUT_OF.get(backend, {})
    for test, reason in left_out.items():
        if hasattr(mixin, test):
            body[test] = unittest.skip(reason)(getattr(mixin, test))
    if hasattr(mixin, _NEEDS_WORKERS) and _NEEDS_WORKERS not in body:
        body[_NEEDS_WORKERS] = _when_workers_run(getattr(mixin, _NEEDS_WORKERS))
    executor_mixin, base = _take("ExecutorMixin", "util"), _take("BaseTestCase", "util")
    bases = (mixin, base) if issubclass(mixin, executor_mixin) else (mixin, executor_mixin, base)
    return type(name, bases, body)


for _backend in BACKENDS:
    for _mixin, _module in _MIXINS.items():
        _class_name = f"Test{_backend.capitalize()}{_mixin.removesuffix('Mixin')}"
        globals()[_class_name] = _test_class(_class_name, _take(_mixin, _module), _backend)
