"""Receipts: where the time went, what is advised, and the files made from it. For each backend see the suite."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from html.parser import HTMLParser

import pytest

import anypool
from anypool._envelope import Worker
from anypool._observed import CallTimes, column_bytes, parcel_bytes
from anypool._report import report_of
from anypool._report_times import PARTS, parts_of
from anypool._trace import Chunk, Interval, Run
from anypool.errors import ConfigError


def double(x):
    return 2 * x


def fail_at_three(x):
    if x == 3:
        raise LookupError(x)
    return x


def sleep(seconds):
    time.sleep(seconds)
    return seconds


def receipts_of(entered, left, *calls):
    from array import array

    rows = [number for start, seconds, received in calls for number in (start, seconds, seconds, 0, received)]
    return array("d", [entered, left, *rows]).tobytes()


def chunk(start, sent_at, entered, left, arrived_at, *calls, pid=1, sent=()):
    return Chunk(
        start=start, worker=Worker("processes", "here", pid, "MainThread"), packed_at=sent_at, sent_at=sent_at,
        entered=entered, left=left, arrived_at=arrived_at, receipts=receipts_of(entered, left, *calls),
        sent_bytes=list(sent) or [10] * len(calls),
    )  # fmt: skip


def run_of(*chunks, workers=1, ended=10.0, **more):
    return Run(name="work", backend="processes", workers=workers, began=0.0, ended=ended, chunks=list(chunks), **more)


# --- where the time went --------------------------------------------------------------------------------


def test_each_moment_of_each_worker_has_one_reason():
    run = run_of(
        chunk(0, 0.5, 1.0, 4.0, 4.1, (1.5, 1.0, 10), (2.75, 1.0, 10)),
        chunk(2, 0.6, 5.0, 6.0, 6.5, (5.25, 0.75, 10)),
        workers=2,
        caller=[Interval("read", 0.0, 0.4), Interval("use", 4.0, 4.5)],
    )
    parts = parts_of(run)
    assert sum(parts.values()) == pytest.approx(2 * 10)
    assert parts["run"] == pytest.approx(2.75)
    assert parts["between"] == pytest.approx(0.25)
    assert parts["pack"] == pytest.approx(0.25)
    assert parts["reads"] == pytest.approx(0.4 + 0.4)
    assert parts["starts"] == pytest.approx(0.6 + 0.5 + 0.2)
    assert parts["uses"] == pytest.approx(0.5)
    assert parts["travels"] == pytest.approx(0.5)
    assert parts["unpack"] == pytest.approx(0.25)
    assert parts["ends"] == pytest.approx(4.0 + 9.4)
    assert set(parts) == set(PARTS)


def test_the_clock_of_another_machine_is_brought_to_the_callers():
    run = run_of(
        chunk(0, 1.0, 1001.5, 1002.5, 3.0, (1001.5, 1.0, 0)),
        chunk(1, 3.0, 1003.2, 1004.8, 5.0, (1003.2, 1.6, 0)),
    )
    run.set_clocks()
    for each in run.chunks:
        assert each.sent_at <= each.entered <= each.left <= each.arrived_at
        assert each.calls[0].start == pytest.approx(each.entered)


def test_the_clock_of_this_machine_is_left_as_it_is():
    run = run_of(chunk(0, 1.0, 1.25, 2.0, 2.5, (1.25, 0.5, 0)))
    run.set_clocks()
    assert run.chunks[0].entered == 1.25


def test_sizes_are_of_the_parcels():
    assert parcel_bytes(b"12345") == 5
    assert parcel_bytes((b"123", [(1, 2, 3, 4, 5, 1000), (1, 2, 3, 4, 5, 500)])) == 1503
    assert column_bytes(b"0123456789", 5) == [2] * 5
    assert column_bytes([b"1", b"123"], 2) == [1, 3]


# --- advice ---------------------------------------------------------------------------------------------


def advice_of(*args, **options):
    return report_of([run_of(*args, **options)]).advice


def long_call(start=0, begin=0.0, seconds=1.0, **more):
    return chunk(start, begin, begin, begin + seconds, begin + seconds, (begin, seconds, 10), **more)


def test_a_good_map_is_praised():
    assert "97% of the workers' time ran calls" in advice_of(long_call(seconds=9.7))


def test_an_argument_that_is_always_the_same_is_to_be_shared():
    chunks = [chunk(i, i, i + 0.9, i + 1.0, i + 1.0, (i + 0.9, 0.1, 10), sent=[10**7]) for i in range(10)]
    text = advice_of(*chunks, weights={0: [10**7] * 3, 1: [28] * 3}, repeated={0})
    assert text.startswith("81% of the workers' time went into sending arguments, 100% of that argument 0")
    assert text.endswith("share it, ex.share(...).")


def test_arguments_that_differ_are_to_be_made_there():
    chunks = [chunk(i, i, i + 0.9, i + 1.0, i + 1.0, (i + 0.9, 0.1, 10), sent=[10**7]) for i in range(10)]
    assert "argument 0 (10 MB a call): send what it is made from" in advice_of(*chunks, weights={0: [10**7] * 3})


def test_a_function_that_holds_data_is_to_share_it():
    chunks = [chunk(i, i, i + 0.9, i + 1.0, i + 1.0, (i + 0.9, 0.1, 10)) for i in range(10)]
    assert "the function alone has 5 MB" in advice_of(*chunks, function_bytes=5_000_000)


def test_large_results_are_to_be_made_smaller():
    chunks = [chunk(i, i, i, i + 1.0, i + 1.0, (i, 0.1, 10**7)) for i in range(10)]
    assert "went into returning results, 10 MB a call" in advice_of(*chunks)


def test_short_calls_are_to_travel_together():
    chunks = [chunk(i, i, i + 0.99, i + 1.0, i + 1.0, (i + 0.99, 0.000_1, 10)) for i in range(10)]
    assert "leave chunksize out" in advice_of(*chunks)


def test_short_submitted_calls_are_to_be_a_map():
    chunks = [chunk(i, i, i + 0.99, i + 1.0, i + 1.0, (i + 0.99, 0.000_1, 10)) for i in range(10)]
    assert "use map, with which many travel together" in advice_of(*chunks, is_submitted=True)


def test_a_slow_input_is_to_be_read_in_the_calls():
    chunks = [long_call(i, i + 0.9, 0.1) for i in range(10)]
    reads = [Interval("read", i, i + 0.9) for i in range(10)]
    assert "waiting for the input, which takes 900 ms an item" in advice_of(*chunks, caller=reads)


def test_a_slow_loop_over_the_results_is_to_be_moved():
    chunks = [long_call(i, i + 0.9, 0.1) for i in range(10)]
    uses = [Interval("use", i, i + 0.9) for i in range(10)]
    assert "the loop that uses the results" in advice_of(*chunks, caller=uses)


def test_a_long_last_call_is_to_come_first():
    chunks = [chunk(0, 0.0, 0.0, 10.0, 10.0, (0.0, 10.0, 10)), long_call(1, pid=2)]
    text = advice_of(*chunks, workers=2, slowest=[(1.0, 1, "work(1)"), (10.0, 0, "work(0)")])
    assert "(the slowest, item 0, took 10 s): put long calls first" in text


def test_nothing_traced_says_how_to():
    with anypool.get_executor("serial") as ex:
        list(ex.map(double, range(3)))
    assert str(ex.report()) == "Nothing was recorded: ask for it with trace=True, and run a map or submit calls."


def test_the_real_thing_advises_to_share():
    data = bytes(4_000_000)
    with anypool.get_executor("processes", max_workers=2, trace=True) as ex:
        list(ex.map(double, [0, 1]))
        before = ex.report().bytes_sent
        list(ex.starmap(pick, ((data, i) for i in range(60))))
    report = ex.report()
    assert report.bytes_sent - before >= 60 * 4_000_000
    run = report._runs[1]
    assert set(run.weights[0]) == {4_000_000}
    assert run.repeated == {0}


def pick(data, i):
    return data[i]


# --- what is kept ---------------------------------------------------------------------------------------


def test_receipts_count_attempts():
    seen = []

    def flaky(x):
        seen.append(x)
        if x == 2 and seen.count(2) < 3:
            raise OSError("again")
        return x

    with anypool.get_executor("threads", max_workers=2, trace=True, retries=3) as ex:
        assert list(ex.map(flaky, range(4))) == [0, 1, 2, 3]
    assert {each.item: each.attempts for each in ex.report().receipts()} == {0: 1, 1: 1, 2: 3, 3: 1}


def test_a_lost_worker_leaves_the_receipts_of_the_others():
    with anypool.get_executor("processes", max_workers=2, trace=True) as ex:
        results = list(ex.map(die_at_three, range(8), errors="return"))
    assert isinstance(results[3], anypool.WorkerLost)
    report = ex.report()
    assert 3 not in {each.item for each in report.receipts()}
    assert report.failed == 1
    assert report._runs[0].lost == 1


def die_at_three(x):
    if x == 3:
        os._exit(1)
    return x


def test_the_peak_memory_of_a_call_is_its_own():
    def grow(x):
        data = bytearray(x) if x else b""
        for at in range(0, x, 4096):
            data[at] = 1
        time.sleep(0.01)
        return len(data)

    with anypool.get_executor("processes", max_workers=1, trace=True) as ex:
        list(ex.map(grow, [0, 80_000_000, 0], chunksize=3))
    first, large, last = [each.peak_memory for each in ex.report().receipts()]
    assert large >= first + 60_000_000
    if os.path.exists("/proc/self/clear_refs"):
        assert last <= large - 60_000_000


def test_a_map_that_nobody_reads_on_has_a_report():
    with anypool.get_executor("threads", max_workers=2, trace=True) as ex:
        results = ex.map(double, iter(range(10**9)))
        next(results)
        assert ex.report().calls >= 1
        results.close()
        assert ex.report().calls >= 1


def test_a_view_and_its_executor_have_one_report_a_clone_its_own():
    with anypool.get_executor("serial") as ex:
        list(ex.options(trace=True).map(double, range(3)))
        list(ex.map(double, range(5)))
        assert ex.report().calls == 3
        with ex.clone() as other:
            assert other.report().calls == 0


def test_submitted_calls_have_receipts_with_attempts_and_errors(tmp_path):
    def fail_once(mark):
        if not mark.exists():
            mark.touch()
            raise LookupError
        return "done"

    path = tmp_path / "report.html"
    with anypool.get_executor("processes", max_workers=1, trace=str(path), retries=1) as ex:
        assert ex.submit(double, x=2).result() == 4
        assert ex.submit(fail_once, tmp_path / "mark").result() == "done"
        assert isinstance(ex.submit(fail_at_three, 3).exception(), Exception)
    report = ex.report()
    receipts = {(each.item, each.attempts, each.error) for each in report.receipts()}
    assert receipts == {(0, 1, None), (1, 2, None), (2, 2, "LookupError")}
    assert report.failed == 1
    assert "double(x=2)" in {call for _, _, call in report.slowest}
    assert "submitted calls" in path.read_text()


def test_the_time_in_which_nobody_submits_is_the_callers():
    with anypool.get_executor("threads", max_workers=1, trace=True) as ex:
        for _ in range(3):
            ex.submit(sleep, 0.001).result()
            time.sleep(0.1)
        ex.submit(sleep, 0.001).result()
    report = ex.report()
    assert report.parts["uses"] >= 0.25
    assert "while no more calls were submitted: submit the next ones before waiting" in report.advice


def test_the_time_after_the_last_call_is_nobodys():
    with anypool.get_executor("threads", max_workers=1, trace=True) as ex:
        began = time.monotonic()
        ex.submit(sleep, 0.05).result()
        took = time.monotonic() - began
        time.sleep(0.3)
        assert ex.report().seconds < took + 0.2
    assert ex.report().seconds < took + 0.2


def test_the_slowest_calls_come_with_their_arguments():
    with anypool.get_executor("threads", max_workers=1, trace=True) as ex:
        list(ex.map(sleep, [0, 0.5, 0]))
    seconds, item, call = ex.report().slowest[0]
    assert (item, call) == (1, "sleep(0.5)")
    assert seconds >= 0.5
    assert "item 1: sleep(0.5)" in str(ex.report())


def test_the_environment_asks_for_receipts(monkeypatch, tmp_path):
    monkeypatch.setenv("ANYPOOL_TRACE", "true")
    with anypool.get_executor("serial") as ex:
        list(ex.map(double, range(3)))
    assert ex.report().calls == 3
    monkeypatch.setenv("ANYPOOL_TRACE", str(tmp_path / "run.html"))
    with anypool.get_executor("serial") as ex:
        list(ex.map(double, range(3)))
    assert (tmp_path / "run.html").exists()


# --- files ----------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Checks that what is opened is closed, and that nothing is loaded from elsewhere."""

    VOID = frozenset({"meta", "br", "img", "link", "input"})

    def __init__(self):
        super().__init__()
        self.open = []
        self.data = ""
        self.loaded = []

    def handle_starttag(self, tag, attributes):
        self.loaded += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append((tag, dict(attributes).get("id")))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == ("script", "data"):
            self.data += data


def page_of(text):
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert page.loaded == []
    assert "http" not in text
    return json.loads(page.data)


def test_a_page_is_well_formed_and_needs_nothing_else(tmp_path):
    with anypool.get_executor("processes", max_workers=2, trace=tmp_path / "run.html") as ex:
        list(ex.map(fail_at_three, range(10), errors="return"))
        assert not (tmp_path / "run.html").exists()
    data = page_of((tmp_path / "run.html").read_text(encoding="utf-8"))
    assert data["title"] == "fail_at_three"
    calls = [span for span in data["spans"] if span[3] in (0, 8)]
    assert sorted(span[4] for span in calls) == list(range(10))
    assert [span[4] for span in calls if span[3] == 8] == [3]
    assert sum(worker[1] for worker in data["workers"]) == 10
    assert len(data["lanes"]) == 1 + len(data["workers"])


def test_no_text_of_a_user_ends_the_script(tmp_path):
    with anypool.get_executor("serial", trace=True) as ex:
        list(ex.map(len, ["</script><script>alert(1)</script>", "<!--", "\u2028 & \" '"]))
    ex.report().save(tmp_path / "run.html")
    text = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert "alert(1)</" not in text
    assert any("</script>" in call for _, _, call in page_of(text)["slowest"])


def test_many_calls_make_a_page_of_a_bounded_size(tmp_path):
    with anypool.get_executor("threads", max_workers=2, trace=True) as ex:
        list(ex.map(double, range(50_000)))
    ex.report().save(tmp_path / "run.html")
    text = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert len(text) < 1_000_000
    data = page_of(text)
    drawn = sum(span[5][0] if span[3] == 7 else 1 for span in data["spans"] if span[3] in (0, 7))
    assert drawn == 50_000


def test_an_empty_report_can_be_saved(tmp_path):
    with anypool.get_executor("serial", trace=True) as ex:
        ex.report().save(tmp_path / "none.html")
        list(ex.map(double, []))
    ex.report().save(tmp_path / "none.html")
    ex.report().save(tmp_path / "none.json")
    assert page_of((tmp_path / "none.html").read_text(encoding="utf-8"))["spans"][0][3] == 9


def test_a_trace_for_perfetto_is_valid_trace_event_json(tmp_path):
    """Against the fields that the format asks of "complete" and "metadata" events."""
    with anypool.get_executor("processes", max_workers=2, trace=True) as ex:
        list(ex.map(fail_at_three, range(10), errors="return"))
        list(ex.map(double, range(10)))
    ex.report().save(tmp_path / "run.json")
    events = json.loads((tmp_path / "run.json").read_text())["traceEvents"]
    for event in events:
        assert {"name", "ph", "pid", "tid"} <= set(event)
        assert type(event["pid"]) is int
        assert type(event["tid"]) is int
        if event["ph"] == "X":
            assert event["ts"] >= 0
            assert event["dur"] >= 0
        else:
            assert event["ph"] == "M"
            assert event["name"] in ("process_name", "thread_name")
    calls = [event for event in events if event.get("cat") == "call"]
    assert len(calls) == 20
    assert {(event["pid"], event["tid"]) for event in events} == {
        (event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"
    }
    for lane in {(event["pid"], event["tid"]) for event in calls}:  # calls of one worker follow each other
        spans = sorted((e["ts"], e["ts"] + e["dur"]) for e in calls if (e["pid"], e["tid"]) == lane)
        assert all(end <= begin + 0.01 for (_, end), (begin, _) in zip(spans, spans[1:], strict=False))


@pytest.mark.parametrize("path", ["run.txt", "run", "missing/run.html"])
def test_a_path_that_is_none_is_refused_before_the_work(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []
    with anypool.get_executor("serial", trace=path) as ex:
        with pytest.raises(ConfigError, match="report"):
            ex.map(seen.append, range(3))
        with pytest.raises(ConfigError):
            ex.report().save(path)
    assert seen == []


def test_a_traced_call_inside_of_a_call_writes_no_file(tmp_path, monkeypatch):
    def nested(x):
        with anypool.get_executor("serial", trace=str(tmp_path / "inner.html")) as inner:
            return sum(inner.map(double, range(x)))

    with anypool.get_executor("threads", max_workers=1) as ex:
        assert list(ex.map(nested, [3])) == [6]
    assert list(tmp_path.iterdir()) == []


def test_call_times_are_plain_numbers():
    assert CallTimes(1.0, 2.0, 3.0, 4, 5).received == 5


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.soak
@pytest.mark.skipif(BROWSER is None, reason="no browser")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_the_page(scheme, tmp_path):
    """Its own script has filled the page when the browser is done with it, and no error stopped it half way."""
    with anypool.get_executor("processes", max_workers=2, trace=tmp_path / "run.html") as ex:
        list(ex.map(sleep, [0.01] * 20))
    command = [
        *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(f"--user-data-dir={tmp_path / 'profile'}", f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"),
        *("--window-size=1000,900", "--dump-dom", (tmp_path / "run.html").as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.count('class="tile"') >= 6
    assert "sleep(0.01)" in done.stdout
    assert 'style="height:' in done.stdout  # the canvas was set up, by the last line of the script
