"""What counts as the same value, strictly."""

from __future__ import annotations

import copy
import datetime
import decimal
import enum
import fractions
import math
import pickle
import re
import subprocess
import sys
import threading
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass, field
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anypool._identity import first_difference, short

# Small, so that two values that were drawn apart are often alike, or nearly.
atoms = st.sampled_from(
    [None, False, True, 0, 1, 2**70, 0.0, -0.0, 1.0, math.nan, math.inf, 0j, 1 + 0j, complex(0, math.nan)]
    + ["", "1", b"", b"1", "\N{SNOWMAN}"]
)
values = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(atoms, inner, max_size=3),
        st.sets(atoms, max_size=3),
        st.frozensets(atoms, max_size=3),
    ),
    max_leaves=6,
)


def canonical(value: object) -> str:
    """Another road to the same answer: a text that two values share if and only if they are the same."""
    name = type(value).__name__
    if isinstance(value, (list, tuple)):
        return f"{name}({', '.join(map(canonical, value))})"
    if isinstance(value, dict):
        return f"{name}({', '.join(f'{canonical(k)}: {canonical(v)}' for k, v in value.items())})"
    if isinstance(value, (set, frozenset)):
        return f"{name}({', '.join(sorted(map(canonical, value)))})"
    return f"{name} {value!r}"


@given(values, values)
@settings(max_examples=400, deadline=None)
def test_two_values_are_the_same_exactly_if_their_canonical_texts_are(one: object, other: object) -> None:
    assert (first_difference(one, other) is None) == (canonical(one) == canonical(other))


@given(values)
@settings(max_examples=200, deadline=None)
def test_a_copy_is_the_same(value: object) -> None:
    assert first_difference(value, pickle.loads(pickle.dumps(value))) is None
    assert first_difference(value, copy.deepcopy(value)) is None


@given(values, values)
@settings(max_examples=200, deadline=None)
def test_the_order_of_the_two_does_not_matter(one: object, other: object) -> None:
    assert (first_difference(one, other) is None) == (first_difference(other, one) is None)


class Plain:
    def __init__(self, **attributes: object) -> None:
        self.__dict__.update(attributes)


class Slotted:
    __slots__ = ("x", "y")

    def __init__(self, x: object) -> None:
        self.x = x


class Lax:
    """Its cache is no part of it, as its `==` says."""

    def __init__(self, x: object, cache: object) -> None:
        self.x, self.cache = x, cache

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lax) and self.x == other.x

    __hash__ = None  # type: ignore[assignment]


class Rude:
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")

    __hash__ = None  # type: ignore[assignment]


@dataclass
class Point:
    x: object
    seconds: float = field(default=0.0, compare=False)


@dataclass(eq=False)
class Bare:
    x: object


class Text(str):
    pass


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


Pair = namedtuple("Pair", "a b")  # noqa: PYI024 - the untyped one is what users have


def noted(exc: BaseException) -> BaseException:
    exc.add_note("seen")
    return exc


def tagged(text: str, tag: str) -> Text:
    made = Text(text)
    made.tag = tag  # type: ignore[attr-defined]
    return made


def adder(n: object) -> Any:
    def add(x: object) -> object:
        return (x, n)

    return add


def record(x: int, junk: int) -> np.ndarray:
    """A record with a byte between its fields that belongs to neither."""
    kind = np.dtype({"names": ["a", "b"], "formats": ["u1", "u2"], "offsets": [0, 2], "itemsize": 4})
    return np.frombuffer(bytes([x, junk, 5, 0]), kind)


ARRAY = np.arange(6.0).reshape(2, 3)
LOCK = threading.Lock()

SAME = {
    "an object without ==": (Plain(x=1, y=[2]), Plain(x=1, y=[2])),
    "attributes in another order": (Plain(x=1, y=2), Plain(y=2, x=1)),
    "a text that is interned here, not there": (Plain(name="name"), Plain(name="".join(["na", "me"]))),
    "slots": (Slotted(1), Slotted(1)),
    "NaN in an object": (Plain(x=math.nan), Plain(x=-math.nan)),
    "NaN in a dataclass": (Point(math.nan), Point(float("nan"))),
    "a field that does not compare": (Point(1, seconds=1.0), Point(1, seconds=2.0)),
    "an own == that says yes": (Lax(1, "a"), Lax(1, "b")),
    "an own == that raises": (Rude(), Rude()),
    "an error with a note": (ValueError("x", 1), noted(ValueError("x", 1))),
    "a group of errors": (ExceptionGroup("g", [ValueError(1)]), ExceptionGroup("g", [ValueError(1)])),
    "a named tuple": (Pair(1, [2]), Pair(1, [2])),
    "a deque": (deque([1, 2], 5), deque([1, 2], 5)),
    "a defaultdict": (defaultdict(list, a=[1]), defaultdict(list, a=[1])),
    "a pattern": (re.compile("a+"), re.compile("a+")),
    "a fraction": (fractions.Fraction(1, 3), fractions.Fraction(1, 3)),
    "a time": (datetime.datetime(2020, 1, 1), datetime.datetime(2020, 1, 1)),
    "a set of objects": ({Pair(1, math.nan)}, {Pair(1, float("nan"))}),
    "functions": (adder(1), adder(1)),
    "memory": (memoryview(b"ab"), memoryview(bytearray(b"ab"))),
    "an array": (ARRAY, np.asfortranarray(ARRAY)),
    "an array with NaN": (np.array([np.nan, 1]), np.array([np.nan, 1])),
    "an array of objects": (np.array([1, [2]], object), np.array([1, [2]], object)),
    "a record": (record(1, 7), record(1, 8)),
    "a masked array": (np.ma.masked_greater([1, 9], 5), np.ma.masked_greater([1, 9], 5)),
    "a scalar": (np.float64(0.1), np.float64(0.1)),
    "a scalar NaN": (np.float32("nan"), -np.float32("nan")),
    "a long double": (np.longdouble(1) / 3, np.longdouble(1) / 3),
    "an empty array": (np.empty((0, 3)), np.empty((0, 3))),
    "a generator of numbers": (np.random.default_rng(1), np.random.default_rng(1)),
}

DIFFERENT = {
    "an int and a float": (1, 1.0, "expected 1 (int), got 1.0 (float)"),
    "an int and a bool": ([1], [True], "[0]: expected 1 (int), got True (bool)"),
    "the zeros": (0.0, -0.0, "expected 0.0, got -0.0"),
    "a list and a tuple": ([], (), "expected [] (list), got () (tuple)"),
    "a length": ([1, 2], [1], "expected 2 items, got 1"),
    "a deep item": ([1, {"a": (2, 3)}], [1, {"a": (2, 4)}], "[1]['a'][1]: expected 3, got 4"),
    "the order of a dict": ({1: 1, 2: 2}, {2: 2, 1: 1}, "key 0: expected 1, got 2"),
    "the type of a key": ({1: 1}, {True: 1}, "key 0: expected 1 (int)"),
    "a set": ({1, 2}, {1, 3}, "expected 2 (int) in it"),
    "the type of an element": ({1}, {True}, "expected 1 (int) in it"),
    "the end of a long text": ("a" * 500 + "b", "a" * 500 + "c", "from position 500 on"),
    "a subclass": ("a", Text("a"), "(Text)"),
    "an attribute of a subclass": (tagged("a", "x"), tagged("a", "y"), ".tag: expected 'x', got 'y'"),
    "an attribute": (Plain(x=[1]), Plain(x=[2]), ".x[0]: expected 1, got 2"),
    "the names of attributes": (Plain(x=1), Plain(y=1), "'x'"),
    "a slot": (Slotted(1), Slotted(2), ".x: expected 1, got 2"),
    "a field": (Point(1), Point(1.0), ".x: expected 1 (int), got 1.0 (float)"),
    "a field without ==": (Bare(1), Bare(2), ".x: expected 1, got 2"),
    "an own == that says no": (Lax(1, "a"), Lax(2, "a"), ".x: expected 1, got 2"),
    "the class of an error": (ValueError("x"), TypeError("x"), "(ValueError)"),
    "the args of an error": (ValueError("x"), ValueError("y"), ".args[0]: expected 'x', got 'y'"),
    "digits": (decimal.Decimal("1.0"), decimal.Decimal("1.00"), "1.0"),
    "a factory": (defaultdict(list), defaultdict(set), "list"),
    "the order of a Counter": (Counter("ab"), Counter("ba"), "'a'"),
    "the order of an OrderedDict": (OrderedDict(a=1, b=1), OrderedDict(b=1, a=1), "'a'"),
    "the size of a deque": (deque([1], 5), deque([1], 6), "5"),
    "a member": (Colour.RED, Colour.BLUE, "RED"),
    "classes": (int, bool, "int"),
    "functions": (adder(1), lambda x: x, "another function"),
    "a closure": (adder(1), adder(2), ".cell_contents: expected 1, got 2"),
    "what cannot be compared": (LOCK, threading.Lock(), "cannot be compared"),
    "a dtype": (np.zeros(2), np.zeros(2, "f4"), "dtype float64, got one of dtype float32"),
    "a byte order": (np.zeros(2, "<f8"), np.zeros(2, ">f8"), "dtype"),
    "a shape": (np.zeros((2, 3)), np.zeros((3, 2)), "shape (2, 3), got one of shape (3, 2)"),
    "an element": (ARRAY, ARRAY + [[0, 0, 0], [0, 0, 1]], "[1, 2] expected"),
    "the last bit": (np.array([0.3]), np.array([0.1 + 0.2]), "[0] expected"),
    "a zero of an array": (np.array([0.0]), np.array([-0.0]), "[0] expected"),
    "an object of an array": (np.array([1, None]), np.array([True, None]), "[0]: expected 1 (int)"),
    "a record": (record(1, 7), record(2, 7), "['a']: [0] expected"),
    "a mask": (np.ma.masked_greater([1, 9], 5), np.ma.masked_greater([1, 9], 10), "expected"),
    "an array and a list": (np.zeros(1), [0.0], "(ndarray)"),
    "a scalar and a number": (np.float64(1), 1.0, "(float64)"),
    "scalars": (np.float64(1), np.float64(2), "expected"),
    "kinds of scalars": (np.float64(1), np.float32(1), "(float64)"),
    "long doubles": (np.longdouble(1), np.longdouble(2), "expected"),
}


@pytest.mark.parametrize("name", SAME)
def test_what_nobody_could_tell_apart_is_the_same(name: str) -> None:
    one, other = SAME[name]
    assert first_difference(one, other) is None
    assert first_difference([one], [other]) is None


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_difference_is_found_and_told(name: str) -> None:
    one, other, told = DIFFERENT[name]
    found = first_difference(one, other)
    assert found is not None
    assert told in found
    assert "\n" not in found
    assert first_difference(other, one) is not None


def test_the_first_difference_is_told() -> None:
    assert first_difference([1, [2, 3], 4], [1, [2, 0], 0]) == "[1][1]: expected 3, got 0"


def test_a_class_that_was_made_inside_a_call_is_the_same_when_it_comes_home() -> None:
    def make(x: int) -> object:
        class Local:
            def __init__(self) -> None:
                self.x = x

        return Local()

    assert first_difference(make(1), make(1)) is None
    assert first_difference(make(1), make(2)) == ".x: expected 1, got 2"
    assert first_difference(make(1), cloudpickle.loads(cloudpickle.dumps(make(1)))) is None


def test_classes_of_one_name_in_two_classes_differ() -> None:
    assert first_difference(OuterA.Inner(), OuterB.Inner()) is not None


class OuterA:
    class Inner:
        pass


class OuterB:
    class Inner:
        pass


def test_what_refers_to_itself_is_walked_to_its_end() -> None:
    def ring(last: object) -> list[Any]:
        made: list[Any] = [1, {"a": 2}]
        made[1]["back"] = made
        made.append(last)
        return made

    assert first_difference(ring(3), ring(3)) is None
    assert first_difference(ring(3), ring(4)) == "[2]: expected 3, got 4"


def test_depth_is_no_trouble() -> None:
    def nested(core: object) -> object:
        for _ in range(20_000):
            core = [core]
        return core

    assert first_difference(nested(1), nested(1)) is None
    found = first_difference(nested(1), nested(2))
    assert found is not None
    assert len(found) < 200


def test_shared_parts_are_compared_once() -> None:
    def doubled() -> object:
        core: object = [1]
        for _ in range(200):
            core = [core, core]
        return core

    assert first_difference(doubled(), doubled()) is None  # 2**200 steps otherwise


def test_a_repr_that_fails_or_is_long_does_not_matter() -> None:
    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert "Shy" in short(Shy())
    assert len(short("x" * 10_000)) < 100
    assert len(short(list(range(10_000)))) < 200


def test_numpy_is_not_loaded_by_it() -> None:
    code = (
        "import sys; from anypool._identity import first_difference as differ; "
        "assert differ([1, {2}, object()], [1, {2}, 3]); assert 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
