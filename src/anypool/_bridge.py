"""From an executor of the `concurrent.futures` kind to the backend contract.

What joblib, and executors that users bring have in common is small: their `submit` already returns the
future that the contract asks for. What is left is to know which of our calls are outstanding, so that a pool of
somebody else's can be left without shutting it down.
"""

from __future__ import annotations

import gc
import inspect
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, InvalidStateError, wait
from dataclasses import dataclass, field
from multiprocessing import util
from typing import Any, ClassVar, TypeVar

from anypool._trackers import TRACKERS, folders_of_joblib
from anypool.backend import Traits
from anypool.errors import ExecutorClosed, StartError

__all__ = ["ForeignExecutor", "Outstanding", "settle", "size_of", "stop_unused_trackers", "without_frames"]

_F = TypeVar("_F", bound="Future[Any]")

_TRACKER_ENDS_WITHIN = 2.0


class Outstanding:
    """The futures that were handed out and are not done yet. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._futures: set[Future[Any]] = set()

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


def settle(future: Future[Any], value: Any = None, *, error: BaseException | None = None) -> bool:
    """Give `future` its result or its error, unless it has one already; return whether it had none.

    A future of a call in another process can be cancelled, or failed by `stop`, in the moment in which its
    result arrives: whoever is first wins. The stdlib offers no test-and-set, so the loser is found by its
    error.
    """
    try:
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)
    except InvalidStateError:
        return False
    return True


def without_frames(error: BaseException) -> BaseException:
    """`error` without the frames of this process, which lead to the native pool's thread and keep that pool alive.

    What a worker raised brings its own frames as text.
    """
    each: BaseException | None = error
    while each is not None and each.__traceback__ is not None:
        each.__traceback__ = None
        each = each.__cause__ or each.__context__
    return error


def stop_unused_trackers() -> None:
    """End loky's resource trackers, which are processes, if none of its semaphores is left in this process.

    loky starts one with the first semaphore and leaves it until the interpreter ends. When it stops it unlinks
    the semaphores that are still in use, so it must stay as long as there is one, whoever made it. loky has no
    public way to ask for either; where these names are gone, the tracker stays, which costs one idle process.
    The tracker of `multiprocessing` itself, which loky starts too, is never stopped here: shared memory of the
    caller's may be registered there. That of joblib's loky stays while joblib has a folder for arrays registered
    with it, which it would remove from under a `joblib.Parallel` of the caller's.
    """
    # Both register a start method "loky" with multiprocessing, and the one imported last serves the other too.
    for name in TRACKERS[1:]:
        tracking = sys.modules.get(f"{name}.resource_tracker")
        stop = getattr(getattr(tracking, "_resource_tracker", None), "_stop", None)
        synchronize = sys.modules.get(f"{name}.synchronize")
        cleanup = getattr(getattr(synchronize, "SemLock", None), "_cleanup", None)
        if stop is None or (synchronize is not None and cleanup is None):
            continue
        # Not even loaded where the other loky serves its start method.
        if synchronize is not None and _has_finalizer(cleanup):
            gc.collect()  # native pools are in cycles: with threads, with tracebacks of what they raised
        has_folders = name.startswith("joblib.") and bool(folders_of_joblib())
        if not has_folders and (synchronize is None or not _has_finalizer(cleanup)):
            # loky starts it again when it next needs it. It ends when nobody holds the pipe to it, which a process that
            # a lost worker forked may do for as long as it lives.
            has_limit = "wait_timeout" in inspect.signature(stop).parameters
            stop(**({"wait_timeout": _TRACKER_ENDS_WITHIN} if has_limit else {}))


def _has_finalizer(callback: Any) -> bool:
    registry: dict[Any, Any] = getattr(util, "_finalizer_registry", {})
    return any(getattr(each, "_callback", None) is callback for each in list(registry.values()))


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
