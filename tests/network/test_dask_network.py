"""Dask on hosts of its own: links that drop, hosts that vanish, a scheduler that restarts. Nothing hangs or is lost.

What ran is counted by files that the calls write: the hosts have networks of their own, and share the file system.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts import Cluster, Network, wait_until

from anypool.testing import Faults

pytest.importorskip("distributed")

# The hard limit of pytest comes after that of each wait in here.
pytestmark = pytest.mark.soak

ITEMS = 30

GIVES_UP_AFTER = 12
"""Seconds after which Dask here takes a silent connection for dead: the least that it takes; 30 unless it is told."""

LIMIT = 90.0
"""Seconds for a map that meets a fault. Far more than it takes: what is told apart here is late from never."""

SETTINGS = {
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": f"{GIVES_UP_AFTER}s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": f"{GIVES_UP_AFTER}s",
}

CLIENT = """
import faulthandler, json, pathlib, sys, time
faulthandler.dump_traceback_later(float(sys.argv[4]), exit=True)
import anypool
from anypool.testing import Faults

address, place, options = sys.argv[1], pathlib.Path(sys.argv[2]), json.loads(sys.argv[3])
items = options.pop("items")
calls = Faults(place / "calls", {item: [0.15] * 20 for item in range(items)})
began = time.monotonic()
answers = []
with anypool.get_executor("dask", address=address, gives_up_after=8.0) as ex:
    for answer in ex.map(calls, range(items), chunksize=1, errors="return", **options):
        is_error = isinstance(answer, BaseException)
        answers.append([type(answer).__name__ if is_error else answer, time.monotonic() - began])
        if is_error:
            print(repr(answer), repr(answer.__cause__), flush=True)
    print("map ended", flush=True)
    again = []
    while again != ["0", "1", "2"]:  # the backend looks every other second whether a worker is there again
        time.sleep(0.2)
        again = list(ex.map(str, range(3), errors="return", **options))
    answers.append(["again", again])
(place / "answers.json").write_text(json.dumps(answers))
"""


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    with Network(tmp_path, SETTINGS) as network:
        yield network


class Running:
    """A map that runs on a cluster, and what came of it."""

    def __init__(self, cluster: Cluster, place: Path, *, items: int = ITEMS, **options: Any) -> None:
        self._place = place
        self.calls = Faults(place / "calls")
        (place / "client.py").write_text(CLIENT)
        words = (cluster.address, str(place), json.dumps({"items": items, **options}), str(LIMIT))
        self.program = cluster.client.start("client.py", *words)

    def wait_until_begun(self, calls: int = 4) -> None:
        """Return when so many calls have begun."""
        wait_until(lambda: len(self.calls.record()) >= calls, f"{calls} calls begin", limit=40)

    def finish(self) -> list[Any]:
        """The answers, in order; a name of its class for an error."""
        self.program.finish(limit=LIMIT + 10)
        print(self.program.text)  # shown if the test fails
        answers = json.loads((self._place / "answers.json").read_text())
        assert answers.pop() == ["again", ["0", "1", "2"]]
        return [answer for answer, _ in answers]


def test_a_map_over_the_network_is_as_everywhere(network: Network, tmp_path: Path) -> None:
    running = Running(Cluster(network), tmp_path)
    assert running.finish() == list(range(ITEMS))
    assert running.calls.ran_again() == {}
    assert len(running.calls.pids()) == 2


@pytest.mark.parametrize("whose", ["worker", "client", "scheduler"])
def test_a_link_that_drops_and_comes_back_in_time_costs_nothing(network: Network, tmp_path: Path, whose: str) -> None:
    cluster = Cluster(network)
    running = Running(cluster, tmp_path)
    running.wait_until_begun()
    host = {"worker": cluster.workers[0], "client": cluster.client, "scheduler": cluster.host}[whose]
    host.unplug()
    before = len(running.calls.record())
    wait_a_second()
    host.plug_in()
    assert running.finish() == list(range(ITEMS))
    assert running.calls.ran_again() == {}
    assert before < ITEMS


def test_a_link_that_comes_back_too_late_costs_no_result(network: Network, tmp_path: Path) -> None:
    cluster = Cluster(network)
    running = Running(cluster, tmp_path)
    running.wait_until_begun()
    cluster.workers[0].unplug()
    cluster.scheduler.wait_for("Remove worker", limit=LIMIT)
    cluster.workers[0].plug_in()
    assert running.finish() == list(range(ITEMS))


def test_a_host_that_vanishes_costs_no_result(network: Network, tmp_path: Path) -> None:
    cluster = Cluster(network)
    running = Running(cluster, tmp_path)
    running.wait_until_begun()
    cluster.workers[0].unplug()
    assert running.finish() == list(range(ITEMS))


def test_a_map_that_loses_its_last_host_fails_and_does_not_hang(network: Network, tmp_path: Path) -> None:
    cluster = Cluster(network, workers=1)
    running = Running(cluster, tmp_path, items=10)
    running.wait_until_begun(2)
    cluster.workers[0].unplug()
    running.program.wait_for("map ended", limit=LIMIT)
    cluster.start_worker(network.host("late"))
    answers = running.finish()
    assert set(answers) <= {"WorkerLost", *range(10)}
    assert "WorkerLost" in answers
    assert "no worker for 8 s" in running.program.text


def test_a_scheduler_that_vanishes_fails_the_map_and_does_not_hang(network: Network, tmp_path: Path) -> None:
    cluster = Cluster(network)
    running = Running(cluster, tmp_path)
    running.wait_until_begun()
    cluster.host.unplug()
    running.program.wait_for("map ended", limit=LIMIT)
    assert "WorkerLost" in running.program.text


def test_a_scheduler_that_is_gone_fails_the_map_and_one_that_restarts_serves_the_next(
    network: Network, tmp_path: Path
) -> None:
    cluster = Cluster(network)
    running = Running(cluster, tmp_path)
    running.wait_until_begun()
    cluster.scheduler.stop()
    cluster.start_scheduler()
    for number in range(2):
        cluster.start_worker(network.host(f"new{number}"))
    answers = running.finish()
    assert [answer for answer in answers if answer != "WorkerLost"] == [
        item for item, answer in enumerate(answers) if answer != "WorkerLost"
    ]


def test_a_map_that_runs_lost_calls_again_survives_a_restart_of_the_scheduler(network: Network, tmp_path: Path) -> None:
    cluster = Cluster(network)
    running = Running(cluster, tmp_path, on_lost="retry")
    running.wait_until_begun()
    cluster.scheduler.stop()
    cluster.start_scheduler()
    for number in range(2):
        cluster.start_worker(network.host(f"new{number}"))
    assert running.finish() == list(range(ITEMS))


def wait_a_second() -> None:
    """Let the fault last: there is nothing to wait for, since nothing must happen."""
    import time

    time.sleep(1.0)
