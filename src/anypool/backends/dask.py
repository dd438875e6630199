"""Calls on the workers of a Dask cluster: one started here, or one that is running already."""

from __future__ import annotations

import asyncio
import pickle
import threading
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from anypool._bridge import settle
from anypool._cpus import available_cpus
from anypool._worker_end import WorkerDied
from anypool.backend import Traits
from anypool.backends._dask_client import Connection, unsubscribe
from anypool.backends._dask_held import Held, Run, pickle_with_keys, unseal
from anypool.backends._dask_lost import LocalWorkers
from anypool.backends._dask_watch import SchedulerLostError, Watch
from anypool.errors import ConfigError, ExecutorClosed

__all__ = ["Dask"]


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
    connect_timeout : float
        Seconds within which a running cluster must answer and have a worker.
    security : distributed.security.Security, optional
        TLS of the connection to `address`.
    gives_up_after : float, optional
        Seconds that calls wait for a cluster that has no worker left, or whose scheduler does not answer, before they
        fail as lost; new ones fail at once until a worker is there again. None: they wait for ever.

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
    connect_timeout: float = 10.0
    security: Any = None
    gives_up_after: float | None = 60.0

    def __post_init__(self) -> None:
        given = [each for each in ("address", "client", "cluster") if getattr(self, each) is not None]
        if len(given) > 1:
            raise ConfigError(f"backend 'dask': {' and '.join(given)} exclude each other; give one")
        if self.cluster_options and not isinstance(self.cluster, str):
            raise ConfigError("backend 'dask': cluster_options needs cluster='module.Class'")
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._client: Any = None
        self._watch: Watch | None = None
        self._stopped = False
        self._free = 0
        # distributed can neither tell whether a task runs nor take one back for sure. So it never gets more
        # calls than it has threads: those here are truly pending, and a lost worker only takes what it ran.
        self._waiting: deque[tuple[Future[Any], Callable[[Any], Any], Any]] = deque()
        self._sent: dict[Future[Any], Any] = {}
        self._held: dict[str, Any] = {}
        self._local = LocalWorkers(None)
        self._reaches_workers = True  # until it turns out that this process does not

    @classmethod
    def from_url(cls, rest: str, /) -> dict[str, Any]:
        """Options from what follows ``dask://``: the address of a scheduler, TCP unless it says otherwise."""
        if not rest:
            return {}
        return {"address": rest if "://" in rest else f"tcp://{rest}"}

    def start(self) -> tuple[int, Traits]:
        """Connect, or start a cluster; how many calls it runs at once.

        Raises
        ------
        StartError
            No scheduler answers, or no worker comes, in time.
        VersionMismatch
            A worker has no anypool, or another version of it.
        """
        connection = Connection(timeout=self.connect_timeout, security=self.security)
        try:
            self._connect(connection)
            threads = connection.threads()
            connection.check_versions()
        except BaseException:
            connection.close(kill=True)
            raise
        size = sum(threads.values())
        if self.max_workers and not self._is_local():
            size = min(size, self.max_workers)
        self._connection, self._client, self._free = connection, connection.client, size
        if self.processes or not self._is_local():
            self._watch = Watch(self._client, self.gives_up_after, self._sent, self._give_up)
            self._watch.start()
        traits = self._traits(max(threads.values()))
        if self._is_local() and self.processes:
            self._local = LocalWorkers(self._client, are_killed_for_one=traits.stops_running_calls)
        return size, traits

    def _connect(self, connection: Connection) -> None:
        if self.client is not None:
            connection.client = self.client
        elif self.address is not None:
            connection.to_address(self.address)
        elif isinstance(self.cluster, str):
            connection.to_class(self.cluster, self.cluster_options, n_workers=self.max_workers)
        elif self.cluster is not None:
            connection.to_cluster(self.cluster)
        else:
            start = connection.to_processes if self.processes else connection.to_threads
            start(n_workers=self.max_workers or available_cpus(), threads_per_worker=self.threads_per_worker)

    def _is_local(self) -> bool:
        return self.address is None and self.client is None and self.cluster is None

    def _traits(self, threads: int) -> Traits:
        from distributed.comm.core import CommClosedError

        local = self._is_local()
        in_caller = local and not self.processes
        return Traits(
            # Beside a call its worker's event loop draws from the global generators; workers of ours are kept from it.
            concurrent_in_process=in_caller or threads > 1 or not local,
            in_caller=in_caller,
            remote=not local,
            notices_lost_workers=not in_caller,
            # Where lost calls are run again, one that kills its worker goes on to kill the workers of others.
            loses_only_running=local and not in_caller,
            reruns_lost_calls=not in_caller,  # a local cluster only what was not fetched
            resends_lost_calls=not in_caller,
            stops_running_calls=local and self.processes and threads == 1,
            starts_processes=local,
            lost=(WorkerDied, SchedulerLostError, CommClosedError),
        )

    def submit(self, call: Callable[[Any], Any], payload: Any, /) -> Future[Any]:
        """Run the call on a worker as soon as one has a free thread; until then it can be cancelled."""
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
            if self._watch is not None and self._watch.trouble is not None:
                raise SchedulerLostError(self._watch.trouble)
            task, needs = pickle_with_keys(Run(call, payload))
            brought = {"buffers": [self._held[each] for each in needs]} if needs else {}
            key = f"anypool-{uuid.uuid4().hex}"
            native = self._client.submit(pickle.loads, task, key=key, pure=False, retries=0, **brought)
        except Exception as exc:  # closed, or a payload that does not pickle
            with self._lock:
                self._free += 1
            settle(future, error=exc)
            return
        with self._lock:
            self._sent[future] = native
        self._client.loop.add_callback(self._bring_home, native, future)

    def hold(self, data: Any, /, *, for_all: bool) -> Held:
        """Bring `data` to one worker, or to all of them."""
        copy = bytes(data)
        held = Held(f"anypool-data-{uuid.uuid4().hex}", len(copy))
        content = {held.key: copy}
        try:
            native = self._client.scatter(content, broadcast=for_all, hash=False, direct=self._reaches_workers)
        except OSError:  # TimeoutError too: the workers are where only the scheduler reaches them
            if not self._reaches_workers:
                raise
            self._reaches_workers = False
            native = self._client.scatter(content, broadcast=for_all, hash=False, direct=False)
        self._held.update(native)
        return held

    def release(self, held: Any, /) -> None:
        """Let Dask forget the data."""
        native = self._held.pop(held.key, None)
        if native is not None:
            native.release()

    async def _bring_home(self, native: Any, future: Future[Any]) -> None:
        """Wait for the task and fetch its result, on the client's loop: no thread has to wake up for it."""
        value: Any = None
        error: Exception | None = None
        lost: Any = None
        try:
            value = unseal(await self._client.gather(native, asynchronous=True))
        except (asyncio.CancelledError, CancelledError):  # distributed's is one of the latter
            trouble = None if self._watch is None else self._watch.trouble
            error = SchedulerLostError(trouble or "Dask forgot it: its scheduler, or the connection to it, is gone")
        except Exception as exc:
            error, lost = exc, getattr(exc, "last_worker", None)  # which distributed's KilledWorker has
        native.release()
        with self._lock:
            self._sent.pop(future, None)
        if lost is not None and error is not None:
            settle(future, error=await self._local.explain(lost, error))
            await self._local.replacement(lost)  # else another worker would get two calls, and lose both
            self._send_next()
            return
        # Only now: a call that kills its worker would take a result along that was not fetched, and Dask makes up
        # for such a result by running its call again.
        self._send_next()
        settle(future, value, error=error)

    def _give_up(self) -> None:
        """Fail what is on its way; Dask may have forgotten part of it by now, or all."""
        with self._lock:
            sent = list(self._sent.values())
        for native in sent:
            native.release()  # the last reference: it is cancelled, also where there is nobody to tell

    def stop_call(self, future: Future[Any], /) -> bool:
        """Kill the worker of a local cluster that runs the call. False if it has ended, or others run there, too."""
        with self._lock:
            native = self._sent.get(future)
        return native is not None and self._local.kill_worker_of(native.key)

    def _send_next(self) -> None:
        with self._lock:
            self._free += 1
        self._send_waiting()

    def carry_notes(self, topic: str, take: Callable[[str], object]) -> tuple[str, Callable[[], object]]:
        """Bring what calls say while they run, as events of distributed."""
        self._client.subscribe_topic(topic, lambda event: take(event[1]))
        return "anypool.backends._dask_worker:log_note", partial(unsubscribe, self._client, topic)

    def stop(self, *, cancel: bool) -> None:
        """Close what was started here; with `cancel`, without waiting for calls. A running call of a cluster that
        was not started here goes on there, unheard.
        """
        with self._lock:
            self._stopped = True
            waiting, sent = list(self._waiting), dict(self._sent)
            self._waiting.clear()
        if self._watch is not None:
            self._watch.stop()
        for future, _, _ in waiting:
            future.cancel()
            future.set_running_or_notify_cancel()
        if not cancel:
            wait(sent)
        for future, native in sent.items():
            native.release()  # the last reference: Dask drops the task, unless it runs
            settle(future, error=ExecutorClosed("the backend 'dask' was stopped while the call was running"))
        if self._connection is not None:
            self._connection.close(kill=cancel)
