"""Values: results in input order; nothing is concatenated, unpacked, replaced or renamed."""

from __future__ import annotations

import array
import inspect
import itertools
import math
import operator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from anypool.errors import SendError
from anypool.testing import _calls
from anypool.testing._clauses import clause, needs
from anypool.testing._effects import LIMIT, Gate
from anypool.testing._subject import Subject, SubjectFixtures

__all__ = ["ValuesTests"]

_COLLIDING = (
    "actor",
    "args",
    "buffersize",
    "call",
    "chunksize",
    "cores",
    "errors",
    "executor",
    "fn",
    "func",
    "function",
    "key",
    "kwargs",
    "payload",
    "priority",
    "pure",
    "resource_dict",
    "resources",
    "retries",
    "self",
    "task",
    "timeout",
    "workers",
)
"""Keywords that one executor or another takes for itself."""


def _open_next(gates: list[Gate], item: int) -> int:
    """Wait for the call after this one, which lets this one go: they end in reverse order."""
    if item + 1 < len(gates):
        gates[item + 1].wait()
    gates[item].open()
    return item


@clause("values")
class ValuesTests(SubjectFixtures):
    """Clause "values"."""

    def test_a_call_returns_its_value(self, executor: Any) -> None:
        assert executor.submit(_calls.add, 1, 2, third=3).result(timeout=LIMIT) == 6

    def test_order_is_kept_when_the_first_call_is_slow(self, executor: Any, subject: Subject, place: Path) -> None:
        gates = [Gate(place / str(item)) for item in range(min(subject.workers, 3) if subject.is_parallel else 1)]
        results = executor.map(partial(_open_next, gates), range(len(gates)), chunksize=1)
        assert list(results) == list(range(len(gates)))

    def test_order_is_kept_over_many_items(self, executor: Any) -> None:
        assert list(executor.map(_calls.double, range(500))) == [2 * item for item in range(500)]

    def test_several_iterables_are_taken_together(self, executor: Any) -> None:
        assert list(executor.map(_calls.add, [1, 2], (10, 20), {100: "", 200: ""})) == [111, 222]

    def test_the_shortest_iterable_ends_the_map(self, executor: Any) -> None:
        assert list(executor.map(_calls.add, range(1000), "")) == []
        assert list(executor.map(_calls.add, range(1000), [5, 6, 7])) == [5, 7, 9]

    def test_generators_are_read_once(self, executor: Any) -> None:
        source = (item for item in range(20))
        assert list(executor.map(_calls.double, source)) == [2 * item for item in range(20)]
        assert list(source) == []

    @needs("lazy")
    def test_endless_input_streams(self, executor: Any) -> None:
        results = executor.map(_calls.double, itertools.count())
        assert list(itertools.islice(results, 50)) == [2 * item for item in range(50)]
        results.close()

    def test_empty_input_gives_nothing(self, executor: Any) -> None:
        assert list(executor.map(_calls.double, [])) == []
        assert list(executor.map(_calls.double, iter(()))) == []

    def test_no_iterables_give_nothing(self, executor: Any) -> None:
        assert list(executor.map(_calls.double)) == []

    def test_any_iterable_is_an_input(self, executor: Any) -> None:
        assert sorted(executor.map(_calls.double, {1, 2, 3})) == [2, 4, 6]
        assert list(executor.map(_calls.double, "ab")) == ["aa", "bb"]
        assert list(executor.map(_calls.double, {"x": 1, "y": 2})) == ["xx", "yy"]
        assert list(executor.map(_calls.double, b"\x01\x02")) == [2, 4]

    def test_falsy_results_are_results(self, executor: Any) -> None:
        falsy: list[Any] = [None, 0, 0.0, False, "", b"", [], {}, (), set()]
        got = list(executor.map(_calls.identity, falsy))
        assert got == falsy
        assert [type(each) for each in got] == [type(each) for each in falsy]
        assert executor.submit(_calls.identity, None).result(timeout=LIMIT) is None

    def test_numbers_keep_their_value_and_type(self, executor: Any) -> None:
        numbers = [2**200, -(2**63) - 1, 1e300, -0.0, math.inf, True, 3 + 4j]
        got = list(executor.map(_calls.identity, numbers))
        assert [repr(each) for each in got] == [repr(each) for each in numbers]
        assert math.isnan(executor.submit(_calls.identity, math.nan).result(timeout=LIMIT))

    def test_texts_keep_every_character(self, executor: Any) -> None:
        texts = ["\0", "é", "\U0001f40d", "\udc80", "a" * 100_000, "line\r\nline\n"]
        assert list(executor.map(_calls.identity, texts)) == texts

    def test_arrays_are_not_concatenated(self, executor: Any) -> None:
        arrays = [array.array("d", [item, item + 1]) for item in range(4)]
        assert list(executor.map(_calls.identity, arrays)) == arrays

    def test_numpy_arrays_come_back_one_by_one_and_writable(self, executor: Any) -> None:
        numpy = pytest.importorskip("numpy")
        arrays = [numpy.full((3, 2), item, dtype="f4") for item in range(4)]
        got = list(executor.map(_calls.identity, arrays))
        assert [each.tolist() for each in got] == [each.tolist() for each in arrays]
        assert {each.dtype for each in got} == {numpy.dtype("f4")}
        assert all(each.flags.writeable for each in got)

    def test_large_arguments_and_results_arrive_whole(self, executor: Any) -> None:
        large = [bytes([item]) * 3_000_000 for item in range(3)]
        assert list(executor.map(_calls.identity, large)) == large

    def test_tuples_and_dicts_are_one_argument(self, executor: Any) -> None:
        items: list[Any] = [(1, 2), {"a": 1}, [3, 4], (5,), (), {}]
        assert list(executor.map(_calls.arguments, items)) == [((item,), {}) for item in items]

    def test_classes_are_the_same_on_both_sides(self, executor: Any) -> None:
        pairs = [_calls.Pair(item, [item]) for item in range(3)]
        got = list(executor.map(_calls.identity, pairs))
        assert got == pairs
        assert {type(each) for each in got} == {_calls.Pair}
        assert list(executor.map(_calls.identity, [int, _calls.Pair, len])) == [int, _calls.Pair, len]

    @needs("any_function")
    def test_instances_of_local_classes_come_back_as_such(self, executor: Any) -> None:
        class Local:
            def __init__(self, value: int) -> None:
                self.value = value

        got = list(executor.map(Local, range(3)))
        assert [each.value for each in got] == [0, 1, 2]
        assert {type(each) for each in got} == {Local}

    def test_every_keyword_reaches_the_function(self, executor: Any) -> None:
        keywords = {name: place for place, name in enumerate(_COLLIDING)}
        future = executor.submit(_calls.arguments, 1, **keywords)
        assert future.result(timeout=LIMIT) == ((1,), keywords)

    def test_a_text_that_equals_anything_stays_that_text(self, executor: Any) -> None:
        first = executor.submit(_calls.identity, 1)
        key = str(getattr(first, "key", "identity"))
        texts = [key, "identity", f"identity-{key}", "submit", "None", "__main__"]
        futures = [executor.submit(_calls.arguments, text, word=text) for text in texts]
        got = [future.result(timeout=LIMIT) for future in futures]
        assert got == [((text,), {"word": text}) for text in texts]
        assert first.result(timeout=LIMIT) == 1

    @needs("send_errors")
    def test_a_future_as_argument_is_passed_or_refused_never_replaced(self, executor: Any, subject: Subject) -> None:
        first = executor.submit(_calls.identity, 7)
        assert first.result(timeout=LIMIT) == 7
        second = executor.submit(_calls.identity, first)
        if subject.traits.shares_memory:
            assert second.result(timeout=LIMIT) is first
        else:
            assert isinstance(second.exception(timeout=LIMIT), SendError)

    def test_a_result_that_is_a_future_is_a_value(self, executor: Any, subject: Subject) -> None:
        if not subject.traits.shares_memory:
            pytest.skip("a future cannot be sent: see bad payloads")
        inner: Future[int] = Future()
        assert executor.submit(_calls.identity, inner).result(timeout=LIMIT) is inner

    @needs("send_errors")
    def test_a_coroutine_function_is_called_not_awaited(self, executor: Any, subject: Subject) -> None:
        if subject.traits.shares_memory:
            coroutine = executor.submit(_never_awaited).result(timeout=LIMIT)
            assert inspect.iscoroutine(coroutine)
            coroutine.close()
        else:
            with pytest.raises(SendError, match="coroutine"):
                executor.submit(_make_coroutine).result(timeout=LIMIT)

    @needs("starmap")
    def test_starmap_unpacks_each_item(self, executor: Any) -> None:
        assert list(executor.starmap(pow, [(2, 5), (3, 2), [10, 3]])) == [32, 9, 1000]
        assert list(executor.starmap(operator.add, zip("ab", "cd", strict=True))) == ["ac", "bd"]
        assert list(executor.starmap(pow, [])) == []

    @needs("unordered")
    def test_unordered_gives_each_result_once(self, executor: Any) -> None:
        got = list(executor.map(_calls.double, range(200), ordered=False))
        assert sorted(got) == [2 * item for item in range(200)]

    @needs("unordered")
    def test_unordered_does_not_wait_for_the_slow_call(self, executor: Any, subject: Subject, place: Path) -> None:
        if not subject.is_parallel:
            pytest.skip("made for executors with more than one worker")
        gate = Gate(place / "gate")

        def call(item: int) -> int:
            if item == 0:
                gate.wait()
            return item

        results = executor.map(call, range(4), chunksize=1, ordered=False)
        early = [next(results) for _ in range(3)]
        gate.open()
        assert sorted(early) == [1, 2, 3]
        assert list(results) == [0]

    def test_two_maps_at_once_do_not_mix(self, executor: Any) -> None:
        one = executor.map(_calls.double, range(100))
        two = executor.map(_calls.identity, range(100, 200))
        pairs = list(zip(one, two, strict=True))
        assert pairs == [(2 * item, item + 100) for item in range(100)]


async def _never_awaited() -> int:
    return 1


def _make_coroutine() -> Any:
    """What `_never_awaited` returns, closed: so that nobody warns of it on the worker."""
    coroutine = _never_awaited()
    coroutine.close()
    return coroutine
