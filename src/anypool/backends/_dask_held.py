"""Data that Dask holds for its workers, on its own way: once to each, from one to another, past the scheduler.

A `Held` in a payload makes the task depend on a key of Dask's, which brings the data to the worker before the task
runs. The task is still `pickle.loads` of bytes, so that the scheduler needs neither anypool nor what the user sent:
the data is what `loads` takes for its out-of-band buffers.
"""

from __future__ import annotations

import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

from anypool.errors import SendError

__all__ = ["Held", "Run", "pickle_with_keys", "unseal"]

_SEALED = 1 << 20  # bytes; a larger result had better not be copied once more


class Held:
    """Stands for data that Dask holds under `key`. On a worker it has the data, if its task depends on it."""

    __slots__ = ("__weakref__", "_data", "key", "size")

    def __init__(self, key: str, size: int = 0) -> None:
        self.key: str = key
        self.size: int = size
        self._data: Any = None

    def claim(self) -> bytearray:
        """A copy of the data, which is the worker's and may be used by other calls.

        Raises
        ------
        SendError
            The task did not bring it.
        """
        return bytearray(self.look_at())

    def look_at(self) -> memoryview:
        """The data."""
        if self._data is None:
            raise SendError(f"the data that Dask holds as {self.key} did not come with this call")
        return memoryview(self._data).cast("B")

    def is_released(self) -> bool:
        """Whether the worker was told to forget the data."""
        from distributed import get_worker

        try:
            return self.key not in get_worker().data  # type: ignore[no-untyped-call, unused-ignore]
        except ValueError:  # not on a worker
            return False

    def __reduce__(self) -> tuple[Any, ...]:
        if _pickling.keys is None:  # inside of another pickle, of a handle say, whose task has noted it
            return _find, (self.key,)
        _pickling.keys.append(self.key)
        return _arrive, (self.key, pickle.PickleBuffer(b""))


# Those of this process that are in use: a handle that arrives finds the one that its task has brought.
_known: weakref.WeakValueDictionary[str, Held] = weakref.WeakValueDictionary()


def _find(key: str) -> Held:
    return _known.setdefault(key, Held(key))


def _arrive(key: str, data: Any) -> Held:
    held = _find(key)
    held._data = data
    return held


class Run:
    """Pickles as the call itself: to unpickle it is to run it.

    Dask's scheduler unpickles tasks, traverses their arguments and replaces those that equal a key. So a task
    is `pickle.loads(bytes)`: the scheduler meets a builtin and bytes, and needs neither anypool nor what the
    user sent.
    """

    def __init__(self, call: Callable[[Any], Any], payload: Any) -> None:
        self._task = (call, payload)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _run, self._task


def _run(call: Callable[[Any], Any], payload: Any) -> Any:
    """What the call returns; a small tuple as bytes, since of a tuple Dask serializes and weighs each part."""
    result = call(payload)
    if type(result) is not tuple and type(result) is not bytes:
        return result
    sealed = pickle.dumps(result, protocol=5)
    return sealed if len(sealed) < _SEALED or type(result) is bytes else result


def unseal(result: Any) -> Any:
    """What the call of a `Run` returned."""
    return pickle.loads(result) if type(result) is bytes else result


class _Pickling(threading.local):
    """The keys that the pickle which this thread is making depends on; None outside of `pickle_with_keys`."""

    def __init__(self) -> None:
        self.keys: list[str] | None = None


_pickling = _Pickling()


def pickle_with_keys(obj: object) -> tuple[bytes, list[str]]:
    """The pickle of `obj`, and the keys whose data `pickle.loads` must be given as `buffers`, in this order."""
    keys: list[str] = []
    _pickling.keys = keys
    try:
        return pickle.dumps(obj, protocol=5, buffer_callback=lambda _: None), keys
    finally:
        _pickling.keys = None
