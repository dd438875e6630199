"""The pytest plugin: choose the backends that tests run on, and write the score card of a run.

It costs the start of pytest nothing: it imports nothing of anypool until a fixture or an option of it is used.
``-p no:anypool`` leaves it out; the conformance suite runs without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from anypool._executor import PoolExecutor

__all__: list[str] = []

_DEFAULT_BACKENDS = ("serial",)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our options."""
    group = parser.getgroup("anypool")
    group.addoption(
        "--anypool-backend",
        action="append",
        default=None,
        metavar="NAME_OR_URL",
        help="run tests that use the fixture anypool_executor on this backend; repeatable (default: serial)",
    )
    group.addoption(
        "--anypool-scorecard",
        default=None,
        metavar="FILE",
        help="write what the conformance suite found, clause by executor, to this file as JSON",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Keep the score, if it was asked for."""
    path = config.getoption("--anypool-scorecard")
    if path is not None:
        from anypool.testing._scorecard import ScoreCard

        config.pluginmanager.register(ScoreCard(path), "anypool-scorecard")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that uses `anypool_backend`, mostly by `anypool_executor`, once for each chosen backend."""
    if "anypool_backend" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--anypool-backend") or _DEFAULT_BACKENDS
        metafunc.parametrize("anypool_backend", list(dict.fromkeys(chosen)), scope="session")


@pytest.fixture(scope="session")
def anypool_backend(request: pytest.FixtureRequest) -> Any:
    """The name or URL of the backend that the test runs on, one of ``--anypool-backend``."""
    return request.param


@pytest.fixture
def anypool_executor(anypool_backend: str) -> Iterator[PoolExecutor]:
    """An executor on each backend chosen by ``--anypool-backend``, and what `get_executor` gives meanwhile."""
    from anypool import get_executor, use

    with use(anypool_backend), get_executor() as executor:
        yield executor
