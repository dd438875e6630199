"""Client libraries, as released, on our executors: the answer is that of the same code run one call after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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


@pytest.fixture(scope="module", params=["processes", "threads"])
def executor(request: pytest.FixtureRequest) -> Iterator[anypool.PoolExecutor]:
    """One executor for the tests of a file."""
    with anypool.get_executor(request.param, max_workers=2) as executor:
        yield executor
