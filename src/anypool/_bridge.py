"""From an executor of the `concurrent.futures` kind to the backend contract.

What `threads`, `loky`, and executors that users bring have in common is small: their `submit` already returns the
future that the contract asks for. What is left is to know which of our calls are outstanding, so that a pool that
belongs to somebody else can be left without shutting it down.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from anypool.backend import Traits
from anypool.errors import ExecutorClosed, StartError

__all__ = ["ForeignExecutor", "Outstanding", "size_of"]

_F = TypeVar("_F", bound="Future[Any]")


class Outstanding:
    """The futures that were handed out and are not done yet. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._futures: set[Future[Any]] = set()
        self._closed = False

    def add(self, future: _F, /) -> _F:
        """Keep `future` until it is done; return it."""
        with self._lock:
            self._futures.add(future)
        future.add_done_callback(self._forget)
        return future

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._futures.discard(future)

    def snapshot(self) -> list[Future[Any]]:
        """The futures that are not done at this moment."""
        with self._lock:
            return list(self._futures)

    def cancel(self) -> None:
        """Cancel every future whose call has not started."""
        for future in self.snapshot():
            future.cancel()

    def wait(self) -> None:
        """Wait until every future is done."""
        wait(self.snapshot())

    def fail(self, error: BaseException, /) -> None:
        """Give every future that nobody will settle any more its end: `error`."""
        for future in self.snapshot():
            settle(future, error=error)


def settle(future: Future[Any], value: Any = None, *, error: BaseException | None = None) -> bool:
    """Give `future` its result or its error, unless it has one already; return whether it had none.

    A future of a call in another process can be cancelled, or failed by `stop`, in the moment in which its
    result arrives: whoever is first wins. The stdlib offers no test-and-set, so the loser is found by its error.
    """
    from concurrent.futures import InvalidStateError

    try:
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)
    except InvalidStateError:
        return False
    return True


def size_of(executor: Executor, /) -> int | None:
    """How many workers `executor` says it has, under the names in use; None if it says nothing."""
    for name in ("_max_workers", "max_workers", "num_workers", "size"):
        value = getattr(executor, name, None)
        if isinstance(value, int) and value >= 1:
            return value
    return None


@dataclass(kw_only=True)
class ForeignExecutor:
    """Runs calls on an executor that somebody else made and will shut down.

    Parameters
    ----------
    executor : concurrent.futures.Executor
        The executor. It is never shut down here.
    max_workers : int, optional
        How many workers it has, for executors that do not say.
    traits : Traits, optional
        What it is like. The default claims nothing: opaque payloads, no notice of lost workers.

    Raises
    ------
    StartError
        At `start`, if the size is neither given nor told by the executor.
    """

    name: ClassVar[str] = "foreign"

    executor: Executor
    max_workers: int | None = None
    traits: Traits = field(default_factory=Traits)

    def __post_init__(self) -> None:
        self._outstanding = Outstanding()
        self._stopped = False

    def start(self) -> tuple[int, Traits]:
        size = self.max_workers or size_of(self.executor)
        if size is None:
            kind = type(self.executor).__qualname__
            raise StartError(f"{kind} does not say how many workers it has: pass max_workers=")
        return size, self.traits

    def submit(self, call: Callable[[Any], Any], payload: Any, /) -> Future[Any]:
        if self._stopped:
            raise ExecutorClosed("the backend 'foreign' was stopped")
        return self._outstanding.add(self.executor.submit(call, payload))

    def stop(self, *, cancel: bool) -> None:
        """Wait for the calls of ours; the executor itself goes on.

        With `cancel`, calls that have not started are cancelled first. A running call of an executor that is
        not ours cannot be ended, so it is waited for.
        """
        self._stopped = True
        if cancel:
            self._outstanding.cancel()
        self._outstanding.wait()
