"""The contract for authors of backends: a call becomes one future. Everything else is the core's."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

__all__ = ["Backend", "CarriesNotes", "HeldData", "HoldsData", "StopsCalls", "Traits"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Traits:
    """What a started backend is like. The core adapts to these, never to a name.

    Parameters
    ----------
    shares_memory : bool
        Calls get the caller's own objects: no copy, mutations are seen. Where False the core
        pickles every payload itself, and the backend carries opaque bytes.
    concurrent_in_process : bool
        Several calls may run in one process at the same time, so that what is global to a
        process (the global random generators, the environment) is not a call's own.
    in_caller : bool
        Calls run in the caller's own process.
    synchronous : bool
        `submit` runs the call before it returns.
    remote : bool
        Workers may be on other machines: no shared memory, no shared file system.
    notices_lost_workers : bool
        A worker that dies fails its calls with `WorkerLost`, instead of leaving them pending, also while a child lives
        that it had forked.
    loses_only_running : bool
        Of a lost worker only the calls that were running on it fail. Where False the native pool
        takes the calls running on other workers down with it.
    reruns_lost_calls : bool
        A call whose worker was lost, or whose result was still there, may have been run again by the backend.
    resends_lost_calls : bool
        It only does so by sending such a call to another worker. Where the core has memory that outlives a worker
        (Linux, not remote) it refuses the second run there and takes the result from that memory, so
        `reruns_lost_calls` of the executor is then False.
    stops_running_calls : bool
        `stop(cancel=True)`, and `StopsCalls` where offered, end a call that is running, and on Linux the programs that
        it has started.
    starts_processes : bool
        A call may start processes of its own.
    lost : tuple of exception classes
        The native exceptions that mean "a worker vanished"; the core raises `WorkerLost` from them.
    """

    shares_memory: bool = False
    concurrent_in_process: bool = False
    in_caller: bool = False
    synchronous: bool = False
    remote: bool = False
    notices_lost_workers: bool = False
    loses_only_running: bool = False
    reruns_lost_calls: bool = False
    resends_lost_calls: bool = False
    stops_running_calls: bool = False
    starts_processes: bool = True
    lost: tuple[type[BaseException], ...] = ()


@runtime_checkable
class Backend(Protocol):
    """Turns one call into one `concurrent.futures.Future`.

    A backend is a keyword-only dataclass: its fields are its options, typed, each with a default.
    `max_workers: int | None = None` is a field of every one; other common names are `strict`,
    `start_method`, `address`. Creating it must start nothing.
    """

    name: ClassVar[str]

    def start(self) -> tuple[int, Traits]:
        """Start the native pool; return how many workers it has (>= 1) and what they are like.

        Raises
        ------
        StartError
            It cannot start, or does not answer within a bounded time.
        """
        ...

    def submit(self, call: Callable[[Any], Any], payload: Any, /) -> Future[Any]:
        """Run `call(payload)` once, on some worker; return its future at once.

        The core never has more than a few calls per worker outstanding, so a backend needs no
        queue, no order and no back-pressure. `call` never raises what the user's function
        raised, so an exception of this future is the pool's own trouble. `cancel()` of the
        future, while the call has not started, must prevent it; `running()` tells the truth
        where the backend can know it. Thread-safe.
        """
        ...

    def stop(self, *, cancel: bool) -> None:
        """Stop the native pool and wait until nothing of it is left. Idempotent.

        With `cancel`, calls that are running are ended where the backend can; without, the core
        calls this only when nothing is outstanding.
        """
        ...


@runtime_checkable
class StopsCalls(Protocol):
    """The power to end one running call."""

    def stop_call(self, future: Future[Any], /) -> bool:
        """End the running call of `future`; its worker is replaced. False if it had ended."""
        ...


class HeldData(Protocol):
    """Stands for data that a backend holds for its workers. Hashable; pickles small, in a payload of that backend."""

    @property
    def size(self) -> int:
        """How many bytes it has; where `hold` was called."""
        ...

    def claim(self) -> Any:
        """The data, on a worker that has this from a payload: writable, and private to whoever claims it."""
        ...

    def look_at(self) -> Any:
        """The same, to be read only, so that it need not be copied."""
        ...

    def is_released(self) -> bool:
        """Whether the data was released, as far as that is known here; asked where `claim` was called before."""
        ...


@runtime_checkable
class HoldsData(Protocol):
    """The power to bring data to workers elsewhere, once for each worker, instead of with every call."""

    def hold(self, data: Any, /, *, for_all: bool) -> HeldData:
        """Copy `data`, an object with the buffer protocol, to where workers find it; what stands for it.

        `for_all` says that all workers will need it, and not only the one that runs the next call. The data must
        outlive any one worker in the first case, and need not in the second.
        """
        ...

    def release(self, held: HeldData, /) -> None:
        """Forget the data. What stays where a call is using it is the backend's business. Idempotent."""
        ...


@runtime_checkable
class CarriesNotes(Protocol):
    """Has a way of its own by which a running call tells its caller something, where workers are on other machines."""

    def carry_notes(self, topic: str, take: Callable[[str], object]) -> tuple[str, Callable[[], object]]:
        """Begin to give `take` the lines that calls send under `topic`, by any thread.

        Returns
        -------
        send : str
            ``"module:function"``, which a call runs on its worker as ``function(topic, line)``.
        stop : callable
            Ends it.
        """
        ...
