"""`anypool.Pool` and `as_pool`: what the standard library's pool does, on any backend, and what it should have done."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import threading
import time
from concurrent.futures import CancelledError, wait
from functools import partial

import pytest

import anypool
from anypool.testing._effects import poll
from scripts import BACKENDS

LOCAL = [name for name in BACKENDS if name in {"serial", "threads", "processes", "loky"}]


def square(x):
    return x * x


def reciprocal(x):
    return 1 / x


def add(x, y):
    return x + y


def keywords(*args, **kwargs):
    return args, kwargs


def touch(path, x):
    (path / str(x)).touch()
    return x


def wait_for(path, began=None):
    if began is not None:
        began.touch()
    while not path.exists():
        time.sleep(0.005)


@pytest.fixture(scope="module", params=LOCAL)
def workers(request):
    """Workers that have begun, for all tests of a pool that can share them."""
    with anypool.get_executor(request.param, max_workers=2) as workers:
        # As many calls at once as there may be: what an executor needs for each of them is there from now on.
        wait([workers.submit(time.sleep, 0.1) for _ in range(16)])
        yield workers


@pytest.fixture
def pool(workers):
    with workers.as_pool() as pool:
        yield pool


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_notebooks_own_code_runs_on_every_backend(backend):
    with anypool.use(backend), anypool.Pool(processes=2) as pool:
        assert pool.map(square, range(20)) == [x * x for x in range(20)]
        assert list(pool.imap(square, range(20))) == [x * x for x in range(20)]
        assert sorted(pool.imap_unordered(square, range(20))) == [x * x for x in range(20)]
        assert pool.starmap(add, [(1, 2), (3, 4)]) == [3, 7]
        assert pool.apply(keywords, (1,), {"fn": 2, "timeout": 3}) == ((1,), {"fn": 2, "timeout": 3})
        assert pool.apply_async(square, (3,)).get(timeout=60) == 9
        assert pool.map_async(square, range(5)).get(timeout=60) == [0, 1, 4, 9, 16]
        assert pool.starmap_async(add, [(1, 2)]).get(timeout=60) == [3]


def test_the_error_of_map_is_that_of_the_first_item_that_failed(pool):
    with pytest.raises(ZeroDivisionError) as caught:
        pool.map(reciprocal, [1, 0, 2])
    assert "item 1" in caught.value.__notes__[0]


def test_imap_goes_on_after_an_error(pool):
    results = pool.imap(reciprocal, [1, 0, 2, 0, 4])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert next(results) == 0.5
    with pytest.raises(ZeroDivisionError):
        results.next(timeout=60)
    assert list(results) == [0.25]


def test_imap_tells_an_exception_that_was_returned_from_one_that_was_raised(pool):
    (returned,) = pool.imap(ValueError, ["returned"])
    assert isinstance(returned, ValueError)


@pytest.mark.parametrize("chunksize", [None, 1, 2, 4])
def test_no_item_before_an_error_of_the_input_is_lost(pool, chunksize):
    def items():
        yield from range(7)
        raise LookupError("the input")

    results = pool.imap(square, items(), chunksize)
    assert [next(results) for _ in range(7)] == [x * x for x in range(7)]
    with pytest.raises(LookupError, match="the input"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_imap_reads_no_further_than_its_window(pool):
    read = []

    def endless():
        while True:
            read.append(len(read))
            yield len(read)

    results = pool.imap(square, endless(), chunksize=1)
    assert [next(results) for _ in range(3)] == [1, 4, 9]
    assert len(read) < 100_000


def test_get_times_out_with_the_errors_of_both_worlds(tmp_path):
    with anypool.Pool(2, backend="threads") as pool:
        result = pool.apply_async(wait_for, (tmp_path / "go",))
        for kind in (multiprocessing.TimeoutError, TimeoutError):
            with pytest.raises(kind):
                result.get(timeout=0.01)
        assert not result.ready()
        with pytest.raises(ValueError, match="not ready"):
            result.successful()
        result.wait(timeout=0.01)
        (tmp_path / "go").touch()
        assert result.get(timeout=60) is None
        assert result.successful()


def test_next_times_out_and_the_result_is_not_lost(tmp_path):
    with anypool.Pool(2, backend="threads") as pool:
        results = pool.imap(partial(_wait_and_return, tmp_path), [1, 2])
        for _ in range(2):
            with pytest.raises(multiprocessing.TimeoutError):
                results.next(timeout=0.01)
        (tmp_path / "go").touch()
        assert next(results) == 1
        assert results.next(timeout=60) == 2
        with pytest.raises(StopIteration):
            results.next(timeout=60)


def _wait_and_return(path, x):
    wait_for(path / "go")
    return x


def test_the_timeout_error_of_a_call_is_its_own(pool):
    result = pool.apply_async(_raise, (TimeoutError("the call's"),))
    with pytest.raises(TimeoutError, match="the call's") as caught:
        result.get(timeout=60)
    assert type(caught.value) is TimeoutError
    results = pool.imap(_raise, [TimeoutError("the call's")])
    with pytest.raises(TimeoutError, match="the call's"):
        results.next(timeout=60)
    assert list(results) == []


def _raise(exc):
    raise exc


def test_callbacks_have_run_when_the_result_is_ready(pool):
    got, failed = [], []
    pool.map_async(square, range(3), callback=got.append, error_callback=failed.append).wait()
    pool.apply_async(square, (4,), callback=got.append, error_callback=failed.append).wait()
    pool.apply_async(reciprocal, (0,), callback=got.append, error_callback=failed.append).wait()
    pool.starmap_async(reciprocal, [(0,)], callback=got.append, error_callback=failed.append).wait()
    assert got == [[0, 1, 4], 16]
    assert [type(exc) for exc in failed] == [ZeroDivisionError, ZeroDivisionError]


def test_a_callback_that_raises_is_logged_and_the_result_is_there(pool, caplog):
    result = pool.apply_async(square, (4,), callback=reciprocal_of_nothing)
    assert result.get(timeout=60) == 16
    poll(lambda: "reciprocal_of_nothing" in caplog.text, "the error was logged")
    caplog.clear()  # the records hold the frames of the error, and so the pool


def reciprocal_of_nothing(_result):
    return 1 / 0


def test_join_finishes_what_was_asked_for_though_nobody_looks_at_it(tmp_path):
    pool = anypool.Pool(2, backend="threads")
    pool.imap(partial(touch, tmp_path), (x for x in range(2000)))
    pool.map_async(partial(touch, tmp_path), range(2000, 2010))
    kept = pool.imap(square, (x for x in range(2000)))
    pool.close()
    pool.join()
    assert len(list(tmp_path.iterdir())) == 2010
    assert list(kept) == [x * x for x in range(2000)]


@pytest.mark.parametrize("end", ["close", "terminate"])
@pytest.mark.parametrize("own", [True, False])
def test_after_its_end_every_method_says_that_the_pool_is_not_running(end, own):
    with anypool.get_executor("threads", max_workers=2) as ex:
        pool = anypool.Pool(2, backend="threads") if own else ex.as_pool()
        with pytest.raises(ValueError, match="still running"):
            pool.join()
        getattr(pool, end)()
        for method in ("map", "imap", "imap_unordered", "starmap", "map_async", "starmap_async"):
            with pytest.raises(ValueError, match="not running"):
                getattr(pool, method)(square, [1])
        for method in ("apply", "apply_async"):
            with pytest.raises(ValueError, match="not running"):
                getattr(pool, method)(square, (1,))
        with pytest.raises(ValueError, match="not running"):
            pool.__enter__()
        for _ in range(2):
            getattr(pool, end)()
            pool.join()
        if not own:
            assert list(ex.map(square, [1, 2])) == [1, 4]


def test_without_join_the_workers_of_a_closed_pool_go_when_all_is_done():
    pool = anypool.Pool(2, backend="processes")
    result = pool.map_async(square, range(5))
    pool.close()
    assert result.get(timeout=60) == [0, 1, 4, 9, 16]
    poll(lambda: pool._executor._dispatcher._is_stopped, "the workers are gone")


@pytest.mark.parametrize("own", [True, False])
def test_terminate_ends_what_waits_and_says_so(tmp_path, own):
    with anypool.get_executor("threads", max_workers=2) as ex:
        pool = anypool.Pool(2, backend="threads") if own else ex.as_pool()
        running = [pool.apply_async(wait_for, (tmp_path / "go", tmp_path / f"began {i}")) for i in range(2)]
        poll(lambda: all((tmp_path / f"began {i}").exists() for i in range(2)), "both run")
        waiting = [pool.apply_async(square, (1,)) for _ in range(20)]
        mapped = pool.map_async(square, range(1000))
        results = pool.imap(square, range(1000))
        ender = threading.Thread(target=_let_go_when_cancelled, args=(waiting[-1], tmp_path / "go"))
        ender.start()
        pool.terminate()
        pool.join()
        ender.join()
        assert [each.get(timeout=60) for each in running] == [None, None]
        with pytest.raises(CancelledError):
            waiting[-1].get(timeout=60)
        assert not waiting[-1].successful()
        with pytest.raises(CancelledError):
            mapped.get(timeout=60)
        with pytest.raises(CancelledError):
            list(results)
        with pytest.raises(CancelledError):
            next(results)


def _let_go_when_cancelled(waiting, go):
    """Not before: what runs would end, and what waits would begin."""
    waiting.wait(60)
    go.touch()


def test_terminate_ends_a_call_that_runs_where_the_backend_can(tmp_path):
    pool = anypool.Pool(2, backend="processes")
    result = pool.apply_async(wait_for, (tmp_path / "never", tmp_path / "began"))
    poll((tmp_path / "began").exists, "the call runs")
    began = time.monotonic()
    pool.terminate()
    pool.join()
    assert time.monotonic() - began < 200
    with pytest.raises((CancelledError, anypool.BackendError, anypool.ExecutorClosed)):
        result.get(timeout=60)


def test_terminate_ends_running_calls_of_its_own_and_no_others(tmp_path):
    with anypool.get_executor("processes", max_workers=2) as ex:
        other = ex.submit(begin_and_wait, tmp_path / "other", tmp_path / "go")
        pool = ex.as_pool()
        own = pool.apply_async(begin_and_wait, (tmp_path / "own", tmp_path / "never"))
        poll(lambda: (tmp_path / "other").exists() and (tmp_path / "own").exists(), "both run")
        pool.terminate()
        pool.join()
        with pytest.raises(CancelledError):
            own.get(timeout=60)
        (tmp_path / "go").touch()
        assert other.result(timeout=60) == "other"


def begin_and_wait(began, go):
    began.touch()
    wait_for(go)
    return began.name


def test_a_worker_that_dies_does_not_leave_the_pool_waiting():
    with anypool.Pool(2, backend="processes") as pool:
        with pytest.raises(anypool.WorkerLost):
            pool.apply(_exit)
        assert pool.map(square, [3]) == [9]


def _exit():
    import os

    os._exit(3)


def test_initializer_context_and_options_reach_the_backend():
    with anypool.Pool(1, _set, ("initialized",), context=multiprocessing.get_context("spawn")) as pool:
        assert pool.apply(_get) == "initialized"
        assert "spawn" in repr(pool)
    with anypool.Pool(1, backend="threads", seed=1) as pool:
        assert pool.map(_draw, range(2)) == _serial_draws()


def _draw(_):
    return anypool.random().random()


def _serial_draws():
    with anypool.get_executor("serial", seed=1) as ex:
        return list(ex.map(_draw, range(2)))


_value = None


def _set(value):
    global _value
    _value = value


def _get():
    return _value


def test_what_cannot_be_done_is_said():
    for processes in (0, -1):
        with pytest.raises(ValueError, match="max_workers"):
            anypool.Pool(processes)
    with pytest.raises(anypool.Unsupported, match="maxtasksperchild=3"):
        anypool.Pool(1, maxtasksperchild=3)
    with anypool.Pool(1, backend="serial") as pool:
        for call in (pool.map, pool.imap, pool.imap_unordered, pool.map_async, pool.starmap):
            with pytest.raises(TypeError):
                call(None, [1])
            with pytest.raises(TypeError):
                call(square, 1)
            with pytest.raises(ValueError, match="chunksize"):
                call(square, [1], 0)


def test_its_size_has_the_names_that_clients_look_for(pool):
    expected = pool._executor.max_workers
    assert pool.size == pool._processes == expected >= 1
    assert pool.is_master()


def test_a_pool_travels_as_its_specification(pool):
    copy = pickle.loads(pickle.dumps(pool))
    with copy:
        assert copy.map(square, [1, 2]) == [1, 4]
    assert pool.map(square, [1, 2]) == [1, 4]


def test_output_of_calls_comes_home_in_order(capsys):
    with anypool.Pool(2, backend="processes") as pool:
        pool.map(print, range(5))
        pool.map_async(print, range(5, 8)).wait()
        list(pool.imap(print, range(8, 10)))
        assert capsys.readouterr().out == "".join(f"{x}\n" for x in range(10))


def test_a_pool_that_nobody_holds_ends_its_workers():
    pool = anypool.Pool(2, backend="processes")
    assert pool.map(square, [1]) == [1]
    next(pool.imap(square, range(1000)))
    dispatcher = pool._executor._dispatcher
    del pool
    gc.collect()
    poll(lambda: dispatcher._is_stopped, "the workers are gone")
