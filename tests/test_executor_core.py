"""The core under stress: whatever is mixed, each call runs as often as promised and no future is left pending."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from pickle import PickleBuffer
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import anypool
from anypool._flow import Flow, Part
from anypool._futures import Shelf
from anypool.backend import Traits
from anypool.errors import BackendError, ExecutorClosed
from attempts import least_of_three

_LONG = 60.0  # seconds: more than anything here takes, so that a hang is an error

# Both run calls in this process, so that what a call does can be seen here; `strict` sends them through the wire.
_SUBJECTS: dict[str, tuple[str, dict[str, Any]]] = {
    "serial": ("serial", {}),
    "serial-strict": ("serial", {"strict": True}),
    "threads": ("threads", {"max_workers": 2}),
    "threads-strict": ("threads", {"max_workers": 2, "strict": True}),
}
_CONCURRENT = ["threads", "threads-strict"]

_ran: list[int] = []  # the calls, by number: of the module, because strict calls can bring no list of their own
_gates: dict[str, threading.Event] = {}  # as _ran


def _make(subject: str, **options: Any) -> anypool.PoolExecutor:
    backend, defaults = _SUBJECTS[subject]
    return anypool.get_executor(backend, **{**defaults, **options})


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    _ran.clear()
    _gates.clear()
    yield
    for gate in _gates.values():
        gate.set()


@pytest.fixture(params=list(_SUBJECTS))
def executor(request: pytest.FixtureRequest) -> Iterator[anypool.PoolExecutor]:
    with _make(request.param) as ex:
        yield ex


@pytest.fixture(params=_CONCURRENT)
def concurrent_executor(request: pytest.FixtureRequest) -> Iterator[anypool.PoolExecutor]:
    with _make(request.param) as ex:
        yield ex


def _run(number: int) -> int:
    _ran.append(number)
    return -number


def _fail(number: int) -> int:
    _ran.append(number)
    raise ArithmeticError(number)


def _hold(name: str) -> None:
    assert _gates[name].wait(_LONG), "the gate was never opened"


def _gate(name: str = "gate") -> threading.Event:
    gate = _gates[name] = threading.Event()
    return gate


def _until(fact: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + _LONG
    while not fact():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.001)


def _pool_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("anypool")]


# --- every mix ----------------------------------------------------------------------------------------

_STEPS = st.one_of(
    st.tuples(st.just("submit"), st.booleans()),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(
        st.just("map"),
        st.integers(0, 40),
        st.none() | st.integers(1, 7),
        st.none() | st.integers(1, 7),
        st.booleans(),
    ),
    st.tuples(st.just("next"), st.integers(0, 5), st.integers(1, 10)),
    st.tuples(st.just("close"), st.integers(0, 5)),
    st.tuples(st.just("drop"), st.integers(0, 5)),
    st.tuples(st.just("wait"), st.integers(0, 30)),
)


@dataclass
class _Mapped:
    """One map of a mix, and what is known of it."""

    numbers: range
    results: Iterator[int] | None
    sized: bool
    bounded: bool
    got: list[int] = field(default_factory=list)
    is_asked: bool = False

    def take(self, count: int) -> None:
        assert self.results is not None
        self.is_asked = True
        self.got += itertools.islice(self.results, count)
        assert self.got == [-number for number in self.numbers[: len(self.got)]]


class _Mix:
    """Carries out the steps of a mix, and keeps the books by itself."""

    def __init__(self, executor: anypool.PoolExecutor) -> None:
        self.executor = executor
        self.numbers = itertools.count()
        self.futures: dict[int, tuple[Future[int], bool]] = {}
        self.maps: list[_Mapped] = []
        self.cancelled: set[int] = set()

    def step(self, name: str, *details: Any) -> None:
        getattr(self, f"_{name}")(*details)

    def _submit(self, fails: bool) -> None:
        number = next(self.numbers)
        self.futures[number] = (self.executor.submit(_fail if fails else _run, number), fails)

    def _cancel(self, which: int) -> None:
        if self.futures:
            number = list(self.futures)[which % len(self.futures)]
            if self.futures[number][0].cancel():
                self.cancelled.add(number)

    def _wait(self, which: int) -> None:
        if self.futures:
            wait([list(self.futures.values())[which % len(self.futures)][0]], timeout=_LONG)

    def _map(self, length: int, chunksize: int | None, buffersize: int | None, sized: bool) -> None:
        first = next(self.numbers)
        numbers = range(first, first + length)
        self.numbers = itertools.count(first + length + 1)
        items = numbers if sized else iter(numbers)
        results = self.executor.map(_run, items, chunksize=chunksize, buffersize=buffersize)
        self.maps.append(_Mapped(numbers, results, sized, buffersize is not None))

    def _open(self, which: int) -> _Mapped | None:
        maps = [each for each in self.maps if each.results is not None]
        return maps[which % len(maps)] if maps else None

    def _next(self, which: int, count: int) -> None:
        if (each := self._open(which)) is not None:
            each.take(count)

    def _close(self, which: int) -> None:
        if (each := self._open(which)) is not None:
            each.results.close()  # type: ignore[union-attr]
            each.results = None

    def _drop(self, which: int) -> None:
        if (each := self._open(which)) is not None:
            each.results = None
            gc.collect(0)

    def check(self, *, cancel_futures: bool) -> None:
        """After the end: nothing is pending, and what ran is what had to."""
        times = Counter(_ran)
        assert not [number for number, count in times.items() if count > 1], "a call ran twice"
        for number, (future, fails) in self.futures.items():
            assert future.done(), f"call {number} was left pending"
            if future.cancelled():
                assert number not in times, "a cancelled call ran"
                assert cancel_futures or number in self.cancelled
                continue
            assert number not in self.cancelled
            assert times[number] == 1
            error = future.exception()
            assert (type(error) is ArithmeticError) == fails
        for each in self.maps:
            self._check_map(each, times, cancel_futures=cancel_futures)

    @staticmethod
    def _check_map(each: _Mapped, times: Counter[int], *, cancel_futures: bool) -> None:
        ran = [number for number in each.numbers if times[number]]
        assert set(each.numbers[: len(each.got)]) <= set(ran)
        was_left = each.results is None and each.is_asked
        if each.sized and not (each.bounded or was_left or cancel_futures):
            assert ran == list(each.numbers), "shutdown runs what a map over a sized input has promised"
        if each.results is None:
            return
        with suppress(ExecutorClosed, CancelledError):
            each.take(len(each.numbers) + 1)
        if each.sized and not (each.bounded or cancel_futures):
            assert len(each.got) == len(each.numbers)


@pytest.mark.parametrize("subject", _SUBJECTS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.lists(_STEPS, max_size=25), waits=st.booleans(), cancel_futures=st.booleans())
def test_whatever_is_mixed_each_call_runs_once_or_is_cancelled(
    subject: str, steps: list[tuple[Any, ...]], waits: bool, cancel_futures: bool
) -> None:
    _ran.clear()
    executor = _make(subject)
    mix = _Mix(executor)
    for step in steps:
        mix.step(*step)
    executor.shutdown(wait=waits, cancel_futures=cancel_futures)
    with pytest.raises(ExecutorClosed):
        executor.submit(_run, -1)
    executor.shutdown(wait=True)
    mix.check(cancel_futures=cancel_futures)


def test_views_with_initializers_of_their_own_run_each(tmp_path: Path) -> None:
    with anypool.get_executor("processes", max_workers=1) as ex:
        views = [ex.options(initializer=(tmp_path / name).touch) for name in "ab"]
        for each in [ex, *views, views[0].options(seed=1), ex]:
            assert each.submit(abs, -1).result(50) == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "b"]


def test_threads_that_share_an_executor_each_get_their_own_results(executor: anypool.PoolExecutor) -> None:
    def use(first: int) -> list[Any]:
        futures = [executor.submit(_run, first + offset) for offset in range(30)]
        mapped = list(executor.map(_run, range(first + 100, first + 300)))
        return [future.result() for future in futures] + mapped

    firsts = [1000 * n for n in range(1, 5)]
    with ThreadPoolExecutor(len(firsts)) as users:
        for first, results in zip(firsts, users.map(use, firsts), strict=True):
            numbers = [*range(first, first + 30), *range(first + 100, first + 300)]
            assert results == [-number for number in numbers]
    assert set(Counter(_ran).values()) == {1}


def test_a_map_may_be_read_in_another_thread_than_it_was_made_in(executor: anypool.PoolExecutor) -> None:
    results = executor.map(_run, range(500))
    got = [next(results) for _ in range(3)]
    with ThreadPoolExecutor(1) as reader:
        got += reader.submit(list, results).result(_LONG)
    assert got == [-number for number in range(500)]


def test_a_shutdown_in_one_thread_leaves_the_reader_in_another_all_results(
    concurrent_executor: anypool.PoolExecutor,
) -> None:
    gate = _gate()
    first = concurrent_executor.submit(_hold, "gate")
    results = concurrent_executor.map(_run, list(range(300)))
    with ThreadPoolExecutor(2) as others:
        reading = others.submit(list, results)
        closing = others.submit(concurrent_executor.shutdown)
        gate.set()
        assert reading.result(_LONG) == [-number for number in range(300)]
        closing.result(_LONG)
    assert first.done()


# --- the end ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subject", _SUBJECTS)
def test_an_executor_that_is_dropped_finishes_its_calls_and_leaves_no_thread(subject: str) -> None:
    before = set(_pool_threads())
    executor = _make(subject)
    futures = [executor.submit(_run, number) for number in range(20)]
    del executor
    gc.collect()
    assert wait(futures, timeout=_LONG).not_done == set()
    assert sorted(_ran) == list(range(20))
    _until(lambda: set(_pool_threads()) <= before, "the threads of a dropped executor end")


@pytest.mark.parametrize("subject", _SUBJECTS)
def test_a_map_keeps_its_executor_from_being_collected(subject: str) -> None:
    results = _make(subject).map(_run, range(200), buffersize=4)
    gc.collect()
    assert list(results) == [-number for number in range(200)]
    del results
    gc.collect()
    _until(lambda: not _pool_threads(), "the threads of a dropped executor end")


def test_collecting_an_executor_that_was_shut_down_starts_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = _make("threads")
    executor.submit(_run, 1).result()
    executor.shutdown()
    started: list[threading.Thread] = []
    monkeypatch.setattr(threading.Thread, "start", started.append)
    del executor
    gc.collect()
    assert started == []


def test_a_map_beside_an_endless_iterable_is_finished_by_shutdown(executor: anypool.PoolExecutor) -> None:
    results = executor.map(pow, list(range(3000)), itertools.repeat(2))
    executor.shutdown()
    assert list(results) == [number**2 for number in range(3000)]


def test_a_map_of_unknown_length_says_what_the_end_of_its_executor_cut_off(executor: anypool.PoolExecutor) -> None:
    results = executor.map(_run, itertools.count())
    executor.shutdown()
    got = []
    with pytest.raises(ExecutorClosed, match="shut down before this map was exhausted"):
        for result in results:
            got.append(result)
    assert got == [-number for number in range(len(got))]
    assert len(_ran) == len(got), "what ran was not delivered"


def test_two_threads_that_end_an_executor_show_what_is_left_in_order() -> None:
    class Slow:
        def __init__(self, place: int) -> None:
            self.place = place

        def show(self) -> None:
            time.sleep(0.002 * (self.place % 2))
            shown.append(self.place)

    shown: list[int] = []
    shelf = Shelf()
    for place in range(40):
        shelf.put(place, Slow(place))  # type: ignore[arg-type]
    with ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(lambda: (shelf.show_all(), len(shown))[1]) for _ in range(2)]
    assert shown == list(range(40))
    assert [end.result() for end in ends] == [40, 40]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("subject", _SUBJECTS)
def test_a_warning_raised_by_shutdown_does_not_keep_the_pool_alive(subject: str) -> None:
    executor = _make(subject)
    executor.map(_fail, [1])  # its result is never read, so that shutdown warns
    with pytest.raises(RuntimeWarning, match="nobody read"):
        executor.shutdown()
    _until(lambda: not _pool_threads(), "the threads of the pool end")


def test_a_future_that_is_cancelled_while_queued_never_runs(concurrent_executor: anypool.PoolExecutor) -> None:
    gate = _gate()
    held = [concurrent_executor.submit(_hold, "gate") for _ in range(8)]
    queued = [concurrent_executor.submit(_run, number) for number in range(20)]
    assert [future.cancel() for future in queued[::2]] == [True] * 10
    assert all(future.cancelled() for future in queued[::2])
    assert all(future.cancel() for future in queued[::2]), "cancelling again is no error"
    gate.set()
    assert wait([*held, *queued], timeout=_LONG).not_done == set()
    assert sorted(_ran) == list(range(1, 20, 2))


def test_closing_a_map_stops_what_has_not_begun(concurrent_executor: anypool.PoolExecutor) -> None:
    gate = _gate("second")

    def call(number: int) -> int:
        if number:
            _hold("second")
        return _run(number)

    results = concurrent_executor.options(chunksize=1).map(call, range(1000))
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    gate.set()
    concurrent_executor.shutdown()
    assert len(_ran) <= 1 + 2 * concurrent_executor.max_workers


# --- inputs -------------------------------------------------------------------------------------------


class _Lies:
    """An iterable of `length` items that says `said`, or raises it."""

    def __init__(self, length: int, said: int | Exception) -> None:
        self.length = length
        self.said = said

    def __len__(self) -> int:
        if isinstance(self.said, Exception):
            raise self.said
        return self.said

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.length))


@pytest.mark.parametrize("said", [0, 1, 99, 10_000, -1, ValueError("no length today")], ids=str)
@pytest.mark.parametrize("chunksize", [None, 7])
def test_an_input_that_lies_about_its_length_is_read_to_its_end(
    executor: anypool.PoolExecutor, said: int | Exception, chunksize: int | None
) -> None:
    assert list(executor.map(_run, _Lies(100, said), chunksize=chunksize)) == [-number for number in range(100)]


@pytest.mark.parametrize("before", [0, 1, 2, 5, 40, 3000])
@pytest.mark.parametrize("chunksize", [None, 1, 7, 10_000])
def test_an_error_of_the_input_comes_after_all_results_before_it(
    executor: anypool.PoolExecutor, before: int, chunksize: int | None
) -> None:
    def failing() -> Iterator[int]:
        yield from range(before)
        raise LookupError("midway")

    got = []
    with pytest.raises(LookupError, match="midway") as caught:
        for result in executor.map(_run, failing(), chunksize=chunksize):
            got.append(result)
    assert got == [-number for number in range(before)]
    assert f"after {before} items" in "".join(caught.value.__notes__)
    assert executor.submit(_run, 1).result() == -1


def test_an_interrupt_while_the_input_is_read_ends_the_map_for_good(executor: anypool.PoolExecutor) -> None:
    reads = []

    class Interrupted:
        def __len__(self) -> int:
            return 10

        def __iter__(self) -> Iterator[int]:
            return self

        def __next__(self) -> int:
            reads.append(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        executor.map(_run, Interrupted())
    executor.shutdown()
    assert len(reads) == 1


@pytest.mark.parametrize("chunksize", [None, 1])
def test_the_first_result_does_not_wait_for_a_slow_input_to_fill_the_window(
    executor: anypool.PoolExecutor, chunksize: int | None
) -> None:
    def read_before_the_first_result() -> int:
        read = 0

        def slow() -> Iterator[int]:
            nonlocal read
            for number in range(2000):
                read += 1
                time.sleep(0.005)  # the slowness itself, not a wait for something
                yield number

        results = executor.map(_run, slow(), chunksize=chunksize)
        assert next(results) == 0
        results.close()  # type: ignore[attr-defined]
        return read

    assert least_of_three(read_before_the_first_result, 21) < 21


@pytest.mark.parametrize("buffersize", [1, 3, 10])
@pytest.mark.parametrize("chunksize", [None, 1, 2, 1000])
def test_no_more_than_the_buffer_is_read_ahead_whatever_the_chunksize(
    executor: anypool.PoolExecutor, buffersize: int, chunksize: int | None
) -> None:
    read = 0

    def counted() -> Iterator[int]:
        nonlocal read
        for number in range(200):
            read += 1
            yield number

    ahead = []
    results = executor.map(_run, counted(), buffersize=buffersize, chunksize=chunksize)
    ahead.append(read)
    for taken, result in enumerate(results, start=1):
        assert result == 1 - taken
        ahead.append(read - taken + 1)
    assert taken == 200
    assert max(ahead) <= buffersize


# --- what workers hand back ---------------------------------------------------------------------------


@pytest.mark.parametrize("fails_at", [None, 0, 1500, 2003, 2399])
def test_calls_that_turn_slow_midway_keep_order_and_errors(
    executor: anypool.PoolExecutor, fails_at: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed_back = _count_handed_back(monkeypatch)

    def call(number: int) -> int:
        if 2000 <= number < 2060:
            time.sleep(0.01)  # the slowness itself
        if number == fails_at:
            raise ArithmeticError(number)
        return number

    for _ in range(3):  # on a busy machine even the quick calls may be slow, and their chunks short
        got: list[int] = []
        with nullcontext() if fails_at is None else pytest.raises(ArithmeticError, match=rf"^{fails_at}\b"):
            for result in executor.map(call, iter(range(2400))):
                got.append(result)
        assert got == list(range(2400 if fails_at is None else fails_at))
        if handed_back or (fails_at is not None and fails_at <= 2060):
            break
    else:
        pytest.fail("the chunks were never too long, so that this test says nothing")


def _count_handed_back(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the parts that workers handed back."""
    lengths: list[int] = []
    hand_back = Flow.hand_back

    def spy(self: Flow, part: Part) -> None:
        lengths.append(len(part.items))
        hand_back(self, part)

    monkeypatch.setattr(Flow, "hand_back", spy)
    return lengths


# --- backends that fail -------------------------------------------------------------------------------


@dataclass(kw_only=True)
class _Scripted:
    """A backend whose calls end when the test says so, or never get out at all."""

    name: ClassVar[str] = "scripted"

    max_workers: int | None = None
    refuses: BaseException | None = None
    starts_after: threading.Event | None = None
    is_starting: threading.Event = field(default_factory=threading.Event)
    sent: list[tuple[Future[Any], Callable[[Any], Any], Any]] = field(default_factory=list)
    stopped: int = 0

    def start(self) -> tuple[int, Traits]:
        self.is_starting.set()
        if self.starts_after is not None:
            assert self.starts_after.wait(_LONG)
        return self.max_workers or 1, Traits(shares_memory=True, in_caller=True)

    def submit(self, call: Callable[[Any], Any], payload: Any, /) -> Future[Any]:
        if self.refuses is not None:
            raise self.refuses
        future: Future[Any] = Future()
        self.sent.append((future, call, payload))
        return future

    def answer(self) -> None:
        """Run the oldest call that was sent."""
        future, call, payload = self.sent.pop(0)
        future.set_running_or_notify_cancel()
        future.set_result(call(payload))

    def stop(self, *, cancel: bool) -> None:
        self.stopped += 1


def test_a_pool_that_breaks_settles_every_call_of_a_long_queue() -> None:
    backend = _Scripted()
    executor = anypool.get_executor(backend)
    futures = [executor.submit(_run, number) for number in range(5000)]
    backend.refuses = OSError("the pool broke")
    while backend.sent:
        backend.answer()
    assert wait(futures, timeout=_LONG).not_done == set()
    failed = [future for future in futures if future.exception() is not None]
    assert len(failed) == 4998, "those that were out when it broke have their results"
    assert all(type(future.exception()) is BackendError for future in failed)
    executor.shutdown()


@dataclass(kw_only=True)
class _Gone(_Scripted):
    """A backend whose workers have all been lost, before they began what it is given now."""

    def start(self) -> tuple[int, Traits]:
        return self.max_workers or 1, Traits(notices_lost_workers=True, lost=(OSError,))


@pytest.mark.parametrize("max_workers", [1, 100])
def test_a_pool_that_loses_at_once_all_that_it_is_given_settles_every_call(max_workers: int) -> None:
    """No call has begun, so each is sent again, for a while; also from within the sending of another."""
    with anypool.get_executor(_Gone(refuses=OSError("all are gone"), max_workers=max_workers)) as executor:
        futures = [executor.submit(_run, number) for number in range(500)]
        assert wait(futures, timeout=_LONG).not_done == set()
        assert {type(future.exception()) for future in futures} == {anypool.WorkerLost}
        got = list(executor.map(_run, range(500), errors="return", chunksize=1))
        assert {type(each) for each in got} == {anypool.WorkerLost}


class _PackedOnce:
    """Has a large buffer, and can be pickled once."""

    def __init__(self) -> None:
        self.data = bytearray(1 << 20)

    def __reduce__(self) -> Any:
        if not self.data:
            raise LookupError("it was packed before")
        data, self.data = self.data, bytearray()
        return len, (PickleBuffer(data),)


def test_a_call_that_cannot_be_sent_again_fails() -> None:
    with anypool.get_executor("processes", max_workers=1, retries=1) as executor:
        error = executor.submit(_raise_os_error, _PackedOnce()).exception(_LONG)
    assert isinstance(error, anypool.SendError)
    assert "it was packed before" in str(error)


def _raise_os_error(_: object) -> None:
    raise OSError("the first time")


def test_an_interrupt_while_a_call_is_sent_is_raised_and_leaves_nothing_pending() -> None:
    backend = _Scripted(refuses=KeyboardInterrupt())
    executor = anypool.get_executor(backend)
    with pytest.raises(KeyboardInterrupt):
        executor.submit(_run, 1)
    executor.shutdown()  # would wait for ever for a call that is out and never answered
    assert backend.stopped == 1


@pytest.mark.parametrize("waits", [True, False])
def test_a_backend_that_was_starting_when_its_executor_was_shut_down_is_stopped(waits: bool) -> None:
    backend = _Scripted(starts_after=threading.Event())
    executor = anypool.PoolExecutor(backend)
    with ThreadPoolExecutor(2) as users:
        submitting = users.submit(executor.submit, _run, 1)
        assert backend.is_starting.wait(_LONG)
        closing = users.submit(executor.shutdown, wait=waits)
        _until(lambda: executor._dispatcher.is_closed, "the shutdown has begun")
        assert backend.starts_after is not None
        backend.starts_after.set()
        try:
            future = submitting.result(_LONG)
        except ExecutorClosed:
            pass
        else:
            _until(lambda: backend.sent, "the call is sent")
            backend.answer()
            assert future.result(_LONG) == -1
        closing.result(_LONG)
    _until(lambda: backend.stopped, "the backend is stopped")
    assert backend.stopped == 1
    _until(lambda: not _pool_threads(), "the thread of the shutdown ends")


class _Falsy(Exception):
    def __bool__(self) -> bool:
        return False


def _raise_falsy() -> None:
    raise _Falsy("boo")


def test_an_exception_that_is_false_is_an_exception(executor: anypool.PoolExecutor) -> None:
    with pytest.raises(_Falsy, match="boo"):
        executor.submit(_raise_falsy).result()
    with pytest.raises(_Falsy, match="boo"):
        list(executor.map(lambda _: _raise_falsy(), range(3)))


def test_a_pool_whose_own_error_is_false_has_failed() -> None:
    backend = _Scripted(refuses=_Falsy("boo"))
    with anypool.get_executor(backend) as executor, pytest.raises(BackendError, match="boo"):
        executor.submit(_run, 1).result(_LONG)


def test_a_backend_that_runs_calls_in_its_submit_holds_no_more_than_a_chunk_of_results() -> None:
    ran: list[int] = []
    with anypool.get_executor("serial") as executor:
        results = executor.map(ran.append, itertools.count(), chunksize=10)
        for taken in range(1000):
            next(results)
            assert len(ran) <= taken + 2 * 10


def test_threads_that_ask_one_map_at_once_lose_no_result() -> None:
    """Whoever comes in between is refused, as by any generator; the others get all there is."""
    with anypool.get_executor("threads", max_workers=2) as ex:
        results = ex.map(lambda item: time.sleep(0.002) or item, range(60), chunksize=1)
        got: list[int] = []

        def ask_all() -> None:
            while len(got) < 60:
                try:
                    got.append(next(results))
                except ValueError:
                    time.sleep(0.001)
                except StopIteration:
                    return

        threads = [threading.Thread(target=ask_all) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_LONG)
    assert sorted(got) == list(range(60))
