"""The user's error is itself: what a call raised arrives as it was raised, at its place."""

from __future__ import annotations

import pickle
import traceback
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from anypool.errors import StandIn
from anypool.testing import _calls
from anypool.testing._clauses import clause, needs
from anypool.testing._effects import LIMIT, Gate
from anypool.testing._subject import Subject, SubjectFixtures

__all__ = ["ErrorsTests"]

_USERS_CODE = """
def outer(item):
    return inner(item) + 1

def inner(item):
    if item == 2:
        raise LookupError(f"no {item}")
    return item
"""


def _chain(how: str) -> None:
    try:
        raise KeyError("first")
    except KeyError as exc:
        if how == "from":
            raise ValueError("second") from exc
        if how == "from None":
            raise ValueError("second") from None
        raise ValueError("second")  # noqa: B904 - the implicit context is what is tested


def _raise_decorated() -> None:
    exc = LookupError("a", 2)
    exc.extra = {"code": 5}  # type: ignore[attr-defined]
    exc.add_note("look here")
    raise exc


def _raise_two_arguments() -> None:
    raise _calls.TwoArgumentsError(7, "lost")


def _raise_group() -> None:
    raise ExceptionGroup("both", [LookupError(1), ExceptionGroup("inner", [KeyError("k")])])


def _fail_first_late(gate: Gate, item: int) -> int:
    """Item 0 fails after item 1 has."""
    if item == 0:
        gate.wait()
        raise LookupError(0)
    gate.open()
    raise KeyError(item)


def _raise_kind(kind: type[BaseException], item: int) -> int:
    if item == 2:
        raise kind("from a call")
    return item


@clause("the user's error is itself")
class ErrorsTests(SubjectFixtures):
    """Clause "the user's error is itself"."""

    def test_type_and_arguments_arrive(self, executor: Any) -> None:
        with pytest.raises(LookupError) as caught:
            executor.submit(_calls.fail_at, (3,), 3).result(timeout=LIMIT)
        assert type(caught.value) is LookupError
        assert caught.value.args == (3, "no 3")

    def test_attributes_and_notes_arrive(self, executor: Any) -> None:
        exc = executor.submit(_raise_decorated).exception(timeout=LIMIT)
        assert exc.args == ("a", 2)
        assert exc.extra == {"code": 5}
        assert exc.__notes__[0] == "look here"

    def test_the_results_before_the_error_are_delivered(self, executor: Any) -> None:
        results = executor.map(partial(_calls.fail_at, (5,)), range(10), chunksize=4)
        got = []
        with pytest.raises(LookupError, match="no 5"):
            for result in results:
                got.append(result)
        assert got[:4] == [0, 2, 4, 6]

    @needs("lazy")
    @pytest.mark.parametrize("chunksize", [None, 1, 4, 20])
    def test_every_result_before_the_error_is_delivered(self, executor: Any, chunksize: int | None) -> None:
        results = executor.map(partial(_calls.fail_at, (5,)), range(10), chunksize=chunksize)
        assert [next(results) for _ in range(5)] == [0, 2, 4, 6, 8]
        with pytest.raises(LookupError, match="no 5"):
            next(results)
        assert next(results, "ended") == "ended"

    def test_the_lowest_failing_item_wins_though_another_fails_first(
        self, executor: Any, subject: Subject, place: Path
    ) -> None:
        gate = Gate(place / "gate")
        if not subject.is_parallel:
            gate.open()
        with pytest.raises(LookupError) as caught:
            list(executor.map(partial(_fail_first_late, gate), range(2), chunksize=1))
        assert caught.value.args == (0,)

    @needs("lazy")
    @pytest.mark.parametrize("chunksize", [None, 1, 3, 6])
    def test_stop_iteration_never_truncates(self, executor: Any, chunksize: int | None) -> None:
        results = executor.map(partial(_raise_kind, StopIteration), range(6), chunksize=chunksize)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises((RuntimeError, StopIteration)) as caught:
            next(results)
        exc: BaseException | None = caught.value
        if isinstance(exc, RuntimeError):  # PEP 479: what a generator makes of it
            exc = exc.__cause__
        assert type(exc) is StopIteration
        assert exc.args == ("from a call",)

    def test_stop_iteration_of_a_map_read_by_list_is_an_error(self, executor: Any) -> None:
        with pytest.raises(RuntimeError, match="StopIteration"):
            list(executor.map(partial(_raise_kind, StopIteration), range(6)))

    def test_stop_iteration_of_a_submitted_call_is_itself(self, executor: Any) -> None:
        exc = executor.submit(_raise_kind, StopIteration, 2).exception(timeout=LIMIT)
        assert type(exc) is StopIteration

    @needs("send_errors")
    @pytest.mark.parametrize("kind", [GeneratorExit, KeyboardInterrupt, SystemExit])
    def test_what_ends_a_program_arrives_and_the_pool_goes_on(self, executor: Any, kind: type[BaseException]) -> None:
        exc = executor.submit(_raise_kind, kind, 2).exception(timeout=LIMIT)
        assert type(exc) is kind
        assert exc.args == ("from a call",)
        with pytest.raises(kind):
            list(executor.map(partial(_raise_kind, kind), range(4)))
        assert list(executor.map(_calls.double, range(4))) == [0, 2, 4, 6]

    @needs("send_errors")
    def test_an_exception_with_two_required_arguments_arrives(self, executor: Any) -> None:
        exc = executor.submit(_raise_two_arguments).exception(timeout=LIMIT)
        assert type(exc) is _calls.TwoArgumentsError
        assert (exc.code, exc.reason, str(exc)) == (7, "lost", "7: lost")
        assert executor.submit(_calls.double, 1).result(timeout=LIMIT) == 2

    @needs("any_function", "send_errors")
    def test_an_exception_of_a_local_class_arrives(self, executor: Any) -> None:
        class LocalError(LookupError):
            pass

        def call() -> None:
            raise LocalError("here")

        with pytest.raises(LocalError, match="here"):
            executor.submit(call).result(timeout=LIMIT)

    @needs("send_errors")
    def test_an_exception_that_cannot_be_sent_keeps_its_base_and_message(self, executor: Any, subject: Subject) -> None:
        exc = executor.submit(_raise_unsendable).exception(timeout=LIMIT)
        assert isinstance(exc, LookupError)
        assert "cannot leave" in str(exc)
        if not subject.traits.shares_memory and not hasattr(exc, "lock"):
            assert isinstance(exc, StandIn) or type(exc) is LookupError
        assert executor.submit(_calls.double, 1).result(timeout=LIMIT) == 2

    @needs("send_errors")
    @pytest.mark.parametrize("how", ["from", "from None", "context"])
    def test_cause_and_context_arrive(self, executor: Any, how: str) -> None:
        exc = executor.submit(_chain, how).exception(timeout=LIMIT)
        assert type(exc) is ValueError
        assert isinstance(exc.__context__, KeyError)
        assert exc.__context__.args == ("first",)
        assert exc.__cause__ is (exc.__context__ if how == "from" else None)
        assert exc.__suppress_context__ is (how != "context")

    @needs("send_errors")
    def test_exception_groups_arrive_whole(self, executor: Any) -> None:
        exc = executor.submit(_raise_group).exception(timeout=LIMIT)
        assert type(exc) is ExceptionGroup
        assert exc.message == "both"
        assert [type(each) for each in exc.exceptions] == [LookupError, ExceptionGroup]
        assert exc.exceptions[1].exceptions[0].args == ("k",)

    @needs("errors")
    def test_errors_can_be_returned_in_place(self, executor: Any) -> None:
        got = list(executor.map(partial(_calls.fail_at, (1, 3)), range(5), errors="return"))
        assert [each for each in got if not isinstance(each, BaseException)] == [0, 4, 8]
        assert [got[1].args, got[3].args] == [(1, "no 1"), (3, "no 3")]
        assert got[1] is not got[3]

    @needs("notes")
    @pytest.mark.parametrize("chunksize", [None, 1, 4])
    def test_a_note_names_item_argument_and_backend(
        self, executor: Any, subject: Subject, chunksize: int | None
    ) -> None:
        with pytest.raises(LookupError) as caught:
            list(executor.map(partial(_calls.fail_at, (13,)), range(20), chunksize=chunksize))
        (note,) = caught.value.__notes__
        assert "item 13" in note
        assert "(13)" in note
        assert repr(subject.name) in note

    @needs("notes")
    def test_a_note_names_the_submitted_call(self, executor: Any, subject: Subject) -> None:
        exc = executor.submit(_calls.fail_at, (3,), item=3).exception(timeout=LIMIT)
        (note,) = exc.__notes__
        assert "fail_at((3,), item=3)" in note
        assert repr(subject.name) in note

    @needs("any_function", "notes")
    @pytest.mark.parametrize("way", ["submit", "map", "starmap"])
    def test_the_traceback_shows_the_users_lines_and_not_ours(self, executor: Any, place: Path, way: str) -> None:
        outer = _users_function(place)
        exc: BaseException
        if way == "submit":
            exc = executor.submit(outer, 2).exception(timeout=LIMIT)
        elif way == "map":
            exc = list(executor.map(outer, [1, 2, 3], errors="return"))[1]
        else:
            exc = list(executor.starmap(outer, [(1,), (2,)], errors="return"))[1]
        frames = traceback.extract_tb(exc.__traceback__)
        assert [frame.name for frame in frames] == ["outer", "inner"]
        assert {Path(frame.filename).name for frame in frames} == {"users_code.py"}
        assert frames[1].line == 'raise LookupError(f"no {item}")'

    @needs("send_errors")
    def test_an_exception_that_arrived_can_be_pickled(self, executor: Any) -> None:
        exc = executor.submit(_calls.fail_at, (3,), 3).exception(timeout=LIMIT)
        again = pickle.loads(pickle.dumps(exc))
        assert (type(again), again.args) == (LookupError, (3, "no 3"))

    def test_an_exception_as_argument_and_result_is_a_value(self, executor: Any) -> None:
        (got,) = executor.map(_calls.identity, [LookupError("a value")])
        assert type(got) is LookupError
        assert got.args == ("a value",)

    def test_the_executor_goes_on_after_errors(self, executor: Any) -> None:
        for _ in range(5):
            with pytest.raises(LookupError):
                list(executor.map(partial(_calls.fail_at, (0, 1, 2)), range(6)))
        assert list(executor.map(_calls.double, range(6))) == [0, 2, 4, 6, 8, 10]


def _users_function(place: Path) -> Any:
    """A function of a file that is not ours: frames of anypool are left out of tracebacks."""
    path = place / "users_code.py"
    path.write_text(_USERS_CODE)
    names: dict[str, Any] = {"__name__": "users_code"}
    exec(compile(_USERS_CODE, str(path), "exec"), names)
    return names["outer"]


def _raise_unsendable() -> None:
    import threading

    class UnsendableError(LookupError):
        def __init__(self, message: str) -> None:
            super().__init__(message)
            self.lock = threading.Lock()

    raise UnsendableError("cannot leave")
