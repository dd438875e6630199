"""A Dask scheduler and its workers on this machine, held by a process of their own.

::

    caller                       cluster process (own session)          fork server
    ClusterProcess ──settings──▶ stdin   hold() ───────── fork ───────▶   ├─▶ worker
                   ◀──address─── stdout    LocalCluster ── Nanny ─────▶   ├─▶ worker
                   ──end of file▶ stdin    closes everything              ╰─▶ ...

distributed usually keeps the scheduler in the caller's process. There it unpickles what is sent, draws from
the global `random`, changes `os.environ`, and its workers run the caller's main script again, which
fork-bombs a script without a guard. None of this reaches the caller from here. The end of `stdin` is also the
sign that the caller died, however it died, so nothing outlives it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from typing import Any

from anypool._forks import no_forks
from anypool.backends._dask_fork import ENVIRONMENT, exit_now, start_fork_server
from anypool.errors import StartError

__all__ = ["CLUSTER_CONFIG", "NO_DASHBOARD", "ClusterProcess", "hold"]

CLUSTER_CONFIG: dict[str, Any] = {
    # A lost worker's call is not run again: whether to do so is decided by the caller.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.work-stealing": False,
    # So long after the end of a worker the cluster looks whether there is another in its place. If not, since that one
    # has just been lost as well, it dismisses the nanny that would start the next, and has a worker less for good.
    "distributed.deploy.lost-worker-timeout": "1000 days",
    # Daemonic processes cannot start processes.
    "distributed.worker.daemon": False,
    # A pause or a restart near a memory limit would be a guess about the caller's machine.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.worker.preload": ["anypool.backends._dask_worker"],
    "distributed.nanny.preload": ["anypool.backends._dask_nanny"],
    # The log of recent messages would keep finished payloads alive.
    "distributed.admin.low-level-log-length": 0,
    # Nobody reads the pages of their HTTP servers, or what their profilers find a hundred times a second and their
    # watches over the event loop fifty times.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.admin.system-monitor.disk": False,
    "distributed.admin.tick.interval": "500ms",
}
"""Settings of distributed for clusters that are started here."""

NO_DASHBOARD: dict[str, Any] = {
    # Without an address the scheduler would listen for HTTP on every interface, and warn if port 8787 is taken.
    "dashboard_address": "127.0.0.1:0",
    "scheduler_kwargs": {"dashboard": False},
}
"""Options of `LocalCluster`."""

_CODE = "import sys; sys.path[:] = {path!r}; from anypool.backends._dask_cluster import hold; hold()"
_CLOSES_WITHIN = 10.0


class ClusterProcess:
    """A running local cluster; creating it starts its process and returns before it is ready.

    Parameters
    ----------
    n_workers, threads_per_worker : int
        Worker processes, and threads of each.
    """

    def __init__(self, *, n_workers: int, threads_per_worker: int) -> None:
        # Made by the other process, which removes it, however this one ends.
        self._folder = os.path.join(tempfile.gettempdir(), f"anypool-dask-{os.getpid()}-{uuid.uuid4().hex}")
        settings = {
            "n_workers": n_workers,
            "threads_per_worker": threads_per_worker,
            "local_directory": self._folder,
        }
        command = [sys.executable, *["-O"] * sys.flags.optimize, "-c", _CODE.format(path=sys.path)]
        try:
            with no_forks:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={**ENVIRONMENT, **os.environ},
                    start_new_session=True,  # Ctrl-C in the terminal is the caller's to handle
                    creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
                )
            self._send(settings)
        except OSError as exc:
            self.close(kill=True)
            raise StartError(f"the process of the local Dask cluster could not start: {exc}") from exc

    def _send(self, settings: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(settings).encode() + b"\n")
        self._process.stdin.flush()

    def address(self, *, timeout: float) -> str:
        """Where its scheduler listens, as soon as every worker is there.

        Raises
        ------
        StartError
            It ended, or was not ready within `timeout` seconds; it has been closed then.
        """
        stdout = self._process.stdout
        assert stdout is not None
        # A pipe has no read with a timeout on every platform; ending the process ends the read.
        overdue = threading.Timer(timeout, self._kill)
        overdue.start()
        try:
            line = stdout.readline()
        finally:
            overdue.cancel()
            overdue.join()
        answer: dict[str, str] = json.loads(line) if line.endswith(b"\n") else {}
        if "address" not in answer:
            self.close(kill=True)
            raise StartError(
                f"the local Dask cluster was not ready within {timeout:g} s: "
                f"{answer.get('error', f'its process ended with exit code {self._process.returncode}')}; "
                "connect_timeout= waits longer"
            )
        return answer["address"]

    def close(self, *, kill: bool) -> None:
        """End every process of it, and wait for that. Idempotent.

        Parameters
        ----------
        kill : bool
            Do not wait for what workers are running.
        """
        process = getattr(self, "_process", None)
        if process is not None:
            with contextlib.suppress(BrokenPipeError):  # it has ended: nothing to tell it
                process.stdin.write(b"close\n")
                process.stdin.flush()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(0 if kill else _CLOSES_WITHIN)
            except subprocess.TimeoutExpired:
                self._kill()
                process.wait()
            process.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _kill(self) -> None:
        """Kill it, its workers, and what calls started, unless they left its session."""
        if sys.platform == "win32":
            # Its workers watch a pipe to it, and exit.
            self._process.kill()
            return
        # While it is not reaped its number is still its own, and so that of its group.
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: all of it are zombies
                os.killpg(self._process.pid, signal.SIGKILL)


def hold() -> None:
    """Run a local cluster until `stdin` ends. The main function of the cluster process."""
    settings = json.loads(sys.stdin.buffer.readline())
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what calls write to the descriptor of stdout must not mix with the answer
    folder = settings["local_directory"]
    with contextlib.ExitStack() as closers:
        try:
            os.mkdir(folder, 0o700)
            closers.callback(shutil.rmtree, folder, ignore_errors=True)
            cluster, answer = _start(settings, answers.fileno())
            closers.callback(cluster.close, timeout=_CLOSES_WITHIN / 2)
        except Exception as exc:  # whatever it is, the caller must hear of it
            answer = {"error": f"{type(exc).__name__}: {exc}"}
        with contextlib.suppress(BrokenPipeError):  # the caller is gone: stdin says so below
            print(json.dumps(answer), file=answers, flush=True)
        if not sys.stdin.buffer.read() and sys.platform != "win32":
            # The caller died: nobody waits for what workers are running.
            shutil.rmtree(folder, ignore_errors=True)
            os.killpg(0, signal.SIGKILL)
    exit_now()


def _start(settings: dict[str, Any], answers: int) -> tuple[Any, dict[str, str]]:
    import logging

    import dask

    # The scheduler's folder is removed with those of the workers.
    dask.config.set({**CLUSTER_CONFIG, "temporary-directory": settings["local_directory"]})
    import distributed

    start_fork_server(folder=settings["local_directory"], keeps_from=answers)
    local_cluster: Any = distributed.LocalCluster
    cluster = local_cluster(
        host="127.0.0.1",
        **NO_DASHBOARD,
        memory_limit=0,
        processes=True,
        silence_logs=logging.CRITICAL,
        **settings,
    )
    return cluster, {"address": cluster.scheduler_address}
