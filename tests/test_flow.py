"""The book of a map: every item out once, in order, and never more than the window between input and caller."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from anypool._flow import Flow, Part

_ITEMS = 40
_SETTINGS = settings(max_examples=40, stateful_step_count=50, deadline=None)


class _AnyOrder(RuleBasedStateMachine):
    """A map of 40 items whose chunks are cut, answered, handed back and delivered in every order.

    Items are their own indices, and an answer is the list of the items that it answers.
    """

    ordered = True

    def __init__(self) -> None:
        super().__init__()
        self.out: dict[int, list[int]] = {}
        self.parts_handed_back = 0
        self.got: list[int] = []

    @initialize(window=st.integers(1, 20))
    def start(self, window: int) -> None:
        self.flow = Flow(window, ordered=self.ordered)

    @precondition(lambda self: self.flow.room and self.flow.items_read < _ITEMS)
    @rule(size=st.integers(1, 20))
    def read_and_send(self, size: int) -> None:
        size = min(size, self.flow.room, _ITEMS - self.flow.items_read)
        start = self.flow.read(size)
        self._send(start, list(range(start, start + size)))

    @precondition(lambda self: self.parts_handed_back)
    @rule(size=st.integers(1, 20))
    def send_again(self, size: int) -> None:
        part = self.flow.take_handed_back()
        assert part is not None, "a part that was handed back is lost"
        start, items, _ = part
        self.parts_handed_back -= 1
        if len(items) > size:
            self.flow.hand_back(Part(start + size, items[size:]))
            self.parts_handed_back += 1
        self._send(start, items[:size])

    def _send(self, start: int, items: list[int]) -> None:
        assert items == list(range(start, start + len(items)))
        self.flow.sent(start, len(items))
        self.out[start] = items

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        # All is drawn before anything changes: a draw may end the example, and `teardown` comes after it.
        start = data.draw(st.sampled_from(sorted(self.out)))
        length = len(self.out[start])
        cuts = sorted({0, length, *data.draw(st.lists(st.integers(0, length), max_size=3))})
        parts = [(first, end, data.draw(st.booleans())) for first, end in zip(cuts, cuts[1:], strict=False)]
        items = self.out.pop(start)
        self.flow.answered(start)
        for first, end, is_done in parts:
            if is_done:
                self.flow.hold(start + first, end - first, items[first:end])
            else:  # failed, and to run again; or not begun
                self.flow.hand_back(Part(start + first, items[first:end]))
                self.parts_handed_back += 1

    @precondition(lambda self: self.flow.has_ready)
    @rule()
    def deliver(self) -> None:
        answer = self.flow.take_ready()
        assert answer is not None
        length, items = answer
        assert len(items) == length
        self.got += items
        self.flow.delivered(length)

    @precondition(lambda self: len(self.got) == _ITEMS)
    @rule()
    def the_end(self) -> None:
        assert self.flow.is_drained

    @invariant()
    def nothing_is_delivered_twice_or_out_of_turn(self) -> None:
        if self.ordered:
            assert self.got == list(range(len(self.got)))
        assert len(set(self.got)) == len(self.got)

    @invariant()
    def at_most_a_window_is_read_and_not_delivered(self) -> None:
        assert self.flow.items_read - len(self.got) <= self.flow.window

    @invariant()
    def the_book_knows_what_is_out(self) -> None:
        assert self.flow.out == len(self.out)

    @invariant()
    def there_is_always_a_next_step_until_all_is_delivered(self) -> None:
        can_read = self.flow.room and self.flow.items_read < _ITEMS
        stuck = not (can_read or self.out or self.flow.has_ready or self.parts_handed_back)
        assert stuck == (len(self.got) == _ITEMS)

    def teardown(self) -> None:
        """Take it to its end from wherever it was left."""
        if not hasattr(self, "flow"):
            return
        while len(self.got) < _ITEMS:
            if self.flow.has_ready:
                self.deliver()
            elif self.parts_handed_back:
                self.send_again(size=7)
            elif self.out:
                start, items = self.out.popitem()
                _answer(self.flow, start, len(items), items)
            else:
                assert self.flow.items_read < _ITEMS, "items are lost"
                assert self.flow.room, "nothing is under way, and nothing may be read"
                self.read_and_send(size=7)
        assert sorted(self.got) == list(range(_ITEMS))
        assert self.flow.is_drained


class _Unordered(_AnyOrder):
    ordered = False


TestEveryItemLeavesOnceInOrder = _AnyOrder.TestCase
TestEveryItemLeavesOnceAsItIsAnswered = _Unordered.TestCase
TestEveryItemLeavesOnceInOrder.settings = _SETTINGS
TestEveryItemLeavesOnceAsItIsAnswered.settings = _SETTINGS


def _sent(flow: Flow, *lengths: int) -> list[int]:
    starts = []
    for length in lengths:
        start = flow.read(length)
        flow.sent(start, length)
        starts.append(start)
    return starts


def _answer(flow: Flow, start: int, done: int, answer: Any, rest: Any = None) -> None:
    flow.answered(start)
    if done:
        flow.hold(start, done, answer)
    if rest is not None:
        flow.hand_back(Part(start + done, rest))


def _take_all(flow: Flow) -> list[Any]:
    answers = []
    while (answer := flow.take_ready()) is not None:
        answers.append(answer[1])
    return answers


def test_an_early_answer_is_held_until_its_turn() -> None:
    flow = Flow(10, ordered=True)
    first, second = _sent(flow, 2, 3)
    _answer(flow, second, 3, "second")
    assert not flow.has_ready
    _answer(flow, first, 2, "first")
    assert _take_all(flow) == ["first", "second"]


def test_an_early_answer_leaves_at_once_where_order_is_not_asked_for() -> None:
    flow = Flow(10, ordered=False)
    _, second = _sent(flow, 2, 3)
    _answer(flow, second, 3, "second")
    assert _take_all(flow) == ["second"]


def test_what_follows_a_part_that_was_handed_back_waits_for_it() -> None:
    flow = Flow(10, ordered=True)
    first, second = _sent(flow, 4, 2)
    _answer(flow, first, 1, "a", [1, 2, 3])
    _answer(flow, second, 2, "c")
    assert _take_all(flow) == ["a"]
    assert flow.take_handed_back() == Part(1, [1, 2, 3])
    flow.sent(1, 3)
    _answer(flow, 1, 3, "b")
    assert _take_all(flow) == ["b", "c"]


def test_the_earliest_part_that_was_handed_back_goes_first() -> None:
    flow = Flow(10, ordered=True)
    first, second = _sent(flow, 2, 2)
    _answer(flow, second, 1, "c", [3])
    _answer(flow, first, 1, "a", [1])
    assert flow.take_handed_back() == Part(1, [1])
    assert flow.take_handed_back() == Part(3, [3])
    assert flow.take_handed_back() is None


def test_results_that_are_held_take_room_until_they_are_delivered() -> None:
    flow = Flow(5, ordered=True)
    _, second = _sent(flow, 2, 3)
    assert flow.room == 0
    _answer(flow, second, 3, "second")
    assert flow.room == 0
    flow.delivered(2)
    assert flow.room == 2


@pytest.mark.parametrize("ordered", [True, False])
def test_a_chunk_that_was_withdrawn_leaves_no_trace(ordered: bool) -> None:
    flow = Flow(5, ordered=ordered)
    (start,) = _sent(flow, 2)
    _answer(flow, start, 0, None)
    assert flow.out == 0
    assert not flow.has_ready
    assert flow.is_drained
