"""Progress: what is shown where, who decides, and that no display harms a map. For each backend see the suite."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
import warnings

import pytest

import anypool
from anypool._notes_inbox import Inbox
from anypool._progress_displays import KINDS, display_of
from anypool._progress_meter import Meter
from anypool.errors import ConfigError, MissingExtra

KINDS_HERE = ["text", "log", *(kind for kind in ("tqdm", "rich") if __import__("importlib").util.find_spec(kind))]


def double(x):
    return 2 * x


def report_then_double(x):
    anypool.report(f"halfway with {x}", 0.5)
    return 2 * x


@pytest.fixture
def ex():
    with anypool.get_executor("threads", max_workers=2) as executor:
        yield executor


# --- who decides ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["none", "false", "0"])
def test_the_environment_silences_what_a_library_shows(ex, kind, monkeypatch, capfd):
    monkeypatch.setenv("ANYPOOL_PROGRESS", kind)
    assert list(ex.map(double, range(5), progress=True)) == [0, 2, 4, 6, 8]
    assert capfd.readouterr() == ("", "")


def test_the_environment_picks_the_kind_of_what_a_library_shows(ex, monkeypatch, capfd):
    monkeypatch.setenv("ANYPOOL_PROGRESS", "text")
    list(ex.map(double, range(5), progress=True))
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("double: 5 of 5 items [########################] 100%")


def test_a_file_picks_the_kind(ex, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("ANYPOOL_CONFIG", str(tmp_path / "anypool.toml"))
    (tmp_path / "anypool.toml").write_text('progress = "text"\n')
    list(ex.map(double, range(5), progress=True))
    assert "5 of 5" in capfd.readouterr().err


def test_a_block_picks_the_kind_and_is_stronger_than_the_environment(ex, monkeypatch):
    seen = []
    monkeypatch.setenv("ANYPOOL_PROGRESS", "text")
    with anypool.use(progress=seen.append):
        list(ex.map(double, range(5), progress=True))
    assert seen[-1].done == 5


def test_a_kind_named_in_the_code_is_taken_as_it_is(ex, monkeypatch, capfd):
    monkeypatch.setenv("ANYPOOL_PROGRESS", "none")
    list(ex.map(double, range(5), progress="text"))
    assert "5 of 5" in capfd.readouterr().err


def test_the_environment_shows_progress_that_nobody_asked_for(monkeypatch, capfd):
    monkeypatch.setenv("ANYPOOL_PROGRESS", "text")
    with anypool.get_executor("serial") as executor:
        list(executor.map(double, range(5)))
        assert "5 of 5" in capfd.readouterr().err
        list(executor.map(double, range(5), progress=False))
        assert capfd.readouterr().err == ""


def test_nothing_is_shown_by_default(ex, capfd):
    list(ex.map(double, range(5)))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("bad", ["bar", 3, None])
def test_what_is_no_kind_is_refused_at_once(ex, bad):
    with pytest.raises(ConfigError, match="progress"):
        ex.map(double, range(5), progress=bad)


def test_a_kind_whose_library_is_missing_says_how_to_get_it(ex, monkeypatch):
    monkeypatch.setattr("anypool._progress_displays._has", lambda module: module not in ("rich", "ipywidgets"))
    for kind in ("rich", "notebook"):
        with pytest.raises(MissingExtra, match=r"anypool\[progress\]"):
            ex.map(double, range(5), progress=kind)
    assert ex.submit(double, 2).result() == 4


@pytest.mark.parametrize(
    ("installed", "kind"),
    [({"tqdm", "rich"}, "_Tqdm"), ({"rich"}, "_Rich"), (set(), "_Text")],
    ids=["both", "rich alone", "none"],
)
def test_what_is_installed_is_shown(installed, kind, monkeypatch):
    monkeypatch.setattr("anypool._progress_displays._has", installed.__contains__)
    made = {"tqdm": "_Tqdm", "rich": "_Rich", "text": "_Text"}
    for name, cls in made.items():
        monkeypatch.setitem(KINDS, name, lambda *_, cls=cls: cls)
    assert display_of(True, "f", 3) == kind


# --- the displays ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS_HERE)
def test_a_display_leaves_stdout_alone_and_says_what_was_done(ex, kind, capfd, caplog):
    caplog.set_level(logging.INFO, "anypool.progress")
    assert list(ex.map(report_then_double, range(5), progress=kind)) == [0, 2, 4, 6, 8]
    out, err = capfd.readouterr()
    assert out == ""
    shown = caplog.text if kind == "log" else err
    assert "report_then_double" in shown
    assert "5/5" in shown or "5 of 5" in shown


@pytest.mark.parametrize("kind", KINDS_HERE)
def test_a_display_takes_an_input_without_length_an_empty_one_and_an_error(ex, kind, capfd):
    assert list(ex.map(double, iter(range(5)), progress=kind)) == [0, 2, 4, 6, 8]
    assert list(ex.map(double, [], progress=kind)) == []
    with pytest.raises(ZeroDivisionError):
        list(ex.map(lambda x: 1 // x, [1, 0, 2], progress=kind))
    assert [type(y) for y in ex.map(lambda x: 1 // x, [1, 0], errors="return", progress=kind)] == [
        int,
        ZeroDivisionError,
    ]


@pytest.mark.parametrize("kind", KINDS_HERE)
def test_two_maps_at_once_have_a_display_each(ex, kind, capfd):
    both = zip(ex.map(double, range(5), progress=kind), ex.map(abs, range(5), progress=kind), strict=True)
    assert list(both) == [(0, 0), (2, 1), (4, 2), (6, 3), (8, 4)]


@pytest.mark.parametrize("kind", KINDS_HERE)
def test_a_display_leaves_no_thread(kind, capfd):
    with anypool.get_executor("serial") as serial:
        before = set(threading.enumerate())
        list(serial.map(double, range(5), progress=kind))
        assert set(threading.enumerate()) <= before


@pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal is POSIX")
@pytest.mark.parametrize("kind", [kind for kind in KINDS_HERE if kind != "log"])
def test_on_a_terminal_what_calls_print_is_not_mixed_with_the_bar(kind, tmp_path):
    """The bar is on the terminal, stdout in a file: which has the lines and nothing else."""
    import fcntl
    import pty
    import struct
    import termios

    script = tmp_path / "script.py"
    script.write_text(
        "import anypool\n"
        "def say(x):\n    print(f'hello {x}')\n    return x\n"
        "with anypool.get_executor('processes', max_workers=2) as ex:\n"
        f"    assert list(ex.map(say, range(20), progress={kind!r})) == list(range(20))\n"
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    with open(tmp_path / "out", "wb") as out:
        child = subprocess.Popen([sys.executable, str(script)], stdout=out, stderr=theirs, stdin=theirs)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65_536):
            shown += piece
    except OSError:  # the other end is closed: so Linux says it
        pass
    os.close(ours)
    assert child.wait(timeout=240) == 0, shown
    assert (tmp_path / "out").read_text() == "".join(f"hello {x}\n" for x in range(20))
    assert b"20" in shown
    assert b"hello" not in shown


def test_a_closed_stderr_harms_no_map(ex, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert list(ex.map(double, range(5), progress="text")) == [0, 2, 4, 6, 8]


# --- callables ------------------------------------------------------------------------------------------


def test_a_callable_that_raises_where_warnings_are_errors_loses_no_result(ex):
    def fail(progress):
        raise LookupError("of the display")

    results = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="of the display") as caught:
            for result in ex.map(double, range(50), progress=fail):
                results.append(result)
    assert results == [2 * x for x in range(50)]
    assert isinstance(caught.value.__cause__, LookupError)


def test_ctrl_c_in_a_callable_is_the_callers(ex):
    def interrupt(progress):
        if progress.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(ex.map(double, range(50), progress=interrupt))
    assert ex.submit(double, 2).result() == 4


def test_a_callable_may_use_the_executor(ex):
    seen = []
    assert list(ex.map(double, range(5), progress=lambda _: seen.append(ex.submit(double, 2).result()))) == [
        0,
        2,
        4,
        6,
        8,
    ]
    assert set(seen) == {4}


def test_a_callable_is_called_in_the_callers_context(ex):
    import contextvars

    var = contextvars.ContextVar("var", default="unset")
    var.set("the caller's")
    seen = []
    with anypool.get_executor("serial") as serial:
        list(serial.map(report_then_double, range(3), progress=lambda _: seen.append(var.get())))
    assert set(seen) == {"the caller's"}


def test_what_a_display_prints_during_a_call_is_not_the_calls_output(capsys):
    def slow(x):
        for _ in range(3):
            time.sleep(0.05)
            anypool.report("working")
        return x

    with anypool.get_executor("serial") as serial:
        results = list(serial.map(slow, range(2), progress=lambda p: print(f"[{p.done} {len(p.notes)}]", end="")))
    assert results == [0, 1]
    assert "[0 1]" in capsys.readouterr().out


# --- report ---------------------------------------------------------------------------------------------


def test_outside_of_a_call_a_report_does_nothing(capfd):
    anypool.report("nobody hears it", 0.5)
    anypool.report()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan"), 40])
def test_a_fraction_outside_of_0_to_1_is_refused(fraction):
    with pytest.raises(ValueError, match="between 0 and 1"):
        anypool.report("epoch 3", fraction)


@pytest.mark.parametrize("text", ["", "a\nb\tc", "x" * 10_000, "\udce4", "50 % of it"])
def test_any_text_arrives_in_one_line(text):
    notes = []

    def work(x):
        for _ in range(50):
            anypool.report(text, 1)
            time.sleep(0.005)
        return x

    with anypool.get_executor("processes", max_workers=1) as executor:
        list(executor.map(work, [0], progress=lambda p: notes.extend(p.notes)))
    expected = " ".join(text[:200].split()).encode(errors="replace").decode()
    assert {(note.text, note.fraction) for note in notes} == {(expected, 1.0)}


def test_a_note_that_was_cut_is_passed_over():
    seen = []
    lines = [[["n", "1", "0.5", "whole"], ["n", "x"], ["c"], ["n", "2"], ["?"]]]
    meter = Meter(display_of(seen.append, "f", 3), lambda: lines.pop() if lines else [], name="f", total=3, close=list)
    meter.began()
    assert [str(note) for note in seen[0].notes] == ["item 1: whole 50%"]


def test_more_reports_than_anybody_reads_do_not_stop_a_call():
    def shout(x):
        for _ in range(20_000):
            anypool.report("x" * 200)
        return x

    with anypool.get_executor("processes", max_workers=2) as executor:
        assert list(executor.map(shout, range(2), progress=lambda _: None)) == [0, 1]


def test_an_inbox_leaves_nothing_open():
    with anypool.get_executor("processes", max_workers=1) as executor:
        assert executor.submit(double, 1).result() == 2  # its worker is there
        before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
        for _ in range(20):
            inbox = Inbox(executor._backend, executor.traits, lambda: None)
            inbox.close()
            inbox.close()
        assert (len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0) == before


def test_submitted_calls_may_report_and_nothing_is_shown(ex, capfd):
    assert ex.submit(report_then_double, 2).result() == 4
    assert capfd.readouterr() == ("", "")


# --- submitted calls ------------------------------------------------------------------------------------


def reciprocal(x):
    return 1 / x


@pytest.mark.parametrize("backend", ["serial", "threads", "processes"])
def test_submitted_calls_are_counted_together_until_the_executor_ends(backend):
    seen = []
    with anypool.get_executor(backend, max_workers=2, progress=seen.append) as executor:
        futures = [executor.submit(double, 2), executor.submit(reciprocal, 0), executor.submit(pow, 2, exp=3)]
        assert (futures[0].result(), futures[2].result()) == (4, 8)
        assert isinstance(futures[1].exception(), ZeroDivisionError)
    last = seen[-1]
    assert (last.name, last.done, last.total, last.failed, last.is_over) == ("submitted calls", 3, 3, 1, True)
    assert not any(each.is_over for each in seen[:-1])
    assert "anypool-progress" not in [each.name for each in threading.enumerate()]


def test_submitted_calls_that_cannot_be_sent_are_counted_as_failed():
    seen, lock = [], threading.Lock()
    with anypool.get_executor("processes", max_workers=1, progress=seen.append, trace=True) as executor:
        futures = [executor.submit(lambda x: (lock, x), 1), executor.submit(double, lock), executor.submit(double, 2)]
        assert [type(each.exception()) for each in futures] == [anypool.SendError, anypool.SendError, type(None)]
    assert (seen[-1].done, seen[-1].total, seen[-1].failed) == (3, 3, 2)
    report = executor.report()
    assert (report.calls, report.failed) == (1, 2)
    assert "1 call, 2 failed (2 of them not sent, or lost) in" in str(report)


def test_a_bar_of_submitted_calls_says_at_the_end_what_was_done(monkeypatch, capfd):
    monkeypatch.setenv("ANYPOOL_PROGRESS", "text")
    with anypool.get_executor("threads", max_workers=2) as executor:
        assert [future.result() for future in [executor.submit(double, x) for x in range(5)]] == [0, 2, 4, 6, 8]
    assert "submitted calls: 5 of 5 items" in capfd.readouterr().err


def test_maps_and_submitted_calls_have_displays_of_their_own():
    seen = []
    with anypool.get_executor("threads", max_workers=2, progress=seen.append) as executor:
        executor.submit(double, 1).result()
        list(executor.map(double, range(4)))
    assert {(each.name, each.done) for each in seen if each.is_over} == {("double", 4), ("submitted calls", 1)}


def test_an_executor_that_only_maps_has_no_display_of_submitted_calls(ex):
    seen = []
    list(ex.map(double, range(4), progress=seen.append))
    assert {each.name for each in seen} == {"double"}


def test_a_cancelled_call_is_not_waited_for(tmp_path):
    seen = []
    with anypool.get_executor("threads", max_workers=1, progress=seen.append) as executor:
        gate = threading.Event()
        futures = [executor.submit(gate.wait) for _ in range(5)]
        assert futures[-1].cancel()
        gate.set()
    assert (seen[-1].done, seen[-1].total, seen[-1].failed) == (4, 4, 0)


def test_views_of_one_executor_count_together():
    seen = []
    with anypool.get_executor("threads", max_workers=2) as executor:
        for x in range(3):
            executor.options(progress=seen.append).submit(double, x).result()
    assert (seen[-1].done, seen[-1].total) == (3, 3)
    assert len([each for each in seen if each.is_over]) == 1


def test_a_callable_may_wait_for_other_submitted_calls():
    answers = []

    with anypool.get_executor("processes", max_workers=1) as executor:
        view = executor.options(progress=lambda progress: answers.append(executor.submit(double, 1).result(60)))
        assert [future.result(60) for future in [view.submit(double, x) for x in range(3)]] == [0, 2, 4]
        deadline = time.monotonic() + 60
        while not answers:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        # The last look is at the end, where no call can be made any more.
        with pytest.warns(RuntimeWarning, match=r"'submitted calls' is not shown any more.*ExecutorClosed"):
            executor.shutdown()
    assert set(answers) == {2}


def test_a_callable_that_raises_harms_no_submitted_call():
    calls = []

    def fail(progress):
        calls.append(progress.done)
        raise LookupError("of the display")

    with pytest.warns(RuntimeWarning, match=r"is not shown any more.*LookupError\('of the display'\)") as caught:
        with anypool.get_executor("threads", max_workers=2, progress=fail) as executor:
            assert [future.result() for future in [executor.submit(double, x) for x in range(9)]] == list(
                range(0, 18, 2)
            )
    assert len(caught) == 1
    assert len(calls) == 1


def test_an_executor_that_nobody_holds_takes_its_display_down():
    seen = []
    executor = anypool.get_executor("threads", max_workers=1, progress=seen.append)
    assert executor.submit(double, 1).result() == 2
    del executor
    deadline = time.monotonic() + 60
    while not seen or not seen[-1].is_over:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_progress_of_what_has_n_jobs_is_shown_too(monkeypatch, capfd):
    joblib = pytest.importorskip("joblib")
    anypool.register_joblib()
    monkeypatch.setenv("ANYPOOL_PROGRESS", "text")
    monkeypatch.setenv("ANYPOOL_BACKEND", "threads")
    with joblib.parallel_config(backend="anypool"):
        assert joblib.Parallel(n_jobs=2)(joblib.delayed(double)(x) for x in range(4)) == [0, 2, 4, 6]
    anypool.close_idle()
    assert "submitted calls: " in capfd.readouterr().err


# --- inside of calls ------------------------------------------------------------------------------------


def nested(x):
    with anypool.get_executor("serial") as inner:
        return sum(inner.map(double, range(x), progress=True))


@pytest.mark.parametrize("backend", ["serial", "threads", "processes"])
def test_a_map_inside_of_a_call_shows_nothing(backend, monkeypatch, capfd):
    monkeypatch.setenv("ANYPOOL_PROGRESS", "text")
    with anypool.get_executor(backend, max_workers=1, progress=False) as executor:
        assert list(executor.map(nested, [3, 4])) == [6, 12]
    assert capfd.readouterr() == ("", "")


# --- free when off --------------------------------------------------------------------------------------


def test_nothing_of_it_is_loaded_where_nobody_watches():
    code = (
        "import sys, anypool\n"
        "with anypool.get_executor('serial') as ex:\n"
        "    list(ex.map(abs, range(100)))\n"
        "print([n for n in sys.modules if n.startswith('anypool._progress') or n in ('anypool._observed', "
        "'anypool._observers', 'tqdm', 'rich', 'anypool._trace', 'anypool._report')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
