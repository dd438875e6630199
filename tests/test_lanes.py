"""Workers of loky, one in each native pool: what is taken back never runs, and a worker that dies takes one call."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

import workers_calls as calls
from anypool import _lane
from anypool._adopted import adopt
from anypool._lane import Lane
from anypool._process_tree import KNOWS_CHILDREN
from anypool._worker_end import WorkerDied
from anypool.backends.joblib import Joblib
from anypool.backends.loky import Loky
from anypool.testing._calls import run_program
from anypool.testing._leftovers import lives
from scripts import run_script

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="no call is sent ahead there"),
]

LIMIT = 60.0


@pytest.fixture(params=[Loky, Joblib], ids=["loky", "joblib"])
def backend(request: pytest.FixtureRequest) -> Iterator[Any]:
    pytest.importorskip("loky" if request.param is Loky else "joblib")
    made = request.param(max_workers=2)
    made.start()
    yield made
    made.stop(cancel=True)


class Blocked:
    """A call that runs until `go`."""

    def __init__(self, backend: Any, folder: Path, name: str) -> None:
        self.mark, self.gate = folder / f"begun-{name}", folder / f"go-{name}"
        self.future: Future[Any] = backend.submit(calls.wait_for, (os.fsencode(self.mark), os.fsencode(self.gate)))

    def pid(self) -> int:
        _until(self.mark.exists)
        return int(self.mark.read_text())

    def go(self) -> None:
        self.gate.touch()


def _until(fact: Callable[[], Any]) -> None:
    deadline = time.monotonic() + LIMIT
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _occupy(backend: Any, folder: Path) -> list[Blocked]:
    blocked = [Blocked(backend, folder, str(index)) for index in range(2)]
    for each in blocked:
        each.pid()
    return blocked


def test_whatever_has_not_begun_is_cancelled_and_never_runs(backend: Any, tmp_path: Path) -> None:
    blocked = _occupy(backend, tmp_path)
    marks = [tmp_path / f"ran-{index}" for index in range(6)]
    futures = [backend.submit(calls.touch, os.fsencode(mark)) for mark in marks]
    last = backend.submit(calls.echo, "last")
    assert [future.cancel() for future in futures] == [True] * 6
    assert [future.cancel() for future in futures] == [True] * 6
    assert not any(each.future.cancel() for each in blocked)
    for each in blocked:
        each.go()
    assert last.result(LIMIT) == "last"
    assert backend.submit(calls.echo, "after").result(LIMIT) == "after"
    assert not any(mark.exists() for mark in marks)


def test_a_call_that_waited_at_a_lost_worker_runs_elsewhere_once(backend: Any, tmp_path: Path) -> None:
    blocked = _occupy(backend, tmp_path)
    log = tmp_path / "log"
    waiting = [backend.submit(calls.append, os.fsencode(log)) for _ in range(4)]
    os.kill(blocked[0].pid(), signal.SIGKILL)
    error = blocked[0].future.exception(LIMIT)
    assert isinstance(error, WorkerDied)
    assert (error.pid, error.exitcode) == (blocked[0].pid(), -signal.SIGKILL)
    assert error.host
    for future in waiting:
        future.result(LIMIT)
    assert log.read_bytes() == b"xxxx"
    blocked[1].go()
    assert blocked[1].future.result(LIMIT) == blocked[1].pid()


def test_a_call_that_is_stopped_is_the_only_one(backend: Any, tmp_path: Path) -> None:
    blocked = _occupy(backend, tmp_path)
    waiting = [backend.submit(calls.echo, index) for index in range(4)]
    assert not any(backend.stop_call(future) for future in waiting if not future.done())
    assert backend.stop_call(blocked[0].future)
    assert isinstance(blocked[0].future.exception(LIMIT), WorkerDied)
    assert [future.result(LIMIT) for future in waiting] == list(range(4))
    blocked[1].go()
    assert blocked[1].future.result(LIMIT) == blocked[1].pid()
    assert not backend.stop_call(blocked[0].future)


@pytest.mark.skipif(not KNOWS_CHILDREN, reason="this system does not tell what a process has started")
def test_a_program_of_another_user_does_not_keep_its_call_from_being_stopped(
    backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    future = backend.submit(run_program, programs)
    _until(programs.exists)
    program = int(programs.read_text().split()[0])
    worker = psutil.Process(program).ppid()
    kill = psutil.Process.kill
    monkeypatch.setattr(psutil.Process, "kill", lambda each: _refuse(each) if each.pid == program else kill(each))
    assert backend.stop_call(future)
    assert isinstance(future.exception(LIMIT), WorkerDied)
    assert not lives(worker)


def _refuse(process: psutil.Process) -> None:
    raise psutil.AccessDenied(process.pid)


def _adopt_late(gate: bytes, *args: Any) -> None:
    """A worker's start, that takes until there is such a file."""
    _until(lambda: os.path.exists(gate))
    adopt(*args)


def test_a_call_does_not_wait_for_a_worker_that_starts(
    backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = Blocked(backend, tmp_path, "first")
    blocked.pid()
    monkeypatch.setattr(_lane, "adopt", partial(_adopt_late, os.fsencode(tmp_path / "starts")))
    waiting = [backend.submit(calls.echo, index) for index in range(2)]
    (starting,) = {each.sending.lane for each in waiting} - {blocked.future.sending.lane}
    assert not any(future.done() for future in waiting)
    blocked.go()
    assert [future.result(LIMIT) for future in waiting] == [0, 1]
    assert not starting.has_answered
    ended = weakref.ref(waiting.pop(0))
    gc.collect()
    assert ended() is None  # and its result, though the worker that had it first still starts
    (tmp_path / "starts").touch()
    assert backend.submit(calls.echo, "after").result(LIMIT) == "after"


def test_the_end_waits_for_a_worker_that_another_thread_starts(
    backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = Blocked(backend, tmp_path, "first")
    pid = blocked.pid()
    starts, ends, has_ended = threading.Event(), threading.Event(), threading.Event()
    started: list[int] = []
    note_start, begin_end = Lane._note_start, Lane.begin_end

    def note_late(lane: Lane) -> None:
        starts.set()
        assert ends.wait(LIMIT)
        has_ended.wait(0.5)  # which it does not
        started.extend(lane._pool._processes)
        note_start(lane)

    def begin_to_end(lane: Lane, *, kill: bool) -> None:
        ends.set()
        begin_end(lane, kill=kill)
        if lane._process is None or lane._process.pid != pid:
            has_ended.set()

    monkeypatch.setattr(Lane, "_note_start", note_late)
    monkeypatch.setattr(Lane, "begin_end", begin_to_end)
    futures: list[Future[Any]] = []
    thread = threading.Thread(target=lambda: futures.append(backend.submit(calls.echo, "taken back")))
    thread.start()
    try:
        assert starts.wait(LIMIT)
        blocked.go()
        assert blocked.future.result(LIMIT) == pid
        backend.stop(cancel=False)
    finally:
        ends.set()
        thread.join()
    assert futures[0].result(LIMIT) == "taken back"
    assert len(started) == 1
    assert not lives(started[0])


def test_an_idle_worker_that_was_lost_costs_no_call(backend: Any) -> None:
    for _ in range(3):
        pid = backend.submit(calls.pid, None).result(LIMIT)
        os.kill(pid, signal.SIGKILL)
        assert backend.submit(calls.pid, None).result(LIMIT) != pid


def test_the_last_words_of_a_worker_are_quoted(backend: Any) -> None:
    error = backend.submit(calls.crash, None).exception(LIMIT)
    assert "SIGSEGV (-11)" in str(error)
    assert "in crash" in str(error)


_DIES_WITHIN_ITS_REPLY = """
import os
import signal
import threading
import time
import anypool

class Reply:
    def __reduce__(self):
        if os.getpid() == caller:
            return make, ()
        os.kill(os.getppid(), signal.SIGSTOP)  # nobody reads the reply: it is being written when its writer ends
        threading.Thread(target=die, daemon=True).start()
        return bytes, (b"x" * 10_000_000,)

def die():
    time.sleep(0.5)
    os.kill(os.getppid(), signal.SIGCONT)
    os.kill(os.getpid(), signal.SIGKILL)

def make():
    return Reply()

caller = os.getpid()
from anypool.backends.{module} import {kind}
backend = {kind}(max_workers=2)
backend.start()
import cloudpickle
print(backend.submit(cloudpickle.loads, cloudpickle.dumps(Reply())).exception(60).exitcode)
backend.stop(cancel=True)
"""


def test_a_worker_that_dies_within_its_reply_is_noticed(backend: Any, tmp_path: Path) -> None:
    kind = type(backend)
    script = _DIES_WITHIN_ITS_REPLY.replace("{module}", kind.name).replace("{kind}", kind.__name__)
    assert run_script(script, kind.name, tmp_path) == "-9\n"


def test_a_worker_whose_call_left_a_forked_process_is_noticed_when_it_dies(backend: Any, tmp_path: Path) -> None:
    kept = tmp_path / "child"
    error = backend.submit(calls.fork_and_die, os.fsencode(kept)).exception(60)
    os.kill(int(kept.read_text()), signal.SIGKILL)
    assert isinstance(error, WorkerDied)


def test_lost_workers_leave_no_descriptor(backend: Any) -> None:
    for _ in range(2):
        assert isinstance(backend.submit(calls.die, None).exception(LIMIT), WorkerDied)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(8):
        assert isinstance(backend.submit(calls.die, None).exception(LIMIT), WorkerDied)
    assert len(os.listdir("/proc/self/fd")) <= before + 20
