"""A digest of a function or a value that is the same in every process: what a pickle's bytes are not.

A pickle depends on which equal strings are one object and on the order of sets, which change from run to run. So values
are walked by what they say of themselves to pickle: containers by their items, other objects by their reduction.
"""

from __future__ import annotations

import functools
import hashlib
import pickle
import types
from collections.abc import Callable
from copyreg import dispatch_table
from typing import Any

__all__ = ["fingerprint"]

_SIZE = 16
_PLAIN = (int, float, complex, bool, str, type(None), type(Ellipsis))


def fingerprint(value: Any) -> bytes:
    """The digest of `value`, 16 bytes.

    Functions count by their code, defaults and closure, and not by the line or the file that they stand in. Of what
    a function calls only the name counts.

    Raises
    ------
    Exception
        Whatever the value raises when it is asked how it pickles.
    """
    digest = hashlib.blake2b(digest_size=_SIZE)
    _Walk(digest.update).value(value)
    return digest.digest()


class _Walk:
    """Feeds a value to `update`, part by part, each with what tells where it ends."""

    def __init__(self, update: Callable[[bytes], object]) -> None:
        self._update = update
        self._open: dict[int, int] = {}  # by identity, what is being walked: how deep; for what contains itself

    def value(self, value: Any) -> None:
        kind = type(value)
        if kind in _PLAIN:
            self._say(kind.__name__, repr(value).encode("utf-8", "surrogatepass"))
        elif kind in (bytes, bytearray):
            self._say(kind.__name__, bytes(value))
        elif kind is pickle.PickleBuffer:
            with value.raw() as data:
                self._say("buffer", bytes(data))
        elif id(value) in self._open:
            self._say("inside itself", b"%d" % (len(self._open) - self._open[id(value)]))
        else:
            self._open[id(value)] = len(self._open)
            try:
                self._compound(kind, value)
            finally:
                del self._open[id(value)]

    def _compound(self, kind: type, value: Any) -> None:
        if kind in (list, tuple):
            self._parts(kind.__name__, value)
        elif kind is dict:
            self._parts("dict", [part for pair in value.items() for part in pair])
        elif kind in (set, frozenset):
            self._say(kind.__name__, b"".join(sorted(map(fingerprint, value))))
        elif kind is types.FunctionType:
            self._function(value)
        elif kind is types.CodeType:
            self._code(value)
        elif kind is types.MethodType:
            self._parts("method", (value.__func__, value.__self__))
        elif kind is types.CellType:
            self._parts("cell", _contents(value))
        elif kind is functools.partial:
            self._parts("partial", (value.func, value.args, value.keywords))
        elif kind is functools._lru_cache_wrapper:  # which pickles as its name
            self._parts("cached", (value.__wrapped__,))
        elif isinstance(value, (type, types.BuiltinFunctionType, types.ModuleType)):
            self._named(value)
        else:
            self._reduced(value)

    def _function(self, fn: types.FunctionType) -> None:
        parts = (fn.__qualname__, fn.__code__, fn.__defaults__, fn.__kwdefaults__, fn.__closure__)
        self._parts("function", parts)

    def _code(self, code: types.CodeType) -> None:
        # Without names of files and numbers of lines: moving a function does not change what it does.
        parts = (code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_flags, code.co_consts)
        self._parts("code", parts)

    def _named(self, value: Any) -> None:
        name = getattr(value, "__qualname__", value.__name__)
        self._say("named", f"{getattr(value, '__module__', '')}:{name}".encode())

    def _reduced(self, value: Any) -> None:
        reduce = dispatch_table.get(type(value))
        reduced = value.__reduce_ex__(5) if reduce is None else reduce(value)
        if isinstance(reduced, str):
            self._say("global", f"{type(value).__module__}:{reduced}".encode())
            return
        make, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        self._parts("object", (make, arguments, state, items and list(items), pairs and dict(pairs)))

    def _parts(self, kind: str, parts: Any) -> None:
        self._say(kind, b"%d" % len(parts))
        for part in parts:
            self.value(part)

    def _say(self, kind: str, data: bytes) -> None:
        self._update(f"{kind} {len(data)}\n".encode())
        self._update(data)


def _contents(cell: types.CellType) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:  # not filled yet
        return ()
