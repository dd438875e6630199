"""`threads`: calls run in threads of the caller's process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

from anypool._cpus import available_cpus
from anypool.backend import Traits

__all__ = ["Threads"]


@dataclass(kw_only=True)
class Threads:
    """The stdlib's thread pool.

    Parameters
    ----------
    max_workers : int, optional
        How many threads. Default: what the CPU budget allows, as for processes; calls that wait for a network
        or a disk gain from more.
    strict : bool
        Send functions, arguments and results through the wire, so that calls share nothing, as in processes.
    """

    name: ClassVar[str] = "threads"

    max_workers: int | None = None
    strict: bool = False

    def start(self) -> tuple[int, Traits]:
        """The pool's size; its threads start with the first calls."""
        size = self.max_workers or available_cpus()
        self._pool = ThreadPoolExecutor(size, thread_name_prefix="anypool")
        return size, Traits(shares_memory=not self.strict, in_caller=True, concurrent_in_process=True)

    def submit(self, call: Callable[[Any], Any], payload: Any, /) -> Future[Any]:
        """Run the call in a thread."""
        return self._pool.submit(call, payload)

    def stop(self, *, cancel: bool) -> None:
        """Wait for the threads; a running call of theirs cannot be ended."""
        self._pool.shutdown(wait=True, cancel_futures=cancel)
