"""Output comes home: captured where it runs, replayed by the caller, interleaved as it happened."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from contextvars import Context, copy_context
from typing import Any

import pytest

from anypool._relay import Capture, replay
from anypool._relay_events import Event
from anypool._relay_settings import RelaySettings
from anypool.errors import ConfigError

SETTINGS = RelaySettings()
HERE = RelaySettings(in_caller=True)

pytestmark = pytest.mark.filterwarnings("always")


@pytest.fixture(autouse=True)
def _everything_is_put_back() -> Iterator[None]:
    before = (sys.stdout, sys.stderr, warnings.showwarning, logging.Logger.handle)
    hook = getattr(warnings, "_showwarnmsg")  # noqa: B009
    yield
    assert (sys.stdout, sys.stderr, warnings.showwarning, logging.Logger.handle) == before
    assert getattr(warnings, "_showwarnmsg") is hook  # noqa: B009


def captured(call: Callable[[], Any], settings: RelaySettings = SETTINGS) -> list[Event]:
    """Run `call` as the core does, and return its events as a reply brings them home."""
    with Capture(settings, int) as capture:
        context = copy_context()
        capture.bind(context)
        context.copy().run(call)
    return capture.events if settings.in_caller else pickle.loads(pickle.dumps(capture.events))


def test_text_is_captured_and_replayed_in_the_order_of_the_call(capsys: pytest.CaptureFixture[str]) -> None:
    def call() -> None:
        print("a", "b")
        print("c")
        print("problem", file=sys.stderr)
        sys.stdout.writelines(["d", "e"])

    events = captured(call)
    assert capsys.readouterr() == ("", "")
    assert [(kind, text) for _, kind, text, _ in events] == [
        ("stdout", "a b\nc\n"),
        ("stderr", "problem\n"),
        ("stdout", "de"),
    ]
    replay(events, worker="w")
    assert capsys.readouterr() == ("a b\nc\nde", "problem\n")


def test_each_event_has_the_offset_of_the_item_whose_call_was_running() -> None:
    offset = 0
    with Capture(SETTINGS, lambda: offset) as capture:
        context = copy_context()
        capture.bind(context)
        for offset in range(3):
            context.copy().run(print, "item", offset)
    assert [event[:3] for event in capture.events] == [
        (0, "stdout", "item 0\n"),
        (1, "stdout", "item 1\n"),
        (2, "stdout", "item 2\n"),
    ]


def test_what_the_caller_prints_while_a_capture_is_open_is_not_captured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Capture(SETTINGS, int) as capture:
        capture.bind(copy_context())
        print("mine")
    assert capture.events == []
    assert capsys.readouterr().out == "mine\n"


def test_threads_with_a_capture_each_do_not_mix() -> None:
    count = 8
    together = threading.Barrier(count)
    results: dict[int, list[Event]] = {}

    def write(number: int) -> None:
        for line in range(50):
            print(number, line)
            if line % 10 == 0:
                together.wait(60)
        logging.getLogger("threads").warning("log %d", number)
        warnings.warn(f"warning {number}", stacklevel=1)

    def work(number: int) -> None:
        results[number] = captured(lambda: write(number), HERE)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for number in range(count):
        text, log, warning = results[number]
        assert text[2] == "".join(f"{number} {line}\n" for line in range(50))
        assert log[3].getMessage() == f"log {number}"
        assert warning[3] == f"warning {number}"


def _in_a_thread(call: Callable[[], None]) -> None:
    thread = threading.Thread(target=lambda: Context().run(call))
    thread.start()
    thread.join(60)


def test_threads_that_a_call_starts_are_captured_where_the_process_is_the_calls_own() -> None:
    events = captured(lambda: _in_a_thread(lambda: print("inner")), RelaySettings(exclusive=True))
    assert [event[2] for event in events] == ["inner\n"]


def test_threads_that_a_call_starts_write_where_they_did_in_a_shared_process(
    capsys: pytest.CaptureFixture[str],
) -> None:
    events = captured(lambda: _in_a_thread(lambda: print("inner")))
    assert events == []
    assert capsys.readouterr().out == "inner\n"


def test_a_thread_that_outlives_its_call_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    go = threading.Event()
    started: list[threading.Thread] = []

    def call() -> None:
        context, stream = copy_context(), sys.stdout

        def late() -> None:
            go.wait(60)
            print("late", file=stream)

        thread = threading.Thread(target=lambda: context.run(late))
        started.append(thread)
        thread.start()

    assert captured(call) == []
    go.set()
    started[0].join(60)
    assert capsys.readouterr().out == "late\n"


@pytest.mark.parametrize("mode", ["live", "off"])
def test_what_is_not_relayed_goes_where_it_went_before(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    def call() -> None:
        print("out")
        print("err", file=sys.stderr)

    events = captured(call, RelaySettings.of({"stdout": mode}))
    assert [event[1] for event in events] == ["stderr"]
    assert capsys.readouterr() == ("out\n", "")


def test_a_nested_capture_replays_into_the_outer_one() -> None:
    def inner() -> None:
        print("inner")
        warnings.warn("inner", stacklevel=1)
        logging.getLogger("nested").error("inner")

    def outer() -> None:
        print("before")
        replay(captured(inner, HERE), worker="inside")
        print("after")

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        events = captured(outer, HERE)
        assert seen == []
        assert [event[1] for event in events] == ["stdout", "warnings", "logging", "stdout"]
        assert (events[0][2], events[3][2]) == ("before\ninner\n", "after\n")
        with contextlib.redirect_stdout(io.StringIO()):
            replay(events, worker="outside")
    assert [str(warning.message) for warning in seen] == ["inner"]
    assert events[2][3].anypool_worker == "inside"


def test_what_a_nested_capture_leaves_alone_reaches_the_outer_one() -> None:
    events = captured(lambda: captured(lambda: print("inner"), RelaySettings.of({"stdout": "live"})))
    assert [event[2] for event in events] == ["inner\n"]


# --- streams ------------------------------------------------------------------------------------------------


def test_bytes_written_to_the_buffer_arrive_as_they_are_and_in_order() -> None:
    def call() -> None:
        print("text")
        sys.stdout.buffer.write(b"\xff\xc3")
        sys.stdout.buffer.write(b"\xa4\n")
        print("more")

    events = captured(call)
    assert [event[2] for event in events] == ["text\n", b"\xff\xc3\xa4\n", "more\n"]
    raw = io.BytesIO()
    with contextlib.redirect_stdout(io.TextIOWrapper(raw, "utf-8", newline="\n")):
        replay(events, worker="w")
        sys.stdout.flush()
        assert raw.getvalue() == b"text\n\xff\xc3\xa4\nmore\n"
    with contextlib.redirect_stdout(io.StringIO()) as plain:
        replay(events, worker="w")
    assert plain.getvalue() == "text\n\\xffä\nmore\n"


def test_a_flush_comes_home_with_its_text() -> None:
    class Counting(io.StringIO):
        flushed = 0

        def flush(self) -> None:
            self.flushed += 1

    def call() -> None:
        for step in range(3):
            print(step, end="", flush=True)

    events = captured(call)
    assert events == [(0, "stdout", "012", True)]
    with contextlib.redirect_stdout(Counting()) as stream:
        replay(events, worker="w")
    assert (stream.getvalue(), stream.flushed) == ("012", 1)


def test_the_stream_of_a_call_is_the_underlying_one_in_all_but_writing() -> None:
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "latin-1")) as stream:
        seen: list[Any] = []

        def call() -> None:
            out: Any = sys.stdout
            seen.extend([out.encoding, out.isatty(), out.errors, isinstance(out, io.TextIOBase)])
            out.reconfigure(errors="replace")
            seen.append(out.write("four"))

        captured(call)
        assert seen == ["latin-1", False, "strict", True, 4]
        assert stream.errors == "replace"


def test_writing_something_else_than_text_is_the_calls_own_error() -> None:
    def call() -> None:
        with pytest.raises(TypeError, match="must be str, not int"):
            sys.stdout.write(5)  # type: ignore[arg-type]

    assert captured(call) == []


def test_print_is_captured_where_stdout_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    events = captured(lambda: print("seen", flush=True))
    assert events == [(0, "stdout", "seen\n", True)]
    assert sys.stdout is None
    replay(events, worker="w")


def test_text_that_this_stream_cannot_encode_is_escaped() -> None:
    events = captured(lambda: print("snow ☃"))
    raw = io.BytesIO()
    with contextlib.redirect_stdout(io.TextIOWrapper(raw, "ascii", newline="\n")):
        replay(events, worker="w")
        sys.stdout.flush()
        assert raw.getvalue() == b"snow \\u2603\n"


def test_a_redirect_inside_a_call_wins() -> None:
    texts: list[str] = []

    def call() -> None:
        print("before")
        with contextlib.redirect_stdout(io.StringIO()) as own:
            print("own")
        texts.append(own.getvalue())
        print("after")

    assert [event[2] for event in captured(call)] == ["before\nafter\n"]
    assert texts == ["own\n"]


def test_a_redirect_around_the_replay_gets_the_text() -> None:
    events = captured(lambda: print("text"))
    with contextlib.redirect_stdout(io.StringIO()) as stream:
        replay(events, worker="w")
    assert stream.getvalue() == "text\n"


def test_a_tap_that_somebody_puts_back_later_forwards_and_is_healed_by_the_next_capture(
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = sys.stdout
    redirect = contextlib.redirect_stdout(io.StringIO())
    with Capture(SETTINGS, int):
        redirect.__enter__()
    redirect.__exit__(None, None, None)
    assert sys.stdout is not real
    print("stale")
    assert capsys.readouterr().out == "stale\n"
    assert [event[2] for event in captured(lambda: print("captured"))] == ["captured\n"]
    assert sys.stdout is real
    assert capsys.readouterr().out == ""


def test_a_thread_that_prints_while_taps_come_and_go_neither_crashes_nor_is_captured() -> None:
    code = """
    import io, sys, threading
    from anypool._relay import Capture
    from anypool._relay_settings import RelaySettings
    sys.setswitchinterval(1e-5)
    def come_and_go():
        for _ in range(2000):
            with Capture(RelaySettings(), int) as capture:
                pass
            assert capture.events == []
    sys.stdout = stream = io.StringIO()
    thread = threading.Thread(target=come_and_go)
    thread.start()
    count = 0
    while thread.is_alive():
        print("mine", "alone")
        count += 1
    thread.join()
    assert sys.stdout is stream
    assert stream.getvalue() == "mine alone\\n" * count
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, timeout=240)
    assert (done.returncode, done.stderr) == (0, b"")


def test_captures_that_end_in_another_order_than_they_began_put_back_the_very_stream() -> None:
    code = """
    import itertools, logging, sys, warnings
    from anypool._relay import Capture
    from anypool._relay_settings import RelaySettings
    def state():
        return sys.stdout, sys.stderr, warnings.showwarning, warnings._showwarnmsg, logging.Logger.handle
    before = state()
    for order in itertools.permutations(range(3)):
        captures = [Capture(RelaySettings(), int).__enter__() for _ in order]
        assert all(now is not then for now, then in zip(state()[:2], before))
        for each in order:
            captures[each].__exit__(None, None, None)
        assert all(now is then for now, then in zip(state(), before))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, timeout=240)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_process_that_a_call_forks_writes_to_the_inherited_stream() -> None:
    code = """
    import contextvars, os, sys
    from anypool._relay import Capture
    from anypool._relay_settings import RelaySettings
    def call():
        print("parent")
        stream = sys.stdout
        pid = os.fork()
        if pid == 0:
            print("child", flush=True)
            print("child", file=stream, flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
    with Capture(RelaySettings(exclusive=True), int) as capture:
        context = contextvars.copy_context()
        capture.bind(context)
        context.run(call)
    print(capture.events)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, timeout=240, text=True)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["child", "child", "[(0, 'stdout', 'parent\\n', False)]"]


# --- warnings -----------------------------------------------------------------------------------------------


class OurWarning(UserWarning):
    def __init__(self, text: str, code: int = 7) -> None:
        super().__init__(text)
        self.code = code


def _warn(text: str = "careful") -> None:
    warnings.warn(OurWarning(text, 8), stacklevel=1)


def _transcript(run: Callable[[], object]) -> list[tuple[str, type[Warning], int]]:
    with warnings.catch_warnings(record=True) as seen:
        run()
    return [(str(each.message), each.category, each.lineno) for each in seen]


@pytest.mark.parametrize("settings", [SETTINGS, HERE])
def test_a_warning_arrives_with_its_object_category_and_place(
    settings: RelaySettings, recwarn: pytest.WarningsRecorder
) -> None:
    events = captured(_warn, settings)
    assert len(recwarn) == 0
    replay(events, worker="w")
    warning = recwarn.pop()
    assert warning.category is OurWarning
    assert isinstance(warning.message, OurWarning)
    assert (str(warning.message), warning.message.code) == ("careful", 8)
    assert (warning.filename, warning.lineno) == (__file__, _warn.__code__.co_firstlineno + 1)


def test_pytest_warns_sees_a_replayed_warning() -> None:
    events = captured(_warn)
    with pytest.warns(OurWarning, match="careful"):
        replay(events, worker="w")


@pytest.mark.parametrize("action", ["default", "once", "module", "always", "ignore"])
@pytest.mark.parametrize("settings", [SETTINGS, HERE])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_repetitions_end_as_in_a_plain_loop_whatever_ran_first(
    action: Any, settings: RelaySettings, order: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["same", "other", "same"]

    def plain() -> None:
        for text in texts:
            _warn(text)

    def relayed() -> None:
        events = {item: captured(lambda: _warn(texts[item]), settings) for item in order}  # noqa: B023
        for item in range(3):
            replay(events[item], worker="w")

    transcripts = []
    for run in (plain, relayed, plain):
        globals().pop("__warningregistry__", None)
        monkeypatch.setattr(warnings, "onceregistry", {})
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            transcripts.append(_transcript(run))
    assert transcripts[1] == transcripts[0] == transcripts[2]


@pytest.mark.parametrize("settings", [SETTINGS, HERE])
def test_repetitions_of_warnings_that_calls_replay_end_as_in_a_plain_loop(settings: RelaySettings) -> None:
    def call() -> None:
        replay(captured(_warn, settings), worker="inside")

    def run() -> None:
        globals().pop("__warningregistry__", None)
        warnings.simplefilter("default")
        both = [captured(call, settings) for _ in range(2)]
        assert [len(events) for events in both] == [1, 1]
        for events in both:
            replay(events, worker="outside")

    assert [text for text, _, _ in _transcript(run)] == ["careful"]


def test_what_the_caller_was_shown_before_is_not_shown_again() -> None:
    def run() -> None:
        globals().pop("__warningregistry__", None)
        warnings.simplefilter("default")
        _warn()
        replay(captured(_warn, HERE), worker="w")

    assert len(_transcript(run)) == 1


def test_an_error_filter_raises_inside_the_call() -> None:
    def call() -> None:
        with pytest.raises(OurWarning):
            _warn()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert captured(call) == []


def test_a_filter_that_became_an_error_raises_from_replay_after_the_other_events(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def call() -> None:
        _warn("first")
        print("in between")
        _warn("second")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        events = captured(call)
        warnings.simplefilter("error")
        with pytest.raises(OurWarning, match="first") as caught:
            replay(events, worker="w")
    assert capsys.readouterr().out == "in between\n"
    assert "second" in caught.value.__notes__[0]


@pytest.mark.parametrize("settings", [SETTINGS, HERE])
def test_a_call_that_records_its_own_warnings_keeps_them(settings: RelaySettings) -> None:
    counts: list[int] = []

    def call() -> None:
        with warnings.catch_warnings(record=True) as own:
            warnings.simplefilter("always")
            _warn("own")
        counts.append(len(own))
        _warn("outside")

    events = captured(call, settings)
    assert counts == [1]
    assert [event[3] for event in events] == ["outside"]


@pytest.mark.parametrize("settings", [SETTINGS, HERE])
def test_a_category_that_cannot_be_imported_here_becomes_its_nearest_base_and_says_so(
    settings: RelaySettings,
) -> None:
    class Local(OurWarning):
        pass

    events = captured(lambda: warnings.warn("local", Local, stacklevel=1), settings)
    with pytest.warns(OurWarning) as seen:
        replay(events, worker="w")
    if settings.in_caller:
        assert seen[0].category is Local
    else:
        assert seen[0].category is OurWarning
        assert "local [a " in str(seen[0].message)
        assert "Local on the worker" in str(seen[0].message)


def test_a_warning_about_a_file_that_is_only_there_is_shown_with_its_line() -> None:
    event = (
        *(0, "warnings", ("builtins:UserWarning", "builtins:Warning"), "text", None),
        *("/nowhere/there.py", 3, "    source = line\n", "there"),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = warnings._showwarning_orig  # type: ignore[attr-defined]
        warnings._showwarnmsg_impl = _show_as_text  # type: ignore[attr-defined]
        with contextlib.redirect_stderr(io.StringIO()) as stream:
            replay([event], worker="w")
    assert stream.getvalue() == "/nowhere/there.py:3: UserWarning: text\n  source = line\n"


def _show_as_text(msg: warnings.WarningMessage) -> None:
    shown = warnings.formatwarning(str(msg.message), msg.category, msg.filename, msg.lineno)
    print(shown, end="", file=sys.stderr)


# --- logs ---------------------------------------------------------------------------------------------------


class _Listing(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def listing() -> Iterator[_Listing]:
    handler, logger = _Listing(), logging.getLogger("relay.test")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


@pytest.mark.parametrize("settings", [SETTINGS, HERE])
def test_a_record_is_handled_once_by_the_callers_logger_and_names_the_worker(
    settings: RelaySettings, listing: _Listing, caplog: pytest.LogCaptureFixture
) -> None:
    def call() -> None:
        logging.getLogger("relay.test").debug("too low")
        logging.getLogger("relay.test").info("value %s of %d", "x", 3, extra={"mine": [1, 2]})

    events = captured(call, settings)
    assert listing.records == []
    assert caplog.records == []
    replay(events, worker="worker 5")
    (record,) = listing.records
    assert caplog.records == [record]
    assert (record.getMessage(), record.args) == ("value x of 3", ("x", 3))
    assert (vars(record)["mine"], vars(record)["anypool_worker"]) == ([1, 2], "worker 5")
    assert (record.funcName, record.name, record.levelno) == ("call", "relay.test", logging.INFO)


def test_an_exception_in_a_record_comes_as_text(listing: _Listing) -> None:
    def call() -> None:
        try:
            raise KeyError("gone")
        except KeyError:
            logging.getLogger("relay.test").exception("failed")

    replay(captured(call), worker="w")
    (record,) = listing.records
    assert record.exc_info is None
    assert "KeyError: 'gone'" in logging.Formatter("%(message)s").format(record)


@pytest.mark.parametrize("settings", [SETTINGS, HERE])
def test_arguments_are_logged_as_they_were_then(settings: RelaySettings, listing: _Listing) -> None:
    class Unsendable:
        text = "then"

        def __str__(self) -> str:
            return self.text

    def call() -> None:
        argument, numbers = Unsendable(), [1]
        logging.getLogger("relay.test").info("%s %s", argument, numbers, extra={"own": Unsendable()})
        argument.text = "later"
        numbers.append(2)

    replay(captured(call, settings), worker="w")
    assert listing.records[0].getMessage() == "then [1]"
    assert str(vars(listing.records[0])["own"]) == "then"


@pytest.mark.parametrize("settings", [SETTINGS, HERE])
@pytest.mark.parametrize("argument", ["text", threading.Lock()])
def test_arguments_that_do_not_fit_are_the_handlers_to_report(
    settings: RelaySettings, argument: object, listing: _Listing, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = logging.StreamHandler(sys.stderr)
    logger = logging.getLogger("relay.test")
    logger.propagate = False
    logger.addHandler(stream)
    try:
        events = captured(lambda: logger.info("%d", argument), settings)
        assert capsys.readouterr().err == ""
        replay(events, worker="w")
    finally:
        logger.removeHandler(stream)
        logger.propagate = True
    assert "--- Logging error ---" in capsys.readouterr().err
    assert len(listing.records) == 1


def test_a_large_argument_travels_as_the_text_made_from_it(listing: _Listing) -> None:
    numbers = list(range(100_000))
    events = captured(lambda: logging.getLogger("relay.test").info("%.5s...", numbers))
    assert len(pickle.dumps(events)) < 5_000
    replay(events, worker="w")
    assert (listing.records[0].getMessage(), listing.records[0].args) == ("[0, 1...", None)


def test_a_filter_of_the_callers_logger_applies_once(listing: _Listing) -> None:
    logger, asked = logging.getLogger("relay.test"), []

    def refuse_odd(record: logging.LogRecord) -> bool:
        asked.append(record.getMessage())
        return not record.getMessage().startswith("odd")

    logger.addFilter(refuse_odd)
    try:
        replay(captured(lambda: [logger.info("odd"), logger.info("even")], HERE), worker="w")
    finally:
        logger.removeFilter(refuse_odd)
    assert asked == ["odd", "even"]
    assert [record.getMessage() for record in listing.records] == ["even"]


def test_a_handler_that_raises_loses_nothing_else(listing: _Listing, capsys: pytest.CaptureFixture[str]) -> None:
    class Failing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError(f"disk full at {record.getMessage()}")

    logger, failing = logging.getLogger("relay.test"), Failing()
    events = captured(lambda: [logger.info("one"), print("two"), logger.info("three")])
    logger.addHandler(failing)
    try:
        with pytest.raises(OSError, match="at one"):
            replay(events, worker="w")
    finally:
        logger.removeHandler(failing)
    assert [record.getMessage() for record in listing.records] == ["one", "three"]
    assert capsys.readouterr().out == "two\n"


# --- settings -----------------------------------------------------------------------------------------------


def test_settings_mean_what_the_user_wrote() -> None:
    assert RelaySettings.of(True) == RelaySettings()
    assert RelaySettings.of(False) == RelaySettings(stdout="off", stderr="off", warnings="off", logging="off")
    assert RelaySettings.of("live").logging == "live"
    assert RelaySettings.of({"logging": "off"}) == RelaySettings(logging="off")
    assert RelaySettings.of(HERE) is HERE
    assert pickle.loads(pickle.dumps(HERE)) == HERE


@pytest.mark.parametrize("value", ["loud", {"stdout": "loud"}, {"stdin": "relay"}])
def test_a_setting_that_cannot_be_carried_out_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="relay: "):
        RelaySettings.of(value)
