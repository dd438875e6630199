"""Client libraries, as released, on our executors: the answer is that of the same code run one call after the other."""

from __future__ import annotations

import multiprocessing
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

import anypool

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.clients)
            item.add_marker(pytest.mark.soak)
            item.add_marker(pytest.mark.timeout(120))
            # What these libraries warn of is their affair. What anypool warns of would fail the test.
            item.add_marker(pytest.mark.filterwarnings("ignore"))
            item.add_marker(pytest.mark.filterwarnings("error:.*anypool"))


# Before what looks for changes.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup() -> Generator[None, Any, Any]:
    """Settle multiprocessing's start method: these libraries ask for it, and whoever asks first settles it."""
    multiprocessing.get_start_method()
    return (yield)


@pytest.fixture(scope="module", params=["processes", "threads"])
def executor(request: pytest.FixtureRequest) -> Iterator[anypool.PoolExecutor]:
    """One executor for the tests of a file."""
    with anypool.get_executor(request.param, max_workers=2) as executor:
        yield executor
