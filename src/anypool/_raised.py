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

from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

__all__ = ["Lost", "Node", "Own", "Place", "Raised", "Ref", "Shared", "Slot"]

Slot: TypeAlias = "tuple[str, str | int]"  # ("argument", 0), ("attribute", "x") or ("slot", "errno")


class Ref(NamedTuple):
    """In place of an exception: the number of its node."""

    number: int


class Shared(NamedTuple):
    """In place of a value: its place in the pickle of its node. One pickle keeps shared identity."""

    number: int


class Own(NamedTuple):
    """In place of a value: a pickle of its own, because a neighbour can't be pickled."""

    data: bytes


class Lost(NamedTuple):
    """In place of a value that can't be sent: the text that the caller gets instead."""

    text: str


class Place(NamedTuple):
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
class Node:
    """One exception of the graph. `bases` and `by_value` serve where its class is not found by name."""

    module: str
    qualname: str
    text: str
    bases: tuple[tuple[str, str], ...] = ()
    by_value: bytes | None = None
    whole: bytes | None = None
    state: dict[Slot, Any] = field(default_factory=dict)
    shared: bytes | None = None
    places: tuple[Place, ...] = ()
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

    nodes: tuple[Node, ...]
