"""Pickling by value what a worker cannot import, and the search for the part that cannot be sent at all."""

from __future__ import annotations

import functools
import itertools
import pickle
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

__all__ = ["describe", "find_culprit", "parts", "pickler_class"]

# How deep, and among how many parts, the search for the part that cannot be sent goes.
_SEARCH_DEPTH = 8
_SEARCH_PARTS = 1000

_pickler: type | None = None  # made at first use: cloudpickle takes as long to import as this package


def pickler_class() -> type:
    """cloudpickle's pickler, and what it does not know."""
    global _pickler
    if _pickler is None:
        import contextvars
        from collections import ChainMap

        import cloudpickle

        from anypool._context_variables import reduce_contextvar

        reduce_code = cloudpickle.Pickler.dispatch_table[types.CodeType]

        def reduce_code_with_its_file(code: types.CodeType) -> tuple[Any, ...]:
            """Keep the name of the file, for tracebacks: cloudpickle from 3.1.2 on sends ``<dynamic-code>``."""
            make, args = reduce_code(code)
            return make, tuple(code.co_filename if arg == "<dynamic-code>" else arg for arg in args)

        class Pickler(cloudpickle.Pickler):  # type: ignore[misc, name-defined, unused-ignore]
            """cloudpickle, with context variables by name (a function's globals may hold one), views and caches."""

            dispatch_table: ClassVar = ChainMap(
                {types.CodeType: reduce_code_with_its_file}, cloudpickle.Pickler.dispatch_table
            )

            def reducer_override(self, obj: Any) -> Any:
                if type(obj) is contextvars.ContextVar:
                    return reduce_contextvar(obj)
                if type(obj) is memoryview:  # which cloudpickle would turn into bytes
                    return _reduce_view(obj)
                if type(obj) is functools._lru_cache_wrapper and not _is_importable(obj):
                    return _reduce_cached(obj)
                return super().reducer_override(obj)

        _pickler = Pickler
    return _pickler


def _reduce_view(view: memoryview) -> tuple[Any, ...]:
    data = view if view.c_contiguous else memoryview(view.tobytes())
    return _rebuild_view, (pickle.PickleBuffer(data), view.format, view.shape, view.readonly)


def _rebuild_view(data: Any, code: str, shape: tuple[int, ...], readonly: bool) -> memoryview:
    view = memoryview(data).cast("B")
    if code != "B" or len(shape) != 1:
        view = view.cast(code, shape) if 0 not in shape else view.cast(code)  # type: ignore[call-overload]
    return view.toreadonly() if readonly else view


def _is_importable(obj: Any) -> bool:
    """Whether a worker finds this very object under its name."""
    if obj.__module__ == "__main__":
        return False
    found: Any = sys.modules.get(obj.__module__)
    for name in obj.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is obj


def _reduce_cached(obj: Any) -> tuple[Any, ...]:
    """A function under `functools.cache`, which cloudpickle would send as a name. What it remembers stays here."""
    parameters = obj.cache_parameters()
    added = {
        name: value
        for name, value in vars(obj).items()
        if name not in ("__wrapped__", "cache_parameters") and name not in vars(obj.__wrapped__)
    }
    return _rebuild_cached, (obj.__wrapped__, parameters["maxsize"], parameters["typed"]), added or None


def _rebuild_cached(fn: Any, maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize=maxsize, typed=typed)(fn)


_INSTEAD: dict[type, str] = {
    types.CoroutineType: "run it in the call, with asyncio.run, and return what it comes to",
    types.GeneratorType: "return a list of what it yields",
}
_MAKE_IT_THERE = "send what it is made from, and make it where it is used"


def find_culprit(obj: object) -> tuple[str, str]:
    """Words for the innermost part of `obj` that cannot be pickled, with the way to it, and what to do instead."""
    path: list[str] = []
    current = obj
    for _ in range(_SEARCH_DEPTH):
        bad = next(((name, part) for name, part in parts(current) if not _can_send(part)), None)
        if bad is None:
            break
        path.append(bad[0])
        current = bad[1]
    where = " of ".join([*reversed(path), describe(obj)])
    instead = _INSTEAD.get(type(current), _MAKE_IT_THERE)
    return (f"{where} (a {type(current).__qualname__})" if path else where), instead


def _can_send(part: object) -> bool:
    import io

    try:
        pickler_class()(io.BytesIO(), protocol=5).dump(part)
    except Exception:
        return False
    return True


def parts(obj: object) -> Iterator[tuple[str, object]]:
    """The named parts of `obj` that a pickle of it would hold, bounded in number."""
    return itertools.islice(_all_parts(obj), _SEARCH_PARTS)


def _all_parts(obj: object) -> Iterator[tuple[str, object]]:
    if isinstance(obj, Mapping):
        for key, value in obj.items():
            yield f"key {key!r:.40}", value
    elif isinstance(obj, (list, tuple, set, frozenset)):
        for index, value in enumerate(obj):
            yield f"element {index}", value
    elif isinstance(obj, types.FunctionType):
        yield from _function_parts(obj)
    elif isinstance(obj, types.MethodType):
        yield "the instance", obj.__self__
    elif hasattr(obj, "func") and hasattr(obj, "args") and hasattr(obj, "keywords"):  # functools.partial
        yield "the function", obj.func
        for index, value in enumerate(obj.args):
            yield f"argument {index}", value
        for key, value in obj.keywords.items():
            yield f"argument {key!r}", value
    elif isinstance(getattr(obj, "__dict__", None), dict) and not isinstance(obj, type):
        for key, value in vars(obj).items():
            yield f"attribute {key!r}", value


def _function_parts(fn: types.FunctionType) -> Iterator[tuple[str, object]]:
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=False):
        try:
            yield f"closure variable {name!r}", cell.cell_contents
        except ValueError:  # a cell that is not filled yet
            continue
    for name in fn.__code__.co_names:
        if name in fn.__globals__:
            yield f"global {name!r}", fn.__globals__[name]
    for index, value in enumerate(fn.__defaults__ or ()):
        yield f"default {index}", value


def describe(obj: object) -> str:
    name = getattr(obj, "__qualname__", None)
    if isinstance(name, str) and callable(obj):
        return f"{'class' if isinstance(obj, type) else 'function'} {name!r}"
    return f"a {type(obj).__qualname__}"
