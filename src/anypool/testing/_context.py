"""Context: context variables, decimal and NumPy contexts, filters and levels of the caller hold in its calls."""

from __future__ import annotations

import contextvars
import decimal
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from anypool.testing import _calls
from anypool.testing._clauses import clause, needs, offers
from anypool.testing._effects import LIMIT
from anypool.testing._subject import Subject, SubjectFixtures

__all__ = ["ContextTests"]

FLAVOUR: contextvars.ContextVar[Any] = contextvars.ContextVar("FLAVOUR", default="plain")
"""A variable that a module holds, so that a worker can find it."""


def _flavour(_: Any = None) -> Any:
    return FLAVOUR.get()


def _swap_flavour(item: int) -> Any:
    before = FLAVOUR.get()
    FLAVOUR.set(item)
    return before


def _swap_root_level(level: int) -> int:
    before = logging.getLogger().level
    logging.getLogger().setLevel(level)
    return before


def _precision(_: Any = None) -> tuple[int, str]:
    return decimal.getcontext().prec, str(decimal.Decimal(1) / decimal.Decimal(7))


def _lose_precision(item: int) -> int:
    before = decimal.getcontext().prec
    decimal.getcontext().prec = item + 1
    return before


def _levels(_: Any = None) -> tuple[int, int, bool]:
    named = logging.getLogger("anypool_conformance.levels")
    return logging.getLogger().level, named.level, named.isEnabledFor(logging.CRITICAL)


def _divide_by_zero(_: Any = None) -> str:
    import numpy

    try:
        numpy.float64(1) / numpy.float64(0)
    except FloatingPointError:
        return "raised"
    return "not raised"


def _actions_for_users() -> list[str]:
    return [entry[0] for entry in warnings.filters if entry[2] is BytesWarning]


@contextmanager
def _flavoured(value: Any) -> Iterator[None]:
    token = FLAVOUR.set(value)
    try:
        yield
    finally:
        FLAVOUR.reset(token)


@clause("context")
class ContextTests(SubjectFixtures):
    """Clause "context"."""

    @needs("context")
    @pytest.mark.parametrize("chunksize", [None, 1, 5])
    def test_context_variables_reach_the_call(self, executor: Any, chunksize: int | None) -> None:
        with _flavoured("mint"):
            assert list(executor.map(_flavour, range(5), chunksize=chunksize)) == ["mint"] * 5
            assert executor.submit(_flavour).result(timeout=LIMIT) == "mint"
        assert executor.submit(_flavour).result(timeout=LIMIT) == "plain"

    @needs("context")
    def test_the_context_is_that_of_the_call_of_map(self, executor: Any) -> None:
        with _flavoured("mint"):
            results = executor.map(_flavour, range(300), chunksize=1)
        assert set(results) == {"mint"}

    @needs("context")
    @pytest.mark.parametrize("chunksize", [1, 3, 6])
    def test_what_a_call_sets_no_other_call_sees(self, executor: Any, chunksize: int) -> None:
        with _flavoured("mint"):
            assert list(executor.map(_swap_flavour, range(6), chunksize=chunksize)) == ["mint"] * 6
            assert FLAVOUR.get() == "mint"
        assert list(executor.map(_swap_flavour, range(6), chunksize=chunksize)) == ["plain"] * 6

    @needs("context", "any_function")
    def test_a_variable_of_the_function_itself_reaches_the_call(self, executor: Any) -> None:
        unhoused = contextvars.ContextVar("unhoused", default=0)

        def call(item: int) -> int:
            unhoused.set(unhoused.get() + item)
            return unhoused.get()

        assert list(executor.map(call, [1, 2, 3], chunksize=3)) == [1, 2, 3]

    @needs("context")
    def test_the_decimal_context_reaches_the_call(self, executor: Any) -> None:
        with decimal.localcontext() as here:
            here.prec = 5
            assert list(executor.map(_precision, range(3))) == [(5, "0.14286")] * 3
            assert executor.submit(_precision).result(timeout=LIMIT) == (5, "0.14286")

    @needs("context")
    @pytest.mark.parametrize("chunksize", [1, 4])
    def test_a_call_changes_its_own_decimal_context_only(self, executor: Any, chunksize: int) -> None:
        with decimal.localcontext() as here:
            here.prec = 30
            assert list(executor.map(_lose_precision, range(4), chunksize=chunksize)) == [30] * 4
            assert decimal.getcontext().prec == 30

    @needs("context")
    def test_numpys_error_state_reaches_the_call(self, executor: Any) -> None:
        numpy = pytest.importorskip("numpy")
        with numpy.errstate(divide="raise"):
            assert set(executor.map(_divide_by_zero, range(3))) == {"raised"}
        with numpy.errstate(divide="ignore"):
            assert set(executor.map(_divide_by_zero, range(3))) == {"not raised"}

    @needs("context")
    def test_logging_levels_reach_the_call(self, executor: Any) -> None:
        named = logging.getLogger("anypool_conformance.levels")
        before = named.level
        named.setLevel(37)
        try:
            assert executor.submit(_levels).result(timeout=LIMIT)[:2] == (logging.getLogger().level, 37)
        finally:
            named.setLevel(before)

    @needs("context")
    @offers(in_caller=False, concurrent_in_process=False)  # elsewhere it is the level of other calls, too
    def test_a_level_that_a_call_sets_does_not_reach_the_next_call(self, executor: Any, subject: Subject) -> None:
        wanted = logging.getLogger().level
        calls = [executor.submit(_swap_root_level, wanted + 7) for _ in range(4 * subject.workers)]
        assert {call.result(timeout=LIMIT) for call in calls} == {wanted}

    @needs("context")
    def test_disabled_logging_is_disabled_in_the_call(self, executor: Any) -> None:
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            assert executor.submit(_levels).result(timeout=LIMIT)[2] is False
        finally:
            logging.disable(before)
        assert executor.submit(_levels).result(timeout=LIMIT)[2] is True

    @needs("context")
    def test_warning_filters_reach_the_call_and_do_not_stay(self, executor: Any) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", category=BytesWarning)
            assert "error" in executor.submit(_actions_for_users).result(timeout=LIMIT)
        with warnings.catch_warnings():
            warnings.resetwarnings()
            assert executor.submit(_actions_for_users).result(timeout=LIMIT) == []

    @needs("context")
    def test_a_value_that_cannot_be_sent_harms_nothing(self, executor: Any) -> None:
        import threading

        with _flavoured(threading.Lock()), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            assert executor.submit(_calls.double, 1).result(timeout=LIMIT) == 2
