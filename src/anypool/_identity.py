"""Whether two values are the same value, strictly: what `==` lets pass, and what it refuses without need.

Two backends agree on a value if nobody who is handed it could tell which of them computed it. `==` does not
answer that: ``1 == True == 1.0``, NaN differs from itself, arrays answer with arrays, and most classes have no
`==` at all. The bytes of a pickle do not answer it either: they say which parts are one object, and a string
that was interned on one side only changes them.

So two values are walked side by side, and what is not known here by its type is taken apart by its own pickle
protocol (`object.__reduce_ex__`), without being pickled.
"""

from __future__ import annotations

import copyreg
import reprlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from itertools import zip_longest
from types import CellType, FunctionType
from typing import Any, NamedTuple, TypeAlias

__all__ = ["first_difference", "short"]


class _Part(NamedTuple):
    """A part of both values, and the way to it from what holds it: ``"[3]"``, ``".name"``."""

    step: str
    expected: Any
    got: Any


class _Place(NamedTuple):
    part: _Part
    within: _Place | None


_Verdict: TypeAlias = "str | list[_Part]"
"""What differs; or the parts that must be the same as well, first ones first."""

_MISSING = object()

# Of these, `==` between two of one type is identity already.
_PLAIN = frozenset({int, bool, str, bytes, bytearray, type(None), type(...), type(NotImplemented), range, slice})

_REBUILT_FROM = ".__reduce__()"

_SHOWN_STEPS = 12
_LONG_TEXT = 60


def first_difference(expected: Any, got: Any) -> str | None:
    """Return where and how two values first differ, or None if they are the same.

    The same are:

    * *classes, functions*: those of one module and name; functions also by code, defaults and closure. A function or
      class that is made inside a call is made anew by each call, so that it cannot be the same object;
    * everything else only if its class is the same in this sense, so that ``1``, ``1.0`` and ``True`` are three;
      and then
    * *floats*: equal ones with the same sign, so that ``0.0`` is not ``-0.0``; NaN and NaN;
    * *lists, tuples*: item by item. *Dicts*: item by item, in their order. *Sets*: element by element, in any;
    * *numpy arrays*: by dtype, shape and bytes; in arrays of objects each object; in records each field.
      Numpy's scalars as arrays of one, except that NaN is NaN;
    * *exceptions*: by `args`. Notes, causes and tracebacks tell of the way that an error took, not of what it is;
    * *dataclasses* with `==`: by the fields that take part in it;
    * *other objects whose class defines* `==` *itself* and that answer True; those of the standard library are
      taken apart instead, because ``Decimal("1.0") == Decimal("1.00")``;
    * *any other object*: by the parts that it would be pickled and rebuilt from. Its `==` is not asked to say
      no, as a NaN somewhere inside would make it. Objects without such parts by `==`, whoever defines it.

    What refers to itself is no trouble.

    Parameters
    ----------
    expected, got : object
        Neither is changed; code of theirs (`==`, `__reduce_ex__`, `repr`) may run.

    Returns
    -------
    str or None
        One line with the way to the difference and both sides of it, short.

    Examples
    --------
    >>> first_difference([1, {"a": 2}], [1, {"a": 2.0}])
    "[1]['a']: expected 2 (int), got 2.0 (float)"
    >>> first_difference(float("nan"), float("nan")) is None
    True
    """
    # Pairs that were met count as the same: either they are, or their difference ends the walk. They are kept
    # because what `__reduce_ex__` makes would else be freed, and its id given to something new.
    met: dict[tuple[int, int], _Part] = {}
    waiting = [_Place(_Part("", expected, got), None)]
    while waiting:
        place = waiting.pop()
        part = place.part
        if part.expected is part.got or (id(part.expected), id(part.got)) in met:
            continue
        verdict = _verdict(part.expected, part.got)
        if isinstance(verdict, str):
            return _told(place, verdict)
        if verdict:
            met[id(part.expected), id(part.got)] = part
            waiting.extend(_Place(each, place) for each in reversed(verdict))
    return None


def short(value: Any) -> str:
    """Return the repr of `value` in one line of bounded length."""
    return " ".join(_shortener().repr(value).split())


def _shortener() -> reprlib.Repr:
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxother = shortener.maxlong = _LONG_TEXT
    shortener.maxlevel = 3
    return shortener


def _told(place: _Place, verdict: str) -> str:
    """Return the way to a difference, and the difference, no deeper than the parts that people know."""
    told: _Place = place
    outer: _Place | None = place
    while outer is not None:
        if outer.part.step.startswith(_REBUILT_FROM) and outer.within is not None:
            told = outer.within
        outer = outer.within
    if told is not place:
        whole = _unlike(told.part.expected, told.part.got)
        alike = short(told.part.expected) == short(told.part.got)
        verdict = f"{whole}; {_way(place)}: {verdict}" if alike else whole
    way = _way(told)
    return f"{way}: {verdict}" if way else verdict


def _way(place: _Place | None) -> str:
    steps: list[str] = []
    while place is not None:
        if place.part.step:
            steps.append(place.part.step)
        place = place.within
    steps.reverse()
    if len(steps) > _SHOWN_STEPS:
        steps = ["...", *steps[-_SHOWN_STEPS:]]
    return "".join(steps)


def _verdict(expected: Any, got: Any) -> _Verdict:
    cls = type(expected)
    if isinstance(expected, type) and isinstance(got, type):
        return [] if _same_class(expected, got) else _unlike(expected, got)
    if not _same_class(cls, type(got)):
        return _unlike(expected, got)
    if cls in _PLAIN:
        return [] if expected == got else _unlike(expected, got)
    compare = _BY_TYPE.get(cls) or _numpy_comparison(cls)
    if compare is not None:
        return compare(expected, got)
    if isinstance(expected, BaseException):
        return [_Part(".args", expected.args, got.args)]
    if "__dataclass_params__" in vars(cls) and cls.__dataclass_params__.eq:
        return [_attribute(field.name, expected, got) for field in fields(cls) if field.compare]
    return [] if _say_they_are_equal(expected, got) else _by_structure(expected, got)


def _same_class(one: type, other: type) -> bool:
    if one is other:
        return True
    if one.__module__ != other.__module__ or one.__name__ != other.__name__:
        return False
    # Of a class that was made inside a function, cloudpickle brings home the name without the function's.
    names = (one.__qualname__, other.__qualname__)
    return names[0] == names[1] or any("<locals>" in name for name in names)


def _unlike(expected: Any, got: Any) -> str:
    left, right = short(expected), short(got)
    is_text = type(expected) in (str, bytes, bytearray) and type(expected) is type(got)
    if is_text and max(len(expected), len(got)) > _LONG_TEXT // 2:
        first = next(i for i, (a, b) in enumerate(zip_longest(expected, got)) if a != b)
        around = slice(max(0, first - 10), first + 20)
        return f"from position {first} on expected {expected[around]!r}, got {got[around]!r}"
    if not _same_class(type(expected), type(got)):
        left, right = f"{left} ({type(expected).__qualname__})", f"{right} ({type(got).__qualname__})"
        if left == right:
            left, right = (f"{text} of {type(x).__module__}" for text, x in ((left, expected), (right, got)))
    return f"expected {left}, got {right}"


# --- what is known by its type ------------------------------------------------------------------------------


def _floats(expected: float, got: float) -> _Verdict:
    # The repr of a float is exact, tells the zeros apart, and is "nan" for every NaN.
    return [] if float.__repr__(expected) == float.__repr__(got) else _unlike(expected, got)


def _complexes(expected: complex, got: complex) -> _Verdict:
    return [_Part(".real", expected.real, got.real), _Part(".imag", expected.imag, got.imag)]


def _sequences(expected: list[Any] | tuple[Any, ...], got: list[Any] | tuple[Any, ...]) -> _Verdict:
    if len(expected) != len(got):
        return f"expected {len(expected)} items, got {len(got)}: {short(expected)} and {short(got)}"
    pairs = zip(expected, got, strict=True)
    return [_Part(f"[{index}]", one, other) for index, (one, other) in enumerate(pairs) if one is not other]


def _dicts(expected: dict[Any, Any], got: dict[Any, Any]) -> _Verdict:
    if len(expected) != len(got):
        return f"expected {len(expected)} keys, got {len(got)}: {short(expected)} and {short(got)}"
    parts = []
    pairs = zip(expected.items(), got.items(), strict=True)
    for index, ((key, value), (other_key, other_value)) in enumerate(pairs):
        parts.append(_Part(f" key {index}", key, other_key))
        parts.append(_Part(f"[{short(key)}]", value, other_value))
    return parts


def _sets(expected: set[Any] | frozenset[Any], got: set[Any] | frozenset[Any]) -> _Verdict:
    if len(expected) != len(got):
        return f"expected {len(expected)} elements, got {len(got)}: {short(expected)} and {short(got)}"
    by_hash = {element: element for element in got}
    alone: list[Any] = []
    taken: set[int] = set()
    for element in expected:
        partner = by_hash.get(element, _MISSING)
        if first_difference(element, partner) is None:
            taken.add(id(partner))
        else:
            alone.append(element)
    left = [each for each in got if id(each) not in taken]
    # What hashing did not find: NaN, objects without `==`, 1 for True. Each needs a partner of its own.
    for element in alone:
        place = next((i for i, each in enumerate(left) if first_difference(element, each) is None), None)
        if place is None:
            return f"expected {short(element)} ({type(element).__qualname__}) in it, got {short(got)}"
        del left[place]
    return []


def _functions(expected: FunctionType, got: FunctionType) -> _Verdict:
    names = [(each.__module__, each.__qualname__) for each in (expected, got)]
    if names[0] != names[1] or expected.__code__ != got.__code__:
        return f"expected {short(expected)}, got {short(got)}, another function"
    return [
        _Part(".__defaults__", expected.__defaults__, got.__defaults__),
        _Part(".__kwdefaults__", expected.__kwdefaults__, got.__kwdefaults__),
        _Part(".__closure__", expected.__closure__, got.__closure__),
    ]


def _cells(expected: CellType, got: CellType) -> _Verdict:
    return [_attribute("cell_contents", expected, got)]


_BY_TYPE: dict[type, Callable[[Any, Any], _Verdict]] = {
    float: _floats,
    complex: _complexes,
    list: _sequences,
    tuple: _sequences,
    dict: _dicts,
    set: _sets,
    frozenset: _sets,
    FunctionType: _functions,
    CellType: _cells,
}


def _attribute(name: str, expected: Any, got: Any) -> _Part:
    return _Part(f".{name}", *(_attribute_of(each, name) for each in (expected, got)))


def _attribute_of(obj: Any, name: str) -> Any:
    try:
        return getattr(obj, name, _MISSING)
    except ValueError:  # an empty cell
        return _MISSING


# --- numpy --------------------------------------------------------------------------------------------------


def _numpy_comparison(cls: type) -> Callable[[Any, Any], _Verdict] | None:
    numpy = sys.modules.get("numpy")  # who holds one of its objects has loaded it
    if numpy is None or not hasattr(numpy, "generic"):
        return None
    if cls is numpy.ndarray:
        return _arrays
    return _numpy_scalars if issubclass(cls, numpy.generic) and cls.__module__ == "numpy" else None


def _arrays(expected: Any, got: Any) -> _Verdict:
    for name in ("dtype", "shape"):
        one, other = getattr(expected, name), getattr(got, name)
        if one != other:
            return f"expected an array of {name} {one}, got one of {name} {other}"
    # Only the fields of a record count, not the bytes between them.
    if expected.dtype.names is not None:
        return [_Part(f"[{name!r}]", expected[name], got[name]) for name in expected.dtype.names]
    if expected.dtype.hasobject:
        one, other = expected.ravel(), got.ravel()
        return [_Part(f"[{_position(expected, i)}]", one[i], other[i]) for i in range(one.size)]
    unequal = _unequal_elements(expected, got)
    if unequal is None:
        return []
    one, other = expected.ravel()[unequal], got.ravel()[unequal]
    return f"[{_position(expected, unequal)}] expected {short(one)}, got {short(other)}"


def _unequal_elements(expected: Any, got: Any) -> int | None:
    """Return the flat index of the first element that differs."""
    import numpy

    if expected.dtype.char in "gG":  # long doubles have padding, which holds anything
        same = (expected == got) | ((expected != expected) & (got != got))
        unequal = ~numpy.asarray(same).ravel()
    else:
        one, other = expected.tobytes(), got.tobytes()
        if one == other:
            return None
        as_rows = [numpy.frombuffer(each, numpy.uint8).reshape(expected.size, -1) for each in (one, other)]
        unequal = (as_rows[0] != as_rows[1]).any(axis=1)
    return int(unequal.argmax()) if unequal.any() else None


def _position(array: Any, flat: int) -> str:
    import numpy

    return ", ".join(str(int(each)) for each in numpy.unravel_index(flat, array.shape))


def _numpy_scalars(expected: Any, got: Any) -> _Verdict:
    import numpy

    both_nan = expected.dtype.kind == "f" and expected != expected and got != got
    if both_nan or not isinstance(verdict := _arrays(numpy.asarray(expected), numpy.asarray(got)), str):
        return [] if both_nan else verdict
    return verdict if expected.dtype != got.dtype else _unlike(expected, got)


# --- objects ------------------------------------------------------------------------------------------------


def _say_they_are_equal(expected: Any, got: Any) -> bool:
    """Return whether their class defines an `==` that can be trusted, and it says yes."""
    definer = next(cls for cls in type(expected).__mro__ if "__eq__" in vars(cls))
    if str(definer.__module__).partition(".")[0] in sys.stdlib_module_names:
        return False
    return _answers_equal(expected, got)


def _answers_equal(expected: Any, got: Any) -> bool:
    try:
        return (expected == got) is True
    except Exception:  # their own code; that they cannot answer is no answer
        return False


def _by_structure(expected: Any, got: Any) -> _Verdict:
    one, other = _taken_apart(expected), _taken_apart(got)
    if one is None or other is None:
        if _answers_equal(expected, got):
            return []
        return f"{_unlike(expected, got)}, which cannot be compared: neither by == nor by pickling"
    if isinstance(one, str) or isinstance(other, str):  # the name of a global
        return [] if one == other else _unlike(expected, got)
    make, arguments, state, items, pairs = one
    other_make, other_arguments, other_state, other_items, other_pairs = other
    return [
        _Part(f"{_REBUILT_FROM}[0]", make, other_make),
        _Part(f"{_REBUILT_FROM}[1]", arguments, other_arguments),
        *_state_parts(state, other_state),
        _Part("", _drawn(items), _drawn(other_items)),
        _Part("", dict(pairs or ()), dict(other_pairs or ())),
    ]


def _taken_apart(obj: Any) -> str | tuple[Any, Any, Any, Any, Any] | None:
    """Return what the object would be rebuilt from (see `object.__reduce__`), None if it cannot be."""
    reduce = copyreg.dispatch_table.get(type(obj))
    try:
        made_of = obj.__reduce_ex__(4) if reduce is None else reduce(obj)
    except Exception:  # locks, files, ...: their own code says that they cannot, with any exception it likes
        return None
    if isinstance(made_of, str):
        return made_of
    make, arguments, state, items, pairs = (*made_of[:5], None, None, None)[:5]
    return make, arguments, state, items, pairs


def _drawn(items: Iterator[Any] | None) -> list[Any]:
    return list(items or ())


def _state_parts(state: Any, other: Any) -> list[_Part]:
    attributes, other_attributes = _attributes(state), _attributes(other)
    if attributes is None or other_attributes is None or attributes.keys() != other_attributes.keys():
        return [_Part(".__getstate__()", state, other)]
    return [_Part(f".{name}", value, other_attributes[name]) for name, value in attributes.items()]


def _attributes(state: Any) -> dict[str, Any] | None:
    """Return the attributes that a state stands for, None if it is something else."""
    if type(state) is dict:
        return state
    if type(state) is tuple and len(state) == 2 and type(state[1]) is dict:  # with __slots__
        return {**(state[0] or {}), **state[1]} if state[0] is None or type(state[0]) is dict else None
    return None
