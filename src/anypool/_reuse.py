"""Warm pools: a backend that stays after the executor is left, for the next executor of the same choice.

A pool here belongs to nobody who could shut it down under another: executors hold leases. With the last one given
back it waits a while for the next, then it ends; at the end of the interpreter it ends too.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, cast

from anypool.backend import StopsCalls

if TYPE_CHECKING:
    from anypool.backend import Backend, Traits

__all__ = ["IDLE_SECONDS", "Leased", "close_idle", "leased"]

IDLE_SECONDS = 30.0
"""How long a pool without a user is kept."""


@dataclass(eq=False)
class _Warm:
    """A started backend and how many executors use it."""

    key: tuple[Any, ...]
    backend: Backend
    size: int
    traits: Traits
    users: int = 0
    has_failed: bool = False
    timer: threading.Timer | None = field(default=None, repr=False)


# The pools belong to the process: that is what reusing them means. A forked child has none of their workers.
_lock = threading.Lock()
_warm: dict[tuple[Any, ...], list[_Warm]] = {}
_pid = os.getpid()
_closes_at_exit = False


class Leased:
    """The `Backend` of an executor that shares a warm pool with others.

    Parameters
    ----------
    backend : Backend
        The choice, not started. It becomes the pool if no warm one fits.
    """

    def __init__(self, backend: Backend) -> None:
        self.choice = backend
        self.name = backend.name
        self._pool: _Warm | None = None
        self._outstanding: set[Future[Any]] = set()
        self._own_lock = threading.Lock()

    def start(self) -> tuple[int, Traits]:
        """Take a lease on a warm pool of this choice, or start one."""
        self._pool = _lease(self.choice)
        return self._pool.size, self._pool.traits

    @property
    def pool_backend(self) -> Backend:
        """The backend of the warm pool, which may have powers that a lease has not."""
        assert self._pool is not None
        return self._pool.backend

    def submit(self, call: Callable[[Any], Any], payload: Any, /) -> Future[Any]:
        """Run the call on the shared pool."""
        assert self._pool is not None
        future = self._pool.backend.submit(call, payload)
        with self._own_lock:
            self._outstanding.add(future)
        future.add_done_callback(self._forget)
        return future

    @property
    def leased(self) -> Backend:
        """What runs the calls, with its powers."""
        assert self._pool is not None
        return self._pool.backend

    def _forget(self, future: Future[Any]) -> None:
        with self._own_lock:
            self._outstanding.discard(future)
        pool = self._pool
        if pool is not None and not future.cancelled() and future.exception() is not None:
            pool.has_failed = True  # its own trouble, as no call of a user's raises here: nobody else shall lease it

    def stop_call(self, future: Future[Any], /) -> bool:
        """End the running call of `future`, where the shared pool can."""
        pool = self._pool
        return pool is not None and isinstance(pool.backend, StopsCalls) and pool.backend.stop_call(future)

    def stop(self, *, cancel: bool) -> None:
        """Give the lease back; with `cancel`, end the calls of this executor first, and no others."""
        pool = self._pool
        if pool is None:
            return
        if cancel:
            with self._own_lock:
                outstanding = list(self._outstanding)
            for future in outstanding:
                if not future.cancel():
                    self.stop_call(future)
        self._pool = None
        _give_back(pool)


class LeasedStoppable(Leased):
    """The same of a backend that can end one running call."""

    def stop_call(self, future: Future[Any], /) -> bool:
        """End the running call of `future`. False if it had ended."""
        pool = self._pool
        return pool is not None and isinstance(pool.backend, StopsCalls) and pool.backend.stop_call(future)


def leased(backend: Backend) -> Backend:
    """The backend of an executor that shares a warm pool of the choice `backend` with others."""
    kind = LeasedStoppable if isinstance(backend, StopsCalls) else Leased
    return cast("Backend", kind(backend))


def _key(backend: Backend) -> tuple[Any, ...]:
    """What makes two choices the same, but for the size."""
    options = ((each.name, repr(getattr(backend, each.name))) for each in fields(backend))  # type: ignore[arg-type]
    return (type(backend), *sorted(option for option in options if option[0] != "max_workers"))


def _lease(choice: Backend) -> _Warm:
    key, wanted = _key(choice), getattr(choice, "max_workers", None)
    outgrown: list[_Warm] = []
    with _lock:
        _forget_in_child()
        pools = _warm.setdefault(key, [])
        for pool in pools:
            if wanted in (None, pool.size) and not pool.has_failed:
                return _taken(pool)
        # One of another size that nobody uses makes room for one of this size.
        outgrown = [pool for pool in pools if not pool.users]
        for pool in outgrown:
            pools.remove(pool)
            _stop_timer(pool)
    for pool in outgrown:
        pool.backend.stop(cancel=False)
    size, traits = choice.start()
    started = _Warm(key, choice, size, traits)
    with _lock:
        _warm.setdefault(key, []).append(started)
        return _taken(started)


def _taken(pool: _Warm) -> _Warm:
    pool.users += 1
    _stop_timer(pool)
    return pool


def _stop_timer(pool: _Warm) -> None:
    if pool.timer is not None:
        pool.timer.cancel()
        pool.timer = None


def _give_back(pool: _Warm) -> None:
    with _lock:
        pool.users -= 1
        if pool.users or pool not in _warm.get(pool.key, ()):
            return
        if not pool.has_failed and _keep_for_a_while(pool):
            return
        _warm[pool.key].remove(pool)
    pool.backend.stop(cancel=False)


def _keep_for_a_while(pool: _Warm) -> bool:
    pool.timer = threading.Timer(IDLE_SECONDS, _end_if_idle, args=(pool,))
    pool.timer.daemon = True
    pool.timer.name = "anypool-idle"
    _close_at_exit()
    try:
        pool.timer.start()
    except RuntimeError:  # the interpreter is ending, and starts no thread any more
        return False
    return True


def _close_at_exit() -> None:
    global _closes_at_exit
    if not _closes_at_exit:
        import atexit

        atexit.register(close_idle)
        _closes_at_exit = True


def _end_if_idle(pool: _Warm) -> None:
    with _lock:
        if pool.users or pool not in _warm.get(pool.key, ()):
            return
        _warm[pool.key].remove(pool)
    pool.backend.stop(cancel=False)


def close_idle() -> None:
    """End every warm pool that no executor uses, now."""
    with _lock:
        _forget_in_child()
        idle = [pool for pools in _warm.values() for pool in pools if not pool.users]
        for pool in idle:
            _warm[pool.key].remove(pool)
            _stop_timer(pool)
    for pool in idle:
        pool.backend.stop(cancel=False)


def _forget_in_child() -> None:
    global _pid
    if _pid != os.getpid():
        _pid = os.getpid()
        _warm.clear()
