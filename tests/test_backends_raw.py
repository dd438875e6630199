"""The backends of loky, joblib and Dask, driven through the contract alone: no core, no executor.

What the core adds (order, chunks, retries, relays) is tested elsewhere. Here: a call becomes one future, a lost worker
is noticed, and `stop` leaves nothing. Results are checked by a second road, files that the calls write.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

import workers_calls as calls
from anypool._bridge import ForeignExecutor, stop_unused_trackers
from anypool._worker_end import WorkerDied
from anypool.backend import Backend, Traits
from anypool.backends import _dask_client
from anypool.backends.dask import Dask
from anypool.backends.joblib import Joblib
from anypool.backends.loky import Loky
from anypool.errors import ConfigError, ExecutorClosed, StartError, VersionMismatch
from joblib_end import end_of_joblib
from scripts import LIMIT

HERE = Path(__file__).parent
SOURCES = HERE.parent / "src"

MAKERS: dict[str, Callable[[], Any]] = {
    "loky": lambda: Loky(max_workers=2),
    "joblib-loky": lambda: Joblib(max_workers=2),
    "joblib-multiprocessing": lambda: Joblib(max_workers=2, native="multiprocessing"),
    "joblib-threading": lambda: Joblib(max_workers=2, native="threading"),
    "joblib-sequential": lambda: Joblib(native="sequential"),
    "dask": lambda: Dask(max_workers=2),
    "dask-threads": lambda: Dask(max_workers=2, processes=False),
}


@dataclass(frozen=True, kw_only=True)
class Started:
    backend: Backend
    size: int
    traits: Traits

    def submit(self, call: Callable[[Any], Any], payload: Any = None) -> Future[Any]:
        return self.backend.submit(call, payload)


@pytest.fixture(scope="module", autouse=True)
def _tracker_of_multiprocessing() -> None:
    """Start it before anything is counted: it stays until the interpreter ends, whoever started it."""
    resource_tracker.ensure_running()


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fail if a process, thread, semaphore or folder is there after the test that was not there before."""
    before = _everything()
    yield
    _until(lambda: not _everything() - before, lambda: f"left behind: {_everything() - before}")


@pytest.fixture(params=MAKERS)
def started(request: pytest.FixtureRequest, nothing_left: None) -> Iterator[Started]:
    yield from _run(MAKERS[request.param]())


def _run(backend: Any) -> Iterator[Started]:
    size, traits = backend.start()
    yield Started(backend=backend, size=size, traits=traits)
    backend.stop(cancel=True)
    del backend
    gc.collect()  # the finalizers of joblib's multiprocessing pool start its tracker again
    stop_unused_trackers()


def _everything() -> set[str]:
    found = {f"thread {each.name}" for each in threading.enumerate() if not _belongs_to_a_library(each)}
    for child in psutil.Process().children(recursive=True):
        try:
            command = " ".join(child.cmdline())
        except psutil.Error:  # it ended in this moment
            continue
        # The tracker of `multiprocessing` stays until the interpreter ends, whoever started it; that of joblib's
        # loky is started again by late finalizers of joblib's multiprocessing pool.
        trackers = ("multiprocessing.resource_tracker", "joblib.externals.loky.backend.resource_tracker")
        if command and not any(each in command for each in trackers):
            found.add(f"process {child.pid}: {command}")
    shared = Path("/dev/shm")
    if shared.is_dir():
        found |= {f"semaphore {each}" for each in shared.glob(f"sem.loky-{os.getpid()}-*")}
    temporary = Path(os.environ.get("TMPDIR", "/tmp"))
    return found | {f"folder {each}" for each in temporary.glob(f"anypool-dask-{os.getpid()}-*")}


def _belongs_to_a_library(thread: threading.Thread) -> bool:
    # One idle daemon thread for the life of the process, of a pool that is a global of distributed's; a test's timer.
    return thread.name.startswith(("Dask-Offload", "pytest_timeout"))


def _until(fact: Callable[[], bool], complaint: Callable[[], str], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, complaint()
        time.sleep(0.01)


def _block(started: Started, folder: Path, count: int) -> tuple[list[Future[Any]], Path]:
    """Occupy `count` workers until the file that is returned exists."""
    go = folder / "go"
    marks = [folder / f"started-{index}" for index in range(count)]
    futures = [started.submit(calls.wait_for, (os.fsencode(mark), os.fsencode(go))) for mark in marks]
    _until(lambda: all(mark.exists() for mark in marks), lambda: "the blocking calls did not start")
    return futures, go


def _run_script(source: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(SOURCES), str(HERE)])
    where = [source] if source.endswith(".py") else ["-c", source]
    return subprocess.run(
        [sys.executable, "-W", "error", *where],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


# ---------------------------------------------------------------------------------------- every backend


class TestCalls:
    """What leaves a backend as it was: one of each serves all of these tests."""

    @pytest.fixture(scope="class", params=MAKERS)
    @classmethod
    def workers(cls, request: pytest.FixtureRequest) -> Iterator[Started]:
        """A backend that runs, and leaves nothing when it is stopped."""
        before = _everything()
        yield from _run(MAKERS[request.param]())
        _until(lambda: not _everything() - before, lambda: f"left behind: {_everything() - before}")

    def test_each_call_gives_its_own_result(self, workers: Started) -> None:
        futures = [workers.submit(calls.echo, index) for index in range(30)]
        assert [future.result(60) for future in futures] == list(range(30))

    def test_equal_calls_run_each(self, workers: Started, tmp_path: Path) -> None:
        log = os.fsencode(tmp_path / "log")
        wait([workers.submit(calls.append, log) for _ in range(5)], 60)
        assert (tmp_path / "log").read_bytes() == b"x" * 5

    def test_what_a_call_raises_is_the_error_of_its_future_alone(self, workers: Started) -> None:
        bad, good = workers.submit(calls.raise_lookup, "bad"), workers.submit(calls.echo, "good")
        with pytest.raises(LookupError, match="bad"):
            bad.result(60)
        assert good.result(60) == "good"

    def test_traits_tell_truly_whether_calls_run_in_the_caller(self, workers: Started) -> None:
        assert (workers.submit(calls.pid).result(60) == os.getpid()) is workers.traits.in_caller

    def test_calls_that_run_in_the_caller_are_not_said_to_be_noticed_when_it_dies(self, workers: Started) -> None:
        assert not (workers.traits.in_caller and workers.traits.notices_lost_workers)
        assert not (workers.traits.in_caller and workers.traits.loses_only_running)

    def test_calls_from_many_threads_all_come_back(self, workers: Started) -> None:
        with ThreadPoolExecutor(4) as threads:
            results = list(threads.map(lambda index: workers.submit(calls.echo, index).result(60), range(20)))
        assert results == list(range(20))

    def test_a_call_may_start_processes_where_traits_say_so(self, workers: Started) -> None:
        if not workers.traits.starts_processes or workers.traits.in_caller:
            pytest.skip("by trait")
        assert workers.submit(calls.start_process).result(60) == 0


def test_a_call_runs_exactly_if_cancel_was_refused(started: Started, tmp_path: Path) -> None:
    if started.traits.synchronous:
        pytest.skip("nothing is ever waiting")
    blocking, go = _block(started, tmp_path, started.size)
    mark = tmp_path / "mark"
    future = started.submit(calls.touch, os.fsencode(mark))
    cancelled = future.cancel()
    go.touch()
    wait([*blocking, future], 60)
    assert future.cancelled() is cancelled
    assert all(each.result() for each in blocking)
    started.backend.stop(cancel=False)
    assert mark.exists() is not cancelled


def test_stop_can_be_repeated_and_refuses_calls_after(started: Started) -> None:
    assert started.submit(calls.echo, 1).result(60) == 1
    started.backend.stop(cancel=False)
    started.backend.stop(cancel=False)
    started.backend.stop(cancel=True)
    with pytest.raises(ExecutorClosed):
        started.submit(calls.echo, 2)


def test_stop_with_cancel_ends_running_calls_where_traits_say_so(started: Started, tmp_path: Path) -> None:
    if not started.traits.stops_running_calls:
        pytest.skip("by trait")
    blocking, _ = _block(started, tmp_path, started.size)
    pids = [int((tmp_path / f"started-{index}").read_text()) for index in range(started.size)]
    started.backend.stop(cancel=True)
    assert all(future.exception(60) is not None for future in blocking)
    _until(lambda: not any(_is_alive(pid) for pid in pids), lambda: "a worker survived")


def test_stop_with_cancel_is_clean_and_quiet_whatever_its_calls_are_at(
    started: Started, caplog: pytest.LogCaptureFixture
) -> None:
    # More than a pipe holds, for workers that are not there yet; some calls are cancelled, and the pool does not
    # know it yet. A thread of the pool that fails is an error of this test: by a log record, or by pytest's hook.
    futures = [started.submit(calls.echo, b"x" * 300_000) for _ in range(2 * started.size)]
    for future in futures[1:]:
        future.cancel()
    started.backend.stop(cancel=True)
    assert all(future.done() for future in futures)
    assert [each.getMessage() for each in caplog.records] == []


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_lost_worker_is_noticed_and_the_pool_goes_on(started: Started) -> None:
    if not started.traits.notices_lost_workers or started.traits.in_caller:
        pytest.skip("by trait")
    for _ in range(2):
        assert isinstance(started.submit(calls.die).exception(60), started.traits.lost)
        assert [started.submit(calls.echo, index).result(60) for index in range(4)] == list(range(4))


def test_calls_on_other_workers_survive_a_lost_one_where_traits_say_so(started: Started, tmp_path: Path) -> None:
    if not started.traits.loses_only_running or started.traits.in_caller:
        pytest.skip("by trait")
    (other,), go = _block(started, tmp_path, 1)
    lost, waiting = started.submit(calls.die), started.submit(calls.echo, "still here")
    assert isinstance(lost.exception(60), started.traits.lost)
    go.touch()
    assert waiting.result(60) == "still here"
    assert other.result(60)


@pytest.mark.parametrize("name", ["loky", "joblib-loky", "joblib-multiprocessing", "dask"])
def test_a_script_needs_no_main_guard_and_ends_silently(name: str, tmp_path: Path) -> None:
    made = {
        "loky": "from anypool.backends.loky import Loky as Backend; options = {}",
        "joblib-loky": "from anypool.backends.joblib import Joblib as Backend; options = {}",
        "joblib-multiprocessing": "from anypool.backends.joblib import Joblib as Backend; "
        "options = {'native': 'multiprocessing'}",
        "dask": "from anypool.backends.dask import Dask as Backend; options = {}",
    }
    script = tmp_path / "script.py"
    script.write_text(
        f"{made[name]}\n"
        + textwrap.dedent("""
            import workers_calls as calls
            print("main")
            backend = Backend(max_workers=2, **options)
            backend.start()
            print(sum(future.result() for future in [backend.submit(calls.echo, i) for i in range(5)]))
            backend.stop(cancel=False)
        """)
    )
    done = _run_script(str(script))
    assert (done.stdout, done.stderr, done.returncode) == ("main\n10\n", "", 0)


@pytest.mark.parametrize("name", ["loky", "joblib", "dask"])
def test_importing_a_backend_imports_no_optional_library(name: str) -> None:
    code = (
        f"import sys, anypool.backends.{name}; "
        "print([each for each in ('loky', 'joblib', 'dask', 'distributed', 'numpy') if each in sys.modules])"
    )
    assert _run_script(code).stdout == "[]\n"


# ------------------------------------------------------------------------------- somebody else's executor


def test_a_foreign_executor_is_waited_for_but_not_shut_down(tmp_path: Path, nothing_left: None) -> None:
    with ThreadPoolExecutor(1) as executor:
        backend = ForeignExecutor(executor=executor)
        size, traits = backend.start()
        (running,), go = _block(Started(backend=backend, size=size, traits=traits), tmp_path, 1)
        queued = backend.submit(calls.echo, 1)
        stopping = threading.Thread(target=backend.stop, kwargs={"cancel": True})
        stopping.start()
        _until(queued.cancelled, lambda: "what had not started was not cancelled")
        assert stopping.is_alive()
        go.touch()
        stopping.join(60)
        assert running.result(0)
        assert executor.submit(calls.echo, 2).result(60) == 2
        with pytest.raises(ExecutorClosed):
            backend.submit(calls.echo, 3)


def test_a_foreign_executor_without_a_size_must_be_given_one() -> None:
    from concurrent.futures import Executor

    with pytest.raises(StartError, match="max_workers"):
        ForeignExecutor(executor=Executor()).start()
    assert ForeignExecutor(executor=Executor(), max_workers=3).start()[0] == 3


# ----------------------------------------------------------------------------------------- loky, joblib


@pytest.mark.parametrize("make", [Loky, Joblib])
def test_two_executors_and_a_parallel_of_the_users_do_not_stop_each_other(make: Any, tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    first, second = make(max_workers=2), make(max_workers=3)
    first.start()
    second.start()
    try:
        (running,), go = _block(Started(backend=first, size=2, traits=Traits()), tmp_path, 1)
        assert second.submit(calls.echo, 2).result(60) == 2
        with joblib.parallel_config("loky", n_jobs=2):
            assert joblib.Parallel()(joblib.delayed(calls.echo)(each) for each in range(3)) == [0, 1, 2]
        second.stop(cancel=True)
        go.touch()
        assert running.result(60)
        assert first.submit(calls.echo, 3).result(60) == 3
    finally:
        first.stop(cancel=True)
        joblib.externals.loky.get_reusable_executor().shutdown(wait=True)
        end_of_joblib()


@pytest.mark.parametrize("name", ["loky", "joblib", "joblib://multiprocessing"])
def test_the_large_arrays_of_a_parallel_of_the_users_outlive_our_executors(name: str, tmp_path: Path) -> None:
    """And joblib, which lets go of them at the end of the interpreter, then finds the tracker that knows of them."""
    pytest.importorskip("joblib")
    done = _run_script(
        textwrap.dedent(f"""
            import multiprocessing
            import os
            import anypool
            import joblib
            import numpy
            context = multiprocessing.get_context("spawn")
            array = numpy.ones(500_000)
            with joblib.parallel_config("multiprocessing", n_jobs=2, temp_folder={str(tmp_path)!r}, context=context):
                with joblib.Parallel() as parallel:
                    print(*parallel(joblib.delayed(len)(each) for each in (array, array)))
                    (folder,) = os.listdir({str(tmp_path)!r})
                    with anypool.get_executor({name!r}, max_workers=2) as executor:
                        print(*executor.map(abs, range(3)))
                    print(len(os.listdir(os.path.join({str(tmp_path)!r}, folder))))
                    print(*parallel(joblib.delayed(len)(each) for each in (array, array)))
        """)
    )
    assert done.stdout.splitlines() == ["500000 500000", "0 1 2", "1", "500000 500000"], done.stderr
    assert done.stderr == ""
    assert os.listdir(tmp_path) == []


def test_loky_workers_get_the_environment_that_was_asked_for(nothing_left: None) -> None:
    backend = Loky(max_workers=1, env={"ANYPOOL_TEST_MARK": "set"})
    backend.start()
    assert backend.submit(os.getenv, "ANYPOOL_TEST_MARK").result(60) == "set"
    backend.stop(cancel=False)


def test_an_unknown_start_method_of_loky_is_a_start_error() -> None:
    with pytest.raises(StartError, match="telepathy"):
        Loky(max_workers=1, context="telepathy").start()


@pytest.mark.parametrize("options", [{"native": "telepathy"}, {"native_options": {"inner_max_num_threads": 1}}])
def test_what_joblib_does_not_know_is_a_config_error(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=options.get("native", "sequential")):
        Joblib(**{"native": "sequential", **options}).start()


def test_urls_become_options() -> None:
    assert Joblib.from_url("threading") == {"native": "threading"}
    assert Joblib.from_url("") == {}
    assert Dask.from_url("host:8786") == {"address": "tcp://host:8786"}
    assert Dask.from_url("tls://host:8786") == {"address": "tls://host:8786"}
    assert Dask.from_url("") == {}


# --------------------------------------------------------------------------------------------------- Dask


def _cluster_process() -> psutil.Process:
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # somebody else's that has just ended
            if "_dask_cluster" in " ".join(child.cmdline()):
                found.append(child)
    (cluster,) = found
    return cluster


def test_a_dask_cluster_leaves_the_caller_as_it_was(nothing_left: None) -> None:
    import logging
    import warnings

    import dask
    import distributed  # noqa: F401 - what importing it changes is not asked here

    def state() -> dict[str, Any]:
        return {
            "environment": dict(os.environ),
            "random": random.getstate(),
            "signals": [signal.getsignal(each) for each in signal.valid_signals()],
            "levels": {name: logging.getLogger(name).level for name in ("", "distributed", "tornado")},
            "filters": list(warnings.filters),
            "config": dask.config.collect([]) and dict(dask.config.config),
            "folder": Path.cwd(),
        }

    before = state()
    backend = Dask(max_workers=2)
    backend.start()
    wait([backend.submit(calls.echo, index) for index in range(10)], 60)
    backend.submit(calls.die, None).exception(60)
    backend.stop(cancel=False)
    assert state() == before


@pytest.mark.skipif(sys.platform != "linux", reason="workers of a local cluster are forked on Linux alone")
def test_workers_of_a_local_dask_cluster_are_forked_and_are_like_others(tmp_path: Path, nothing_left: None) -> None:
    ends = os.fsencode(tmp_path / "ends")
    backend = Dask(max_workers=2)
    size, traits = backend.start()
    try:
        held, go = _block(Started(backend=backend, size=size, traits=traits), tmp_path, 2)
        workers = [int((tmp_path / f"started-{index}").read_text()) for index in range(2)]
        go.touch()
        (server,) = {psutil.Process(pid).ppid() for pid in workers}
        cluster = _cluster_process()
        assert psutil.Process(server).ppid() == cluster.pid
        wait(held, 60)
        first_of = dict(reversed([backend.submit(calls.draw, None).result(60) for _ in range(20)]))
        assert len({number for numbers in first_of.values() for number in numbers}) == 2 * len(first_of)
        backend.submit(calls.append_at_exit, ends).result(60)
    finally:
        backend.stop(cancel=False)
    assert Path(os.fsdecode(ends)).read_bytes() == b"x"


def test_forked_dask_workers_have_the_environment_that_others_have() -> None:
    import dask
    import distributed  # noqa: F401 - it completes the configuration

    from anypool.backends._dask_fork import ENVIRONMENT

    said = dask.config.get("distributed.nanny.pre-spawn-environ")
    assert {name: str(value) for name, value in said.items()} == ENVIRONMENT


def test_a_dask_client_that_is_not_closed_in_time_gives_its_event_loop_back() -> None:
    class Late:
        def __init__(self) -> None:
            self.stopped: list[bool] = []
            self._loop_runner = SimpleNamespace(stop=lambda: self.stopped.append(True))

        def close(self) -> None:
            raise TimeoutError("timed out after 20 s.")

    client = Late()
    _dask_client._close(client)
    assert client.stopped == [True]


def test_two_dask_clusters_start_at_once_in_two_threads() -> None:
    done = _run_script(
        textwrap.dedent("""
            import threading
            import workers_calls as calls
            from anypool.backends.dask import Dask

            def use():
                backend = Dask(max_workers=1)
                backend.start()
                backend.submit(calls.echo, 1).result()
                backend.stop(cancel=False)
                print("used")

            threads = [threading.Thread(target=use) for _ in range(2)]
            [each.start() for each in threads]
            [each.join() for each in threads]
        """)
    )
    assert (done.stdout, done.stderr) == ("used\nused\n", "")


@pytest.mark.parametrize("when", ["starting", "idle", "busy"])
def test_a_local_dask_cluster_does_not_outlive_a_killed_caller(when: str, tmp_path: Path) -> None:
    steps = {
        "starting": "threading.Thread(target=backend.start, daemon=True).start(); until(children)",
        "idle": "backend.start()",
        "busy": "backend.start(); backend.submit(calls.wait_for, (mark, b'never')); until(lambda: exists(mark))",
    }
    script = f"""
        import os, psutil, sys, threading, time
        from os.path import exists
        import workers_calls as calls
        from anypool.backends.dask import Dask

        def children():
            return psutil.Process().children(recursive=True)

        def until(fact):
            while not fact():
                time.sleep(0.01)

        mark = {os.fsencode(tmp_path / "mark")!r}
        backend = Dask(max_workers=1)
        {steps[when]}
        print(os.getpid(), *[each.pid for each in children()], flush=True)
        calls.die(None)
    """
    done = _run_script(textwrap.dedent(script))
    caller, *pids = [int(each) for each in done.stdout.split()]
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(pids) >= (1 if when == "starting" else 2)
    _until(lambda: not any(_is_alive(pid) for pid in pids), lambda: "the cluster outlived its caller")
    assert list(Path(tempfile.gettempdir()).glob(f"anypool-dask-{caller}-*")) == []


def test_a_dask_cluster_in_threads_is_heard_and_reached_by_nobody() -> None:
    done = _run_script(
        textwrap.dedent("""
            import logging, psutil, sys
            import workers_calls as calls
            from anypool.backends.dask import Dask

            def state():
                loggers = [logging.root, *map(logging.getLogger, ("distributed", "distributed.scheduler", "tornado"))]
                return [(each.level, each.propagate, each.handlers[:], each.filters[:]) for each in loggers]

            logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(name)s %(message)s")
            logging.getLogger("distributed").setLevel(logging.NOTSET)
            before, path = state(), sys.path[:]
            backend = Dask(max_workers=2, processes=False)
            backend.start()
            print(backend.submit(calls.echo, 1).result())
            print([each for each in psutil.Process().net_connections() if each.status == psutil.CONN_LISTEN])
            backend.submit(logging.getLogger("distributed.worker").info, "of a call").result()
            backend.stop(cancel=False)
            print(state() == before, sys.path == path)
        """)
    )
    assert (done.stdout, done.stderr) == ("1\n[]\ndistributed.worker of a call\nTrue True\n", "")


def test_a_dead_scheduler_fails_its_calls_as_lost_and_its_client_leaves_no_thread(
    nothing_left: None, tmp_path: Path
) -> None:
    backend = Dask(max_workers=1, connect_timeout=5)
    size, traits = backend.start()
    (running,), _ = _block(Started(backend=backend, size=size, traits=traits), tmp_path, 1)
    cluster = _cluster_process()
    cluster.kill()
    assert isinstance(running.exception(60), traits.lost)
    later = backend.submit(calls.echo, 1)
    assert later.exception(60) is not None
    client = backend._client
    _until(lambda: client.status == "closed", lambda: "the client does not give up")
    backend.stop(cancel=True)
    assert client.loop not in type(client._loop_runner)._all_loops


def test_a_scheduler_that_is_not_there_is_a_start_error_with_its_address(nothing_left: None) -> None:
    begun = time.monotonic()
    with pytest.raises(StartError, match="tcp://127.0.0.1:9"):
        Dask(address="tcp://127.0.0.1:9", connect_timeout=1).start()
    assert time.monotonic() - begun < 60


def test_two_ways_to_a_cluster_are_a_config_error() -> None:
    with pytest.raises(ConfigError, match="address and cluster"):
        Dask(address="tcp://host:8786", cluster="module.Class")
    with pytest.raises(ConfigError, match="cluster_options"):
        Dask(cluster_options={"cores": 2})


@pytest.mark.parametrize("name", ["nowhere.Class", "Class", "distributed:Nothing"])
def test_a_cluster_class_that_is_not_there_is_a_config_error(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Dask(cluster=name).start()


@pytest.fixture
def users_cluster(nothing_left: None, tmp_path: Path) -> Iterator[Any]:
    import distributed

    with distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard": False},
        memory_limit=0,
        local_directory=str(tmp_path),
    ) as cluster:
        yield cluster


def test_a_cluster_and_a_client_of_the_users_stay_open(users_cluster: Any) -> None:
    import distributed

    with distributed.Client(users_cluster, set_as_default=False) as client:
        for options in ({"cluster": users_cluster}, {"client": client}):
            backend = Dask(**options)
            size, traits = backend.start()
            assert (size, traits.remote, traits.concurrent_in_process) == (2, True, True)
            assert traits.reruns_lost_calls
            assert backend.submit(calls.echo, 1).result(60) == 1
            backend.stop(cancel=True)
        assert client.submit(pow, 2, 3).result(60) == 8


def test_a_payload_that_equals_a_live_key_stays_itself(users_cluster: Any) -> None:
    import distributed

    with distributed.Client(users_cluster, set_as_default=False) as client:
        live = client.submit(pow, 2, 3, key="live")
        assert live.result(60) == 8
        backend = Dask(client=client)
        backend.start()
        assert backend.submit(calls.echo, "live").result(60) == "live"
        assert backend.submit(calls.echo, ["live", {"live": "live"}]).result(60) == ["live", {"live": "live"}]
        backend.stop(cancel=False)


def test_results_are_not_kept_on_the_cluster(users_cluster: Any) -> None:
    backend = Dask(cluster=users_cluster)
    backend.start()
    wait([backend.submit(calls.echo, index) for index in range(10)], 60)
    _until(lambda: not users_cluster.scheduler.tasks, lambda: f"kept: {list(users_cluster.scheduler.tasks)}")
    backend.stop(cancel=False)


@pytest.fixture
def running_scheduler(nothing_left: None, tmp_path: Path) -> Iterator[tuple[str, Callable[..., None]]]:
    """A scheduler in a process of its own, by Dask's command line; and what starts a worker for it."""
    children: list[subprocess.Popen[bytes]] = []
    log = (tmp_path / "log").open("wb")

    def start(*arguments: str, path: str = "") -> None:
        command = [sys.executable, "-m", "dask", *arguments]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [path, str(SOURCES), str(HERE)])),
        }
        children.append(
            subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True)
        )

    def start_worker(*, path: str = "") -> None:
        options = [
            "--nthreads",
            "1",
            "--no-dashboard",
            "--memory-limit",
            "0",
            "--local-directory",
            str(tmp_path),
        ]
        start("worker", address(), *options, path=path)

    def address() -> str:
        import json

        _until(contact.exists, lambda: (tmp_path / "log").read_text())
        _until(lambda: contact.read_text().endswith("}"), lambda: "the scheduler's file is incomplete")
        found: str = json.loads(contact.read_text())["address"]
        return found

    contact = tmp_path / "scheduler.json"
    start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(contact))
    try:
        yield address(), start_worker
    finally:
        for child in children:
            child.terminate()
        for child in children:
            try:
                child.wait(60)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        log.close()


def test_a_cluster_started_by_its_own_command_line_is_used(running_scheduler: Any) -> None:
    address, start_worker = running_scheduler
    start_worker()
    start_worker()
    import distributed

    with distributed.Client(address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
    backend = Dask(**Dask.from_url(address.removeprefix("tcp://")), connect_timeout=30)
    size, traits = backend.start()
    assert (size, traits.remote, traits.in_caller) == (2, True, False)
    futures = [backend.submit(calls.echo, index) for index in range(20)]
    assert [future.result(60) for future in futures] == list(range(20))
    assert backend.submit(calls.pid, None).result(60) != os.getpid()
    backend.stop(cancel=False)


def test_a_scheduler_without_workers_is_a_start_error(running_scheduler: Any) -> None:
    address, _ = running_scheduler
    with pytest.raises(StartError, match=f"{address} had no worker"):
        Dask(address=address, connect_timeout=5).start()  # time for the scheduler itself to answer


def test_a_worker_without_anypool_is_named_before_the_first_call(running_scheduler: Any, tmp_path: Path) -> None:
    address, start_worker = running_scheduler
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    (shadow / "anypool.py").write_text("raise ImportError('not here')")
    start_worker(path=str(shadow))
    with pytest.raises(VersionMismatch, match=r"worker at tcp://127\.0\.0\.1:\d+ cannot import it.*pip install"):
        Dask(address=address, connect_timeout=30).start()


def test_a_worker_with_another_version_is_named(users_cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import anypool.backends._dask_client as module

    # Workers of this cluster are threads here, so each look finds another version.
    versions = iter(["1.0", "0.9"])
    monkeypatch.setattr(calls, "next_version", lambda: next(versions), raising=False)
    monkeypatch.setattr(module, "_VERSION", "__import__('workers_calls').next_version()")
    with pytest.raises(VersionMismatch, match=r"anypool 1\.0.*has 0\.9.*anypool==1\.0"):
        Dask(cluster=users_cluster).start()


def test_a_lost_worker_of_a_local_dask_cluster_says_how_it_ended(nothing_left: None) -> None:
    backend = Dask(max_workers=2)
    backend.start()
    try:
        pid = backend.submit(calls.pid, None).result(60)
        killed = backend.submit(calls.die, None).exception(60)
        assert isinstance(killed, WorkerDied)
        assert (killed.exitcode, killed.host) == (-signal.SIGKILL, socket.gethostname())
        crashed = backend.submit(calls.crash, None).exception(60)
        assert isinstance(crashed, WorkerDied)
        assert "SIGSEGV (-11)" in str(crashed)
        assert "in crash" in str(crashed)
        assert pid in (killed.pid, crashed.pid)
    finally:
        backend.stop(cancel=True)


def test_one_call_of_a_local_dask_cluster_is_stopped(tmp_path: Path, nothing_left: None) -> None:
    backend = Dask(max_workers=2)
    size, traits = backend.start()
    try:
        (stopped, other), go = _block(Started(backend=backend, size=size, traits=traits), tmp_path, 2)
        waiting = [backend.submit(calls.echo, index) for index in range(3)]
        assert not any(backend.stop_call(future) for future in waiting)
        assert backend.stop_call(stopped)
        assert isinstance(stopped.exception(60), WorkerDied)
        go.touch()
        assert other.result(60)
        assert [future.result(60) for future in waiting] == [0, 1, 2]
        assert not backend.stop_call(stopped)
    finally:
        backend.stop(cancel=True)
