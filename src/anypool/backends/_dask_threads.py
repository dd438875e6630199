"""A Dask scheduler and its workers in threads of this process, which listen to nobody else and keep quiet."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

from anypool._imported import import_without_traces
from anypool.backends._dask_cluster import CLUSTER_CONFIG

__all__ = ["ClusterThreads"]

_NO_PAGES: dict[str, Any] = {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}


class ClusterThreads:
    """A running cluster; creating it returns when every worker is there.

    Parameters
    ----------
    n_workers, threads_per_worker : int
        Workers, and threads of each.

    Attributes
    ----------
    native : distributed.SpecCluster
        What a client connects to.
    """

    def __init__(self, *, n_workers: int, threads_per_worker: int) -> None:
        distributed = import_without_traces("distributed")  # it completes the configuration that is changed below
        import dask

        self._closers = contextlib.ExitStack()
        with contextlib.ExitStack() as started:
            folder = started.enter_context(_folder())
            runner = distributed.utils.LoopRunner()
            runner.start()
            started.callback(_stop_loop, runner)
            started.enter_context(_quiet(distributed.utils.sync(runner.loop, _thread_of_the_loop)))
            # Not `LocalCluster`: its scheduler and workers always have an HTTP server.
            node = {
                "protocol": "inproc://",
                "dashboard": False,
                "dashboard_address": "127.0.0.1:0",
            }
            worker = {
                "cls": _without_http(distributed.Worker),
                "options": {**node, "nthreads": threads_per_worker, "memory_limit": 0, "local_directory": folder},
            }
            with dask.config.set({**CLUSTER_CONFIG, **_NO_PAGES, "temporary-directory": folder}):
                self.native: Any = distributed.SpecCluster(
                    scheduler={"cls": _without_http(distributed.Scheduler), "options": {**node, "port": 0}},
                    workers=dict.fromkeys(range(n_workers), worker),
                    loop=runner.loop,
                )
            nodes = [self.native.scheduler, *self.native.workers.values()]
            started.callback(_forget_logs, nodes)
            started.callback(self.native.close)
            self._closers = started.pop_all()

    def close(self) -> None:
        """End it, and wait for that. Idempotent."""
        self._closers.close()


def _stop_loop(runner: Any) -> None:
    """End the thread of the event loop.

    Its last act is to wait for asyncio's default pool, for which it starts a thread. When the interpreter ends Python
    3.12 refuses that; all else is closed by then, and the standard library itself waits for that pool.
    """
    try:
        runner.stop()
    except RuntimeError as exc:
        if "at interpreter shutdown" not in str(exc):
            raise


def _forget_logs(nodes: list[Any]) -> None:
    """Take away the handlers by which schedulers and workers keep their last messages.

    distributed does so when the garbage collector finds them, which are in cycles.
    """
    for node in nodes:
        handler = getattr(node, "_deque_handler", None)
        if handler is not None:
            for name in ("distributed.scheduler", "distributed.worker"):
                logging.getLogger(name).removeHandler(handler)


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    """A folder for the files of scheduler and workers, which put it in front of `sys.path`, too."""
    folder = tempfile.mkdtemp(prefix=f"anypool-dask-{os.getpid()}-")
    try:
        yield folder
    finally:
        sys.path[:] = [each for each in sys.path if not each.startswith(folder)]
        shutil.rmtree(folder, ignore_errors=True)


async def _thread_of_the_loop() -> int:
    return threading.get_ident()


def _without_http(node: type) -> type:
    """The class of a scheduler or worker that has no HTTP server: a worker's would listen on a public address."""

    def start_http_server(_self: Any, *_: Any, **__: Any) -> None:
        """Nobody reads its pages."""

    return type(node.__name__, (node,), {"start_http_server": start_http_server, "__module__": __name__})


@contextlib.contextmanager
def _quiet(thread: int) -> Iterator[None]:
    """Keep what distributed logs in `thread` from the caller's log, unless it is critical.

    In a process of its own none of it is heard, and what concerns a call comes home as its error. A filter, since a
    level would silence other clusters of the caller's too, and what calls log.
    """

    def is_heard(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.levelno >= logging.CRITICAL

    loggers = [logging.getLogger(name) for name in sorted(logging.root.manager.loggerDict)]
    quiet = [each for each in loggers if each.name.partition(".")[0] in {"distributed", "tornado"}]
    for each in quiet:
        each.addFilter(is_heard)
    try:
        yield
    finally:
        for each in quiet:
            each.removeFilter(is_heard)
