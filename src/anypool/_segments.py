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
from typing import TypeAlias

if sys.platform == "linux":
    import resource

__all__ = [
    "DATA_AT",
    "HEADER",
    "LARGEST_MOVE",
    "MAGIC",
    "NO_BYTES",
    "SENT",
    "STATE_AT",
    "TAKEN",
    "THRESHOLD",
    "Buffer",
    "Ref",
    "descriptor_limit",
]

Ref: TypeAlias = tuple[int, int, int, int, int, int]
"""Where a stored buffer is: the owner's pid and descriptor, device, inode, token, size."""

Buffer: TypeAlias = PickleBuffer | memoryview | mmap.mmap | bytes | bytearray

THRESHOLD = 256 * 1024
"""From how many bytes on a segment is quicker than a pipe: benchmarks/segments.py."""

NO_BYTES: Ref = (0, 0, 0, 0, 0, 0)  # a buffer of no bytes needs no memory, and none could be mapped

MAGIC = b"anypool1"
HEADER = struct.Struct("=8sQQB")
STATE_AT = HEADER.size - 1
SENT = b"\x01"
TAKEN = b"\x02"
DATA_AT = mmap.ALLOCATIONGRANULARITY  # where a mapping may begin

LARGEST_MOVE = 1 << 30  # Linux moves at most 2 GiB - 4 KiB in one read or write


def descriptor_limit() -> int:
    """The number from which on descriptors are left to others: numbers are given out lowest first."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Mappings are limited as well, to 65,530 of a process by default (vm.max_map_count).
    return 16_384 if soft == resource.RLIM_INFINITY else min(soft // 2, 16_384)
