"""A connection to a Dask cluster, and what was started for it: all that has to be closed again, in one place."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from anypool._imported import import_without_traces
from anypool.backends._dask_cluster import ClusterProcess
from anypool.backends._dask_threads import ClusterThreads
from anypool.errors import ConfigError, StartError, VersionMismatch

__all__ = ["Connection", "unsubscribe"]

_START_WITHIN = 60.0
"""Seconds for a local cluster to start: importing distributed on a cold, shared disk takes most of it."""

_VERSION = "getattr(__import__('anypool'), '__version__', None)"
"""Evaluated on each worker, by a builtin: it must not need anypool to find that anypool is missing."""


class Connection:
    """A client of a cluster, which one of the methods named `to_...` gets.

    Parameters
    ----------
    timeout : float
        Seconds within which a scheduler must answer and have a worker.
    security : distributed.security.Security, optional
        TLS of a connection by address.

    Attributes
    ----------
    client : distributed.Client
        None until connected.
    """

    def __init__(self, *, timeout: float, security: Any) -> None:
        self._timeout = timeout
        self._security = security
        self._closers: list[Callable[[bool], None]] = []  # called last to first; the argument is `kill`
        self._closing = threading.Lock()
        self.client: Any = None

    def to_processes(self, *, n_workers: int, threads_per_worker: int) -> None:
        """Start a local cluster in processes of its own."""
        cluster = ClusterProcess(n_workers=n_workers, threads_per_worker=threads_per_worker)
        self._closers.append(lambda kill: cluster.close(kill=kill))
        import_without_traces("distributed")  # while the cluster's process does the same
        self.to_address(cluster.address(timeout=_START_WITHIN))

    def to_threads(self, *, n_workers: int, threads_per_worker: int) -> None:
        """Start a local cluster in this process."""
        cluster = ClusterThreads(n_workers=n_workers, threads_per_worker=threads_per_worker)
        self._closers.append(lambda _: cluster.close())
        self.to_cluster(cluster.native)

    def to_class(self, dotted: str, options: Mapping[str, Any], *, n_workers: int | None) -> None:
        """Start the cluster that a class makes; scale it, if told to how many workers.

        Raises
        ------
        ConfigError
            There is no such class.
        """
        import_without_traces("distributed")
        try:
            made = _named(dotted)
        except ImportError as exc:
            raise ConfigError(f"backend 'dask': no cluster class {dotted!r}: {exc}") from exc
        cluster = made(**options)
        self._closers.append(lambda _: cluster.close())
        if n_workers is not None:
            cluster.scale(n_workers)
        self.to_cluster(cluster)

    def to_cluster(self, cluster: Any) -> None:
        """Connect to a cluster object."""
        self._new_client(cluster)

    def to_address(self, address: str) -> None:
        """Connect to a scheduler.

        The loop is of our own: distributed leaves one running where no scheduler answers, and makes nothing of an
        answer that is not a scheduler's.

        Raises
        ------
        StartError
            No scheduler answers there in time.
        """
        distributed = import_without_traces("distributed")
        runner = distributed.utils.LoopRunner()
        runner.start()
        self._closers.append(lambda _: runner.stop())
        try:
            distributed.utils.sync(runner.loop, _knock, address, self._timeout, self._security)
            self._new_client(address, loop=runner.loop, security=self._security)
        except Exception as exc:
            text = f"no Dask scheduler answered at {address} within {self._timeout:g} s"
            raise StartError(f"{text}; {_hint(address)}") from exc

    def _new_client(self, target: Any, **options: Any) -> None:
        import dask

        make = import_without_traces("distributed").Client
        # The log of recent messages would keep finished payloads alive.
        with dask.config.set({"distributed.admin.low-level-log-length": 0}):
            client = make(target, timeout=self._timeout, set_as_default=False, **options)
        self._closers.append(lambda _: _close(client))
        self.client = client
        # It would hold a call back for up to 10 ms, to send others with it; ours do not come in crowds.
        stream: Any = getattr(client, "scheduler_comm", None)
        if hasattr(stream, "interval"):
            stream.interval = 0

    def threads(self) -> dict[str, int]:
        """How many calls each worker can run, by address; at least one worker is there.

        Raises
        ------
        StartError
            No worker came in time.
        """
        where = self.client.scheduler.address
        try:
            self.client.wait_for_workers(1, timeout=self._timeout)
        except (OSError, TimeoutError) as exc:
            raise StartError(
                f"the Dask scheduler at {where} had no worker in {self._timeout:g} s; start one: dask worker {where}"
            ) from exc
        found: dict[str, int] = self.client.nthreads()
        return found

    def check_versions(self) -> None:
        """Look whether each worker has the anypool that this process has.

        Raises
        ------
        VersionMismatch
            One has none, or another version.
        """
        here = eval(_VERSION)
        for address, there in self.client.run(eval, _VERSION, on_error="return").items():
            if there == here:
                continue
            what = "cannot import it" if isinstance(there, BaseException) else f"has {there}"
            raise VersionMismatch(
                f"this process has anypool {here}, the Dask worker at {address} {what}; "
                f"there: pip install 'anypool=={here}'"
            ) from (there if isinstance(there, BaseException) else None)

    def close(self, *, kill: bool) -> None:
        """Close what was started here, and nothing of the user's. Idempotent.

        Parameters
        ----------
        kill : bool
            Do not wait for what workers of our own are running.
        """
        with self._closing:
            while self._closers:
                self._closers.pop()(kill)


def _close(client: Any) -> None:
    """Close a client, and give its event loop back, which one that closed itself keeps: its scheduler is gone."""
    try:
        # TimeoutError: the machine is so busy that the loop had no turn for 20 s. The connection ends with the loop.
        with suppress(TimeoutError):
            client.close()
    finally:
        client._loop_runner.stop()


def unsubscribe(client: Any, topic: str) -> None:
    """Hear no more of a topic."""
    if client.status == "running":  # a closed one has forgotten it
        client.unsubscribe_topic(topic)


def _hint(address: str) -> str:
    """What is to be known of TLS: a scheduler only hangs up on who has no certificate, or does not speak it."""
    if address.startswith("tls://"):
        return "with TLS, security= must hold a certificate and its key from the cluster's own authority"
    return "is it running there? connect_timeout= waits longer; a cluster with TLS needs tls:// and security="


async def _knock(address: str, timeout: float, security: Any) -> None:
    """Connect and shake hands, as a client would."""
    connect: Any = importlib.import_module("distributed.comm").connect

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
