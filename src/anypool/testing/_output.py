"""Output: prints, warnings and log records of a call reach the caller once, in input order."""

# ruff: noqa: T201 - printing is what these calls are for

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from anypool.testing import _calls
from anypool.testing._clauses import clause, needs
from anypool.testing._effects import LIMIT
from anypool.testing._subject import SubjectFixtures

__all__ = ["OutputTests"]

_SIZES = (None, 1, 4, 100)
_LOGGER = "anypool_conformance.calls"


class _UsersWarning(UserWarning):
    """A category that a worker can import."""


def _print_twice(item: int) -> int:
    print(item, "first")
    print(item, "second", end=";\n")
    return item


def _print_to_both(item: int) -> int:
    print("out", item)
    print("err", item, file=sys.stderr)
    return item


def _print_and_fail(item: int) -> int:
    print("before", item)
    if item == 3:
        raise LookupError(item)
    return item


def _write_much(item: int) -> int:
    sys.stdout.write(f"{item}" * 50_000)
    return item


def _warn_each(item: int) -> int:
    warnings.warn(f"number {item}", _UsersWarning, stacklevel=1)
    return item


def _warn_alike(_: int) -> int:
    warnings.warn("the same again", _UsersWarning, stacklevel=1)
    return 0


def _warn_and_catch(_: int) -> str:
    try:
        warnings.warn("is it an error?", _UsersWarning, stacklevel=1)
    except _UsersWarning:
        return "raised inside the call"
    return "not raised"


def _log_each(item: int) -> int:
    logger = logging.getLogger(_LOGGER)
    logger.debug("not wanted %d", item)
    logger.info("item %d of %s", item, "many")
    return item


def _log_exception(item: int) -> int:
    try:
        raise LookupError(f"seen {item}")
    except LookupError:
        logging.getLogger(_LOGGER).exception("caught %d", item)
    return item


def _mix(item: int) -> int:
    print("print", item)
    logging.getLogger(_LOGGER).warning("log %d", item)
    print("print again", item)
    return item


class _Collector(logging.Handler):
    """Keeps the records that it handled."""

    def __init__(self, stream: io.StringIO | None = None) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        if self._stream is not None:
            self._stream.write(record.getMessage() + "\n")


@contextlib.contextmanager
def _handled(level: int, stream: io.StringIO | None = None) -> Iterator[list[logging.LogRecord]]:
    """The records that the caller's logger gives to the caller's handler."""
    logger, handler = logging.getLogger(_LOGGER), _Collector(stream)
    was = (logger.level, logger.propagate)
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield handler.records
    finally:
        logger.removeHandler(handler)
        logger.setLevel(was[0])
        logger.propagate = was[1]


def _transcript(run: Callable[[], object], action: str) -> list[tuple[str, str]]:
    """The warnings shown while `run()`, under one filter and with nothing shown before."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(action)  # type: ignore[arg-type]
        globals().pop("__warningregistry__", None)
        run()
    return [(each.category.__name__, str(each.message)) for each in caught]


@clause("output")
class OutputTests(SubjectFixtures):
    """Clause "output"."""

    @needs("relay")
    @pytest.mark.parametrize("chunksize", _SIZES)
    def test_prints_arrive_once_in_input_order(self, executor: Any, chunksize: int | None) -> None:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert list(executor.map(_print_twice, range(12), chunksize=chunksize)) == list(range(12))
        assert out.getvalue() == "".join(f"{item} first\n{item} second;\n" for item in range(12))

    @needs("relay")
    @pytest.mark.parametrize("chunksize", _SIZES)
    def test_prints_arrive_right_before_their_result(self, executor: Any, chunksize: int | None) -> None:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            for item in executor.map(_print_twice, range(8), chunksize=chunksize):
                assert out.getvalue().endswith(f"{item} second;\n")

    @needs("relay")
    def test_both_streams_arrive(self, executor: Any) -> None:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            list(executor.map(_print_to_both, range(3)))
        assert (out.getvalue(), err.getvalue()) == ("out 0\nout 1\nout 2\n", "err 0\nerr 1\nerr 2\n")

    @needs("relay")
    @pytest.mark.parametrize("chunksize", _SIZES)
    def test_what_a_failing_call_printed_arrives_before_its_error(self, executor: Any, chunksize: int | None) -> None:
        with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(LookupError):
            list(executor.map(_print_and_fail, range(4), chunksize=chunksize))
        assert out.getvalue() == "before 0\nbefore 1\nbefore 2\nbefore 3\n"

    @needs("relay")
    def test_text_without_a_line_end_arrives_whole(self, executor: Any) -> None:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            list(executor.map(_write_much, range(3)))
        assert out.getvalue() == "0" * 50_000 + "1" * 50_000 + "2" * 50_000

    @needs("relay")
    def test_a_submitted_calls_prints_arrive_once_with_its_result(self, executor: Any) -> None:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            first, second = executor.submit(_print_to_both, 1), executor.submit(print, "second")
            second.result(timeout=LIMIT)
            assert out.getvalue() == "second\n"
            for _ in range(2):
                first.result(timeout=LIMIT)
            first.exception(timeout=LIMIT)
        assert out.getvalue() == "second\nout 1\n"

    @needs("relay")
    def test_prints_that_nobody_asked_for_arrive_with_shutdown(self, make_fresh: Callable[..., Any]) -> None:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            with make_fresh() as executor:
                for item in range(4):
                    executor.submit(print, item)
        assert out.getvalue() == "0\n1\n2\n3\n"

    @needs("relay")
    def test_the_callers_streams_are_as_before(self, executor: Any) -> None:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            list(executor.map(_print_twice, range(4)))
            executor.submit(print, 1).result(timeout=LIMIT)
            assert executor.submit(_calls.double, 1).result(timeout=LIMIT) == 2
            before = len(out.getvalue())
            print("mine")
            assert out.getvalue()[before:] == "mine\n"

    @needs("relay")
    @pytest.mark.parametrize("chunksize", _SIZES)
    def test_warnings_arrive_once_in_input_order(self, executor: Any, chunksize: int | None) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            list(executor.map(_warn_each, range(12), chunksize=chunksize))
        assert [str(each.message) for each in caught] == [f"number {item}" for item in range(12)]
        assert {each.category for each in caught} == {_UsersWarning}
        assert len({(each.filename, each.lineno) for each in caught}) == 1
        assert caught[0].filename == __file__

    @needs("relay")
    @pytest.mark.parametrize("chunksize", [None, 1, 5])
    @pytest.mark.parametrize("action", ["default", "once", "module", "always", "ignore"])
    def test_repeated_warnings_are_shown_as_a_plain_loop_shows_them(
        self, executor: Any, action: str, chunksize: int | None
    ) -> None:
        expected = _transcript(lambda: list(map(_warn_alike, range(10))), action)
        got = _transcript(lambda: list(executor.map(_warn_alike, range(10), chunksize=chunksize)), action)
        assert got == expected

    @needs("relay", "context")
    def test_warnings_as_errors_are_raised_inside_the_call(self, executor: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", _UsersWarning)
            assert set(executor.map(_warn_and_catch, range(6))) == {"raised inside the call"}
            assert executor.submit(_warn_and_catch, 1).result(timeout=LIMIT) == "raised inside the call"
            with pytest.raises(_UsersWarning, match="number 0"):
                list(executor.map(_warn_each, range(3)))

    @needs("relay", "context")
    @pytest.mark.parametrize("chunksize", _SIZES)
    def test_log_records_reach_the_callers_handler_once_in_order(self, executor: Any, chunksize: int | None) -> None:
        with _handled(logging.INFO) as records:
            list(executor.map(_log_each, range(12), chunksize=chunksize))
        assert [each.getMessage() for each in records] == [f"item {item} of many" for item in range(12)]
        assert {(each.name, each.levelno, each.funcName) for each in records} == {(_LOGGER, logging.INFO, "_log_each")}

    @needs("relay", "context")
    def test_log_records_below_the_callers_level_do_not_exist(self, executor: Any) -> None:
        with _handled(logging.WARNING) as records:
            list(executor.map(_log_each, range(4)))
        assert records == []

    @needs("relay", "context")
    def test_a_logged_exception_keeps_its_traceback_text(self, executor: Any) -> None:
        with _handled(logging.INFO) as records:
            list(executor.map(_log_exception, range(2)))
        texts = [logging.Formatter().format(each) for each in records]
        assert [text.splitlines()[0] for text in texts] == ["caught 0", "caught 1"]
        assert ["LookupError: seen 0" in texts[0], "LookupError: seen 1" in texts[1]] == [True, True]

    @needs("relay", "context")
    @pytest.mark.parametrize("chunksize", [None, 1, 4])
    def test_prints_and_records_keep_their_order_within_a_call(self, executor: Any, chunksize: int | None) -> None:
        stream = io.StringIO()
        with contextlib.redirect_stdout(stream), _handled(logging.INFO, stream):
            list(executor.map(_mix, range(6), chunksize=chunksize))
        lines = [[f"print {item}", f"log {item}", f"print again {item}"] for item in range(6)]
        assert stream.getvalue().splitlines() == [line for each in lines for line in each]

    @needs("relay", "errors")
    def test_output_is_complete_when_errors_are_returned(self, executor: Any) -> None:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            got = list(executor.map(_print_and_fail, range(6), chunksize=3, errors="return"))
        assert isinstance(got[3], LookupError)
        assert out.getvalue() == "".join(f"before {item}\n" for item in range(6))
