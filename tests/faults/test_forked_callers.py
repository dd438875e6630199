"""A child that the caller forks at any step of a call's delivery: whoever waits there for an answer has one."""

from __future__ import annotations

import json
import os
import textwrap
from pathlib import Path

import pytest

from scripts import run_python

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

_ENDS = {"ExecutorClosed", "CancelledError", "OSError", "'said'", "'again'", "'gate'", "0"}

# Whatever thread comes to a line of ours, or of the stdlib's futures, waits there once for a fork of the main thread.
_SCRIPT = """
    import concurrent.futures, json, os, signal, sys, threading, time
    from pathlib import Path
    import anypool
    from anypool import _dispatch, _futures, _map, _task

    backend, what = sys.argv[1:]
    files = {module.__file__ for module in (_dispatch, _futures, _map, _task, concurrent.futures._base)}
    steps, answers, traced = set(), {}, set()
    wants, forked = threading.Semaphore(0), threading.Semaphore(0)
    at = [None]
    stops = threading.Event()

    def trace(frame, event, _):
        if frame.f_code.co_filename not in files or threading.get_ident() == main:
            return None
        place = (Path(frame.f_code.co_filename).name, frame.f_code.co_name, frame.f_lineno)
        if event == "line" and place not in steps and not stops.is_set():
            steps.add(place)
            at[0] = place
            wants.release()
            forked.acquire()
        return trace

    def answer(waits):
        try:
            return repr(waits())
        except BaseException as exc:
            return type(exc).__name__

    def child():
        signal.alarm(20)
        later = concurrent.futures.wait(futures, timeout=5).not_done
        told = [answer(lambda: each.result(5)) for each in futures]
        told += [answer(lambda: next(results)) for results in maps]
        told += [answer(lambda: executor.submit(abs, 1)), answer(executor.shutdown), len(later)]
        return told

    def fork_at_each_step(thread):
        while thread.is_alive() or not wants.acquire(blocking=False):
            if not wants.acquire(timeout=0.05):
                if not thread.is_alive() and all(each.done() for each in futures):
                    return
                continue
            mine, childs = os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    os.write(childs, json.dumps(child()).encode())
                finally:
                    os._exit(0)
            os.close(childs)
            with open(mine, "rb") as file:
                told = file.read()
            os.waitpid(pid, 0)
            answers["%s %s %d" % at[0]] = json.loads(told or b'["a hang", "", "", 0]')
            forked.release()

    def fail_once(path):
        if not os.path.exists(path):
            open(path, "w").close()
            raise OSError("once")
        return "again"

    def say(word):
        print(word)
        return word

    def act():
        sys.settrace(trace)
        if what == "cancel":
            for each in reversed(futures[1:]):
                each.cancel()
            open("gate", "w").close()
        elif what == "retry":
            futures.append(executor.options(retries=1).submit(fail_once, "once"))
        elif what == "shutdown":
            executor.shutdown(wait=False, cancel_futures=True)
            open("gate", "w").close()
        else:
            futures.append(executor.submit(say, "said"))
            futures.append(executor.submit(fail_once, "failed"))
        sys.settrace(None)

    def wait_for(path):
        while not os.path.exists(path):
            time.sleep(0.01)
        return path

    main = threading.get_ident()
    threading.settrace(trace)
    stops.set()
    futures, maps = [], []
    with anypool.get_executor(backend, max_workers=1) as executor:
        assert executor.submit(abs, -1).result() == 1
        maps.append(executor.map(abs, range(3), chunksize=1))
        if what in ("cancel", "shutdown"):
            futures += [executor.submit(wait_for, "gate") for _ in range(5)]
        stops.clear()
        thread = threading.Thread(target=act)
        thread.start()
        fork_at_each_step(thread)
        stops.set()
        forked.release(100)
        thread.join()
    print(json.dumps(answers))
"""


@pytest.mark.parametrize(
    "backend",
    ["threads", pytest.param("processes", marks=pytest.mark.soak)],  # the steps are nearly the same
)
@pytest.mark.parametrize("what", ["result", "retry", "cancel", "shutdown"])
def test_a_child_that_is_forked_at_any_step_has_an_answer_for_each_call(
    backend: str, what: str, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(textwrap.dedent(_SCRIPT))
    done = run_python(["script.py", backend, what], directory=tmp_path)
    answers = json.loads(done.stdout.splitlines()[-1])
    assert len(answers) > 50, done.stderr
    wrong = {}
    for step, told in answers.items():
        *results, submitted, shutdown, pending = told
        if not _ENDS.issuperset(results) or (submitted, shutdown, pending) != ("ExecutorClosed", "None", 0):
            wrong[step] = told
    assert wrong == {}
