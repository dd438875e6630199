"""Large buffers, carried between the processes of one machine in memory that has no name.

::

    owner: store(buffers)                        reader: claim(refs), then open()
      memfd, no name, no message, no lock held     /proc/<owner>/fd/<n>, the same memory
      ┌──────────────────────────────┐             1. open, flock(SH), token? state := TAKEN
      │ header: token, size, state   │ <─────────  2. mmap(MAP_PRIVATE): writable, a page is copied
      ├──────────────────────────────┤                only when it is written to
      │ data ...                     │             3. the last array over it dies: unmapped, closed,
      └──────────────────────────────┘                and with the open file goes the lock
      reuse: state TAKEN (or released), and flock(EX) succeeds => nobody reads, nobody will
             token := 0 under that lock, so that a ref to the old bytes is refused from then on

Three things make this safe without a message back or a server that cleans up:

* *The kernel owns the memory.* It goes with the last descriptor and mapping, however a process ends.
* *The kernel owns the lock.* `flock` belongs to the open file, which the reader's mapping and the mapping
  a fork of it inherits keep alive. A reader that is killed, or that forks while it holds an array, needs
  no bookkeeping: pages are written again only when no process at all holds the file open for reading.
* *A ref is checked, not believed.* A descriptor number and even a process id may mean something else by
  now; device, inode and a random token must agree.

Owner and reader are the same user in the same pid namespace: what every local pool is.
"""

from __future__ import annotations

import mmap
import struct
import sys
from pickle import PickleBuffer
from typing import Protocol, TypeAlias, runtime_checkable

if sys.platform == "linux":
    import resource

__all__ = [
    "DATA_AT",
    "HEADER",
    "LARGEST_MOVE",
    "MAGIC",
    "NO_BYTES",
    "RELEASED",
    "RELEASED_AT",
    "SENT",
    "STATE_AT",
    "TAKEN",
    "THRESHOLD",
    "Buffer",
    "OtherRef",
    "Ref",
    "SegmentRef",
    "descriptor_limit",
]

Buffer: TypeAlias = PickleBuffer | memoryview | mmap.mmap | bytes | bytearray


@runtime_checkable
class OtherRef(Protocol):
    """Where a buffer is that is in no segment: in a file, or held by a backend for its workers. Pickles small."""

    @property
    def size(self) -> int:
        """How many bytes it has; where it was stored."""
        ...

    def claim(self) -> Buffer:
        """The buffer: writable, and private to whoever claims it."""
        ...

    def look_at(self) -> Buffer:
        """The buffer, to be read only, so that it need not be copied."""
        ...

    def is_released(self) -> bool:
        """Whether its owner needs it no longer, as far as that can be known here."""
        ...


SegmentRef: TypeAlias = tuple[int, int, int, int, int, int]
"""Where a segment is: the owner's pid and descriptor, device, inode, token, size."""

Ref: TypeAlias = SegmentRef | OtherRef
"""Where a stored buffer is."""

THRESHOLD = 256 * 1024
"""From how many bytes on a segment is quicker than a pipe: benchmarks/segments.py."""

NO_BYTES: SegmentRef = (0, 0, 0, 0, 0, 0)  # a buffer of no bytes needs no memory, and none could be mapped

MAGIC = b"anypool1"
HEADER = struct.Struct("=8sQQBB")
STATE_AT = HEADER.size - 2
SENT = b"\x01"
TAKEN = b"\x02"
RELEASED_AT = HEADER.size - 1  # says to those who keep it open that its owner needs it no longer
RELEASED = b"\x01"
DATA_AT = mmap.ALLOCATIONGRANULARITY  # where a mapping may begin

LARGEST_MOVE = 1 << 30  # Linux moves at most 2 GiB - 4 KiB in one read or write


def descriptor_limit() -> int:
    """The number from which on descriptors are left to others: numbers are given out lowest first."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Mappings are limited as well, to 65,530 of a process by default (vm.max_map_count).
    return 16_384 if soft == resource.RLIM_INFINITY else min(soft // 2, 16_384)
