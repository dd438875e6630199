"""Every test here makes its hosts, and is not run where there can be none."""

from __future__ import annotations

import pytest
from hosts import why_not

WHY_NOT = why_not()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say why there are no hosts, once for each test."""
    if WHY_NOT is not None:
        for item in items:
            if "/network/" in item.nodeid or item.nodeid.startswith("tests/network"):
                item.add_marker(pytest.mark.skip(reason=WHY_NOT))
