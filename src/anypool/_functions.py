"""Functions of `__main__` that need to be pickled only once.

A function that a worker cannot import is sent by value, with the globals it refers to, which takes cloudpickle a
tenth of a millisecond: more than all the rest of a submitted call. Its pickle may be used again only while nothing
that it holds has changed. That can be told cheaply of a plain function, without closure, defaults or attributes,
whose globals are modules, what can be imported, or immutable: while they are the same objects, so is its pickle.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

__all__ = ["keep_pickle", "kept_pickle"]

_MISSING = object()
_IMMUTABLE = (int, float, complex, bool, str, bytes, type(None))


class _Kept(NamedTuple):
    data: bytes
    code: CodeType
    names: tuple[str, ...]
    values: tuple[Any, ...]
    modules: int  # how many were loaded, if it refers to one: its pickle also lists submodules that it uses


# By function, as long as it lives. A race between threads costs a second pickle, no more.
_kept: weakref.WeakKeyDictionary[FunctionType, _Kept] = weakref.WeakKeyDictionary()


def kept_pickle(fn: FunctionType) -> bytes | None:
    """The pickle of `fn` that was kept, if nothing that it holds has changed since."""
    kept = _kept.get(fn)
    if kept is None or kept.code is not fn.__code__ or not _is_plain(fn):
        return None
    if kept.modules not in (0, len(sys.modules)):
        return None
    get = fn.__globals__.get
    for name, value in zip(kept.names, kept.values, strict=True):
        if get(name, _MISSING) is not value:
            return None
    return kept.data


def keep_pickle(fn: FunctionType, data: bytes) -> None:
    """Keep `data`, the pickle of `fn`, if it can be told later whether it still holds."""
    if not _is_plain(fn):
        return
    names = tuple(sorted(set(_names(fn.__code__))))
    values = tuple(fn.__globals__.get(name, _MISSING) for name in names)
    if all(_is_stable(value) for value in values):
        refers_to_modules = any(isinstance(value, ModuleType) for value in values)
        _kept[fn] = _Kept(data, fn.__code__, names, values, len(sys.modules) if refers_to_modules else 0)


def _is_plain(fn: FunctionType) -> bool:
    return not (fn.__closure__ or fn.__defaults__ or fn.__kwdefaults__ or fn.__dict__)


def _names(code: CodeType) -> Iterator[str]:
    """The names that `code`, and the code inside it, may look up among the globals."""
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _names(const)


def _is_stable(value: Any) -> bool:
    """Whether `value` can only change by becoming another object, or is sent by reference anyway."""
    if value is _MISSING or type(value) in _IMMUTABLE:
        return True
    if isinstance(value, ModuleType):
        return value.__name__ in sys.modules
    if isinstance(value, (FunctionType, BuiltinFunctionType, type)):
        module = sys.modules.get(getattr(value, "__module__", None) or "")
        return module is not None and module.__name__ != "__main__" and _is_found_in(module, value)
    return False


def _is_found_in(module: ModuleType, value: Any) -> bool:
    found: Any = module
    for part in value.__qualname__.split("."):
        found = getattr(found, part, _MISSING)
    return found is value
