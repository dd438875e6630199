"""What the asynchronous methods of a pool return: one result, or an iterator of many."""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from typing import Any

__all__ = ["AsyncResult", "ImapIterator"]

_END = object()


class AsyncResult:
    """The result of `apply_async`, `map_async` or `starmap_async`, some day.

    Made by `Pool`. Its methods are those of `multiprocessing.pool.AsyncResult`.
    """

    def __init__(
        self,
        future: Future[Any],
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
        forget: Callable[[AsyncResult], object],
    ) -> None:
        self._future = future
        self._callback = callback
        self._error_callback = error_callback
        self._forget = forget
        self._event = threading.Event()

    def _follow(self) -> None:
        self._future.add_done_callback(self._settle)

    def _settle(self, future: Future[Any]) -> None:
        """Tell whoever wants to be told, then be ready. An error of a callback is logged by the future."""
        try:
            if future.cancelled():
                if self._error_callback is not None:
                    self._error_callback(CancelledError("the pool was terminated"))
            elif (error := Future.exception(future)) is not None:  # not CallFuture's: the output is for who asks
                if self._error_callback is not None:
                    self._error_callback(error)
            elif self._callback is not None:
                self._callback(future.result())
        finally:
            self._event.set()
            self._forget(self)

    def get(self, timeout: float | None = None) -> Any:
        """What the call returned; raises what it raised.

        Raises
        ------
        multiprocessing.TimeoutError
            It is not there after `timeout` seconds. Also a `TimeoutError`.
        """
        if not self._event.wait(timeout):
            raise _timeout(f"the result was not there after {timeout} s")
        return self._future.result()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the result is there, or `timeout` seconds."""
        self._event.wait(timeout)

    def ready(self) -> bool:
        """Whether the call has ended."""
        return self._event.is_set()

    def successful(self) -> bool:
        """Whether the call has ended without an error.

        Raises
        ------
        ValueError
            It has not ended.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return not self._future.cancelled() and Future.exception(self._future) is None

    def _cancel(self, executor: Any) -> None:
        executor.cancel(self._future, running=True)

    def _finish(self) -> None:
        self._event.wait()


class ImapIterator:
    """The results of `imap` and `imap_unordered`. An error of one call does not end it.

    Made by `Pool`. `results` gives each result in a tuple, and each error as a value.
    """

    def __init__(self, results: Iterator[Any], forget: Callable[[ImapIterator], object]) -> None:
        self._results = results
        self._forget = forget
        self._lock = threading.Lock()  # held by whoever takes the next result
        self._kept: deque[Any] = deque()  # what `join` took
        self._asked: Future[Any] | None = None  # the next result, for which a thread waits
        self._is_cancelled = False

    def __iter__(self) -> ImapIterator:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """The next result.

        Raises
        ------
        StopIteration
            There is none.
        multiprocessing.TimeoutError
            It is not there after `timeout` seconds; the next call asks for the same result. Also a `TimeoutError`.
        """
        if timeout is not None and self._asked is None:
            self._asked = self._ask()
        asked = self._asked
        if asked is None:
            found = self._take()
        elif not wait([asked], timeout).done:
            raise _timeout(f"the next result was not there after {timeout} s")
        else:
            self._asked = None
            found = asked.result()
        if found is _END:
            raise StopIteration
        if isinstance(found, tuple):
            return found[0]
        raise found

    def _ask(self) -> Future[Any]:
        """The next result as a future: a thread can wait for it while this one gives up."""
        future: Future[Any] = Future()
        context = contextvars.copy_context()  # what calls print belongs to the caller

        def ask() -> None:
            try:
                future.set_result(self._take())
            except BaseException as exc:  # for whoever asks
                future.set_exception(exc)

        threading.Thread(target=context.run, args=(ask,), name="anypool-imap").start()
        return future

    def _take(self) -> Any:
        with self._lock:
            return self._kept.popleft() if self._kept else self._advance()

    def _advance(self) -> Any:
        """The next result in its tuple, an error, or the end."""
        if self._is_cancelled:
            return CancelledError("the pool was terminated before this result was there")
        try:
            return next(self._results)
        except StopIteration:
            self._forget(self)
            return _END
        except Exception as exc:  # of the input, or the pool's; what a call raised is a value
            self._forget(self)
            return exc
        except BaseException:
            self._forget(self)
            raise

    def _cancel(self, _executor: Any) -> None:
        self._is_cancelled = True
        if self._lock.acquire(blocking=False):  # else a thread waits for the next result, and sees the flag after it
            try:
                self._results.close()  # type: ignore[attr-defined]
            finally:
                self._lock.release()
        self._forget(self)

    def _finish(self) -> None:
        """Take all results that are left, for whoever asks later; what the rest of the input asks for is run."""
        with self._lock:
            while not self._is_cancelled and (found := self._advance()) is not _END:
                self._kept.append(found)


def _timeout(text: str) -> TimeoutError:
    from anypool._as_pool_timeout import PoolTimeout  # loads multiprocessing

    return PoolTimeout(text)
