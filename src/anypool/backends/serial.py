"""`serial`: every call runs at once, in the caller's thread. The reference for all others."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, ClassVar

from anypool._native_future import NativeFuture
from anypool.backend import Traits

__all__ = ["Serial"]


@dataclass(kw_only=True)
class Serial:
    """Runs each call inside `submit`: eager by rule, never lazy.

    Parameters
    ----------
    max_workers : int, optional
        Accepted so that the backend can be switched without another change; there is one worker.
    strict : bool
        Send functions, arguments and results through the wire, as processes need: what passes here passes
        everywhere.
    """

    name: ClassVar[str] = "serial"

    max_workers: int | None = None
    strict: bool = False

    def start(self) -> tuple[int, Traits]:
        """One worker: the caller."""
        return 1, Traits(shares_memory=not self.strict, in_caller=True, synchronous=True)

    def submit(self, call: Callable[[Any], Any], payload: Any, /) -> Future[Any]:
        """Run the call now; the future is done."""
        future = NativeFuture()
        future.set_running_or_notify_cancel()
        try:
            value = call(payload)
        except Exception as exc:
            future.set_exception(exc)
        else:
            future.set_result(value)
        return future

    def stop(self, *, cancel: bool) -> None:
        """Nothing runs between calls, so there is nothing to stop."""
