"""What it costs to bring a large buffer to another process: segments, a pipe, named shared memory.

Run ``python benchmarks/segments.py [--megabytes 80] [--rounds 7]``. Each figure is the best of the rounds,
and the median after it; what is compared is interleaved. Decides `_segments.THRESHOLD` and how a segment
is written.
"""

from __future__ import annotations

import argparse
import fcntl
import mmap
import multiprocessing
import os
import pickle
import platform
import statistics
import time
from collections.abc import Callable
from multiprocessing import shared_memory
from multiprocessing.connection import Connection
from typing import Any

from anypool._segments import THRESHOLD
from anypool._segments_cache import Cache
from anypool._segments_owner import Segments
from anypool._segments_reader import claim, open_refs

PAGE = mmap.PAGESIZE
POPULATE_READ = 22
PRIVATE = {"flags": mmap.MAP_PRIVATE, "prot": mmap.PROT_READ | mmap.PROT_WRITE}


def compare(ways: dict[str, Callable[[], object]], rounds: int, unit: float, name: str) -> None:
    """Print the best and the median time of each of `ways`, run in turns."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            start = time.perf_counter()
            run()
            seconds[way].append(time.perf_counter() - start)
    for way, found in seconds.items():
        print(f"  {way:<58} {min(found) * unit:9.1f} {statistics.median(found) * unit:9.1f} {name}")


def repeat(run: Callable[[], object], count: int = 1000) -> Callable[[], object]:
    def several() -> None:
        for _ in range(count):
            run()

    return several


def show_copying(data: memoryview, rounds: int) -> None:
    size = data.nbytes
    touched = os.memfd_create("touched")
    os.pwrite(touched, data, PAGE)
    kept = mmap.mmap(touched, size, offset=PAGE)
    kept[:] = data

    def fresh_by_write() -> None:
        descriptor = os.memfd_create("fresh")
        os.pwrite(descriptor, data, PAGE)
        os.close(descriptor)

    def fresh_by_mapping() -> None:
        descriptor = os.memfd_create("fresh")
        os.ftruncate(descriptor, PAGE + size)
        with mmap.mmap(descriptor, size, offset=PAGE) as mapping:
            mapping[:] = data
        os.close(descriptor)

    def touched_by_new_mapping(populate: bool) -> None:
        with mmap.mmap(touched, size, offset=PAGE) as mapping:
            if populate:
                mapping.madvise(POPULATE_READ)
            mapping[:] = data

    def rewrite() -> None:
        kept[:] = data

    def read_private() -> None:
        with mmap.mmap(touched, size, offset=PAGE, **PRIVATE) as mapping:
            mapping[::PAGE]

    def write_private() -> None:
        with mmap.mmap(touched, size, offset=PAGE, **PRIVATE) as mapping:
            mapping[::PAGE] = bytes(len(range(0, size, PAGE)))

    print(f"\nCopying {size >> 20} MiB, and reading it (ms: best, median)")
    compare(
        {
            "into a bytes object": lambda: bytes(data),
            "fresh memory, write()": fresh_by_write,
            "fresh memory, mapping": fresh_by_mapping,
            "touched memory, write()": lambda: os.pwrite(touched, data, PAGE),
            "touched memory, new mapping": lambda: touched_by_new_mapping(False),
            "touched memory, new mapping, populated": lambda: touched_by_new_mapping(True),
            "touched memory, kept mapping": rewrite,
            "reader: private mapping, every page read": read_private,
            "reader: private mapping, every page written to": write_private,
        },
        rounds,
        1e3,
        "ms",
    )
    kept.close()
    os.close(touched)


def show_segments(data: memoryview, rounds: int) -> None:
    fresh, touched = Segments(idle_bytes=0), Segments(idle_bytes=4 * data.nbytes)
    broadcast = Segments()
    cache = Cache(broadcast)
    exporter = data.obj
    cache.store_shared([exporter])

    def store_fresh() -> None:
        fresh.store([data])
        fresh.close()
        fresh.__init__(idle_bytes=0)

    for _ in range(2):
        claim(touched.store([data]))
    print(f"\nSegments of {data.nbytes >> 20} MiB (ms)")
    compare(
        {
            "store, fresh": store_fresh,
            "store, touched, and claim": lambda: claim(touched.store([data])),
            "store_shared of what is there: compared": lambda: cache.store_shared([exporter]),
        },
        rounds,
        1e3,
        "ms",
    )
    small = bytes(4096)
    ref = touched.store([small], readers=None)
    own = os.memfd_create("own")
    print("\nOne segment of 4 KiB (microseconds each)")
    compare(
        {
            "store, fresh and taken back": repeat(lambda: touched.release(touched.store([small]))),
            "claim and drop": repeat(lambda: claim(ref)),
            "claim, open and drop": repeat(lambda: open_refs(ref)),
            "store, claim, open, drop": repeat(lambda: open_refs(touched.store([small]))),
            "of these: open and close in /proc": repeat(lambda: os.close(os.open(f"/proc/self/fd/{own}", os.O_RDWR))),
            "of these: flock": repeat(lambda: fcntl.flock(own, fcntl.LOCK_SH)),
        },
        rounds,
        1e3,
        "us",
    )
    os.close(own)
    for segments in (touched, broadcast):
        segments.close()


def answer(link: Connection) -> None:
    """The other process: gets buffers by any way, reads a byte of each page, says so."""
    opened: dict[str, shared_memory.SharedMemory] = {}
    while (message := link.recv_bytes()) != b"end":
        way, what = pickle.loads(message)
        if way == "segment":
            view: Any = open_refs(what)[0]
        elif way == "named":
            if what[0] not in opened:
                opened[what[0]] = shared_memory.SharedMemory(what[0])
            view = bytes(opened[what[0]].buf[: what[1]])  # a copy: the sender uses the memory again
        else:
            view = what
        memoryview(view)[::PAGE].tobytes()
        link.send_bytes(b"x")
        del view
    for memory in opened.values():
        memory.close()


def show_ways(rounds: int) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=answer, args=(there,))
    process.start()
    segments = Segments()
    named = shared_memory.SharedMemory(create=True, size=16 << 20)

    def ask(way: str, what: object) -> None:
        here.send_bytes(pickle.dumps((way, what), 5))
        here.recv_bytes()

    def by_name(data: bytearray) -> None:
        named.buf[: len(data)] = data
        ask("named", (named.name, len(data)))

    try:
        ask("inline", b"")
        print("\nThere, read, and an answer of one byte back (microseconds each)")
        for kibibytes in (16, 64, 128, 256, 512, 1024, 4096, 16384):
            data = bytearray(os.urandom(kibibytes << 10))
            count = max(3, min(200, (32 << 10) // kibibytes))
            ways: dict[str, Callable[[], object]] = {
                "pipe": repeat(lambda data=data: ask("inline", data), count),
                "segment": repeat(lambda data=data: ask("segment", segments.store([data])), count),
                "multiprocessing.shared_memory, reused, copied": repeat(lambda data=data: by_name(data), count),
            }
            print(f" {kibibytes} KiB")
            compare(ways, rounds, 1e6 / count, "us")
        print(f" THRESHOLD is {THRESHOLD >> 10} KiB")
    finally:
        here.send_bytes(b"end")
        process.join()
        segments.close()
        named.close()
        named.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} CPUs, load {load:.1f}")
    data = memoryview(bytearray(os.urandom(1 << 20)) * options.megabytes)
    show_copying(data, options.rounds)
    show_segments(data, options.rounds)
    show_ways(options.rounds)


if __name__ == "__main__":
    main()
