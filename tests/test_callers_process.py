"""The caller's process is left as it was found, whatever the backend, and so is a child that it forks.

Each backend is looked at in a fresh interpreter: what its library changes when it is imported happens once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

import anypool

BACKENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "serial": ("serial", {}),
    "threads": ("threads", {"max_workers": 2}),
    "processes": ("processes", {"max_workers": 2}),
    "processes-spawn": ("processes", {"max_workers": 2, "start_method": "spawn"}),
    "processes-fork": ("processes", {"max_workers": 2, "start_method": "fork"}),
    "loky": ("loky", {"max_workers": 2}),
    "joblib": ("joblib", {"max_workers": 2}),
    "joblib-threading": ("joblib", {"max_workers": 2, "native": "threading"}),
    "joblib-multiprocessing": ("joblib", {"max_workers": 2, "native": "multiprocessing"}),
    "dask": ("dask", {"max_workers": 2}),
    "dask-threads": ("dask", {"max_workers": 2, "processes": False}),
}
LIBRARIES = {"loky": "loky", "joblib": "joblib", "dask": "distributed"}

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/net"), reason="this system has no /proc")


@pytest.fixture(params=BACKENDS)
def choice(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Name and options of a backend."""
    name, options = BACKENDS[request.param]
    if name in LIBRARIES and find_spec(LIBRARIES[name]) is None:
        pytest.skip(f"{LIBRARIES[name]} is not installed")
    return name, options


def run(script: str, choice: tuple[str, dict[str, Any]], place: Path) -> Any:
    """What `script` printed last, as JSON."""
    head = f"name, options = {choice!r}\n"
    file = place / "script.py"
    file.write_text(head + textwrap.dedent(script))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(file)],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


WHOLE_LIFE = """
    import asyncio, decimal, gc, json, locale, logging, multiprocessing, os, random, signal, socket, sys, tempfile
    import threading, time, warnings
    import numpy as np
    import anypool

    OWN = ("distributed", "tornado")  # which distributed configures for itself, as its libraries

    def state():
        loggers = [logging.root, *(each for each in logging.root.manager.loggerDict.values() if hasattr(each, "level"))]
        return {
            "environment": dict(os.environ),
            "signal handlers": {each.name: repr(signal.getsignal(each)) for each in signal.valid_signals()
                                if isinstance(each, signal.Signals)},
            "working folder": os.getcwd(),
            "umask": (mask := os.umask(0o22), os.umask(mask))[0],
            "sys.path": list(sys.path),
            "streams": [repr(each) for each in (sys.stdin, sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)],
            "hooks": [repr(each) for each in (sys.excepthook, sys.unraisablehook, threading.excepthook,
                                              warnings.showwarning, sys.gettrace(), sys.getprofile())],
            "random": hash(random.getstate()),
            "numpy.random": repr(np.random.get_state()),
            "levels and handlers": {
                each.name: [each.level, [repr(one) for one in each.handlers if type(one) is not logging.NullHandler]]
                for each in loggers if (each.level or each.handlers) and each.name.partition(".")[0] not in OWN
            },
            "logging": [logging.root.manager.disable, repr(logging.getLoggerClass()), logging.raiseExceptions,
                        repr(logging.getLogRecordFactory())],
            "filters": [repr(each) for each in warnings.filters],
            "start method": multiprocessing.get_start_method(allow_none=True),
            "defaults": [socket.getdefaulttimeout(), sys.getrecursionlimit(), sys.getswitchinterval(),
                         gc.get_threshold(), gc.isenabled(), threading.stack_size(), locale.setlocale(locale.LC_ALL),
                         time.tzname, tempfile.gettempdir(), repr(decimal.getcontext())],
            "event loop policy": repr(asyncio.get_event_loop_policy()),
        }

    def changes(before, after):
        if not isinstance(before, dict):
            return [before, after]
        return {each: [before.get(each), after.get(each)] for each in {**before, **after}
                if before.get(each) != after.get(each)}

    def talk(item):
        print("prints", item)
        warnings.warn(f"warns {item}")
        logging.getLogger("of.a.call").warning("logs %s", item)
        if item == 3:
            raise LookupError(item)
        return item

    def live():
        with anypool.get_executor(name, **options) as executor:
            handle = executor.share(np.arange(200_000))
            assert executor.submit(lambda handle: int(handle.get().sum()), handle).result() == 19999900000
            assert executor.submit(talk, 1).result() == 1
            got = list(executor.map(talk, range(8), chunksize=2, errors="return"))
            assert isinstance(got.pop(3), LookupError) and got == [0, 1, 2, 4, 5, 6, 7]
            list(executor.map(abs, range(8), seed=1))
            futures = [executor.submit(time.sleep, 0.01) for _ in range(9)]
            futures[-1].cancel()

    np.random.seed(1), random.seed(1)
    logging.getLogger("mine").setLevel(logging.ERROR)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    warnings.filterwarnings("always", message="mine")
    before = state()
    live()
    after = state()
    print(json.dumps({each: changes(before[each], after[each]) for each in before if before[each] != after[each]}))
"""


def test_the_callers_process_is_as_it_was(choice: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    assert run(WHOLE_LIFE, choice, tmp_path) == {}


FORKED = """
    import concurrent.futures, faulthandler, json, os, sys, time
    import anypool

    def wait_for(path):
        while not os.path.exists(path):
            time.sleep(0.01)
        return path

    def seen(action):
        began = time.monotonic()
        try:
            answer = repr(action())
        except BaseException as exc:
            answer = type(exc).__name__
        return [answer, time.monotonic() - began < 60]

    def in_child(out):
        faulthandler.dump_traceback_later(200, exit=True)
        told = {
            "submit": seen(lambda: executor.submit(abs, 1)),
            "map": seen(lambda: next(executor.map(abs, [1]))),
            "share": seen(lambda: executor.share([1])),
            "a view": seen(lambda: executor.options(seed=1).submit(abs, 1)),
            "running": seen(lambda: running[0].result(100)),
            "queued": seen(lambda: running[-1].result(100)),
            "exception": seen(lambda: type(running[-1].exception(100)).__name__),
            "cancel": seen(lambda: running[-1].cancel()),
            "wait": seen(lambda: len(concurrent.futures.wait(running, timeout=100).not_done)),
            "an open map": seen(lambda: next(results)),
            "done before": seen(lambda: done.result(100)),
            "shutdown": seen(executor.shutdown),
        }
        os.write(out, json.dumps(told).encode())

    synchronous = name == "serial"
    with anypool.get_executor(name, **options) as executor:
        done = executor.submit(abs, -1)
        assert done.result() == 1
        if synchronous:
            open("gate", "w").close()
        running = [executor.submit(wait_for, "gate") for _ in range(9)]
        results = executor.map(wait_for, ["gate"] * 3, chunksize=1)
        called_back = []
        running[0].add_done_callback(called_back.append)
        mine, childs = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                in_child(childs)
            finally:
                os._exit(len(called_back) > synchronous)
        os.close(childs)
        with open(mine, "rb") as file:
            told = json.loads(file.read() or "null")
        _, status = os.waitpid(child, 0)
        open("gate", "w").close()
        assert [each.result(60) for each in running] == ["gate"] * 9
        assert list(results) == ["gate"] * 3
        assert executor.submit(abs, -2).result(60) == 2
    assert len(called_back) == 1  # at the latest by the end of the executor
    print(json.dumps([status, told]))
"""


@needs_fork
def test_in_a_forked_child_an_inherited_executor_says_so_and_nothing_hangs(
    choice: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    status, told = run(FORKED, choice, tmp_path)
    assert status == 0
    assert [name for name, (_, at_once) in told.items() if not at_once] == []
    answers = {name: answer for name, (answer, _) in told.items()}
    ended = choice[0] == "serial"  # it has run all calls before they could be inherited
    pending = "'gate'" if ended else "ExecutorClosed"
    assert answers == {
        **dict.fromkeys(("submit", "map", "share", "a view"), "ExecutorClosed"),
        **dict.fromkeys(("running", "queued", "an open map"), pending),
        "exception": "'NoneType'" if ended else "'ExecutorClosed'",
        "cancel": "False",
        "wait": "0",
        "done before": "1",
        "shutdown": "None",
    }


@pytest.fixture
def executor(choice: tuple[str, dict[str, Any]]) -> Iterator[Any]:
    """A running executor."""
    name, options = choice
    with anypool.get_executor(name, **options) as executor:
        assert executor.submit(abs, -1).result(100) == 1
        yield executor


@needs_proc
@pytest.mark.filterwarnings("ignore:start_method='fork' while:RuntimeWarning")
def test_nothing_listens_where_another_machine_could_reach_it(executor: Any) -> None:
    own = psutil.Process()
    listening = [
        connection.laddr
        for process in (own, *own.children(recursive=True))
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert [address for address in listening if address.ip not in ("127.0.0.1", "::1")] == []
    assert bool(listening) == (executor.backend == "dask" and not executor.traits.in_caller) or not listening


@pytest.mark.filterwarnings("ignore:start_method='fork' while:RuntimeWarning")
def test_two_threads_that_start_one_executor_start_one_pool(
    choice: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, options = choice
    with anypool.get_executor(name, **options) as executor:
        backend = executor._backend
        starts: list[int] = []
        start = backend.start
        monkeypatch.setattr(backend, "start", lambda: (starts.append(1), start())[1])
        ready = threading.Barrier(4)
        got: list[int] = []

        def call(item: int) -> None:
            ready.wait(100)
            got.append(executor.submit(abs, -item).result(100))

        threads = [threading.Thread(target=call, args=(item,)) for item in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(200)
        assert sorted(got) == [0, 1, 2, 3]
        assert len(starts) <= 1
