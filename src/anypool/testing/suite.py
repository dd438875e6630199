"""`ExecutorTests`: all clauses of the contract, for one executor."""

from __future__ import annotations

import pytest

_FILES = (
    "_subject",
    "_values",
    "_once",
)
# Before they are imported: their asserts then show what was compared.
pytest.register_assert_rewrite(*(f"anypool.testing.{name}" for name in _FILES))

from anypool.testing._once import OnceTests  # noqa: E402
from anypool.testing._values import ValuesTests  # noqa: E402

__all__ = ["ExecutorTests"]


class ExecutorTests(
    ValuesTests,
    OnceTests,
):
    """The contract. Subclass it as ``Test...``; see `SubjectFixtures` for the hooks."""
