"""Which tests the processes of a run take first: those that take longest, so that none of them is alone at the end.

pytest-xdist starts with the classes and files that have most tests. But one with ten tests of a network takes longer
than one with hundreds of tests of threads, and would be begun when all others are about to end.
"""

from __future__ import annotations

from collections.abc import Collection

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

__all__ = ["LongestFirst", "seconds"]

_SECONDS = {
    "tests/network/test_dask_network.py": 130,
    "tests/test_conformance.py::TestDaskProcesses": 120,
    "tests/test_backends_raw.py": 110,
    "tests/test_examples.py": 100,
    "tests/faults/test_chaos.py::TestThreadsOnABadDay": 80,
    "tests/test_pool.py": 80,
    "tests/test_wrong_backends.py": 75,
    "tests/test_benchmarks.py": 70,
    "tests/test_conformance.py::TestDaskExternal": 70,
    "tests/faults/test_chaos.py::TestProcessesOnABadDay": 60,
    "tests/test_same_answer.py": 60,
    "tests/test_conformance.py::TestJoblibMultiprocessing": 55,
    "tests/test_conformance.py::TestLoky": 55,
    "tests/test_docs.py": 55,
    "tests/test_callers_process.py": 50,
    "tests/test_interpreter_exit.py": 50,
    "tests/test_many_executors.py": 50,
    "tests/test_bad_input.py": 45,
    "tests/test_no_guard.py": 45,
    "tests/test_conformance.py::TestJoblibLoky": 40,
    "tests/test_cpython.py::TestJoblibExecutorTest": 40,
    "tests/test_cpython.py::TestJoblibWaitTests": 40,
    "tests/test_cpython_pool.py::TestDaskPool": 40,
    "tests/clients/test_client_sklearn.py::TestOnAnypool": 35,
    "tests/test_scorecard.py": 35,
}
"""What took half a minute or more, alone on a busy machine with two CPUs; only the order counts."""

_SECONDS_OF_A_TEST = 0.08  # of all others


def seconds(scope: str, tests: Collection[str]) -> float:
    """How long the tests of a class or a file may take."""
    return _SECONDS.get(scope, _SECONDS_OF_A_TEST * len(tests))


class LongestFirst(LoadScopeScheduling):
    """What ``--dist loadscope`` does, but for the order."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        longest = max(self.workqueue, key=lambda scope: seconds(scope, self.workqueue[scope]))
        self.workqueue.move_to_end(longest, last=False)
        super()._assign_work_unit(node)
