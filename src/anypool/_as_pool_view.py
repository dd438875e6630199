"""`multiprocessing.Pool` as a face of an executor: the notebook's own code, on any backend.

::

    map, starmap ────────────────> executor.map, in the caller's thread
    map_async, starmap_async ────> executor.map, in a thread of its own ──> Future ─┐
    apply_async ─────────────────> executor.submit ───────────────────────> Future ─┴─> AsyncResult
    imap, imap_unordered ────────> executor.map ──────────────────────────────────────> ImapIterator

What was asked for runs, whether or not anybody looks at it, unless the pool is terminated; as in the standard library.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from anypool._as_pool_results import AsyncResult, ImapIterator
from anypool._boxed import Boxed

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["PoolView"]

_NO_KEYWORDS: Mapping[str, Any] = MappingProxyType({})
_RUN, _CLOSE, _TERMINATE = "RUN", "CLOSE", "TERMINATE"


class PoolView:
    """A `multiprocessing.Pool` over an executor, which it leaves open. Made by `PoolExecutor.as_pool`.

    It pickles as the specification of its executor; the copy has an executor of its own.
    """

    def __init__(self, executor: Any, *, owned: bool = False) -> None:
        self._executor = executor
        self._owned = owned
        self._state = _RUN
        self._lock = threading.Lock()
        self._live: set[AsyncResult | ImapIterator] = set()  # what is not finished, and nobody else may hold
        self._drivers: set[threading.Thread] = set()

    # --- calls ----------------------------------------------------------------------------------------

    def apply(self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: Mapping[str, Any] = _NO_KEYWORDS) -> Any:
        """``func(*args, **kwds)``, run by a worker."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = _NO_KEYWORDS,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult:
        """Start ``func(*args, **kwds)``; its `AsyncResult` at once.

        `callback` gets the result, or `error_callback` the error, before the result counts as ready. They run in the
        thread that learns of it, which others wait for: they should be quick.
        """
        self._check_running()
        return self._watch(self._executor.submit(func, *args, **kwds), callback, error_callback)

    def map(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None) -> list[Any]:
        """The list of ``func(item)`` for each item, in order. The error is that of the first item that failed."""
        self._check_running()
        return list(self._executor.map(func, _sized(iterable), chunksize=chunksize))

    def starmap(
        self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[Any]:
        """The list of ``func(*item)`` for each item, in order."""
        self._check_running()
        return list(self._executor.starmap(func, _sized(iterable), chunksize=chunksize))

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult:
        """Start a `map`; its `AsyncResult` at once."""
        self._check_running()
        results = self._executor.map(func, _sized(iterable), chunksize=chunksize)
        return self._watch(self._drive(results), callback, error_callback)

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult:
        """Start a `starmap`; its `AsyncResult` at once."""
        self._check_running()
        results = self._executor.starmap(func, _sized(iterable), chunksize=chunksize)
        return self._watch(self._drive(results), callback, error_callback)

    def imap(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None) -> ImapIterator:
        """The results of ``func(item)``, one by one, in order.

        The input is read as results are taken, and no further ahead than the window; `join` reads the rest. After an
        error the iterator goes on with the next item.
        """
        return self._imap(func, iterable, chunksize, ordered=True)

    def imap_unordered(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None
    ) -> ImapIterator:
        """The results of ``func(item)``, as they are ready."""
        return self._imap(func, iterable, chunksize, ordered=False)

    def _imap(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None, *, ordered: bool
    ) -> ImapIterator:
        self._check_running()
        if not callable(func):
            raise TypeError(f"a function is needed, not {func!r}")
        results = self._executor.map(Boxed(func), iterable, chunksize=chunksize, ordered=ordered, errors="return")
        each = ImapIterator(results, self._forget)
        self._remember(each)
        return each

    def _watch(
        self,
        future: Future[Any],
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> AsyncResult:
        result = AsyncResult(future, callback, error_callback, self._forget)
        self._remember(result)
        result._follow()
        return result

    def _drive(self, results: Iterator[Any]) -> Future[list[Any]]:
        """The future of the list of `results`, which a thread takes: the caller has gone on."""
        future: Future[list[Any]] = Future()
        context = contextvars.copy_context()  # what calls print belongs to the caller, also if that is a call itself
        thread = threading.Thread(target=context.run, args=(self._take_all, results, future), name="anypool-map-async")
        with self._lock:
            self._drivers.add(thread)
        thread.start()
        return future

    def _take_all(self, results: Iterator[Any], future: Future[list[Any]]) -> None:
        future.set_running_or_notify_cancel()
        try:
            values = []
            for value in results:
                values.append(value)
                if self._state == _TERMINATE:
                    raise CancelledError("the pool was terminated before this result was there")
        except BaseException as exc:  # for whoever asks; nobody does in this thread
            future.set_exception(exc)
        else:
            future.set_result(values)
        finally:
            with self._lock:
                self._drivers.discard(threading.current_thread())

    # --- the end --------------------------------------------------------------------------------------

    def _check_running(self) -> None:
        if self._state != _RUN:
            raise ValueError("Pool not running")

    def _remember(self, each: AsyncResult | ImapIterator) -> None:
        with self._lock:
            self._live.add(each)

    def _forget(self, each: AsyncResult | ImapIterator) -> None:
        with self._lock:
            self._live.discard(each)
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        """After `close`, with the last result, the workers go, though nobody calls `join`."""
        if self._state == _CLOSE and self._owned and not self._live:
            self._executor.shutdown(wait=False)

    def close(self) -> None:
        """Take no new call. What was asked for is finished; then the workers end."""
        if self._state == _RUN:
            self._state = _CLOSE
            self._end_if_idle()

    def terminate(self) -> None:
        """Take no new call, cancel what has not begun, and end what runs where the backend can.

        Over an executor that goes on, the calls of maps that run already come to their own end.
        Results that are not there then are never there: `get` raises `concurrent.futures.CancelledError`, or the
        error of the call that was ended.
        """
        self._state = _TERMINATE
        if self._owned:
            self._executor._dispatcher.shutdown(wait=True, cancel_futures=True, stop_running=True)
        with self._lock:
            live = list(self._live)
        for each in live:
            each._cancel(self._executor)

    def join(self) -> None:
        """Wait for all that was asked for, and for the end of the workers.

        Raises
        ------
        ValueError
            Neither `close` nor `terminate` was called.
        """
        if self._state == _RUN:
            raise ValueError("Pool is still running")
        with self._lock:
            live, drivers = list(self._live), list(self._drivers)
        for each in live:
            each._finish()
        for thread in drivers:
            thread.join()
        if self._owned:
            self._executor.shutdown(wait=True)

    def __enter__(self) -> Self:
        self._check_running()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.terminate()

    # --- what it is -----------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """How many calls run at once, >= 1."""
        return int(self._executor.max_workers)

    _processes = size  # the name that client libraries look for

    def is_master(self) -> bool:
        """True: whoever holds the pool is not a worker of it. Asked by code that also runs under MPI."""
        return True

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self._executor)

    def __repr__(self) -> str:
        return f"<anypool {type(self).__name__} state={self._state} over {self._executor!r}>"


def _rebuild(kind: type[PoolView], executor: Any) -> PoolView:
    pool = kind.__new__(kind)
    PoolView.__init__(pool, executor, owned=True)
    return pool


def _sized(iterable: Iterable[Any]) -> Iterable[Any]:
    """As `multiprocessing.Pool` does: what has no length is read here and now, and fails here and now."""
    return iterable if hasattr(iterable, "__len__") else list(iterable)
