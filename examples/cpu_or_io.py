"""Processes or threads? Measured on calls that compute, and on calls that wait, with the pools already started.

Threads take turns where Python code computes, so processes are the choice there. Where calls wait, for a server
or a disk, both overlap the waiting, and threads are the choice: they start at once, copy nothing, and there can
be many more of them than CPUs.
"""

import time

import anypool


def compute(n):
    return sum(i * i for i in range(n))


def wait_for_answer(seconds):
    time.sleep(seconds)  # stands for a server's answer


def seconds_for(ex, fn, items):
    start = time.perf_counter()
    for _ in ex.map(fn, items, chunksize=1):
        pass
    return time.perf_counter() - start


def least_seconds(executors, fn, items):
    rounds = [[seconds_for(ex, fn, items) for ex in executors] for _ in range(3)]
    return [min(times) for times in zip(*rounds, strict=True)]


work = {"CPU-bound": (compute, [500_000] * 8), "I/O-bound": (wait_for_answer, [0.05] * 8)}

print(f"8 calls on 4 workers, {anypool.available_cpus()} CPUs; seconds, the best of 3 rounds")
print(f"{'work':12}{'serial':>10}{'processes':>12}{'threads':>10}   choose")
with (
    anypool.get_executor("serial") as serial,
    anypool.get_executor("processes", max_workers=4) as processes,
    anypool.get_executor("threads", max_workers=4) as threads,
):
    for name, (fn, items) in work.items():
        alone, apart, together = least_seconds([serial, processes, threads], fn, items)
        choice = "threads" if together < 1.2 * apart else "processes"
        print(f"{name:12}{alone:10.2f}{apart:12.2f}{together:10.2f}   {choice}")
