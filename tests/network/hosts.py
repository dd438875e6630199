"""Hosts of their own on this machine: network namespaces with addresses, plugged into a switch, made and removed here.

::

    host: eth0 10.77.0.x ──── port ──┐
    host: eth0 10.77.0.y ──── port ──┼── switch: a bridge, in a namespace of its own
    host: eth0 10.77.0.z ──── port ──┘

Nothing of it is in the machine's own namespace: no interface, no address, no route. To pull a cable is to set the
port of the switch down: packets are lost, and nobody is told.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import anypool

START_WITHIN = 40.0
"""Seconds for a program of distributed to say that it runs, on a machine that does other work as well."""

SOURCE = str(Path(anypool.__file__).parent.parent)


def why_not() -> str | None:
    """Why there can be no hosts here; None if there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    name = f"ap{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces cannot be made here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return None


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=10, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


class Program:
    """A program that runs on a host; what it writes is kept."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._said = threading.Condition()
        assert process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        self._reader.start()

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                with self._said:
                    self.lines.append(line)
                    self._said.notify_all()
        with self._said:
            self._said.notify_all()

    @property
    def text(self) -> str:
        """All that it wrote."""
        return "".join(self.lines)

    def wait_for(self, words: str, *, limit: float = START_WITHIN) -> str:
        """The line that has `words` in it, once it is there."""

        def said() -> str | None:
            return next((line for line in self.lines if words in line), None)

        with self._said:
            self._said.wait_for(lambda: said() or not self._reader.is_alive(), timeout=limit)
            line = said()
        if line is None:
            raise RuntimeError(f"not said within {limit} s: {words!r}; it said:\n{self.text}")
        return line

    def finish(self, *, limit: float) -> str:
        """What it wrote until its end; one that takes longer is a failure, with all its stacks."""
        try:
            code = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # faulthandler is enabled: it writes every stack
            self.stop()
            raise AssertionError(f"a hang: no end within {limit} s; it said:\n{self.text}") from None
        self._reader.join(5)
        assert code == 0, self.text
        return self.text

    def stop(self, *, kill: bool = True) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self._reader.join(5)


class Host:
    """One host: a network namespace with an address."""

    def __init__(self, network: Network, name: str, number: int) -> None:
        self.name = name
        self.address = f"10.77.0.{number}"
        self._network = network
        self._space = f"{network.id}-{name}"
        self._port = f"port{number}"
        _ip("netns", "add", self._space)
        _ip(
            "-n",
            network.switch,
            "link",
            "add",
            self._port,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            self._space,
        )
        _ip("-n", network.switch, "link", "set", self._port, "master", "bridge", "up")
        _ip("-n", self._space, "address", "add", f"{self.address}/24", "dev", "eth0")
        _ip("-n", self._space, "link", "set", "lo", "up")
        _ip("-n", self._space, "link", "set", "eth0", "up")

    def unplug(self) -> None:
        """Pull the cable."""
        _ip("-n", self._network.switch, "link", "set", self._port, "down")

    def plug_in(self) -> None:
        """Put the cable back."""
        _ip("-n", self._network.switch, "link", "set", self._port, "up")

    def start(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Program:
        """Start Python on the host; it is ended with the network."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self._space, sys.executable, "-X", "faulthandler", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self._network.place,
            env={**self._network.environment, **(environment or {})},
        )  # fmt: skip
        program = Program(process)
        self._network.programs.append(program)
        return program

    def remove(self) -> None:
        """Take the namespace away, and with it both ends of the cable."""
        _ip("netns", "del", self._space)


class Network:
    """A switch and what is plugged into it; all of it is gone after the ``with`` block.

    Parameters
    ----------
    place : Path
        The working folder of every program, which all hosts share.
    settings : mapping
        Environment of every program, such as the timeouts of Dask.
    """

    def __init__(self, place: Path, settings: Mapping[str, str]) -> None:
        self.id = f"ap{secrets.token_hex(3)}"
        self.switch = f"{self.id}-switch"
        self.place = place
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANYPOOL_", "DASK_"))}
        self.environment = {**kept, "PYTHONPATH": SOURCE, "ANYPOOL_CONFIG": "none", "PYTHONUNBUFFERED": "1", **settings}
        self.programs: list[Program] = []
        self._hosts: list[Host] = []

    def __enter__(self) -> Network:
        _ip("netns", "add", self.switch)
        try:
            _ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
            _ip("-n", self.switch, "link", "set", "bridge", "up")
        except BaseException:
            _ip("netns", "del", self.switch)
            raise
        return self

    def host(self, name: str) -> Host:
        """Another host."""
        host = Host(self, name, len(self._hosts) + 1)
        self._hosts.append(host)
        return host

    def __exit__(self, *_: object) -> None:
        for program in reversed(self.programs):
            program.stop()
        for host in self._hosts:
            host.remove()
        _ip("netns", "del", self.switch)


class Cluster:
    """Dask on hosts of its own: a scheduler, workers of one thread each, and a host for the client.

    Parameters
    ----------
    network : Network
    workers : int
        How many hosts with a worker.
    options : sequence of str
        Options of the scheduler and of each worker, such as those of TLS.
    protocol : {"tcp", "tls"}
    """

    def __init__(
        self, network: Network, *, workers: int = 2, options: Sequence[str] = (), protocol: str = "tcp"
    ) -> None:
        self._options = options
        self._protocol = protocol
        self.client = network.host("client")
        self.host = network.host("scheduler")
        self.address = f"{protocol}://{self.host.address}:8786"
        self.scheduler = self.start_scheduler()
        self.workers = [network.host(f"worker{number}") for number in range(workers)]
        self.programs = [self._begin_worker(host) for host in self.workers]
        for program in self.programs:
            program.wait_for("Registered to:")

    def start_scheduler(self) -> Program:
        """Start the scheduler, again if it was stopped; it answers."""
        self.scheduler = self.host.start(
            "-m", "distributed.cli.dask_scheduler", "--host", self.address.rpartition(":")[0], "--port", "8786",
            "--no-dashboard", "--no-show", *self._options,
        )  # fmt: skip
        self.scheduler.wait_for("Scheduler at:")
        return self.scheduler

    def start_worker(self, host: Host) -> Program:
        """Start a worker; it is registered."""
        program = self._begin_worker(host)
        program.wait_for("Registered to:")
        self.programs.append(program)
        return program

    def _begin_worker(self, host: Host) -> Program:
        return host.start(
            "-m", "distributed.cli.dask_worker", self.address, "--host", host.address, "--nthreads", "1", "--no-nanny",
            "--name", host.name, "--no-dashboard", "--protocol", self._protocol, *self._options,
        )  # fmt: skip


def wait_until(condition: object, what: str, *, limit: float) -> None:
    """Return when `condition()` holds.

    Raises
    ------
    TimeoutError
        It did not within `limit` seconds.
    """
    assert callable(condition)
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {limit} s")
        time.sleep(0.02)
