"""What travels between caller and worker: pickling that names what could not be sent.

Two rules shape this file:

* *Items are isolated.* Objects of one pickle share identity, so a chunk pickled as one would let a call
  see what the call before it did to a shared argument, and the chunk size would change answers. Items
  are therefore pickled one by one, except where none of them can be mutated.
* *Pickles are made here, never by the transport.* A native pool that pickles for us hangs, breaks or
  loses the reason when it cannot; here it is a `SendError` of that one call.

What is pickled is a `Parcel`: bytes, or bytes and the refs of large buffers that another process of this
machine finds in memory without a name (`_segments`), so that they are copied once and not four times.
"""

from __future__ import annotations

import itertools
import pickle
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from anypool.errors import SendError

if TYPE_CHECKING:
    from anypool._segments import Ref
    from anypool._segments_reader import Claimed

PROTOCOL = 5

# Exact types without state that a call could change, and without references to such. Only for these may
# a chunk be pickled as one, which costs 0.03 instead of 0.4 microseconds an item (benchmarks/wire.py).
_IMMUTABLE_AND_SMALL = frozenset({int, float, complex, bool, str, type(None)})
_IMMUTABLE_OR_TUPLE = _IMMUTABLE_AND_SMALL | {bytes, tuple}
# From this size on a buffer travels beside its pickle, where it can. `_segments.THRESHOLD` once more, which is
# loaded with the first large buffer only.
_LARGE = 256 * 1024

# How deep, and among how many parts, the search for the part that cannot be sent goes.
_SEARCH_DEPTH = 8
_SEARCH_PARTS = 1000


Parcel: TypeAlias = "bytes | tuple[bytes, list[Ref] | Claimed]"
"""A pickle; with the large buffers that it refers to, if there are any."""

Store: TypeAlias = "Callable[[list[pickle.PickleBuffer]], list[Ref] | None]"
"""Puts buffers where another process finds them, and gives their refs; None: let them travel in the pickle."""


class Column(NamedTuple):
    """The items, or the values, of one chunk: all in one pickle, or a parcel each."""

    whole: bytes | None
    each: list[Parcel] | None


def dumps(obj: object) -> bytes:
    """The pickle of `obj`: by reference what a worker can import, by value what it cannot.

    Plain pickle is tried first, ten times quicker than cloudpickle. Its result stands unless it refers to
    ``__main__``, which is another module on every worker.

    Raises
    ------
    SendError
        `obj` or a part of it cannot be pickled; the message names that part.
    """
    return _dumps(obj, None)


def to_parcel(obj: object, store: Store | None) -> Parcel:
    """As `dumps`, with the large buffers of `obj` in `store`, if one is given."""
    if store is None:
        return _dumps(obj, None)
    if type(obj) in (bytes, bytearray):
        obj = _LargeBytes(obj)  # type: ignore[arg-type]
    buffers: list[pickle.PickleBuffer] = []

    def stays_in_the_pickle(buffer: pickle.PickleBuffer) -> bool:
        if buffer.raw().nbytes < _LARGE:
            return True
        buffers.append(buffer)
        return False

    data = _dumps(obj, stays_in_the_pickle)
    if not buffers:
        return data
    refs = store(buffers)
    return _dumps(obj, None) if refs is None else (data, refs)


def _dumps(obj: object, buffer_callback: Callable[[pickle.PickleBuffer], bool] | None) -> bytes:
    if _ships_modules_by_value():
        return _dumps_by_value(obj, buffer_callback)
    if type(obj) is types.FunctionType and obj.__module__ == "__main__":
        return _dumps_function(obj)
    try:
        data = pickle.dumps(obj, PROTOCOL, buffer_callback=buffer_callback)
    except Exception:  # what plain pickle refuses, lambdas and local classes, cloudpickle may take
        return _dumps_by_value(obj, buffer_callback)
    return data if b"__main__" not in data else _dumps_by_value(obj, buffer_callback)


def _dumps_function(fn: types.FunctionType) -> bytes:
    from anypool._functions import keep_pickle, kept_pickle

    data = kept_pickle(fn)
    if data is None:
        data = _dumps_by_value(fn, None)
        keep_pickle(fn, data)
    return data


class _LargeBytes:
    """Sends `bytes`, which have no out-of-band form of their own, as a buffer."""

    def __init__(self, data: bytes | bytearray) -> None:
        self._data = data

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self._data), (pickle.PickleBuffer(self._data),)


def loads(parcel: Parcel) -> Any:
    """The object in `parcel`, which anypool's own `dumps` made.

    Raises
    ------
    SendError
        It cannot be rebuilt here, say because a module is missing; the cause says which.
    """
    try:
        if type(parcel) is bytes:
            return pickle.loads(parcel)
        data, refs = parcel
        if type(refs) is list:
            from anypool._segments_reader import claim

            refs = claim(refs)
        return pickle.loads(data, buffers=refs.open())  # type: ignore[union-attr, arg-type]
    except SendError:
        raise
    except Exception as exc:
        raise SendError(f"could not be rebuilt here: {type(exc).__name__}: {exc}") from exc


def pack_column(items: Sequence[Any], refuse: Callable[[int, SendError], bytes], store: Store | None = None) -> Column:
    """`items` as bytes; for one that cannot be sent, the bytes that `refuse(offset, why)` gives."""
    if _may_travel_as_one(items):
        return Column(pickle.dumps(items, PROTOCOL), None)
    each: list[Parcel] = []
    for offset, item in enumerate(items):
        try:
            each.append(to_parcel(item, store))
        except SendError as exc:
            each.append(refuse(offset, exc))
    return Column(None, each)


def unpack_column(column: Column) -> Iterable[Any]:
    """The items of `column`, rebuilt as they are asked for; `SendError` in place of one that can't be.

    The iterator goes on after an error, as a generator would not.
    """
    if column.whole is not None:
        items: list[Any] = pickle.loads(column.whole)
        return iter(items)
    assert column.each is not None
    return map(loads, column.each)


def claim_column(column: Column) -> None:
    """Make sure of the buffers that `column` refers to, while their owner lives.

    In place of an item whose buffers are gone comes a `SendError`.
    """
    for index, parcel in enumerate(column.each or ()):
        if type(parcel) is tuple and type(parcel[1]) is list:
            from anypool._segments_reader import claim

            assert column.each is not None
            try:
                column.each[index] = (parcel[0], claim(parcel[1]))
            except SendError as exc:
                column.each[index] = refusal(exc)


def refusal(why: SendError) -> bytes:
    """A pickle that raises `why` where it is loaded, so that an unsendable item fails in its own place."""
    return pickle.dumps(_Refusal(str(why)), PROTOCOL)


class _Refusal:
    def __init__(self, message: str) -> None:
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        return _raise_refusal, (self.message,)


def _raise_refusal(message: str) -> None:
    raise SendError(message)


def _may_travel_as_one(items: Sequence[Any]) -> bool:
    types_found = set(map(type, items))
    if types_found <= _IMMUTABLE_AND_SMALL:
        return True
    if not types_found <= _IMMUTABLE_OR_TUPLE:
        return False
    if bytes in types_found and any(type(item) is bytes and len(item) >= _LARGE for item in items):
        return False
    tuples: Iterator[Any] = (item for item in items if type(item) is tuple)
    return set(map(type, itertools.chain.from_iterable(tuples))) <= _IMMUTABLE_AND_SMALL


def _ships_modules_by_value() -> bool:
    cloudpickle = sys.modules.get("cloudpickle")
    return bool(cloudpickle and cloudpickle.list_registry_pickle_by_value())


def _dumps_by_value(obj: object, buffer_callback: Callable[[pickle.PickleBuffer], bool] | None) -> bytes:
    import io

    buffer = io.BytesIO()
    try:
        _pickler_class()(buffer, protocol=PROTOCOL, buffer_callback=buffer_callback).dump(obj)
    except RecursionError as exc:
        raise SendError(f"{_describe(obj)} is nested too deeply to be sent") from exc
    except Exception as exc:
        raise SendError(f"{_find_culprit(obj)} cannot be sent: {type(exc).__name__}: {exc}") from exc
    return buffer.getvalue()


_pickler: type | None = None  # made at first use: cloudpickle takes as long to import as this package


def _pickler_class() -> type:
    global _pickler
    if _pickler is None:
        import contextvars

        import cloudpickle

        from anypool._context_variables import reduce_contextvar

        class Pickler(cloudpickle.Pickler):  # type: ignore[misc, name-defined, unused-ignore]
            """cloudpickle, with context variables by name: a function's globals may hold one."""

            def reducer_override(self, obj: Any) -> Any:
                if type(obj) is contextvars.ContextVar:
                    return reduce_contextvar(obj)
                return super().reducer_override(obj)

        _pickler = Pickler
    return _pickler


def explain_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> SendError | None:
    """Why the arguments of a call cannot be sent: the error of the first that cannot."""
    named = [(f"argument {index}", value) for index, value in enumerate(args)]
    named += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    for name, value in named:
        try:
            dumps(value)
        except SendError as exc:
            return SendError(f"{name}: {exc}")
    return None


def _find_culprit(obj: object) -> str:
    """Words for the innermost part of `obj` that cannot be pickled, and the way to it."""
    path: list[str] = []
    current = obj
    for _ in range(_SEARCH_DEPTH):
        bad = next(((name, part) for name, part in _parts(current) if not _can_send(part)), None)
        if bad is None:
            break
        path.append(bad[0])
        current = bad[1]
    where = " of ".join([*reversed(path), _describe(obj)])
    return where if not path else f"{where} (a {type(current).__qualname__})"


def _can_send(part: object) -> bool:
    import io

    try:
        _pickler_class()(io.BytesIO(), protocol=PROTOCOL).dump(part)
    except Exception:
        return False
    return True


def _parts(obj: object) -> Iterator[tuple[str, object]]:
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


def _describe(obj: object) -> str:
    name = getattr(obj, "__qualname__", None)
    if isinstance(name, str) and callable(obj):
        return f"{'class' if isinstance(obj, type) else 'function'} {name!r}"
    return f"a {type(obj).__qualname__}"
