"""What a call does besides returning: to its arguments, to what its function remembers, to the process.

The calls are watched one after the other in this process, from inside: what was there before a call is held
against what is there after it.
"""

from __future__ import annotations

import enum
import functools
import io
import locale
import os
import pickle
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType
from typing import Any, Literal, TypeAlias

from anypool import _wire
from anypool._identity import first_difference, short
from anypool._seeds_watch import GlobalWatch
from anypool.errors import SendError

__all__ = ["Touch", "Watched"]

# A larger value is watched by which object it is, and its elements by which they are: a copy of it before and
# after each call would take the memory that the call needs.
_LARGEST_COPY = 16 * 2**20
_PARTS_FOLLOWED = 10_000

_ENVIRONMENT = "the environment variable"

_ATOMS = frozenset({int, float, complex, bool, str, bytes, type(None), type(...), range, slice})
_CODE = (type, FunctionType, MethodType, ModuleType, property, classmethod, staticmethod)

Mark: TypeAlias = "bytes | tuple[Any, ...]"
"""A value as it is now: its pickle; else the value and its elements, of which only the identity counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Touch:
    """One thing that a call did beside returning.

    Parameters
    ----------
    kind : {"argument", "alias", "random", "state"}
        It changed an argument; it returned a part of one; it drew from a global generator; it changed something
        that outlives it.
    item : int
        Which call, counted from 0.
    what : str
        One line that names it.
    """

    kind: Literal["argument", "alias", "random", "state"]
    item: int
    what: str


class Watched:
    """`fn`, and what its calls touch. For calls one after the other, in this process.

    What a call changes and puts back is not seen, nor is what it changes in other modules than that of `fn`, in the
    standard library, on disk, or inside compiled code (`functools.lru_cache`). A call that imports something draws
    and sets what the import does: of such a call these two are left out, so watch two runs.

    Attributes
    ----------
    touches : list of Touch
        In the order of the calls; each thing only where it first happened.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.touches: list[Touch] = []
        self._fn = fn
        self._count = 0
        self._told: set[tuple[str, str]] = set()
        self._state: dict[str, Mark] | None = None

    def begin(self) -> None:
        """Count the items from 0 again: another run of the same calls follows."""
        self._count = 0
        self._state = None

    def __call__(self, *args: Any) -> Any:
        """The result of ``fn(*args)``."""
        item, self._count = self._count, self._count + 1
        before = {f"argument {index}": _mark(each) for index, each in enumerate(args)}
        parts = _mutable_parts("argument {}", args)
        # What the call before has left is what this one finds: one look for each call, not two.
        state = _remembered(self._fn) if self._state is None else self._state
        loaded = len(sys.modules)
        generators = GlobalWatch()
        generators.start()
        try:
            result = self._fn(*args)
        finally:
            drawn = generators.used()
            self._state = _remembered(self._fn)
            touched = _changes(state, self._state)
            if len(sys.modules) != loaded:
                drawn, touched = frozenset(), (each for each in touched if not each[0].startswith(_ENVIRONMENT))
            after = {name: _mark(each) for name, each in zip(before, args, strict=True)}
            self._tell("random", item, ((each, f"draws from the global generator of {each}") for each in drawn))
            self._tell("argument", item, _changes(before, after))
            self._tell("state", item, touched)
        self._tell("alias", item, _shared(result, parts))
        return result

    def _tell(
        self, kind: Literal["argument", "alias", "random", "state"], item: int, found: Iterable[tuple[str, str]]
    ) -> None:
        for name, what in sorted(found):
            if (kind, name) not in self._told:
                self._told.add((kind, name))
                self.touches.append(Touch(kind=kind, item=item, what=what))


# --- a value before and after -------------------------------------------------------------------------------


class _TooLarge(Exception):
    pass


class _Bounded(io.BytesIO):
    def write(self, data: Any, /) -> int:
        if self.tell() + len(data) > _LARGEST_COPY:
            raise _TooLarge
        return super().write(data)


def _is_small(buffer: pickle.PickleBuffer) -> bool:
    """Whether a part that need not be copied into the pickle may be; it is asked before the copy is made."""
    if buffer.raw().nbytes > _LARGEST_COPY:
        raise _TooLarge
    return True


def _mark(value: Any) -> Mark:
    buffer = _Bounded()
    try:
        pickle.Pickler(buffer, pickle.HIGHEST_PROTOCOL, buffer_callback=_is_small).dump(value)
    except Exception:  # too large, or its own code refuses with whatever it likes: then its identity has to do
        return (value, *_elements(value))
    return buffer.getvalue()


def _elements(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return list(value)
    attributes = getattr(value, "__dict__", None)
    return [*attributes.keys(), *attributes.values()] if isinstance(attributes, dict) else []


def _difference(before: Mark, after: Mark) -> str | None:
    """Where two marks of one place differ; None if they do not."""
    if isinstance(before, bytes) and isinstance(after, bytes):
        if before == after:
            return None
        try:
            # Bytes may differ by which parts are one object; and only this says what changed.
            return first_difference(pickle.loads(before), pickle.loads(after))
        except Exception as exc:  # rebuilding runs somebody's code
            return f"changed, and cannot be rebuilt: {type(exc).__name__}: {exc}"
    if isinstance(before, tuple) and isinstance(after, tuple):
        same = len(before) == len(after) and all(a is b for a, b in zip(before, after, strict=True))
        return None if same else f"was {short(before[0])}, is {short(after[0])}"
    return "changed to something of another kind"


def _changes(before: Mapping[str, Mark], after: Mapping[str, Mark]) -> Iterator[tuple[str, str]]:
    """The places whose marks differ, each with what became of it."""
    for name in before.keys() | after.keys():
        if name not in before:
            yield name, f"{name} was set: it was not there before"
        elif name not in after:
            yield name, f"{name} was deleted"
        else:
            found = _difference(before[name], after[name])
            if found is not None:
                yield name, f"{name} was changed: {_before_after(found)}"


def _before_after(difference: str) -> str:
    """A difference in words for the same place at two times."""
    return difference.replace("expected ", "was ", 1).replace(", got ", ", is ", 1)


# --- what outlives a call -----------------------------------------------------------------------------------


def _remembered(fn: Callable[..., Any]) -> dict[str, Mark]:
    """What is left of a call when it has ended, as it is now: the process, and what `fn` can reach by name."""
    found = {f"{_ENVIRONMENT} {name}": _mark(value) for name, value in os.environ.items()}
    found["the working directory"] = _mark(_working_directory())
    found["sys.path"] = _mark(list(sys.path))
    found["the locale"] = _mark(locale.setlocale(locale.LC_ALL))
    for name, value in _reachable(fn):
        found.setdefault(name, _mark(value))
    return found


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:  # somebody removed it
        return None


def _reachable(fn: Any) -> Iterator[tuple[str, Any]]:
    """What `fn` remembers from call to call: the globals of its module, its closure, its defaults, its object."""
    waiting, seen, modules = [fn], set(), set()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, functools.partial):
            waiting.append(each.func)
            yield f"the arguments kept by partial {_name(each.func)}", (each.args, each.keywords)
        elif isinstance(each, (MethodType, BuiltinMethodType)):
            if isinstance(each, MethodType):
                waiting.append(each.__func__)
            if not isinstance(each.__self__, (*_CODE, type(None))):
                yield f"the {type(each.__self__).__qualname__} that {_name(each)} is a method of", each.__self__
        elif isinstance(each, FunctionType):
            waiting += [cell for cell in _closure(each).values() if callable(cell)]
            yield from _of_function(each)
            # The standard library keeps caches, and nobody could change that.
            is_stdlib = str(each.__module__).partition(".")[0] in sys.stdlib_module_names - {"__main__"}
            if each.__module__ not in modules and not is_stdlib:
                modules.add(each.__module__)
                yield from _of_module(each.__globals__)
        elif callable(each) and not isinstance(each, type) and isinstance(type(each).__call__, FunctionType):
            waiting.append(type(each).__call__)
            yield f"the {type(each).__qualname__} that is called", each


def _of_function(fn: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, value in _closure(fn).items():
        if not isinstance(value, _CODE):
            yield f"the closure variable {name} of {_name(fn)}", value
    if fn.__defaults__ or fn.__kwdefaults__:
        yield f"a default of {_name(fn)}", (fn.__defaults__, fn.__kwdefaults__)
    for name, value in vars(fn).items():
        if not isinstance(value, _CODE):
            yield f"the attribute {name} of {_name(fn)}", value


def _of_module(names: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    module = names.get("__name__")
    for name, value in list(names.items()):
        if name.startswith("__"):
            continue
        if not isinstance(value, _CODE):
            yield f"the global {name} of {module}", value
        elif isinstance(value, FunctionType) and value.__module__ == module:
            yield from _of_function(value)
        elif isinstance(value, type) and value.__module__ == module:
            for attribute, held in list(vars(value).items()):
                if not attribute.startswith("__") and not isinstance(held, _CODE):
                    yield f"the class attribute {value.__qualname__}.{attribute} of {module}", held


def _closure(fn: FunctionType) -> dict[str, Any]:
    found = {}
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not filled yet
            continue
    return found


def _name(fn: Any) -> str:
    return getattr(fn, "__qualname__", None) or type(fn).__qualname__


# --- results that are arguments -----------------------------------------------------------------------------


def _shared(result: Any, parts: Mapping[int, tuple[str, Any]]) -> Iterator[tuple[str, str]]:
    """The first part of the result that is a part of an argument: on some backends it is a copy, on others not."""
    if not parts:
        return
    for key, (place, _) in _mutable_parts("{}", (result,)).items():
        if key in parts and _is_copied_when_sent(parts[key][1]):
            name = f"the result{place.removeprefix('0')}"
            yield name, f"{name} is {parts[key][0]}: the same object where memory is shared"
            return


def _mutable_parts(name: str, values: tuple[Any, ...]) -> dict[int, tuple[str, Any]]:
    """What can be changed in `values`, by identity: the way to it, and the object itself, which keeps its id."""
    found: dict[int, tuple[str, Any]] = {}
    waiting = deque((name.format(index), value) for index, value in enumerate(values))
    seen: dict[int, Any] = {}
    while waiting and len(seen) < _PARTS_FOLLOWED:
        place, value = waiting.popleft()
        if type(value) in _ATOMS or isinstance(value, (*_CODE, enum.Enum)) or id(value) in seen:
            continue
        seen[id(value)] = value
        inner, can_change = _inside(value)
        waiting.extend((f"{place}{step}", part) for step, part in inner)
        if can_change:
            owner = _owner(value)
            found.setdefault(id(owner), (place, owner))
    return found


def _inside(value: Any) -> tuple[list[tuple[str, Any]], bool]:
    """The parts of a value, and whether it can be changed itself."""
    if isinstance(value, dict):
        return [(f"[{short(key)}]", part) for key, part in value.items()], True
    if isinstance(value, (list, tuple, deque)):
        return [(f"[{index}]", part) for index, part in enumerate(value)], not isinstance(value, tuple)
    if isinstance(value, (set, bytearray)) or _is_array(value):
        return [], True
    attributes = getattr(value, "__dict__", None)
    if not isinstance(attributes, dict):
        return [], False
    parameters = getattr(type(value), "__dataclass_params__", None)
    frozen = bool(parameters and parameters.frozen)
    return [(f".{attribute}", part) for attribute, part in attributes.items()], not frozen


def _is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")  # who holds one of its arrays has loaded it
    return numpy is not None and hasattr(numpy, "ndarray") and isinstance(value, numpy.ndarray)


def _owner(value: Any) -> Any:
    """Of a view of an array, the array that owns the memory."""
    while _is_array(value) and _is_array(value.base):
        value = value.base
    return value


def _is_copied_when_sent(value: Any) -> bool:
    try:
        return _wire.loads(_wire.dumps(value)) is not value  # a singleton comes back as itself
    except SendError:
        return True
