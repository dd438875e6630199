"""The suite over `anypool.testing.wrong`: run by test_wrong_backends.py in an interpreter of its own, to fail there."""

from __future__ import annotations

from anypool.testing import ExecutorTests
from anypool.testing.wrong import WRONG, Right


class TestRight(ExecutorTests):
    backend = Right


class TestRightStrict(ExecutorTests):
    backend = "threads?max_workers=2&strict=true"


class TestRightOfProcesses(ExecutorTests):
    backend = "processes?max_workers=2"


for each in WRONG:
    name = f"Test{each.__name__}"
    globals()[name] = type(name, (ExecutorTests,), {"backend": each, "__module__": __name__})
