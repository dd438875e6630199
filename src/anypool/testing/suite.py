"""`ExecutorTests`: all clauses of the contract, for one executor."""

from __future__ import annotations

import pytest

_FILES = (
    "_subject",
    "_values",
    "_sharing",
    "_once",
    "_retries",
    "_functions",
    "_lazy",
    "_chunked",
    "_errors",
    "_payloads",
    "_lost",
    "_time",
    "_stopping",
    "_randomness",
    "_output",
    "_context",
    "_seen",
    "_asynchronous",
    "_nesting",
    "_end",
    "_futures",
    "_configuration",
)
# Before they are imported: their asserts then show what was compared.
pytest.register_assert_rewrite(*(f"anypool.testing.{name}" for name in _FILES))

from anypool.testing._asynchronous import AsynchronousTests  # noqa: E402
from anypool.testing._chunked import ChunksTests  # noqa: E402
from anypool.testing._configuration import ConfigurationTests  # noqa: E402
from anypool.testing._context import ContextTests  # noqa: E402
from anypool.testing._end import EndTests  # noqa: E402
from anypool.testing._errors import ErrorsTests  # noqa: E402
from anypool.testing._functions import FunctionsTests  # noqa: E402
from anypool.testing._futures import FuturesTests  # noqa: E402
from anypool.testing._lazy import LazyTests  # noqa: E402
from anypool.testing._lost import LostTests  # noqa: E402
from anypool.testing._nesting import NestingTests  # noqa: E402
from anypool.testing._once import OnceTests  # noqa: E402
from anypool.testing._output import OutputTests  # noqa: E402
from anypool.testing._payloads import PayloadsTests  # noqa: E402
from anypool.testing._randomness import RandomnessTests  # noqa: E402
from anypool.testing._retries import RetriesTests  # noqa: E402
from anypool.testing._seen import SeenTests  # noqa: E402
from anypool.testing._sharing import SharingTests  # noqa: E402
from anypool.testing._stopping import StoppingTests  # noqa: E402
from anypool.testing._time import TimeTests  # noqa: E402
from anypool.testing._values import ValuesTests  # noqa: E402

__all__ = ["ExecutorTests"]


class ExecutorTests(
    ValuesTests,
    SharingTests,
    OnceTests,
    RetriesTests,
    FunctionsTests,
    LazyTests,
    ChunksTests,
    ErrorsTests,
    PayloadsTests,
    LostTests,
    TimeTests,
    StoppingTests,
    RandomnessTests,
    OutputTests,
    ContextTests,
    SeenTests,
    AsynchronousTests,
    NestingTests,
    EndTests,
    FuturesTests,
    ConfigurationTests,
):
    """The contract. Subclass it as ``Test...``; see `SubjectFixtures` for the hooks."""
