"""An exception as plain data: packed on the worker, itself again in the caller.

::

    exception ──pack──> Raised(nodes) ──any pickler──> Raised ──unpack──> exception
        │                   │                                      │
        │ cause, context,   │ one node an exception; the edges     │ create each, members before their
        │ members of groups │ are node numbers: shared nodes and   │ group; then fill in state, frames
        └ state, frames     │ cycles stay what they are            └ and edges

How an exception is created in the caller, the first that works:

1. its class customises pickling, and a trial on the worker gave the same type and arguments: unpickled;
2. its class is found, by name first and by value second: `__new__` of its builtin base, then arguments,
   attributes and slots are put back. `__init__` is never called, so it may require what it likes;
3. a stand-in: a class of the same name below the nearest base that is found, and `errors.StandIn`.

The caller's class wins by name so that `except MyError` of a script catches what a worker's copy of the
script raised.

Tracebacks are built here and not with tblib: its frames point with carets at the wrong columns, and each
holds the stack that rebuilt it (`f_back`), so that an error would keep the caller's locals alive.

What can't be sent is replaced by text and named in a note that begins with "anypool:". Nothing is lost in
silence, so every guard below turns what it caught into such text.
"""

from __future__ import annotations

import pickle
import sys
import types
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

from anypool.errors import StandIn

__all__ = ["Raised", "pack", "unpack"]

_FRAMES_KEPT = 50  # at each end of a traceback: a RecursionError has a thousand equal ones between
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE of CPython's Include/object.h: a class made at run time
_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes})
_BASE = vars(BaseException)
_GROUP = vars(BaseExceptionGroup)
_TEXT = "_anypool_text"  # the attribute of a stand-in that holds the original's str()
_UNREADABLE = "<could not be read here>"

_Slot: TypeAlias = "tuple[str, str | int]"  # ("argument", 0), ("attribute", "x") or ("slot", "errno")


class _Ref(NamedTuple):
    """In place of an exception: the number of its node."""

    number: int


class _Shared(NamedTuple):
    """In place of a value: its place in the pickle of its node. One pickle keeps shared identity."""

    number: int


class _Own(NamedTuple):
    """In place of a value: a pickle of its own, because a neighbour can't be pickled."""

    data: bytes


class _Lost(NamedTuple):
    """In place of a value that can't be sent: the text that the caller gets instead."""

    text: str


class _Place(NamedTuple):
    """One entry of a traceback."""

    filename: str
    name: str
    qualname: str
    first: int
    line: int
    end_line: int | None
    column: int | None
    end_column: int | None
    module: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Node:
    """One exception of the graph. `bases` and `by_value` serve where its class is not found by name."""

    module: str
    qualname: str
    text: str
    bases: tuple[tuple[str, str], ...] = ()
    by_value: bytes | None = None
    whole: bytes | None = None
    state: dict[_Slot, Any] = field(default_factory=dict)
    shared: bytes | None = None
    places: tuple[_Place, ...] = ()
    left_out: int = 0
    message: str | None = None
    members: tuple[int, ...] = ()
    cause: int | None = None
    context: int | None = None
    suppress: bool = False

    @property
    def original(self) -> str:
        """The dotted name of its class."""
        return f"{self.module}.{self.qualname}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Raised:
    """An exception with all that hangs on it, as data that every pickler can carry.

    Parameters
    ----------
    nodes : tuple
        The exceptions of the graph; the first is the one that was raised.
    """

    nodes: tuple[_Node, ...]


def pack(
    exc: BaseException,
    dumps: Callable[[object], bytes],
    *,
    hide: Collection[str],
    loads: Callable[[bytes], object] = pickle.loads,
) -> Raised:
    """Return `exc` as plain data. Never raises, and keeps no reference to the exception or its frames.

    Parameters
    ----------
    exc : BaseException
        What the call raised.
    dumps : callable
        Pickles arguments and attributes; a by-value pickler also sends classes of `__main__`.
    hide : collection of str
        Names of modules; leading frames of these and of modules below them are cut. Later frames
        stay: a user's callback may pass through us.
    loads : callable
        Reads what `dumps` wrote. Each pickle is tried on the worker, where a failure costs one value.

    Notes
    -----
    Of a traceback the first 50 and the last 50 frames are kept. `AttributeError.obj` is dropped: it is
    the object at hand, of any size, and only feeds spelling hints. Exceptions directly in arguments,
    attributes or lists and tuples of these keep their tracebacks; deeper ones are pickled.
    """
    try:
        return _Packer(dumps, loads, tuple(hide)).pack(exc)
    except BaseException as trouble:  # the reply must go out, whatever the user's classes do
        return Raised(nodes=(_bare_node(exc, trouble),))


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
        return StandIn(f"the exception of a call could not be rebuilt: {_reason(trouble)}")


# ---- on the worker


class _Packer:
    """Numbers the exceptions of one graph as it meets them, and makes a node of each."""

    def __init__(
        self, dumps: Callable[[object], bytes], loads: Callable[[bytes], object], hide: tuple[str, ...]
    ) -> None:
        self._dumps = dumps
        self._loads = loads
        self._hide = hide
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

    def _guarded_node(self, exc: BaseException) -> _Node:
        try:
            return self._node(exc)
        except BaseException as trouble:  # one strange exception must not take the chain with it
            return _bare_node(exc, trouble)

    def _node(self, exc: BaseException) -> _Node:
        cls = type(exc)
        module, qualname = _name_of(cls)
        state, shared = self._state(exc)
        is_group = issubclass(cls, BaseExceptionGroup)
        places, left_out = _places(_get(exc, "__traceback__"), self._hide)
        return _Node(
            module=module,
            qualname=qualname,
            text=_text(exc),
            bases=_bases(cls),
            by_value=self._class_by_value(cls),
            whole=self._whole(exc),
            state=state,
            shared=shared,
            places=places,
            left_out=left_out,
            message=str(_GROUP["message"].__get__(exc)) if is_group else None,
            members=tuple(map(self._number, _GROUP["exceptions"].__get__(exc))) if is_group else (),
            cause=self._edge(_get(exc, "__cause__")),
            context=self._edge(_get(exc, "__context__")),
            suppress=_get(exc, "__suppress_context__"),
        )

    def _state(self, exc: BaseException) -> tuple[dict[_Slot, Any], bytes | None]:
        """Every value of `exc`, and the one pickle of those that need pickling."""
        state: dict[_Slot, Any] = {}
        hard: list[_Slot] = []
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
        return state | {slot: _Shared(index) for index, slot in enumerate(hard)}, shared

    def _plain(self, value: Any) -> Any:
        if issubclass(type(value), BaseException):
            return _Ref(self._number(value))
        if type(value) in (list, tuple):
            return type(value)(self._plain(part) for part in value)
        return value

    def _single(self, value: object) -> _Own | _Lost:
        try:
            return _Own(self._tried(value))
        except BaseException:  # the text says it to the caller
            return _Lost(f"<unsendable: {_class_name(type(value))}>")

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
        ours, theirs = _get(exc, "args"), _get(clone, "args")
        return len(ours) == len(theirs) and all(
            type(a) is type(b) and (a is b or (a == b) is True or self._dumps(a) == self._dumps(b))
            for a, b in zip(ours, theirs, strict=True)
        )

    def _class_by_value(self, cls: type[BaseException]) -> bytes | None:
        module, qualname = _name_of(cls)
        # A stand-in is made anew at the next hop, which may even know the original.
        if not cls.__flags__ & _HEAP_TYPE or issubclass(cls, StandIn):
            return None
        if module != "__main__" and _resolved(sys.modules.get(module), qualname) is cls:
            return None
        if cls not in self._by_value:
            try:
                self._by_value[cls] = self._tried(cls)
            except BaseException:  # then the caller makes a stand-in and says so
                self._by_value[cls] = None
        return self._by_value[cls]


def _bare_node(exc: BaseException, trouble: BaseException) -> _Node:
    module, qualname = _name_of(type(exc))
    text = f"<{qualname}: packing it raised {_class_name(type(trouble))}>"
    return _Node(module=module, qualname=qualname, text=text, state={("argument", 0): text})


def _get(exc: BaseException, name: str) -> Any:
    """Return what the interpreter holds under `name`, past any property of the user's class."""
    return _BASE[name].__get__(exc)


def _is_plain(value: Any) -> bool:
    """Whether `value` needs no pickler: an atom, an exception, or a list or tuple of these."""
    kind = type(value)
    if kind in _ATOMS or issubclass(kind, BaseException):
        return True
    return (kind is list or kind is tuple) and all(
        type(part) in _ATOMS or issubclass(type(part), BaseException) for part in value
    )


def _values(exc: BaseException) -> Iterator[tuple[_Slot, Any]]:
    for index, value in enumerate(_get(exc, "args")):
        yield ("argument", index), value
    for name, value in dict(_get(exc, "__dict__")).items():
        if name != _TEXT:
            yield ("attribute", _exact(name)), value
    for name, descriptor in _slots(type(exc)).items():
        try:
            value = descriptor.__get__(exc)
        except (AttributeError, TypeError):  # the slot is empty; UnicodeError says so by TypeError
            continue
        if value is not None:  # the empty value of builtin slots; OSError prints a None that was set
            yield ("slot", name), value


def _slots(cls: type) -> dict[str, Any]:
    """The data descriptors below `BaseException`: `errno`, `code`, a user's `__slots__`."""
    found: dict[str, Any] = {}
    for owner in cls.__mro__:
        if owner in (BaseException, BaseExceptionGroup, object):  # their slots have fields of the node
            continue
        for name, value in vars(owner).items():
            is_slot = type(value) in (types.MemberDescriptorType, types.GetSetDescriptorType)
            if is_slot and not name.startswith("__") and not (owner is AttributeError and name == "obj"):
                found.setdefault(name, value)
    return found


def _customises_pickling(cls: type) -> bool:
    # `copyreg.dispatch_table` is not asked: tblib's `install()` puts every exception class there.
    # Members of a group would lose their tracebacks; a stand-in pickles by `pack`.
    if issubclass(cls, BaseExceptionGroup | StandIn):
        return False
    names = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")
    made = [owner for owner in cls.__mro__ if owner.__flags__ & _HEAP_TYPE]
    return any(name in vars(owner) for owner in made for name in names)


def _name_of(cls: type) -> tuple[str, str]:
    # By the descriptors of `type`: a metaclass may define properties of these names that raise.
    module = _exact(type.__dict__["__module__"].__get__(cls))
    qualname = _exact(type.__dict__["__qualname__"].__get__(cls))
    # What `spawn` calls the caller's script on a worker.
    return ("__main__" if module == "__mp_main__" else module), qualname


def _exact(text: Any) -> str:
    """Return `text` as a plain `str`, so that no class of the user's is left in a node."""
    return str.__str__(text) if issubclass(type(text), str) else f"<{type(text).__name__}>"


def _class_name(cls: type) -> str:
    module, qualname = _name_of(cls)
    return qualname if module == "builtins" else f"{module}.{qualname}"


def _bases(cls: type) -> tuple[tuple[str, str], ...]:
    """Names of the exception classes to stand below, nearest first, up to one that every Python has."""
    names = []
    for base in cls.__mro__[1:] if cls.__flags__ & _HEAP_TYPE else ():
        if issubclass(base, BaseException):
            names.append(_name_of(base))
            if not base.__flags__ & _HEAP_TYPE:
                break
    return tuple(names)


def _text(exc: BaseException) -> str:
    try:
        return str.__str__(str(exc))
    except BaseException as trouble:  # the text says it to the caller
        return f"<{_class_name(type(exc))}: its __str__ raised {_class_name(type(trouble))}>"


def _reason(exc: BaseException) -> str:
    return f"{_class_name(type(exc))}: {_text(exc)}"


def _places(tb: types.TracebackType | None, hide: tuple[str, ...]) -> tuple[tuple[_Place, ...], int]:
    """The entries of `tb` that are sent, and how many in the middle are not."""
    while tb is not None and _is_hidden(tb, hide):
        tb = tb.tb_next
    head: list[_Place] = []
    tail: deque[types.TracebackType] = deque(maxlen=_FRAMES_KEPT)
    later = 0
    while tb is not None:
        if len(head) < _FRAMES_KEPT:
            head.append(_place(tb))
        else:
            tail.append(tb)
            later += 1
        tb = tb.tb_next
    return (*head, *map(_place, tail)), later - len(tail)


def _is_hidden(tb: types.TracebackType, hide: tuple[str, ...]) -> bool:
    module = _module_of(tb)
    return any(module == name or module.startswith(name + ".") for name in hide)


def _module_of(tb: types.TracebackType) -> str:
    return _exact(dict.get(tb.tb_frame.f_globals, "__name__", "?"))


def _place(tb: types.TracebackType) -> _Place:
    code, lasti = tb.tb_frame.f_code, tb.tb_lasti
    line: int | None = tb.tb_lineno  # None, against its annotation, at an instruction of no line
    position = next(islice(code.co_positions(), lasti // 2, None), None) if lasti >= 0 else None
    _, end_line, column, end_column = position or (None, None, None, None)
    return _Place(
        filename=_exact(code.co_filename),
        name=_exact(code.co_name),
        qualname=_exact(code.co_qualname),
        first=code.co_firstlineno,
        line=code.co_firstlineno if line is None else line,
        end_line=end_line,
        column=column,
        end_column=end_column,
        module=_module_of(tb),
    )


# ---- in the caller


class _Unpacker:
    """Makes the exceptions of one graph: first each by itself, then what hangs on it."""

    def __init__(self, nodes: tuple[_Node, ...], loads: Callable[[bytes], object]) -> None:
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

    def _class_of(self, node: _Node, reports: list[str]) -> type[BaseException] | None:
        cls = _attempt(reports, _find, node.module, node.qualname)
        if cls is None and node.by_value is not None:
            cls = _attempt(reports, self._loads, node.by_value)
        return cls if isinstance(cls, type) and issubclass(cls, BaseException) else None

    def _finish(self, number: int, reports: list[str]) -> None:
        node, exc = self._nodes[number], self._made[number]
        values = self._decoded(node, reports)
        if number in self._whole:
            attributes = _get(exc, "__dict__")
            for (kind, name), value in values.items():
                # What its own pickling leaves out: notes, and attributes set from outside.
                if kind == "attribute" and type(node.state[kind, name]) is not _Lost:
                    attributes.setdefault(name, value)
        else:
            _restore(exc, values, reports)
            lost = [slot for slot, value in node.state.items() if type(value) is _Lost]
            if lost:
                named = ", ".join(f"{kind} {name!r} {node.state[kind, name].text}" for kind, name in lost)
                reports.append(f"could not be sent, so that a text is in its place: {named}")
        _link(exc, node, self._made)
        if node.left_out:
            reports.append(f"{node.left_out} frames in the middle of the traceback were left out")
        _annotate(exc, reports)

    def _decoded(self, node: _Node, reports: list[str]) -> dict[_Slot, Any]:
        trouble: list[str] = []
        shared: Any = None
        if node.shared is not None:
            shared = _attempt(trouble, self._loads, node.shared)
        values: dict[_Slot, Any] = {}
        for slot, value in node.state.items():
            if type(value) is _Shared:
                values[slot] = _UNREADABLE if shared is None else shared[value.number]
            elif type(value) is _Own:
                own = _attempt(trouble, self._loads, value.data)
                values[slot] = _UNREADABLE if own is None else own
            else:
                values[slot] = self._plain(value)
        reports.extend(f"values could not be read here: {why}" for why in trouble)
        return values

    def _plain(self, value: Any) -> Any:
        if type(value) is _Ref:
            return self._made[value.number]
        if type(value) is _Lost:
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
        reports.append(_reason(trouble))
        return None


def _members_first(nodes: tuple[_Node, ...]) -> list[int]:
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
    found = _resolved(sys.modules[module], qualname)
    if isinstance(found, type) and issubclass(found, BaseException):
        return found
    raise ImportError(f"no exception class {qualname!r} in module {module!r}")


def _resolved(owner: Any, qualname: str) -> Any:
    for name in qualname.split("."):
        owner = getattr(owner, name, None)
    return owner


def _empty(cls: type[BaseException], node: _Node, members: list[BaseException]) -> BaseException:
    """Return an instance of `cls` for which no code of the user's has run."""
    if members:
        return BaseExceptionGroup.__new__(cls, node.message or "", members)  # type: ignore[type-var]
    solid: Any = cls
    while solid.__flags__ & _HEAP_TYPE:
        solid = solid.__base__  # the one whose `__new__` knows the layout; the MRO may name others first
    exc: BaseException = solid.__new__(cls)
    return exc


def _stand_in(node: _Node, members: list[BaseException]) -> tuple[BaseException, str]:
    """Return the nearest exception that can be made, and what to call its class."""
    refused: list[str] = []  # that the nearest can't be made is told by the first report already
    for module, qualname in (*node.bases, (node.module, node.qualname), ("builtins", "Exception")):
        base = _attempt(refused, _find, module, qualname)
        if base is None:
            continue
        cls = _attempt(refused, _stand_in_class, node.module, node.qualname, base)
        exc = None if cls is None else _attempt(refused, _empty, cls, node, members)
        if exc is not None:
            _get(exc, "__dict__")[_TEXT] = node.text
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
    text: str = _get(self, "__dict__").get(_TEXT, "")
    return text


def _stand_in_reduce(self: BaseException) -> tuple[object, ...]:
    """No pickler finds its class by name, so that it travels as we send any exception."""
    return unpack, (pack(self, pickle.dumps, hide=()), pickle.loads)


def _restore(exc: BaseException, values: dict[_Slot, Any], reports: list[str]) -> None:
    attributes = _get(exc, "__dict__")
    slots = _slots(type(exc))
    _BASE["args"].__set__(exc, tuple(value for (kind, _), value in values.items() if kind == "argument"))
    for (kind, name), value in values.items():
        if kind == "attribute" or (kind == "slot" and name not in slots):
            attributes[name] = value
        elif kind == "slot":
            _attempt(reports, slots[str(name)].__set__, exc, value)


def _link(exc: BaseException, node: _Node, made: dict[int, BaseException]) -> None:
    _BASE["__cause__"].__set__(exc, None if node.cause is None else made[node.cause])
    _BASE["__context__"].__set__(exc, None if node.context is None else made[node.context])
    _BASE["__suppress_context__"].__set__(exc, node.suppress)  # last: setting a cause sets it
    _BASE["__traceback__"].__set__(exc, _traceback(node.places))


def _annotate(exc: BaseException, reports: list[str]) -> None:
    if not reports:
        return
    notes = _get(exc, "__dict__").setdefault("__notes__", [])
    if type(notes) is list:  # a user may have put anything there, and that is the user's
        notes.extend(f"anypool: {report}" for report in reports)


def _traceback(places: tuple[_Place, ...]) -> types.TracebackType | None:
    tb = None
    for place in reversed(places):
        code, lasti = _code_at(place)
        # The frame of a generator that never ran: no `f_back`, so that it holds nobody's locals.
        frame = types.FunctionType(code, {"__name__": place.module, "__file__": place.filename})().gi_frame
        tb = types.TracebackType(tb, frame, lasti, place.line)
    return tb


def _no_call() -> Iterator[None]:
    yield


# Failing calls tend to fail at the same place, and compiling is most of the cost of a traceback.
@lru_cache(maxsize=256)
def _code_at(place: _Place) -> tuple[types.CodeType, int]:
    """Return code that has an instruction at `place`, and its offset; -1 if only the line is known."""
    import ast

    names: Any = {"co_name": place.name, "co_qualname": place.qualname, "co_filename": place.filename}
    if place.end_line is None or place.column is None or place.end_column is None:
        return _no_call.__code__.replace(co_firstlineno=place.line, **names), -1
    at = {
        "lineno": place.line,
        "end_lineno": place.end_line,
        "col_offset": place.column,
        "end_col_offset": place.end_column,
    }
    tree = ast.parse("def call():\n yield")
    function: Any = tree.body[0]
    function.lineno = function.end_lineno = min(place.first, place.line)
    for part in (function.body[0], function.body[0].value):
        vars(part).update(at)
    function.end_lineno = max(place.end_line, function.lineno)
    constants = compile(tree, place.filename, "exec").co_consts
    code = next(each for each in constants if isinstance(each, types.CodeType)).replace(**names)
    wanted = (place.line, place.end_line, place.column, place.end_column)
    offsets = (2 * index for index, position in enumerate(code.co_positions()) if position == wanted)
    return code, next(offsets, -1)
