"""The conformance suite over every backend that is here."""

from __future__ import annotations

from anypool.testing import ExecutorTests


class TestSerial(ExecutorTests):
    backend = "serial"


class TestSerialStrict(ExecutorTests):
    backend = "serial"
    options = {"strict": True}


class TestThreads(ExecutorTests):
    backend = "threads"
    options = {"max_workers": 2}


class TestThreadsStrict(ExecutorTests):
    backend = "threads"
    options = {"max_workers": 2, "strict": True}
