"""Configuration: the same program on another backend; the executor as a specification; initializers; the budget."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from anypool.testing import _calls
from anypool.testing._clauses import clause, needs, offers
from anypool.testing._effects import LIMIT, Tally
from anypool.testing._subject import Subject, SubjectFixtures

__all__ = ["ConfigurationTests"]


def _program() -> tuple[str, list[int], int]:
    """What a library does that never chooses a backend."""
    import anypool

    with anypool.get_executor() as executor:
        return executor.backend, list(executor.map(_calls.double, range(5))), executor.submit(abs, -3).result()


def _note_worker(tally: Tally) -> None:
    import threading

    tally.mark(f"initialized-{os.getpid()}-{threading.get_ident()}")


def _note_call(tally: Tally, item: int) -> tuple[int, bool]:
    """The item, and whether this worker was initialized before."""
    import threading

    return item, f"initialized-{os.getpid()}-{threading.get_ident()}" in tally.labels()


def _fail_to_initialize(why: str) -> None:
    raise LookupError(why)


def _inner_threads(_: Any = None) -> set[int]:
    import numpy
    import threadpoolctl

    numpy.ones((2, 2)) @ numpy.ones((2, 2))
    return {each["num_threads"] for each in threadpoolctl.threadpool_info()}


@clause("configuration")
class ConfigurationTests(SubjectFixtures):
    """Clauses "configuration" and "budget"."""

    @needs("configuration")
    def test_the_environment_chooses_the_backend(self, subject: Subject, monkeypatch: Any) -> None:
        if not isinstance(self.backend, str):
            pytest.skip("the backend of this executor has no name")
        monkeypatch.setenv("ANYPOOL_BACKEND", self.backend)
        name = subject.name.upper().replace("-", "_")
        for option, value in self.options.items():
            owner = "" if option == "max_workers" else f"{name}_"
            monkeypatch.setenv(f"ANYPOOL_{owner}{option.upper()}", str(value))
        assert _program() == (subject.name, [0, 2, 4, 6, 8], 3)

    @needs("configuration")
    def test_use_chooses_the_backend(self, subject: Subject) -> None:
        import anypool

        with anypool.use(self.backend, **self.options):
            assert anypool.PoolExecutor().backend == subject.name

    @needs("configuration")
    @pytest.mark.parametrize("size", [0, -1])
    def test_a_size_below_one_is_refused(self, size: int) -> None:
        with pytest.raises(ValueError, match="max_workers must be greater than 0"):
            self.make_executor(max_workers=size)

    @needs("options")
    def test_a_view_has_other_settings_and_the_same_workers(self, executor: Any) -> None:
        view = executor.options(chunksize=3, buffersize=6)
        assert list(view.map(_calls.double, range(10))) == list(executor.map(_calls.double, range(10)))
        assert view.max_workers == executor.max_workers
        with pytest.raises(ValueError, match="no_such_setting"):
            executor.options(no_such_setting=1)

    @needs("specification")
    def test_an_executor_pickles_as_its_specification(self, executor: Any, subject: Subject) -> None:
        copy = pickle.loads(pickle.dumps(executor))
        try:
            assert copy.backend == subject.name
            assert list(copy.map(_calls.double, range(5))) == [0, 2, 4, 6, 8]
        finally:
            copy.shutdown()
        assert list(executor.map(_calls.double, range(5))) == [0, 2, 4, 6, 8]

    @needs("specification")
    def test_a_clone_starts_nothing_until_it_is_used(self, executor: Any, subject: Subject) -> None:
        copy = executor.clone()
        assert copy.backend == subject.name
        copy.shutdown()
        with pytest.raises(RuntimeError):
            copy.submit(_calls.double, 1)
        assert executor.submit(_calls.double, 1).result(timeout=LIMIT) == 2

    @needs("specification")
    def test_an_executor_shows_what_it_is(self, executor: Any, subject: Subject) -> None:
        assert repr(subject.name) in repr(executor)

    @needs("initializer")
    def test_an_initializer_runs_once_on_each_worker_before_its_first_call(
        self, make_fresh: Callable[..., Any], place: Path
    ) -> None:
        tally = Tally(place / "tally")
        executor = make_fresh(initializer=_note_worker, initargs=(tally,))
        got = list(executor.map(partial(_note_call, tally), range(24), chunksize=1))
        assert got == [(item, True) for item in range(24)]
        assert executor.submit(_note_call, tally, 5).result(timeout=LIMIT) == (5, True)
        assert len(set(tally.labels())) == len(tally) <= executor.max_workers

    @needs("initializer")
    @pytest.mark.usefixtures("caplog")  # it is logged, too
    def test_an_initializer_that_fails_breaks_the_executor(self, make_fresh: Callable[..., Any]) -> None:
        executor = make_fresh(initializer=_fail_to_initialize, initargs=("no license",))
        exc = executor.submit(_calls.double, 1).exception(timeout=LIMIT)
        assert isinstance(exc, BrokenExecutor)
        assert "no license" in str(exc)
        assert isinstance(exc.__cause__, LookupError)
        with pytest.raises(BrokenExecutor):
            executor.submit(_calls.double, 1)
        with pytest.raises(BrokenExecutor):
            list(executor.map(_calls.double, [1]))

    @clause("budget")
    @needs("options")
    def test_inner_threads_are_as_many_as_asked_for(self, executor: Any) -> None:
        pytest.importorskip("numpy")
        pytest.importorskip("threadpoolctl")
        one = executor.options(inner_threads=1)
        assert set().union(*one.map(_inner_threads, range(4))) <= {1}

    @clause("budget")
    @needs("configuration")
    @offers(synchronous=False)
    def test_max_workers_is_obeyed(self, executor: Any) -> None:
        asked = self.options.get("max_workers")
        if asked is None:
            pytest.skip("the size of this executor was not asked for")
        assert executor.max_workers == asked
