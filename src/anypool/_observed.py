"""What a worker does besides running calls, because somebody watches: receipts of each call, and live counts."""

from __future__ import annotations

import contextlib
import os
import sys
from array import array
from collections.abc import Callable
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Any, NamedTuple

from anypool._notes import send

if TYPE_CHECKING:
    from anypool._envelope import Job, Notes
    from anypool._wire import Column

__all__ = [
    "CallTimes",
    "ChunkTimes",
    "Receipts",
    "column_bytes",
    "complete",
    "observe",
    "parcel_bytes",
    "unpack_receipts",
]

# How often a worker says at which item of its chunk it is, in seconds.
_COUNT_EVERY = 0.1
# From this run time on, in seconds, the peak memory of a call is its own: asking the kernel takes 50 microseconds.
_MEASURED_FROM = 0.002

_HEAD = 2  # when the chunk reached its worker, and when it left it (0: it did not travel)
_COLUMNS = 5  # of each call: start, seconds, CPU seconds, peak memory in bytes, bytes of its result


class CallTimes(NamedTuple):
    """The receipt of one call, by the clock of its worker."""

    start: float
    seconds: float
    cpu_seconds: float
    peak: int
    """Bytes; 0 where the call was too short to ask."""
    received: int
    """Bytes of its result."""


class ChunkTimes(NamedTuple):
    """The receipts of one chunk."""

    entered: float
    left: float
    calls: list[CallTimes]


def observe(
    call: Callable[[Any], Any], job: Job, start: int, position: Callable[[], int], entered: float | None
) -> tuple[Callable[[Any], Any], Receipts | None]:
    """`call` as it is to be watched, and where its receipts are kept."""
    assert job.observed is not None
    is_timed, notes = job.observed
    receipts = None
    if is_timed:
        receipts = Receipts(perf_counter() if entered is None else entered, owns_process=job.around.exclusive)
        call = receipts.timed(call)
    return (call if notes is None else _counted(call, notes, start, position)), receipts


def _counted(call: Callable[[Any], Any], notes: Notes, start: int, position: Callable[[], int]) -> Callable[[Any], Any]:
    """`call`, which says now and then how many items of the chunk have ended."""
    due = perf_counter() + _COUNT_EVERY

    def counted(item: Any) -> Any:
        nonlocal due
        value = call(item)
        now = perf_counter()
        if now >= due:
            due = now + _COUNT_EVERY
            send(notes, f"c {start} {position() + 1}")
        return value

    return counted


class Receipts:
    """When each call of a chunk ran, for how long, and how much memory its process had at most.

    Parameters
    ----------
    entered : float
        When the chunk reached its worker.
    owns_process : bool
        Nothing else runs in this process, so that its peak may be set back before a call.
    """

    def __init__(self, entered: float, *, owns_process: bool) -> None:
        self._columns = array("d", [entered, 0.0])
        self._sets_back = owns_process and _set_back_peak()

    def timed(self, call: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """`call`, which leaves a receipt."""
        extend = self._columns.extend

        def timed(item: Any) -> Any:
            started, used = perf_counter(), thread_time()
            try:
                return call(item)
            finally:
                seconds = perf_counter() - started
                peak = self._peak() if seconds >= _MEASURED_FROM else 0
                extend((started, seconds, thread_time() - used, peak, 0))

        return timed

    def _peak(self) -> int:
        if not self._sets_back:
            return _peak_of_process()
        peak = _peak_since_set_back()
        _set_back_peak()
        return peak

    def pack(self) -> bytes:
        """All of it; see `unpack_receipts`."""
        return self._columns.tobytes()


def complete(packed: bytes, column: Column) -> bytes:
    """The receipts of a reply whose results are packed in `column`: with their sizes, and the time."""
    numbers = array("d", packed)
    count = (len(numbers) - _HEAD) // _COLUMNS
    for offset, size in enumerate(column_bytes(column, count)):
        numbers[_HEAD + offset * _COLUMNS + 4] = size
    numbers[1] = perf_counter()
    return numbers.tobytes()


def unpack_receipts(packed: bytes) -> ChunkTimes:
    """What `Receipts.pack` packed."""
    numbers = array("d", packed)
    rows = numbers[_HEAD:]
    columns = (rows[each::_COLUMNS] for each in range(_COLUMNS))
    calls = [
        CallTimes(start, seconds, cpu, int(peak), int(received))
        for start, seconds, cpu, peak, received in zip(*columns, strict=True)
    ]
    return ChunkTimes(numbers[0], numbers[1], calls)


def column_bytes(column: Column, count: int) -> list[int]:
    """How many bytes each of `count` items of a column takes: its own, or its part of what is packed as one."""
    if isinstance(column, bytes):
        return [len(column) // max(1, count)] * count
    return [parcel_bytes(parcel) for parcel in column[:count]]


def parcel_bytes(parcel: Any) -> int:
    """How many bytes a parcel has on its way, with the large buffers that travel beside it."""
    if isinstance(parcel, bytes):
        return len(parcel)
    data, refs = parcel
    beside = refs if isinstance(refs, list | tuple) else ()
    return len(data) + sum(int(ref[-1]) for ref in beside if isinstance(ref, tuple))  # others tell no size


def _set_back_peak() -> bool:
    """Have the kernel measure the peak anew (Linux: proc_pid_clear_refs(5)); whether it does."""
    if sys.platform != "linux":
        return False
    try:
        with open("/proc/self/clear_refs", "wb", buffering=0) as file:
            file.write(b"5")
    except OSError:  # a kernel that was built without it
        return False
    return True


def _peak_since_set_back() -> int:
    with contextlib.suppress(OSError), open("/proc/self/status", "rb", buffering=0) as file:
        for line in file.read(4096).splitlines():
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    return _peak_of_process()


def _peak_of_process() -> int:
    """The most that this process ever had."""
    if os.name != "posix":
        return 0
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
