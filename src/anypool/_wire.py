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
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from anypool.errors import SendError

if TYPE_CHECKING:
    from anypool._segments import OtherRef, Ref
    from anypool._segments_reader import Claimed

PROTOCOL = 5

# Exact types without state that a call could change, and without references to such. Only for these may
# a chunk be pickled as one, which costs 0.03 instead of 0.4 microseconds an item (benchmarks/wire.py).
_IMMUTABLE_AND_SMALL = frozenset({int, float, complex, bool, str, type(None)})
_IMMUTABLE_OR_TUPLE = _IMMUTABLE_AND_SMALL | {bytes, tuple}
# From this size on a buffer travels beside its pickle, where it can. `_segments.THRESHOLD` once more, which is
# loaded with the first large buffer only.
_LARGE = 256 * 1024
# From this size on somebody is told that a function is large: see `_large_functions`, which is loaded then.
LARGE_FUNCTION = 64 * 2**20


Parcel: TypeAlias = "bytes | tuple[bytes, Sequence[Ref] | Claimed]"
"""A pickle; with the large buffers that it refers to, if there are any. A large pickle is itself the first of them."""

Store: TypeAlias = "Callable[[list[pickle.PickleBuffer]], Sequence[Ref] | None]"
"""Puts buffers where another process finds them, and gives their refs; None: let them travel in the pickle."""


Column: TypeAlias = "bytes | list[Parcel] | tuple[bytes | list[Parcel], ...]"
"""The items, or the values, of one chunk: all in one pickle, or a parcel each; or parts, each of them so packed."""


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


class _Noted(threading.local):
    """What handles on shared objects that are being pickled in this thread need on the worker; None: nobody asks."""

    def __init__(self) -> None:
        self.refs: list[OtherRef] | None = None


_noted = _Noted()


def note(refs: Iterable[OtherRef]) -> None:
    """Let the parcel that is being made bring `refs` along; called by what is being pickled."""
    if _noted.refs is not None:
        _noted.refs += refs


def to_parcel(obj: object, store: Store | None) -> Parcel:
    """As `dumps`, with what is large of `obj` in `store`, if one is given."""
    if store is None:
        return _dumps(obj, None)
    before, _noted.refs = _noted.refs, []
    try:
        return _to_parcel(obj, store, _noted.refs)
    finally:
        _noted.refs = before


def _to_parcel(obj: object, store: Store, noted: list[OtherRef]) -> Parcel:
    if type(obj) in (bytes, bytearray):
        obj = _LargeBytes(obj)  # type: ignore[arg-type]
    buffers: list[pickle.PickleBuffer] = []

    def stays_in_the_pickle(buffer: pickle.PickleBuffer) -> bool:
        if buffer.raw().nbytes < _LARGE:
            return True
        buffers.append(buffer)
        return False

    data = _dumps(obj, stays_in_the_pickle)
    refs: Sequence[Ref] = ()
    if len(data) >= _LARGE:
        stored = store([pickle.PickleBuffer(data), *buffers])
        if stored is not None:
            data, refs = b"", stored
        elif buffers:
            data = _dumps(obj, None)
    elif buffers:
        stored = store(buffers)
        if stored is None:
            data = _dumps(obj, None)
        else:
            refs = stored
    if noted:
        refs = [*refs, *noted]
        noted.clear()
    return (data, list(refs)) if refs else data


def dumps_apart(obj: object) -> tuple[list[pickle.PickleBuffer | bytes], list[OtherRef]]:
    """The pickle of `obj` and then the buffers that it refers to, whatever their size; and what `note` was told.

    Raises
    ------
    SendError
        As `dumps`.
    """
    if type(obj) in (bytes, bytearray):
        obj = _LargeBytes(obj)  # type: ignore[arg-type]
    buffers: list[pickle.PickleBuffer] = []

    def goes_apart(buffer: pickle.PickleBuffer) -> bool:
        buffers.append(buffer)
        return False

    before, _noted.refs = _noted.refs, []
    try:
        return [_dumps(obj, goes_apart), *buffers], _noted.refs
    finally:
        _noted.refs = before


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
        buffers: list[Any] = refs.open()  # type: ignore[union-attr]
        return loads_apart([data, *buffers] if data else buffers)
    except SendError:
        raise
    except Exception as exc:
        raise SendError(f"could not be rebuilt here: {type(exc).__name__}: {exc}") from exc


def loads_apart(frames: Sequence[Any]) -> Any:
    """The object that `dumps_apart` took apart."""
    return pickle.loads(frames[0], buffers=frames[1:])


def pack_column(
    items: Sequence[Any],
    refuse: Callable[[int, SendError], bytes],
    store: Store | None = None,
    heaviest: int | None = None,
) -> bytes | list[Parcel]:
    """`items` as bytes; for one that cannot be sent, the bytes that `refuse(offset, why)` gives.

    With `heaviest`, only the first of them, if the rest would come after so many bytes.
    """
    whole = pack_as_one(items)
    return _pack_each(items, refuse, store, heaviest) if whole is None else whole


def pack_call(call: object, refuse: Callable[[int, SendError], bytes], store: Store | None) -> list[Parcel]:
    """The column of one submitted call."""
    try:
        return [to_parcel(call, store)]
    except SendError as exc:
        return [refuse(0, exc)]


def pack_small_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Parcel] | None:
    """The same for a call with numbers and the like, which need no care; None for any other."""
    if kwargs or not _IMMUTABLE_AND_SMALL.issuperset(map(type, args)):
        return None
    data = pickle.dumps((args, kwargs), PROTOCOL)
    return [data] if len(data) < _LARGE else None


def holds_nothing(fn: Any) -> bool:
    """Whether it is a plain function, and not a partial or a bound method, which hold data."""
    kind = type(fn)
    return kind is types.FunctionType or (
        kind is types.BuiltinFunctionType and isinstance(fn.__self__, types.ModuleType)
    )


def dumps_by_name(fn: Any) -> bytes | None:
    """The pickle of a plain function that a worker imports, which needs no care; None for all else."""
    if not holds_nothing(fn) or fn.__module__ == "__main__" or "<" in fn.__qualname__ or _ships_modules_by_value():
        return None
    try:
        data = pickle.dumps(fn, PROTOCOL)
    except Exception:  # it is not what its module has under its name: by value
        return None
    return None if b"__main__" in data else data


def pack_as_one(items: Sequence[Any]) -> bytes | None:
    """`items` in one pickle; None if they cannot travel so."""
    return pickle.dumps(items, PROTOCOL) if _may_travel_as_one(items) else None


def _pack_each(
    items: Sequence[Any], refuse: Callable[[int, SendError], bytes], store: Store | None, heaviest: int | None
) -> list[Parcel]:
    each: list[Parcel] = []
    weight = 0
    before, _noted.refs = _noted.refs, []
    noted = _noted.refs
    try:
        for offset, item in enumerate(items):
            try:
                each.append(_dumps(item, None) if store is None else _to_parcel(item, store, noted))
            except SendError as exc:
                each.append(refuse(offset, exc))
            if heaviest is not None:
                parcel = each[-1]
                weight += len(parcel) if type(parcel) is bytes else weigh_parcel(parcel)
                if weight >= heaviest:
                    break
    finally:
        _noted.refs = before
    return each


def weigh_parcel(parcel: Parcel) -> int:
    """How many bytes `parcel` brings, with its buffers."""
    if isinstance(parcel, bytes):
        return len(parcel)
    data, refs = parcel
    if isinstance(refs, Sequence):
        return len(data) + sum(map(_weigh_ref, refs))
    return len(data) + refs.size


def _weigh_ref(ref: Any) -> int:
    size: int = ref[5] if type(ref) is tuple else ref.size
    return size


def weigh_column(column: Column) -> int:
    """How many bytes `column` brings."""
    if isinstance(column, bytes):
        return len(column)
    if isinstance(column, tuple):
        return sum(map(weigh_column, column))
    return sum(len(each) if type(each) is bytes else weigh_parcel(each) for each in column)


def unpack_column(column: Column) -> Iterable[Any]:
    """The items of `column`, rebuilt as they are asked for; `SendError` in place of one that can't be.

    The iterator goes on after an error, as a generator would not.
    """
    if isinstance(column, bytes):
        items: list[Any] = pickle.loads(column)
        return iter(items)
    if isinstance(column, tuple):
        return itertools.chain.from_iterable(map(unpack_column, column))
    return map(loads, column)


def claim_column(column: Column) -> None:
    """Make sure of the buffers that `column` refers to, while their owner lives.

    In place of an item whose buffers are gone comes a `SendError`.
    """
    if isinstance(column, bytes):
        return
    if isinstance(column, tuple):
        for part in column:
            claim_column(part)
        return
    for index, parcel in enumerate(column):
        if type(parcel) is tuple and type(parcel[1]) is list:
            from anypool._segments_reader import claim

            try:
                column[index] = (parcel[0], claim(parcel[1]))
            except SendError as exc:
                column[index] = refusal(exc)


def refers_to_memory(column: Column) -> bool:
    """Whether `column` is of no use without the buffers that it refers to, because it is not all there is."""
    if isinstance(column, bytes):
        return False
    if isinstance(column, tuple):
        return any(refers_to_memory(part) for part in column)
    return any(type(parcel) is tuple and type(parcel[1]) is list for parcel in column)


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
    if len(items) == 1:
        return type(items[0]) in _IMMUTABLE_AND_SMALL
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

    from anypool._pickler import describe, find_culprit, pickler_class

    buffer = io.BytesIO()
    try:
        pickler_class()(buffer, protocol=PROTOCOL, buffer_callback=buffer_callback).dump(obj)
    except RecursionError as exc:
        raise SendError(f"{describe(obj)} is nested too deeply to be sent") from exc
    except Exception as exc:
        what, instead = find_culprit(obj)
        raise SendError(f"{what} cannot be sent: {type(exc).__name__}: {exc}; {instead}") from exc
    return buffer.getvalue()


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
