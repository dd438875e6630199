"""What a worker does besides running calls, because somebody watches: receipts of each call, and live counts."""

from __future__ import annotations

import contextlib
import os
import sys
from array import array
from collections.abc import Callable
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Any

from anypool._notes import send

if TYPE_CHECKING:
    from anypool._envelope import Job, Notes

__all__ = ["Receipts", "observe", "unpack_receipts"]

# How often a worker says at which item of its chunk it is, in seconds.
_COUNT_EVERY = 0.1
# From this run time on, in seconds, the peak memory of a call is its own: asking the kernel takes 50 microseconds.
_MEASURED_FROM = 0.002

_COLUMNS = 4  # start, seconds, CPU seconds, peak memory in bytes


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
        self._columns = array("d", [entered])
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
                extend((started, seconds, thread_time() - used, peak))

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


def unpack_receipts(packed: bytes) -> tuple[float, list[tuple[float, float, float, int]]]:
    """When the chunk reached its worker, and of each call: start, seconds, CPU seconds, peak bytes (0: not asked)."""
    numbers = array("d", packed)
    entered, rows = numbers[0], numbers[1:]
    return entered, [
        (start, seconds, cpu, int(peak))
        for start, seconds, cpu, peak in zip(*(rows[each::_COLUMNS] for each in range(_COLUMNS)), strict=True)
    ]


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
