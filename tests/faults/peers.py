"""Executors that a fault is tried on: ours on each backend, and what others offer, each as its documentation shows.

Each is opened by a function that returns what `Peer` describes. Ours get the harder form of the work: a map in chunks
of four, where a peer gets each call as a task of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from anypool.testing import Faults

__all__ = ["OURS", "PEERS", "Peer", "open_peer"]

Call = Callable[[Any], Any]
Answer = tuple[str, Any, float]
"""What became of one item ("value", "error", "hang"), the value or the error, and when it was known."""

WORKERS = 2
CALL_LIMIT = 1.0
"""Seconds, for an executor that can limit a call, in the faults that hang."""


class Peer:
    """An executor, as far as the faults need it.

    Parameters
    ----------
    run : callable
        ``run(fn, items, limit)`` gives an answer for each item within `limit` seconds.
    work : callable
        ``work(fn, items)`` is what one writes with it: it waits for all results.
    close : callable
        Ends it, waiting.
    leave : callable, optional
        ``leave(error)`` is what its `with` block does when `error` leaves it, if that is not `close`.
    """

    def __init__(
        self,
        run: Callable[[Call, Any, float], list[Answer]],
        work: Callable[[Call, Any], object],
        close: Callable[[], object],
        leave: Callable[[BaseException], object] | None = None,
    ) -> None:
        self.run = run
        self.work = work
        self.close = close
        self.leave = leave or (lambda _: close())


def _answers(handles: list[Any], get: Callable[[Any, float], Any], limit: float) -> list[Answer]:
    deadline = time.monotonic() + limit
    found: list[Answer] = []
    for handle in handles:
        try:
            value = get(handle, max(0.0, deadline - time.monotonic()))
        except BaseException as exc:
            late = time.monotonic() >= deadline
            found.append(("hang", None, time.monotonic()) if late else ("error", exc, time.monotonic()))
        else:
            found.append(("value", value, time.monotonic()))
    return found


def _known_when_done(handles: list[Any]) -> dict[int, float]:
    """When each future was done: read in order, an early error would be seen only after slow results."""
    times: dict[int, float] = {}
    for handle in handles:
        handle.add_done_callback(lambda done: times.setdefault(id(done), time.monotonic()))
    return times


def _futures(submit: Callable[..., Any], fn: Call, items: Any, limit: float) -> list[Answer]:
    handles = []
    refused: dict[int, BaseException] = {}
    for number, item in enumerate(items):
        try:
            handles.append(submit(fn, item))
        except Exception as exc:  # a broken pool refuses
            refused[number] = exc
            handles.append(None)
    times = _known_when_done([handle for handle in handles if handle is not None])
    found = _answers(handles, lambda handle, left: None if handle is None else handle.result(timeout=left), limit)
    return [
        ("error", refused[number], time.monotonic()) if number in refused
        else (kind, value, times.get(id(handles[number]), at))
        for number, (kind, value, at) in enumerate(found)
    ]  # fmt: skip


def _in_thread(work: Callable[[], list[Any]], count: int, limit: float) -> list[Answer]:
    """What `work` returns, or what it raised for all items, or a hang."""
    outcome: list[Answer] = []

    def run() -> None:
        try:
            outcome.extend(("value", value, time.monotonic()) for value in work())
        except BaseException as exc:
            outcome.extend([("error", exc, time.monotonic())] * count)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit)
    return outcome or [("hang", None, time.monotonic())] * count


def _ours(backend: str, limited: bool) -> Peer:
    import anypool

    executor = anypool.get_executor(backend, max_workers=WORKERS)

    def run(fn: Call, items: Any, limit: float) -> list[Answer]:
        # A limit that cannot be kept is refused at once; what comes after the fault has none.
        options: dict[str, Any] = {"call_timeout": CALL_LIMIT} if limited and isinstance(fn, Faults) else {}
        found: list[Answer] = []

        def read() -> None:
            try:
                for value in executor.map(fn, items, chunksize=4, errors="return", **options):
                    found.append(("error" if isinstance(value, BaseException) else "value", value, time.monotonic()))
            except BaseException as exc:  # SystemExit and the like end a map, and a closed executor refuses it
                found.append(("error", exc, time.monotonic()))
                found.extend([("ended", None, time.monotonic())] * (len(items) - len(found)))

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        thread.join(limit)
        missing = len(items) - len(found)
        return found + [("hang", None, time.monotonic())] * missing

    def close() -> None:
        executor.shutdown(wait=True, cancel_futures=True)

    def leave(error: BaseException) -> None:
        executor.__exit__(type(error), error, error.__traceback__)

    return Peer(run, lambda fn, items: list(executor.map(fn, items)), close, leave)


def _stdlib_pool() -> Peer:
    import multiprocessing

    pool = multiprocessing.Pool(WORKERS)

    def run(fn: Call, items: Any, limit: float) -> list[Answer]:
        handles = [pool.apply_async(fn, (item,)) for item in items]
        return _answers(handles, lambda handle, left: handle.get(left), limit)

    def close() -> None:
        pool.close()
        pool.join()

    return Peer(run, pool.map, close)


def _stdlib_executor() -> Peer:
    from concurrent.futures import ProcessPoolExecutor

    return _of_the_stdlibs_kind(ProcessPoolExecutor(WORKERS))


def _of_the_stdlibs_kind(executor: Any) -> Peer:
    return Peer(
        lambda fn, items, limit: _futures(executor.submit, fn, items, limit),
        lambda fn, items: list(executor.map(fn, items)),
        executor.shutdown,
    )


def _loky() -> Peer:
    from loky import ProcessPoolExecutor

    return _of_the_stdlibs_kind(ProcessPoolExecutor(WORKERS))


def _joblib() -> Peer:
    import joblib
    from joblib.externals.loky import get_reusable_executor

    def work(fn: Call, items: Any) -> list[Any]:
        found: list[Any] = joblib.Parallel(n_jobs=WORKERS)(joblib.delayed(fn)(item) for item in items)
        return found

    def run(fn: Call, items: Any, limit: float) -> list[Answer]:
        return _in_thread(lambda: work(fn, items), len(items), limit)

    return Peer(run, work, lambda: get_reusable_executor().shutdown(wait=True))


def _pebble(limited: bool) -> Peer:
    from pebble import ProcessPool

    pool = ProcessPool(max_workers=WORKERS)

    def submit(fn: Call, item: Any) -> Any:
        return pool.schedule(fn, args=[item], timeout=CALL_LIMIT if limited else None)

    def close() -> None:
        pool.close()
        pool.join()

    return Peer(
        lambda fn, items, limit: _futures(submit, fn, items, limit),
        lambda fn, items: list(pool.map(fn, items).result()),
        close,
    )


def _dask() -> Peer:
    from distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None)
    client = Client(cluster)
    executor = client.get_executor()

    def close() -> None:
        executor.shutdown()
        client.close()
        cluster.close()

    own = _of_the_stdlibs_kind(executor)
    return Peer(own.run, own.work, close)


OURS = ("processes", "loky", "joblib", "dask", "threads")

_OTHERS: dict[str, Callable[[bool], Peer]] = {
    "stdlib Pool": lambda _: _stdlib_pool(),
    "stdlib ProcessPoolExecutor": lambda _: _stdlib_executor(),
    "loky itself": lambda _: _loky(),
    "joblib itself": lambda _: _joblib(),
    "pebble": _pebble,
    "Dask's executor": lambda _: _dask(),
}
PEERS = tuple(_OTHERS)


def open_peer(name: str, *, limited: bool) -> Peer:
    """Open an executor by name; `limited` limits each call to `CALL_LIMIT` where it can be."""
    return _ours(name, limited) if name in OURS else _OTHERS[name](limited)
