"""`register_joblib`: what joblib does on its own backends it does on ours, and what ours promise holds in it."""

from __future__ import annotations

import multiprocessing
import os
import time

import pytest

import anypool
from anypool.testing._effects import poll
from scripts import BACKENDS

joblib = pytest.importorskip("joblib")

LOCAL = [name for name in BACKENDS if name in {"serial", "threads", "processes", "loky"}]


@pytest.fixture(autouse=True)
def registered(request):
    anypool.register_joblib()
    yield
    if "workers" not in request.fixturenames:
        anypool.close_idle()


def square(x):
    return x * x


def reciprocal(x):
    return 1 / x


def run(fn, items, **options):
    options = {"n_jobs": 2, **options}
    return joblib.Parallel(**options)(joblib.delayed(fn)(x) for x in items)


SQUARES = [x * x for x in range(30)]


@pytest.mark.parametrize("name", BACKENDS)
def test_what_has_n_jobs_runs_on_every_backend(name):
    with anypool.use(name, max_workers=2), joblib.parallel_config(backend="anypool"):
        assert run(square, range(30)) == SQUARES
        assert run(lambda x: x + 1, range(5), n_jobs=None) == [1, 2, 3, 4, 5]


class TestOnEachBackend:
    @pytest.fixture(scope="class", params=LOCAL)
    @classmethod
    def workers(cls, request):
        """The name of a backend whose workers stay from one test to the next."""
        anypool.register_joblib()
        with joblib.parallel_config(backend="anypool", anypool_backend=request.param, max_workers=2):
            yield request.param
        anypool.close_idle()

    def test_lists_and_both_generators(self, workers):
        assert run(square, range(30)) == SQUARES
        assert list(run(square, range(30), return_as="generator")) == SQUARES
        if workers == "serial":
            return
        assert sorted(run(square, range(30), return_as="generator_unordered")) == SQUARES

    def test_one_parallel_is_used_many_times(self, workers):
        with joblib.Parallel(n_jobs=2) as parallel:
            for _ in range(3):
                assert parallel(joblib.delayed(square)(x) for x in range(30)) == SQUARES

    def test_calls_run_on_workers_of_the_chosen_backend(self, workers):
        assert set(run(_who, range(4))) <= {workers, ""}
        with anypool.get_executor(workers, max_workers=2) as ex:
            is_parallel = not ex.traits.synchronous
        assert (workers in run(_who, range(4))) == is_parallel

    def test_n_jobs_of_0_is_joblibs_own_error(self, workers):
        with pytest.raises(ValueError, match="n_jobs == 0 in Parallel has no meaning"):
            run(square, range(5), n_jobs=0)
        with pytest.raises(ValueError, match="n_jobs == 0 in Parallel has no meaning"):
            joblib.effective_n_jobs(0)

    def test_the_error_is_itself_and_says_where_it_was_raised(self, workers):
        with pytest.raises(ZeroDivisionError) as caught:
            run(reciprocal, [1, 0, 2])
        if workers != "serial":
            assert "in reciprocal" in "".join(caught.value.__notes__)
        assert run(square, range(5)) == SQUARES[:5]

    def test_a_generator_that_is_dropped_cancels_the_rest(self, workers, tmp_path):
        if workers == "serial":
            return
        results = run(_touch, ((tmp_path, x) for x in range(10_000)), return_as="generator", pre_dispatch=4)
        assert next(results) == 0
        with pytest.warns(UserWarning, match="tasks"):
            del results
        assert len(list(tmp_path.iterdir())) < 10_000
        assert run(square, range(5)) == SQUARES[:5]

    def test_inner_max_num_threads_reaches_the_calls(self, workers):
        if workers in ("serial", "threads"):
            return
        with joblib.parallel_config(backend="anypool", anypool_backend=workers, max_workers=2, inner_max_num_threads=3):
            assert set(run(_inner_threads, range(4))) == {"3"}

    def test_prints_come_home_in_order(self, workers, capsys):
        run(print, range(20), batch_size=1)
        assert capsys.readouterr().out == "".join(f"{x}\n" for x in range(20))


def _who(_):
    return anypool.current_worker().backend


@pytest.mark.parametrize(("n_jobs", "expected"), [(None, 3), (-1, 3), (-2, 2), (-7, 1), (1, 1), (2, 2), (1000, 3)])
def test_n_jobs_is_at_most_the_workers_that_there_are(n_jobs, expected):
    with joblib.parallel_config(backend="anypool", anypool_backend="threads", max_workers=3):
        assert run(square, range(5), n_jobs=n_jobs) == SQUARES[:5]
        assert joblib.parallel.get_active_backend()[0].effective_n_jobs(n_jobs) == expected


def test_without_a_size_there_are_no_more_workers_than_cpus(monkeypatch):
    with joblib.parallel_config(backend="anypool", anypool_backend="threads"):
        assert joblib.effective_n_jobs(1000) == joblib.effective_n_jobs(-1) == anypool.available_cpus()


def test_a_timeout_ends_the_calls_where_the_backend_can():
    with joblib.parallel_config(backend="anypool", anypool_backend="processes", max_workers=2):
        began = time.monotonic()
        with pytest.raises(multiprocessing.TimeoutError):
            run(time.sleep, [600, 600], timeout=0.5)
        assert time.monotonic() - began < 200
        assert run(square, range(5)) == SQUARES[:5]


def _touch(place):
    path, x = place
    (path / str(x)).touch()
    time.sleep(0.001)
    return x


def test_calls_inside_of_calls_are_serial_unless_the_plan_says_otherwise():
    with joblib.parallel_config(backend="anypool", anypool_backend="processes", max_workers=2):
        assert run(_inside, range(3)) == [(1, [0, 1, 4], {""})] * 3
    with joblib.parallel_config(
        backend="anypool", anypool_backend="processes", max_workers=2, nested=("threads", "serial")
    ):
        workers, values, names = run(_inside, range(1), n_jobs=2)[0]
        assert (workers >= 1, values) == (True, [0, 1, 4])
        assert names == ({"threads"} if workers > 1 else {""})


def _inside(_):
    values = joblib.Parallel(n_jobs=2)(joblib.delayed(square)(x) for x in range(3))
    names = joblib.Parallel(n_jobs=2)(joblib.delayed(_nested_who)(x) for x in range(2))
    return joblib.effective_n_jobs(-1), values, set(names)


def _nested_who(_):
    name = anypool.current_worker().backend
    return "" if name == "processes" else name


def _inner_threads(_):
    return os.environ.get("OMP_NUM_THREADS")


def test_an_executor_that_is_given_is_used_and_stays_open():
    with anypool.get_executor("threads", max_workers=2) as ex:
        with joblib.parallel_config(backend="anypool", anypool_backend=ex):
            assert run(square, range(30), n_jobs=1000) == SQUARES
            assert joblib.effective_n_jobs(1000) == 2
            assert run(square, range(30), require="sharedmem") == SQUARES
            with pytest.raises(ZeroDivisionError):
                run(reciprocal, [1, 0, 2])
        assert list(ex.map(square, range(5))) == SQUARES[:5]
        with pytest.raises(anypool.ConfigError, match="max_workers"):
            joblib.parallel_config(backend="anypool", anypool_backend=ex, max_workers=2)


def test_an_executor_under_another_name_is_told_the_right_one():
    with anypool.get_executor("serial") as ex, pytest.raises(anypool.ConfigError, match="anypool_backend="):
        with joblib.parallel_config(backend="anypool", executor=ex):
            run(square, range(3))


def test_options_can_stand_in_parallel_itself():
    assert run(_who, range(3), backend="anypool", anypool_backend="threads", max_workers=2) == ["threads"] * 3


def test_an_option_that_nobody_has_is_an_error():
    with joblib.parallel_config(backend="anypool", anypool_backend="threads", max_wrkers=2):
        with pytest.raises(anypool.UnknownOption, match="max_wrkers"):
            run(square, range(3))


def test_prints_of_a_call_inside_of_a_call_belong_to_it(capsys):
    with anypool.get_executor("processes", max_workers=1, nested=("threads",)) as ex:
        future = ex.submit(_print_inside)
        poll(future.done, "the call has ended")
        assert capsys.readouterr().out == ""
        future.result()
        assert capsys.readouterr().out == "0\n1\n2\n"


def _print_inside():
    anypool.register_joblib()
    with joblib.parallel_config(backend="anypool", max_workers=2):
        run(print, range(3))


def test_what_a_lost_worker_did_is_told():
    with joblib.parallel_config(backend="anypool", anypool_backend="processes", max_workers=2):
        with pytest.raises(anypool.WorkerLost):
            run(os._exit, [3])
        assert run(square, range(5)) == SQUARES[:5]


def test_registering_twice_changes_nothing():
    anypool.register_joblib()
    assert run(square, range(5), backend="anypool", anypool_backend="threads") == SQUARES[:5]
