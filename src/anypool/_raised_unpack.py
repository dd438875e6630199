"""The caller's side of `_raised`: plain data becomes the exception again, or the nearest there is."""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from anypool._raised import Lost, Node, Own, Raised, Ref, Shared, Slot
from anypool._raised_frames import traceback_of
from anypool._raised_pack import pack
from anypool._raised_reads import BASE, HEAP_TYPE, TEXT, read, reason, resolve, slots_of
from anypool.errors import StandIn

__all__ = ["unpack"]

_UNREADABLE = "<could not be read here>"


def unpack(raised: Raised, loads: Callable[[bytes], object]) -> BaseException:
    """Return the exception that `raised` was packed from, or the nearest that can be made here.

    Never raises, but for a `KeyboardInterrupt` that is the caller's own.

    Parameters
    ----------
    raised : Raised
        What `pack` returned.
    loads : callable
        Reads what the worker's `dumps` wrote.

    Returns
    -------
    BaseException
        The original's type, or one that derives from `errors.StandIn`.
    """
    try:
        return _Unpacker(raised.nodes, loads).unpack()
    except KeyboardInterrupt:
        raise
    except BaseException as trouble:  # an import or a __setstate__ may raise anything, SystemExit included
        return StandIn(f"the exception of a call could not be rebuilt: {reason(trouble)}")


class _Unpacker:
    """Makes the exceptions of one graph: first each by itself, then what hangs on it."""

    def __init__(self, nodes: tuple[Node, ...], loads: Callable[[bytes], object]) -> None:
        self._nodes = nodes
        self._loads = loads
        self._made: dict[int, BaseException] = {}
        self._whole: set[int] = set()

    def unpack(self) -> BaseException:
        reports = {number: self._create(number) for number in _members_first(self._nodes)}
        for number, report in reports.items():
            self._finish(number, report)
        return self._made[0]

    def _create(self, number: int) -> list[str]:
        """Make the exception of a node, still empty; return what is to be said about it."""
        node = self._nodes[number]
        members = [self._made[member] for member in node.members]
        reports: list[str] = []
        exc = None
        cls = self._class_of(node, reports)
        if cls is not None and node.whole is not None:
            exc = _attempt(reports, self._loads, node.whole)
            if type(exc) is cls:
                self._whole.add(number)
            else:  # the worker's class of `__main__` is a copy of ours
                exc = None
        if cls is not None and exc is None:
            exc = _attempt(reports, _empty, cls, node, members)
        if exc is not None:
            self._made[number] = exc
            return []
        self._made[number], by = _stand_in(node, members)
        why = "; ".join(dict.fromkeys(reports)) or "no reason is known"
        return [f"{by} stands in for {node.original}, which can't be rebuilt here: {why}"]

    def _class_of(self, node: Node, reports: list[str]) -> type[BaseException] | None:
        cls = _attempt(reports, _find, node.module, node.qualname)
        if cls is None and node.by_value is not None:
            cls = _attempt(reports, self._loads, node.by_value)
        return cls if isinstance(cls, type) and issubclass(cls, BaseException) else None

    def _finish(self, number: int, reports: list[str]) -> None:
        node, exc = self._nodes[number], self._made[number]
        values = self._decoded(node, reports)
        if number in self._whole:
            attributes = read(exc, "__dict__")
            for (kind, name), value in values.items():
                # What its own pickling leaves out: notes, and attributes set from outside.
                if kind == "attribute" and type(node.state[kind, name]) is not Lost:
                    attributes.setdefault(name, value)
        else:
            _restore(exc, values, reports)
            lost = [slot for slot, value in node.state.items() if type(value) is Lost]
            if lost:
                named = ", ".join(f"{kind} {name!r} {node.state[kind, name].text}" for kind, name in lost)
                reports.append(f"could not be sent, so that a text is in its place: {named}")
        _link(exc, node, self._made)
        if node.left_out:
            reports.append(f"{node.left_out} frames in the middle of the traceback were left out")
        _annotate(exc, reports)

    def _decoded(self, node: Node, reports: list[str]) -> dict[Slot, Any]:
        trouble: list[str] = []
        shared: Any = None
        if node.shared is not None:
            shared = _attempt(trouble, self._loads, node.shared)
        values: dict[Slot, Any] = {}
        for slot, value in node.state.items():
            if type(value) is Shared:
                values[slot] = _UNREADABLE if shared is None else shared[value.number]
            elif type(value) is Own:
                own = _attempt(trouble, self._loads, value.data)
                values[slot] = _UNREADABLE if own is None else own
            else:
                values[slot] = self._plain(value)
        reports.extend(f"values could not be read here: {why}" for why in trouble)
        return values

    def _plain(self, value: Any) -> Any:
        if type(value) is Ref:
            return self._made[value.number]
        if type(value) is Lost:
            return value.text
        if type(value) in (list, tuple):
            return type(value)(self._plain(part) for part in value)
        return value


def _attempt(reports: list[str], fn: Callable[..., Any], *args: Any) -> Any:
    """Return `fn(*args)`, or None and say why in `reports`."""
    try:
        return fn(*args)
    except KeyboardInterrupt:  # the caller's own Ctrl-C
        raise
    except BaseException as trouble:  # imports and hooks of the user's may raise anything
        reports.append(reason(trouble))
        return None


def _members_first(nodes: tuple[Node, ...]) -> list[int]:
    """The numbers of all nodes, the members of a group before it: a group is made with its members."""
    done: dict[int, None] = {}
    stack = list(range(len(nodes)))
    while stack:
        waiting = [member for member in nodes[stack[-1]].members if member not in done]
        if waiting:
            stack.extend(waiting)
        else:
            done.setdefault(stack.pop())
    return list(done)


def _find(module: str, qualname: str) -> Any:
    """Return the class of that name, importing its module if need be.

    Raises
    ------
    ImportError
        There is no such module, or no such class in it.
    """
    if module not in sys.modules:
        __import__(module)
    found = resolve(sys.modules[module], qualname)
    if isinstance(found, type) and issubclass(found, BaseException):
        return found
    raise ImportError(f"no exception class {qualname!r} in module {module!r}")


def _empty(cls: type[BaseException], node: Node, members: list[BaseException]) -> BaseException:
    """Return an instance of `cls` for which no code of the user's has run."""
    if members:
        return BaseExceptionGroup.__new__(cls, node.message or "", members)  # type: ignore[type-var]
    solid: Any = cls
    while solid.__flags__ & HEAP_TYPE:
        solid = solid.__base__  # the one whose `__new__` knows the layout; the MRO may name others first
    exc: BaseException = solid.__new__(cls)
    return exc


def _stand_in(node: Node, members: list[BaseException]) -> tuple[BaseException, str]:
    """Return the nearest exception that can be made, and what to call its class."""
    refused: list[str] = []  # that the nearest can't be made is told by the first report already
    for module, qualname in (*node.bases, (node.module, node.qualname), ("builtins", "Exception")):
        base = _attempt(refused, _find, module, qualname)
        if base is None:
            continue
        cls = _attempt(refused, _stand_in_class, node.module, node.qualname, base)
        exc = None if cls is None else _attempt(refused, _empty, cls, node, members)
        if exc is not None:
            read(exc, "__dict__")[TEXT] = node.text
            return exc, "this class"
        # `StandIn` is an Exception, and such a group can't hold a KeyboardInterrupt: better its plain base
        # with its members than a stand-in without them.
        exc = _attempt(refused, _empty, base, node, members) if members else None
        if exc is not None:
            return exc, qualname
    return StandIn(node.text), "StandIn"


# Cached, so that two stand-ins of one class are of one type; bounded, so that ever new classes don't pile up.
@lru_cache(maxsize=256)
def _stand_in_class(module: str, qualname: str, base: type[BaseException]) -> type[BaseException]:
    bases: tuple[type, ...] = (base, StandIn)
    if issubclass(StandIn, base):
        bases = (StandIn,)
    elif issubclass(base, StandIn):
        bases = (base,)
    body = {
        "__module__": module,
        "__qualname__": qualname,
        "__doc__": f"Stands in for {module}.{qualname}, which can't be rebuilt here.",
        "__str__": _stand_in_text,
        "__reduce__": _stand_in_reduce,
        "original": f"{module}.{qualname}",
    }
    name = qualname.rpartition(".")[2]
    return types.new_class(name, bases, exec_body=lambda namespace: namespace.update(body))


def _stand_in_text(self: BaseException) -> str:
    text: str = read(self, "__dict__").get(TEXT, "")
    return text


def _stand_in_reduce(self: BaseException) -> tuple[object, ...]:
    """No pickler finds its class by name, so that it travels as we send any exception."""
    return unpack, (pack(self, pickle.dumps), pickle.loads)


def _restore(exc: BaseException, values: dict[Slot, Any], reports: list[str]) -> None:
    attributes = read(exc, "__dict__")
    slots = slots_of(type(exc))
    BASE["args"].__set__(exc, tuple(value for (kind, _), value in values.items() if kind == "argument"))
    for (kind, name), value in values.items():
        if kind == "attribute" or (kind == "slot" and name not in slots):
            attributes[name] = value
        elif kind == "slot":
            _attempt(reports, slots[str(name)].__set__, exc, value)


def _link(exc: BaseException, node: Node, made: dict[int, BaseException]) -> None:
    BASE["__cause__"].__set__(exc, None if node.cause is None else made[node.cause])
    BASE["__context__"].__set__(exc, None if node.context is None else made[node.context])
    BASE["__suppress_context__"].__set__(exc, node.suppress)  # last: setting a cause sets it
    BASE["__traceback__"].__set__(exc, traceback_of(node.places))


def _annotate(exc: BaseException, reports: list[str]) -> None:
    if not reports:
        return
    notes = read(exc, "__dict__").setdefault("__notes__", [])
    if type(notes) is list:  # a user may have put anything there, and that is the user's
        notes.extend(f"anypool: {report}" for report in reports)
