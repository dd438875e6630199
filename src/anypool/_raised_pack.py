"""The worker's side of `_raised`: an exception becomes plain data."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any

from anypool._raised import Lost, Node, Own, Raised, Ref, Shared, Slot
from anypool._raised_frames import places_of
from anypool._raised_reads import (
    HEAP_TYPE,
    TEXT,
    class_name,
    exact,
    name_of,
    read,
    resolve,
    slots_of,
    text_of,
)
from anypool.errors import StandIn

__all__ = ["pack"]

_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes})
_GROUP = vars(BaseExceptionGroup)


def pack(
    exc: BaseException,
    dumps: Callable[[object], bytes],
    *,
    loads: Callable[[bytes], object] = pickle.loads,
) -> Raised:
    """Return `exc` as plain data. Never raises, and keeps no reference to the exception or its frames.

    Parameters
    ----------
    exc : BaseException
        What the call raised.
    dumps : callable
        Pickles arguments and attributes; a by-value pickler also sends classes of `__main__`.
    loads : callable
        Reads what `dumps` wrote. Each pickle is tried on the worker, where a failure costs one value.

    Notes
    -----
    Of a traceback the first 50 and the last 50 frames are kept. `AttributeError.obj` is dropped: it is
    the object at hand, of any size, and only feeds spelling hints. Exceptions directly in arguments,
    attributes or lists and tuples of these keep their tracebacks; deeper ones are pickled.
    """
    try:
        return _Packer(dumps, loads).pack(exc)
    except BaseException as trouble:  # the reply must go out, whatever the user's classes do
        return Raised(nodes=(_bare_node(exc, trouble),))


class _Packer:
    """Numbers the exceptions of one graph as it meets them, and makes a node of each."""

    def __init__(self, dumps: Callable[[object], bytes], loads: Callable[[bytes], object]) -> None:
        self._dumps = dumps
        self._loads = loads
        self._met: list[BaseException] = []
        self._numbers: dict[int, int] = {}
        self._by_value: dict[type, bytes | None] = {}

    def pack(self, exc: BaseException) -> Raised:
        self._number(exc)
        # A loop over a list that grows, not recursion: chains may be longer than the stack is deep.
        return Raised(nodes=tuple(self._guarded_node(met) for met in self._met))

    def _number(self, exc: BaseException) -> int:
        number = self._numbers.setdefault(id(exc), len(self._met))
        if number == len(self._met):
            self._met.append(exc)
        return number

    def _edge(self, exc: BaseException | None) -> int | None:
        return None if exc is None else self._number(exc)

    def _guarded_node(self, exc: BaseException) -> Node:
        try:
            return self._node(exc)
        except BaseException as trouble:  # one strange exception must not take the chain with it
            return _bare_node(exc, trouble)

    def _node(self, exc: BaseException) -> Node:
        cls = type(exc)
        module, qualname = name_of(cls)
        state, shared = self._state(exc)
        is_group = issubclass(cls, BaseExceptionGroup)
        places, left_out = places_of(read(exc, "__traceback__"))
        return Node(
            module=module,
            qualname=qualname,
            text=text_of(exc),
            bases=_bases(cls),
            by_value=self._class_by_value(cls),
            whole=self._whole(exc),
            state=state,
            shared=shared,
            places=places,
            left_out=left_out,
            message=str(_GROUP["message"].__get__(exc)) if is_group else None,
            members=tuple(map(self._number, _GROUP["exceptions"].__get__(exc))) if is_group else (),
            cause=self._edge(read(exc, "__cause__")),
            context=self._edge(read(exc, "__context__")),
            suppress=read(exc, "__suppress_context__"),
        )

    def _state(self, exc: BaseException) -> tuple[dict[Slot, Any], bytes | None]:
        """Every value of `exc`, and the one pickle of those that need pickling."""
        state: dict[Slot, Any] = {}
        hard: list[Slot] = []
        for slot, value in _values(exc):
            if _is_plain(value):
                state[slot] = self._plain(value)
            else:
                state[slot] = value
                hard.append(slot)
        if not hard:
            return state, None
        try:
            shared = self._tried([state[slot] for slot in hard])
        except BaseException:  # which of them fails is found, and told, below
            return state | {slot: self._single(state[slot]) for slot in hard}, None
        return state | {slot: Shared(index) for index, slot in enumerate(hard)}, shared

    def _plain(self, value: Any) -> Any:
        if issubclass(type(value), BaseException):
            return Ref(self._number(value))
        if type(value) in (list, tuple):
            return type(value)(self._plain(part) for part in value)
        return value

    def _single(self, value: object) -> Own | Lost:
        try:
            return Own(self._tried(value))
        except BaseException:  # the text says it to the caller
            return Lost(f"<unsendable: {class_name(type(value))}>")

    def _tried(self, value: object) -> bytes:
        data = self._dumps(value)
        self._loads(data)
        return data

    def _whole(self, exc: BaseException) -> bytes | None:
        """The pickle of `exc`, if its class says how to pickle it and is right about that."""
        if not _customises_pickling(type(exc)):
            return None
        try:
            data = self._dumps(exc)
            clone = self._loads(data)
            return data if type(clone) is type(exc) and self._alike(exc, clone) else None
        except BaseException:  # as itself by the second way; what that loses is told there
            return None

    def _alike(self, exc: BaseException, clone: BaseException) -> bool:
        """Catches `super().__init__(f"bad {x}")`, whose pickle comes back as "bad bad 1"."""
        ours, theirs = read(exc, "args"), read(clone, "args")
        return len(ours) == len(theirs) and all(
            type(a) is type(b) and (a is b or (a == b) is True or self._dumps(a) == self._dumps(b))
            for a, b in zip(ours, theirs, strict=True)
        )

    def _class_by_value(self, cls: type[BaseException]) -> bytes | None:
        module, qualname = name_of(cls)
        # A stand-in is made anew at the next hop, which may even know the original.
        if not cls.__flags__ & HEAP_TYPE or issubclass(cls, StandIn):
            return None
        if module != "__main__" and resolve(sys.modules.get(module), qualname) is cls:
            return None
        if cls not in self._by_value:
            try:
                self._by_value[cls] = self._tried(cls)
            except BaseException:  # then the caller makes a stand-in and says so
                self._by_value[cls] = None
        return self._by_value[cls]


def _bare_node(exc: BaseException, trouble: BaseException) -> Node:
    module, qualname = name_of(type(exc))
    text = f"<{qualname}: packing it raised {class_name(type(trouble))}>"
    return Node(module=module, qualname=qualname, text=text, state={("argument", 0): text})


def _is_plain(value: Any) -> bool:
    """Whether `value` needs no pickler: an atom, an exception, or a list or tuple of these."""
    kind = type(value)
    if kind in _ATOMS or issubclass(kind, BaseException):
        return True
    return (kind is list or kind is tuple) and all(
        type(part) in _ATOMS or issubclass(type(part), BaseException) for part in value
    )


def _values(exc: BaseException) -> Iterator[tuple[Slot, Any]]:
    for index, value in enumerate(read(exc, "args")):
        yield ("argument", index), value
    for name, value in dict(read(exc, "__dict__")).items():
        if name != TEXT:
            yield ("attribute", exact(name)), value
    for name, descriptor in slots_of(type(exc)).items():
        try:
            value = descriptor.__get__(exc)
        except (AttributeError, TypeError):  # the slot is empty; UnicodeError says so by TypeError
            continue
        if value is not None:  # the empty value of builtin slots; OSError prints a None that was set
            yield ("slot", name), value


def _customises_pickling(cls: type) -> bool:
    # `copyreg.dispatch_table` is not asked: tblib's `install()` puts every exception class there.
    # Members of a group would lose their tracebacks; a stand-in pickles by `pack`.
    if issubclass(cls, BaseExceptionGroup | StandIn):
        return False
    names = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")
    made = [owner for owner in cls.__mro__ if owner.__flags__ & HEAP_TYPE]
    return any(name in vars(owner) for owner in made for name in names)


def _bases(cls: type) -> tuple[tuple[str, str], ...]:
    """Names of the exception classes to stand below, nearest first, up to one that every Python has."""
    names = []
    for base in cls.__mro__[1:] if cls.__flags__ & HEAP_TYPE else ():
        if issubclass(base, BaseException):
            names.append(name_of(base))
            if not base.__flags__ & HEAP_TYPE:
                break
    return tuple(names)
