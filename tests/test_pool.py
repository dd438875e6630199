"""The local process pool: what it guarantees, by effects that are counted outside of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ALL_COMPLETED, Future, wait
from multiprocessing import get_context, resource_tracker
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import psutil
import pytest

import pool_calls
from anypool import _pool_child, _pool_link
from anypool._pool import LocalPool, WorkerDied
from anypool._pool_link import Link, WorkerEnd
from anypool.backends.processes import Processes

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="the tests hold calls at FIFOs"),
    # pytest-timeout has a thread of its own
    pytest.mark.filterwarnings("ignore:start_method='fork' while other threads:RuntimeWarning"),
]

METHODS = ["forkserver", "spawn", "fork"]
LIMIT = 60.0


def until(condition: Callable[[], Any], limit: float = LIMIT) -> Any:
    """Return the first true value of `condition`, looked at every few milliseconds; fail after `limit` seconds."""
    deadline = time.monotonic() + limit
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.002)
    return value


def holdings() -> tuple[int, int, int]:
    """Return how many descriptors, threads and child processes this process has."""
    process = psutil.Process()
    children = [child for child in process.children(recursive=True) if not is_tracker(child)]
    return process.num_fds(), threading.active_count(), len(children)


def is_tracker(process: psutil.Process) -> bool:
    """Whether it is the resource tracker of multiprocessing, which the interpreter keeps."""
    try:
        return "resource_tracker" in " ".join(process.cmdline())
    except psutil.Error:
        return False


@pytest.fixture(autouse=True, scope="module")
def _tracker_runs() -> None:
    """Start the interpreter's resource tracker, which stays, before any test counts what it leaves."""
    resource_tracker.ensure_running()


@pytest.fixture(autouse=True)
def _leaves_nothing() -> Iterator[None]:
    before = holdings()
    yield
    until(lambda: holdings() <= before and all(a <= b for a, b in zip(holdings(), before, strict=True)))


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., LocalPool]]:
    pools: list[LocalPool] = []

    def make(size: int = 1, *, start_method: str = "forkserver", **settings: Any) -> LocalPool:
        pools.append(LocalPool(size, start_method=start_method, **settings))
        return pools[-1]

    yield make
    for pool in pools:
        pool.stop(cancel=True)


@pytest.fixture
def pipes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the link of systems without SOCK_SEQPACKET."""
    monkeypatch.setattr(_pool_link, "HAS_DATAGRAMS", False)


class Gate:
    """Holds calls of `pool_calls.hold`: each tells when it has begun, and goes on when told to."""

    def __init__(self, directory: Path, name: str) -> None:
        self.begun = directory / f"{name}.begun"
        self.fifo = directory / f"{name}.gate"
        os.mkfifo(self.fifo)

    @property
    def paths(self) -> tuple[str, str]:
        return str(self.begun), str(self.fifo)

    def wait(self) -> int:
        """Wait until the call has begun; return the pid of its worker."""
        return int(until(lambda: self.begun.exists() and self.begun.read_text()))

    def open(self) -> None:
        os.close(until(self._try_to_open) - 1)

    def _try_to_open(self) -> int:
        try:
            return os.open(self.fifo, os.O_WRONLY | os.O_NONBLOCK) + 1
        except OSError:
            return 0  # nobody reads yet


@pytest.fixture
def gate(tmp_path: Path) -> Callable[[str], Gate]:
    return lambda name: Gate(tmp_path, name)


def numbers_in(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


# Values and messages


def test_every_call_runs_once_and_its_future_has_its_value(
    make: Callable[..., LocalPool], method: str, tmp_path: Path
) -> None:
    pool = make(2, start_method=method)
    file = tmp_path / "runs"
    futures = [pool.submit(pool_calls.log, (str(file), number)) for number in range(500)]
    assert [future.result(LIMIT) for future in futures] == list(range(500))
    assert sorted(numbers_in(file)) == list(range(500))


def test_every_call_runs_once_without_datagrams(
    make: Callable[..., LocalPool], method: str, tmp_path: Path, pipes_only: None
) -> None:
    test_every_call_runs_once_and_its_future_has_its_value(make, method, tmp_path)


@pytest.mark.parametrize("size", [0, 1, 32_000, 33_000, 70_000, 3_000_000])
@pytest.mark.parametrize("datagrams", [True, False])
def test_payloads_and_replies_of_every_size_arrive(
    make: Callable[..., LocalPool], size: int, datagrams: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pool_link, "HAS_DATAGRAMS", datagrams)
    pool = make(2)
    payloads = [bytes([number]) * size for number in range(6)]
    futures = [pool.submit(pool_calls.echo, payload) for payload in payloads]
    assert [future.result(LIMIT) for future in futures] == payloads


def test_large_buffers_travel_out_of_band_both_ways(make: Callable[..., LocalPool]) -> None:
    import pickle

    pool = make()
    payload = pickle.PickleBuffer(bytearray(200_000))
    assert pool.submit(pool_calls.kind_and_size, payload).result(LIMIT) == ("memoryview", 200_000)
    assert memoryview(pool.submit(pool_calls.buffer_of, 300_000).result(LIMIT)).nbytes == 300_000


def test_a_frame_is_read_whole_however_it_was_cut() -> None:
    messages = [_pool_link.frame(7, _pool_link.TASK, [b"ab", b"", b"c" * size]) for size in (0, 5, 100_000)]
    data = b"".join(part for message in messages for part in (message.datagram, *message.body))
    read, write = os.pipe()
    stream = _pool_link._Stream(read, write)
    writer = threading.Thread(target=stream.send, args=([data[i : i + 1] for i in range(200)] + [data[200:]],))
    writer.start()
    for size in (0, 5, 100_000):
        message = stream.receive()
        assert message is not None
        assert (message.number, [bytes(part) for part in message.parts]) == (7, [b"ab", b"", b"c" * size])
    writer.join()
    stream.close()


# Trouble that is not the user's


def test_trouble_in_a_call_fails_its_future_and_the_worker_lives_on(make: Callable[..., LocalPool]) -> None:
    pool = make()
    worker = pool.submit(pool_calls.pid, None).result(LIMIT)
    with pytest.raises(ZeroDivisionError, match="by nothing") as caught:
        pool.submit(pool_calls.raise_it, ZeroDivisionError("by nothing")).result(LIMIT)
    assert "raise_it" in caught.value.__notes__[0]
    with pytest.raises(SystemExit):
        pool.submit(pool_calls.raise_it, SystemExit(3)).result(LIMIT)
    with pytest.raises(TypeError, match="pickle"):
        pool.submit(pool_calls.unsendable, None).result(LIMIT)
    with pytest.raises(ValueError, match="invalid literal"):
        pool.submit(pool_calls.echo, pool_calls.Unreadable()).result(LIMIT)
    assert pool.submit(pool_calls.pid, None).result(LIMIT) == worker


def test_what_cannot_be_pickled_is_refused_by_submit(make: Callable[..., LocalPool]) -> None:
    pool = make()
    with pytest.raises(TypeError, match="pickle"):
        pool.submit(pool_calls.echo, threading.Lock())
    assert pool.submit(pool_calls.echo, 1).result(LIMIT) == 1


@pytest.mark.parametrize(
    ("how", "code", "text"), [(-9, -9, r"SIGKILL \(-9\)"), (7, 7, "exited with code 7"), (-15, -15, "SIGTERM")]
)
def test_a_dead_worker_fails_its_call_and_says_how_it_ended(
    make: Callable[..., LocalPool], method: str, how: int, code: int, text: str
) -> None:
    pool = make(start_method=method)
    worker = pool.submit(pool_calls.pid, None).result(LIMIT)
    with pytest.raises(WorkerDied, match=text) as caught:
        pool.submit(pool_calls.die, how).result(LIMIT)
    assert (caught.value.exitcode, caught.value.pid) == (code, worker)
    assert pool.submit(pool_calls.pid, None).result(LIMIT) != worker


def test_the_error_of_a_crash_quotes_the_workers_stack(make: Callable[..., LocalPool], method: str) -> None:
    with pytest.raises(WorkerDied, match=r"SIGSEGV \(-11\)(.|\n)*in die") as caught:
        make(start_method=method).submit(pool_calls.die, "segfault").result(LIMIT)
    assert caught.value.exitcode == -signal.SIGSEGV


@pytest.mark.parametrize("datagrams", [True, False])
def test_a_worker_killed_in_a_call_loses_only_that_call(
    make: Callable[..., LocalPool],
    gate: Callable[[str], Gate],
    tmp_path: Path,
    datagrams: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_pool_link, "HAS_DATAGRAMS", datagrams)
    pool, held, file = make(), gate("a"), tmp_path / "runs"
    victim = pool.submit(pool_calls.hold, held.paths)
    others = [pool.submit(pool_calls.log, (str(file), number)) for number in range(20)]
    os.kill(held.wait(), signal.SIGKILL)
    with pytest.raises(WorkerDied):
        victim.result(LIMIT)
    assert [future.result(LIMIT) for future in others] == list(range(20))
    assert numbers_in(file) == list(range(20))


def test_a_worker_killed_while_idle_is_replaced(make: Callable[..., LocalPool]) -> None:
    pool = make()
    worker = pool.submit(pool_calls.pid, None).result(LIMIT)
    os.kill(worker, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(worker))
    assert pool.submit(pool_calls.pid, None).result(LIMIT) != worker


def test_calls_that_kill_their_workers_never_take_others_along(make: Callable[..., LocalPool], tmp_path: Path) -> None:
    pool, file, deaths = make(2), tmp_path / "runs", tmp_path / "deaths"
    futures: list[Future[Any]] = []
    for number in range(200):
        if number % 20 == 10:
            futures.append(pool.submit(pool_calls.die_after_noting, str(deaths)))
        else:
            futures.append(pool.submit(pool_calls.log, (str(file), number)))
    for number, future in enumerate(futures):
        if number % 20 == 10:
            assert isinstance(future.exception(LIMIT), WorkerDied)
        else:
            assert future.result(LIMIT) == number
    assert len(numbers_in(deaths)) == 10
    assert sorted(numbers_in(file)) == [number for number in range(200) if number % 20 != 10]


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_workers_that_die_while_starting_break_the_pool_instead_of_looping(
    make: Callable[..., LocalPool], start_method: str, capfd: pytest.CaptureFixture[str]
) -> None:
    pool = make(2, start_method=start_method, environment={"PYTHONHOME": "/nowhere/at/all"})
    futures = [pool.submit(pool_calls.echo, number) for number in range(5)]
    for future in futures:
        with pytest.raises(WorkerDied, match="no worker can be started"):
            future.result(LIMIT)
    with pytest.raises(WorkerDied, match="no worker can be started"):
        pool.submit(pool_calls.echo, 1).result(LIMIT)


def test_the_pool_survives_the_death_of_its_fork_server(make: Callable[..., LocalPool]) -> None:
    pool = make(2)
    assert pool.submit(pool_calls.echo, 1).result(LIMIT) == 1
    children = psutil.Process().children()
    server = [child for child in children if "resource_tracker" not in " ".join(child.cmdline())][-1]
    server.kill()
    until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)
    assert pool.submit(pool_calls.echo, 2).result(LIMIT) == 2
    for _ in range(2):
        with pytest.raises(WorkerDied):
            pool.submit(pool_calls.die, 1).result(LIMIT)
    assert pool.submit(pool_calls.echo, 3).result(LIMIT) == 3


# Cancelling and stealing


@pytest.mark.parametrize("datagrams", [True, False])
def test_what_has_not_begun_can_be_cancelled_and_what_runs_cannot(
    make: Callable[..., LocalPool],
    gate: Callable[[str], Gate],
    tmp_path: Path,
    datagrams: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_pool_link, "HAS_DATAGRAMS", datagrams)
    pool, held, file = make(), gate("a"), tmp_path / "runs"
    running = pool.submit(pool_calls.hold, held.paths)
    held.wait()
    ahead, queued, last = (pool.submit(pool_calls.log, (str(file), number)) for number in range(3))
    assert not running.cancel()
    assert not ahead.running()
    assert not queued.running()
    assert ahead.cancel()
    assert queued.cancel()
    assert ahead.cancelled()
    assert wait([ahead, queued], LIMIT, ALL_COMPLETED).not_done == set()
    held.open()
    assert last.result(LIMIT) == 2
    assert numbers_in(file) == [2]


def test_a_cancelled_call_never_runs_however_close_the_race(make: Callable[..., LocalPool], tmp_path: Path) -> None:
    pool, file = make(2), tmp_path / "runs"
    assert pool.submit(pool_calls.echo, 1).result(LIMIT)
    cancelled: set[int] = set()
    futures: list[Future[Any]] = []
    for number in range(10_000):
        futures.append(pool.submit(pool_calls.log, (str(file), number)))
        target = max(0, number - number % 7)
        if number % 3 == 0 and futures[target].cancel():
            cancelled.add(target)
    for number, future in enumerate(futures):
        if future.cancelled():
            assert number in cancelled
        else:
            assert future.result(LIMIT) == number
    ran = numbers_in(file)
    assert sorted(ran) == sorted(set(range(10_000)) - cancelled)
    assert cancelled


def test_cancel_is_exact_when_several_threads_race_with_the_start(
    make: Callable[..., LocalPool], tmp_path: Path
) -> None:
    pool, file = make(2), tmp_path / "runs"
    assert pool.submit(pool_calls.echo, 1).result(LIMIT)
    rounds, meet = 400, threading.Barrier(3)
    current: list[Future[Any]] = []
    cancelled: set[int] = set()

    def cancel() -> None:
        for number in range(rounds):
            meet.wait()
            for offset, future in enumerate(list(current)):
                if future.cancel():
                    cancelled.add(4 * number + offset)
            meet.wait()

    threads = [threading.Thread(target=cancel) for _ in range(2)]
    for thread in threads:
        thread.start()
    futures = []
    for number in range(rounds):
        current[:] = [pool.submit(pool_calls.log, (str(file), 4 * number + offset)) for offset in range(4)]
        futures += current
        meet.wait()
        meet.wait()
    for thread in threads:
        thread.join()
    wait(futures, LIMIT)
    assert sorted(numbers_in(file)) == sorted(set(range(4 * rounds)) - cancelled)
    assert {number for number, future in enumerate(futures) if future.cancelled()} == cancelled


def test_an_idle_worker_takes_what_waits_at_a_busy_one(
    make: Callable[..., LocalPool], gate: Callable[[str], Gate]
) -> None:
    pool, slow, quick = make(2), gate("slow"), gate("quick")
    first = pool.submit(pool_calls.hold, slow.paths)
    second = pool.submit(pool_calls.hold, quick.paths)
    slow.wait(), quick.wait()
    waiting = [pool.submit(pool_calls.pid, None) for _ in range(5)]
    quick.open()
    helper = second.result(LIMIT)
    assert {future.result(LIMIT) for future in waiting} == {helper}
    assert not first.done()
    slow.open()
    assert first.result(LIMIT) != helper


def test_a_task_that_a_recall_put_behind_the_next_one_is_still_taken_by_an_idle_worker(
    make: Callable[..., LocalPool], gate: Callable[[str], Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, busy, first, second = make(2), gate("busy"), gate("first"), gate("second")
    holder = pool.submit(pool_calls.hold, busy.paths)
    holders_worker = busy.wait()
    slow = pool.submit(pool_calls.pid, None).result(LIMIT)
    os.kill(slow, signal.SIGSTOP)
    until(lambda: psutil.Process(slow).status() == psutil.STATUS_STOPPED)
    overtaken = pool.submit(pool_calls.hold, first.paths)
    filler = pool.submit(pool_calls.echo, 1)
    overtaker = pool.submit(pool_calls.hold, second.paths)
    drain = _pool_link.Link.drain

    def drain_slowly(link: _pool_link.Link) -> set[int]:
        """Take the first task back, then let the worker begin the second."""
        monkeypatch.setattr(_pool_link.Link, "drain", drain)
        assert link._worker_tasks is not None
        datagram = link._worker_tasks.recv(1 << 16, socket.MSG_DONTWAIT)
        os.kill(slow, signal.SIGCONT)
        second.wait()
        return {_pool_link._HEAD.unpack_from(datagram)[0]} | drain(link)

    monkeypatch.setattr(_pool_link.Link, "drain", drain_slowly)
    busy.open()
    assert first.wait() == holders_worker
    assert not overtaken.cancel()
    for held in (first, second):
        held.open()
    results = [future.result(LIMIT) for future in (holder, filler, overtaken, overtaker)]
    assert results == [holders_worker, 1, holders_worker, slow]


# Stopping one call


def test_a_running_call_can_be_ended_and_nothing_else_is_hit(
    make: Callable[..., LocalPool], gate: Callable[[str], Gate], tmp_path: Path
) -> None:
    pool, held, file = make(), gate("a"), tmp_path / "runs"
    running = pool.submit(pool_calls.hold, held.paths)
    others = [pool.submit(pool_calls.log, (str(file), number)) for number in range(3)]
    worker = held.wait()
    assert not pool.stop_call(others[0])
    assert pool.stop_call(running)
    assert isinstance(running.exception(LIMIT), WorkerDied)
    assert [future.result(LIMIT) for future in others] == [0, 1, 2]
    assert numbers_in(file) == [0, 1, 2]
    assert not psutil.pid_exists(worker)
    assert not pool.stop_call(running)
    assert not pool.stop_call(Future())


# Stopping the pool


def test_stop_finishes_what_is_outstanding(make: Callable[..., LocalPool], method: str, tmp_path: Path) -> None:
    pool, file = make(2, start_method=method), tmp_path / "runs"
    futures = [pool.submit(pool_calls.log, (str(file), number)) for number in range(100)]
    pool.stop(cancel=False)
    assert all(future.done() for future in futures)
    assert sorted(numbers_in(file)) == list(range(100))
    with pytest.raises(RuntimeError, match="stopped"):
        pool.submit(pool_calls.echo, 1)


def test_stop_with_cancel_ends_running_calls_and_cancels_the_others(
    make: Callable[..., LocalPool], method: str, gate: Callable[[str], Gate], tmp_path: Path
) -> None:
    pool, held, file = make(start_method=method), gate("a"), tmp_path / "runs"
    running = pool.submit(pool_calls.hold, held.paths)
    held.wait()
    others = [pool.submit(pool_calls.log, (str(file), number)) for number in range(10)]
    start = time.monotonic()
    pool.stop(cancel=True)
    assert time.monotonic() - start < LIMIT / 2
    assert isinstance(running.exception(0), WorkerDied)
    assert all(future.cancelled() for future in others)
    assert numbers_in(file) == []


@pytest.mark.parametrize("cancel", [True, False])
def test_stop_right_after_the_start_leaves_nothing(make: Callable[..., LocalPool], method: str, cancel: bool) -> None:
    pool = make(2, start_method=method)
    pool.stop(cancel=cancel)
    pool.stop(cancel=True)


def test_stop_may_be_called_by_several_threads_and_by_callbacks(make: Callable[..., LocalPool]) -> None:
    pool = make(2)
    called = threading.Event()

    def stop(_: Future[Any]) -> None:
        pool.stop(cancel=False)
        called.set()

    pool.submit(pool_calls.echo, 1).add_done_callback(stop)
    threads = [threading.Thread(target=pool.stop, kwargs={"cancel": False}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert called.wait(LIMIT)


def test_a_worker_that_will_not_leave_is_ended(make: Callable[..., LocalPool]) -> None:
    pool = make()
    pool.submit(exec, "import threading; threading.Thread(target=threading.Event().wait).start()").result(LIMIT)
    start = time.monotonic()
    pool.stop(cancel=False)
    assert time.monotonic() - start < LIMIT


def test_workers_run_their_exit_handlers(make: Callable[..., LocalPool], method: str, tmp_path: Path) -> None:
    pool, file = make(start_method=method), tmp_path / "exits"
    pool.submit(pool_calls.leave_work_for_exit, str(file)).result(LIMIT)
    pool.stop(cancel=False)
    assert numbers_in(file) == [1]


def test_pool_after_pool_leaves_the_process_as_it_was(method: str) -> None:
    LocalPool(1, start_method=method).stop(cancel=False)
    before, memory = holdings(), psutil.Process().memory_info().rss
    for _ in range({"fork": 60, "spawn": 20, "forkserver": 12}[method]):  # a thousand are in `test_many_executors`
        LocalPool(1, start_method=method).stop(cancel=False)
    assert holdings() == before
    assert psutil.Process().memory_info().rss - memory < 8 << 20


def test_pools_share_one_fork_server_and_the_last_takes_it_down(make: Callable[..., LocalPool]) -> None:
    pools = [make(), make()]
    for pool in pools:
        pool.submit(pool_calls.echo, 1).result(LIMIT)
    (server,) = [child for child in psutil.Process().children() if "run_zygote" in " ".join(child.cmdline())]
    pools[0].stop(cancel=False)
    assert server.is_running()
    pools[1].stop(cancel=False)
    assert not server.is_running()


# What a worker is like


def test_workers_see_the_callers_surroundings(
    make: Callable[..., LocalPool], method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANYPOOL_TEST_CALLER", "set")
    monkeypatch.syspath_prepend("/a/path/of/the/caller")
    pool = make(start_method=method, environment={"ANYPOOL_TEST_WORKER": "only there"})
    seen = pool.submit(pool_calls.surroundings, None).result(LIMIT)
    assert seen["environ"]["ANYPOOL_TEST_WORKER"] == "only there"
    assert seen["environ"]["ANYPOOL_TEST_CALLER"] == "set"
    assert "ANYPOOL_TEST_WORKER" not in os.environ
    assert seen["directory"] == str(tmp_path)
    assert "/a/path/of/the/caller" in seen["path"]
    assert seen["argv"] == sys.argv
    assert seen["stdin"] == ""
    assert seen["threads"] == (2 if method == "spawn" else 1)


def test_workers_ignore_ctrl_c(make: Callable[..., LocalPool], method: str) -> None:
    assert make(start_method=method).submit(pool_calls.interrupt, None).result(LIMIT) == "went on"


def test_a_call_may_start_processes(make: Callable[..., LocalPool], method: str) -> None:
    assert make(start_method=method).submit(pool_calls.start_processes, None).result(LIMIT) == ("sub", 5)


def test_a_child_forked_by_a_call_does_not_hide_the_workers_death(
    make: Callable[..., LocalPool], gate: Callable[[str], Gate]
) -> None:
    pool, held = make(), gate("a")
    child = pool.submit(pool_calls.fork_and_return, str(held.fifo)).result(LIMIT)
    with pytest.raises(WorkerDied):
        pool.submit(pool_calls.die, -9).result(LIMIT)
    assert psutil.pid_exists(child)
    held.open()
    until(lambda: not psutil.pid_exists(child))


def test_proxies_of_a_manager_work_in_workers(make: Callable[..., LocalPool]) -> None:
    with get_context("spawn").Manager() as manager:
        queue = manager.Queue()
        make().submit(pool_calls.put, (queue, 5)).result(LIMIT)
        assert queue.get(timeout=LIMIT) == 5


def test_shared_memory_of_the_caller_outlives_a_worker_that_read_it(
    make: Callable[..., LocalPool], method: str, capfd: pytest.CaptureFixture[str]
) -> None:
    memory = SharedMemory(create=True, size=8)
    try:
        memory.buf[0] = 7
        pool = make(start_method=method)
        assert pool.submit(pool_calls.read_shared, memory.name).result(LIMIT) == 7
        pool.stop(cancel=False)
        again = SharedMemory(memory.name)
        again.close()
    finally:
        memory.close()
        memory.unlink()
    assert capfd.readouterr().err == ""


def test_forking_beside_other_threads_warns(make: Callable[..., LocalPool]) -> None:
    end = threading.Event()
    other = threading.Thread(target=end.wait, name="somebody-elses")
    other.start()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            make(start_method="fork").stop(cancel=False)
        # CPython >= 3.12 adds its own
        assert any(w.category is RuntimeWarning and "somebody-elses" in str(w.message) for w in caught)
    finally:
        end.set()
        other.join()


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_process_that_the_caller_forks_meanwhile_does_not_hold_up_the_start(
    make: Callable[..., LocalPool], method: str
) -> None:
    """Each child keeps what descriptors it inherited until the pool has answered."""
    for _ in range(5):
        read, write = os.pipe()
        pool = make(start_method=method)
        children = []
        for _ in range(20):
            if not (child := os.fork()):
                os.close(write)
                os.read(read, 1)
                os._exit(0)
            children.append(child)
        try:
            assert pool.submit(abs, -1).result(LIMIT) == 1
        finally:
            os.close(write)
            os.close(read)
            for child in children:
                os.waitpid(child, 0)
        pool.stop(cancel=False)


def test_a_forked_child_of_the_caller_is_refused_at_once(make: Callable[..., LocalPool]) -> None:
    pool = make(2)
    pool.submit(pool_calls.echo, 1).result(LIMIT)
    child = os.fork()
    if child == 0:
        refusals = 0
        for use in (lambda: pool.submit(pool_calls.echo, 2), lambda: pool.stop(cancel=True)):
            try:
                use()
            except RuntimeError as exc:
                refusals += "forked" in str(exc)
        os._exit(refusals)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert pool.submit(pool_calls.echo, 3).result(LIMIT) == 3


# The caller as a script

SCRIPT = """
    import os, sys
    with open({log!r}, "a") as file:
        file.write("1\\n")
    from anypool._pool import LocalPool
    import pool_calls
    pool = LocalPool(2, start_method={method!r})
    print(*[pool.submit(pool_calls.echo, n).result(60) for n in range(3)], pool.submit(pool_calls.pid, 0).result(60))
    {then}
"""


def start_script(tmp_path: Path, method: str, then: str) -> tuple[subprocess.Popen[str], Path]:
    log, script = tmp_path / "mains", tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT).format(log=str(log), method=method, then=then))
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, "-W", "error", str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
    )
    return process, log


@pytest.mark.parametrize("then", ["pool.stop(cancel=False)", "pass  # forgot to stop"])
def test_a_script_without_a_guard_runs_once_ends_and_leaves_nothing(tmp_path: Path, method: str, then: str) -> None:
    process, log = start_script(tmp_path, method, then)
    out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (0, "")
    assert out.split()[:3] == ["0", "1", "2"]
    assert numbers_in(log) == [1]
    until(lambda: not psutil.pid_exists(int(out.split()[3])))


@pytest.mark.parametrize("busy", [True, False])
def test_workers_do_not_outlive_a_killed_caller(
    tmp_path: Path, method: str, busy: bool, gate: Callable[[str], Gate]
) -> None:
    held = gate("a")
    call = f"pool.submit(pool_calls.hold, {held.paths!r})" if busy else "pass"
    process, _ = start_script(tmp_path, method, f"sys.stdout.flush(); {call}; os.read(os.pipe()[0], 1)")
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    assert line.startswith("0 1 2 ")
    if busy:
        held.wait()
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2
    process.kill()
    process.wait()
    until(lambda: not any(member.is_running() and member.status() != "zombie" for member in family))
    process.stdout.close()
    process.stderr.close()


# The backend


def test_the_backend_starts_runs_and_stops() -> None:
    backend = Processes(max_workers=2, env={"ANYPOOL_TEST_WORKER": "1"})
    size, traits = backend.start()
    try:
        assert (size, traits.lost, traits.stops_running_calls) == (2, (WorkerDied,), True)
        seen = backend.submit(pool_calls.surroundings, None).result(LIMIT)
        assert seen["environ"]["ANYPOOL_TEST_WORKER"] == "1"
    finally:
        backend.stop(cancel=False)


_FORKED_IN_C = """
import ctypes, os, signal, sys, time
import anypool

def fork_and_die(item):
    if item == 2:
        # Not os.fork, after which the worker's end would be closed in the child; which runs sleep(200) and no Python.
        system, stack = ctypes.CDLL(None), ctypes.create_string_buffer(1 << 16)
        child = system.clone(system.sleep, ctypes.byref(stack, 1 << 15), signal.SIGCHLD, ctypes.c_void_p(200))
        assert child > 0, child
        with open(sys.argv[2], "w") as file:
            file.write(str(child))
        os.kill(os.getpid(), 9)
    return item

with anypool.get_executor("processes", max_workers=2, start_method=sys.argv[1]) as ex:
    began = time.monotonic()
    print([type(each).__name__ for each in ex.map(fork_and_die, range(5), errors="return")])
    print(time.monotonic() - began < 100)
with open(sys.argv[2]) as file:
    os.kill(int(file.read()), 9)
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system tells of an end by the stream alone")
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_dead_worker_is_seen_though_what_it_started_holds_its_end_open(method: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FORKED_IN_C, method, str(tmp_path / "child")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["['int', 'int', 'WorkerLost', 'int', 'int']", "True"]


def test_a_worker_whose_pool_is_gone_says_nothing() -> None:
    link = Link(datagrams=_pool_link.HAS_DATAGRAMS)
    end = WorkerEnd(*map(os.dup, link.child_fds), datagrams=_pool_link.HAS_DATAGRAMS)
    assert _pool_child._reply(end, 1, _pool_link.DONE, [b"there"])
    link.close()
    assert not _pool_child._reply(end, 2, _pool_link.DONE, [b"gone"])
    end.close()
