"""Nesting: a call that opens an executor gets `serial` unless it asks; no depth deadlocks."""

from __future__ import annotations

import os
from typing import Any

from anypool.testing._clauses import clause, needs, offers
from anypool.testing._effects import LIMIT
from anypool.testing._subject import Subject, SubjectFixtures

__all__ = ["NestingTests"]


def _backend_inside(_: Any = None) -> str:
    from anypool import get_executor

    with get_executor() as inner:
        return inner.backend


def _descend(depth: int) -> list[str]:
    """The backends of the levels below, and then the number of levels by the road of results."""
    from anypool import get_executor

    if depth == 0:
        return []
    with get_executor() as inner:
        (below,) = inner.map(_descend, [depth - 1])
        return [inner.backend, *below]


def _sum_inside(backend: str, numbers: list[int]) -> int:
    from anypool import get_executor

    with get_executor(backend, max_workers=2) as inner:
        return sum(inner.map(abs, numbers))


def _sum_in_process(numbers: list[int]) -> tuple[int, bool]:
    from anypool import get_executor

    with get_executor("processes", max_workers=1) as inner:
        return sum(inner.map(abs, numbers)), inner.submit(os.getpid).result(timeout=LIMIT) != os.getpid()


def _child_process_answers() -> str:
    import subprocess
    import sys

    return subprocess.run([sys.executable, "-c", "print('here')"], capture_output=True, text=True, check=True).stdout


@clause("nesting")
class NestingTests(SubjectFixtures):
    """Clause "nesting"."""

    @needs("nesting")
    def test_a_call_that_does_not_ask_gets_serial(self, executor: Any) -> None:
        assert executor.submit(_backend_inside).result(timeout=LIMIT) == "serial"
        assert set(executor.map(_backend_inside, range(4))) == {"serial"}

    @needs("nesting")
    def test_no_depth_deadlocks_though_every_worker_is_taken(self, executor: Any, subject: Subject) -> None:
        calls = 2 * subject.workers
        assert list(executor.map(_descend, [3] * calls, chunksize=1)) == [["serial"] * 3] * calls

    @needs("nesting")
    def test_a_call_that_asks_for_a_backend_gets_it(self, executor: Any) -> None:
        future = executor.submit(_sum_inside, "threads", [-1, 2, -3])
        assert future.result(timeout=LIMIT) == 6

    @needs("nesting", "options")
    def test_the_plan_for_the_levels_below_is_followed(self, executor: Any) -> None:
        view = executor.options(nested=("threads", "serial"))
        assert view.submit(_descend, 3).result(timeout=LIMIT) == ["threads", "serial", "serial"]

    @needs("nesting", "configuration")
    def test_the_environment_of_the_caller_opens_no_pool_in_a_pool(self, executor: Any, monkeypatch: Any) -> None:
        monkeypatch.setenv("ANYPOOL_BACKEND", "threads")
        assert executor.submit(_backend_inside).result(timeout=LIMIT) == "serial"

    @needs("nesting")
    @offers(starts_processes=True)
    def test_a_call_can_start_a_pool_of_processes(self, executor: Any) -> None:
        assert executor.submit(_sum_in_process, [-1, 2]).result(timeout=LIMIT) == (3, True)

    @offers(starts_processes=True)
    def test_a_call_can_start_a_process(self, executor: Any) -> None:
        assert executor.submit(_child_process_answers).result(timeout=LIMIT) == "here\n"
