"""Calls on the workers of a Dask cluster: one started here, or one that is running already."""

from __future__ import annotations

import asyncio
import importlib
import logging
import pickle
import shutil
import tempfile
import threading
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any, ClassVar

from anypool._bridge import settle
from anypool._cpus import available_cpus
from anypool.backend import Traits
from anypool.backends._dask_cluster import CLUSTER_CONFIG, ClusterProcess
from anypool.errors import ConfigError, ExecutorClosed, StartError, VersionMismatch

__all__ = ["Dask"]

# Clusters started from two threads at once would race in distributed's imports, which are circular.
_import_lock = threading.Lock()

_START_WITHIN = 60.0
"""Seconds for a local cluster to start: importing distributed on a cold, shared disk takes most of it."""

_VERSION = "getattr(__import__('anypool'), '__version__', None)"
"""Evaluated on each worker, by a builtin: it must not need anypool to find that anypool is missing."""


class _Run:
    """Pickles as the call itself: to unpickle it is to run it.

    Dask's scheduler unpickles tasks, traverses their arguments and replaces those that equal a key. So a task
    is `pickle.loads(bytes)`: the scheduler meets a builtin and bytes, and needs neither anypool nor what the
    user sent.
    """

    def __init__(self, call: Callable[[Any], Any], payload: Any) -> None:
        self._task = (call, (payload,))

    def __reduce__(self) -> tuple[Callable[[Any], Any], tuple[Any]]:
        return self._task


@dataclass(kw_only=True)
class Dask:
    """Runs calls on a Dask cluster.

    Parameters
    ----------
    max_workers : int, optional
        Worker processes of a local cluster, or what `cluster.scale` gets where `cluster` is a name. For
        clusters that run already, an upper bound to the number of workers reported. Default: the CPUs that
        this process may use; for other clusters, all that they have.
    threads_per_worker : int
        Calls that one worker of a local cluster runs at the same time.
    processes : bool
        False: workers of the local cluster are threads of this process, and its scheduler is here too.
    address : str, optional
        Scheduler of a running cluster: ``"tcp://host:8786"``.
    client : distributed.Client, optional
        A client of yours. It is not closed.
    cluster : object or str, optional
        A cluster object of yours, which is not closed; or the dotted name of a cluster class, such as
        ``"dask_jobqueue.SLURMCluster"``, which is created and closed.
    cluster_options : mapping
        What the class named by `cluster` is created with.
    timeout : float
        Seconds within which a running cluster must answer and have a worker.
    security : distributed.security.Security, optional
        TLS of the connection to `address`.

    Notes
    -----
    A cluster that was not started here re-runs the calls of a worker that vanishes, up to its own setting
    ``distributed.scheduler.allowed-failures``, and only then fails them.
    """

    name: ClassVar[str] = "dask"
    requires: ClassVar[str] = "distributed"

    max_workers: int | None = None
    threads_per_worker: int = 1
    processes: bool = True
    address: str | None = None
    client: Any = None
    cluster: Any = None
    cluster_options: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 10.0
    security: Any = None

    def __post_init__(self) -> None:
        given = [each for each in ("address", "client", "cluster") if getattr(self, each) is not None]
        if len(given) > 1:
            raise ConfigError(f"backend 'dask': {' and '.join(given)} exclude each other; give one")
        if self.cluster_options and not isinstance(self.cluster, str):
            raise ConfigError("backend 'dask': cluster_options needs cluster='module.Class'")
        self._lock = threading.Lock()
        self._stopping = threading.Lock()
        self._client: Any = None
        self._closers: list[Callable[[bool], None]] = []  # closed last to first; the argument is `cancel`
        self._stopped = False
        self._free = 0
        # distributed can neither tell whether a task runs nor take one back for sure. So it never gets more
        # calls than it has threads: those here are truly pending, and a lost worker only takes what it ran.
        self._waiting: deque[tuple[Future[Any], Callable[[Any], Any], Any]] = deque()
        self._sent: dict[Future[Any], Any] = {}

    @classmethod
    def from_url(cls, rest: str, /) -> dict[str, Any]:
        """Options from what follows ``dask://``: the address of a scheduler, TCP unless it says otherwise."""
        if not rest:
            return {}
        return {"address": rest if "://" in rest else f"tcp://{rest}"}

    def start(self) -> tuple[int, Traits]:
        try:
            if self._is_local() and self.processes:
                self._start_local_processes()
            else:
                self._connect()
            self._free = self._capacity()
            self._check_versions()
        except BaseException:
            self.stop(cancel=True)
            raise
        return self._free, self._traits()

    def _start_local_processes(self) -> None:
        workers = self.max_workers or available_cpus()
        cluster = ClusterProcess(n_workers=workers, threads_per_worker=self.threads_per_worker)
        self._closers.append(lambda cancel: cluster.close(kill=cancel))
        _import_distributed()  # while the cluster's process does the same
        self._connect_to(cluster.address(timeout=_START_WITHIN))

    def _connect(self) -> None:
        if self.client is not None:
            self._client = self.client
        elif self.address is not None:
            self._connect_to(self.address)
        elif self.cluster is not None and not isinstance(self.cluster, str):
            self._new_client(self.cluster)
        else:
            cluster = self._new_cluster()
            self._closers.append(lambda _: cluster.close())
            self._new_client(cluster)

    def _new_cluster(self) -> Any:
        import dask

        if self.cluster is not None:
            try:
                made = _named(self.cluster)(**self.cluster_options)
            except ImportError as exc:
                raise ConfigError(f"backend 'dask': no cluster class {self.cluster!r}: {exc}") from exc
            if self.max_workers is not None:
                made.scale(self.max_workers)
            return made
        folder = tempfile.mkdtemp(prefix="anypool-dask-")
        self._closers.append(lambda _: shutil.rmtree(folder, ignore_errors=True))
        with dask.config.set(CLUSTER_CONFIG):
            return _import_distributed().LocalCluster(
                processes=False,
                n_workers=self.max_workers or available_cpus(),
                threads_per_worker=self.threads_per_worker,
                dashboard_address=None,
                memory_limit=0,
                local_directory=folder,
                silence_logs=logging.CRITICAL,
            )

    def _connect_to(self, address: str) -> None:
        """A client for the scheduler at `address`, with a loop of our own: distributed leaves its one running
        where no scheduler answers, and makes nothing of an answer that is not a scheduler's.
        """
        distributed = _import_distributed()
        runner = distributed.utils.LoopRunner()
        runner.start()
        self._closers.append(lambda _: runner.stop())
        try:
            distributed.utils.sync(runner.loop, _knock, address, self.timeout, self.security)
            self._new_client(address, loop=runner.loop)
        except Exception as exc:
            raise StartError(f"no Dask scheduler answered at {address} within {self.timeout:g} s") from exc

    def _new_client(self, target: Any, **options: Any) -> None:
        import dask

        # The log of recent messages would keep finished payloads alive.
        with dask.config.set({"distributed.admin.low-level-log-length": 0}):
            client = _import_distributed().Client(
                target, timeout=self.timeout, security=self.security, set_as_default=False, **options
            )
        self._closers.append(lambda _: client.close())
        self._client = client
        # It would hold a call back for up to 10 ms, to send others with it; ours do not come in crowds.
        stream: Any = getattr(client, "scheduler_comm", None)
        if hasattr(stream, "interval"):
            stream.interval = 0

    def _capacity(self) -> int:
        where = self._client.scheduler.address
        try:
            self._client.wait_for_workers(1, timeout=self.timeout)
        except (OSError, TimeoutError) as exc:
            raise StartError(f"the Dask scheduler at {where} had no worker in {self.timeout:g} s") from exc
        threads: int = sum(self._client.nthreads().values())
        return min(threads, self.max_workers) if self.max_workers and not self._is_local() else threads

    def _check_versions(self) -> None:
        here = eval(_VERSION)
        there = self._client.run(eval, _VERSION, on_error="return")
        for address, version in there.items():
            if version == here:
                continue
            what = "cannot import it" if isinstance(version, BaseException) else f"has {version}"
            raise VersionMismatch(
                f"this process has anypool {here}, the Dask worker at {address} {what}; "
                f"there: pip install 'anypool=={here}'"
            ) from (version if isinstance(version, BaseException) else None)

    def _is_local(self) -> bool:
        return self.address is None and self.client is None and self.cluster is None

    def _traits(self) -> Traits:
        from distributed.scheduler import KilledWorker

        local = self._is_local()
        threads = max(self._client.nthreads().values())
        in_caller = local and not self.processes
        return Traits(
            concurrent_in_process=in_caller or threads > 1,
            in_caller=in_caller,
            remote=not local,
            notices_lost_workers=True,
            loses_only_running=True,
            stops_running_calls=local and self.processes,
            starts_processes=local,
            lost=(KilledWorker, SchedulerLostError),
        )

    def submit(self, call: Callable[[Any], Any], payload: Any, /) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            if self._stopped or self._client is None:
                raise ExecutorClosed("the backend 'dask' is not running")
            self._waiting.append((future, call, payload))
        self._send_waiting()
        return future

    def _send_waiting(self) -> None:
        while True:
            with self._lock:
                if self._stopped or not self._free or not self._waiting:
                    return
                future, call, payload = self._waiting.popleft()
                if not future.set_running_or_notify_cancel():
                    continue
                self._free -= 1
            self._send(future, call, payload)

    def _send(self, future: Future[Any], call: Callable[[Any], Any], payload: Any) -> None:
        try:
            task = pickle.dumps(_Run(call, payload), protocol=pickle.HIGHEST_PROTOCOL)
            key = f"anypool-{uuid.uuid4().hex}"
            native = self._client.submit(pickle.loads, task, key=key, pure=False, retries=0)
        except Exception as exc:  # closed, or a payload that does not pickle
            with self._lock:
                self._free += 1
            settle(future, error=exc)
            return
        with self._lock:
            self._sent[future] = native
        self._client.loop.add_callback(self._bring_home, native, future)

    async def _bring_home(self, native: Any, future: Future[Any]) -> None:
        """Wait for the task and fetch its result, on the client's loop: no thread has to wake up for it."""
        value: Any = None
        error: Exception | None = None
        try:
            try:
                await native.exception()
            finally:
                self._send_next()  # its thread is free now: the next call need not wait for the fetch
            value = await self._client.gather(native, asynchronous=True)
        except asyncio.CancelledError:
            error = SchedulerLostError("Dask forgot the call: its scheduler, or the connection to it, is gone")
        except Exception as exc:
            error = exc
        native.release()
        with self._lock:
            self._sent.pop(future, None)
        settle(future, value, error=error)

    def _send_next(self) -> None:
        with self._lock:
            self._free += 1
        self._send_waiting()

    def stop(self, *, cancel: bool) -> None:
        with self._lock:
            self._stopped = True
            waiting, sent = list(self._waiting), dict(self._sent)
            self._waiting.clear()
        for future, _, _ in waiting:
            future.cancel()
            future.set_running_or_notify_cancel()
        if not cancel:
            wait(sent)
        for future, native in sent.items():
            native.release()  # the last reference: Dask drops the task, unless it runs
            settle(future, error=ExecutorClosed("the backend 'dask' was stopped while the call was running"))
        with self._stopping:
            while self._closers:
                self._closers.pop()(cancel)


class SchedulerLostError(ConnectionError):
    """The scheduler, or the connection to it, is gone, and with it every call that Dask had."""


def _import_distributed() -> Any:
    with _import_lock:
        return importlib.import_module("distributed")


async def _knock(address: str, timeout: float, security: Any) -> None:
    """Connect and shake hands, as a client would."""
    from distributed.core import connect

    arguments = {} if security is None else security.get_connection_args("client")
    comm = await connect(address, timeout=timeout, **arguments)
    await comm.close()


def _named(dotted: str) -> Any:
    """The class that ``"module.Class"`` or ``"module:Class"`` names."""
    module, _, attribute = dotted.replace(":", ".").rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (AttributeError, ValueError) as exc:
        raise ImportError(f"{dotted} is not module.Class: {exc}") from exc
