"""The scripting aid tells the truth about what it makes fail, and about what ran."""

from __future__ import annotations

import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from anypool.testing import FAULTS, Faults


def test_attempts_follow_the_script_and_then_are_well(tmp_path: Path) -> None:
    faults = Faults(tmp_path / "f", {3: [OSError("disk"), "raise", 0.001]})
    with pytest.raises(OSError, match="disk"):
        faults(3)
    with pytest.raises(OSError, match="on fire"):
        faults(3)
    assert [faults(3), faults(3), faults(4)] == [3, 3, 4]
    assert faults.counts() == {"3": 4, "4": 1}
    assert faults.ran_again() == {"3": 4}
    faults.check([3, 4])


def test_a_step_may_be_a_function_of_the_item(tmp_path: Path) -> None:
    faults = Faults(tmp_path / "f", {3: [lambda item: -item]}, fn=lambda item: item * 10)
    assert [faults(3), faults(3)] == [-3, 30]


def test_a_wrong_count_is_named(tmp_path: Path) -> None:
    faults = Faults(tmp_path / "f", {1: [0.0]})
    for item in (1, 2, 2):
        faults(item)
    with pytest.raises(AssertionError, match=r"'1': 'ran 1 times, not 2'.*|'2': 'ran 2 times, not 1'"):
        faults.check([1, 2])


def test_no_two_attempts_have_one_number(tmp_path: Path) -> None:
    faults = Faults(tmp_path / "f", {1: [0.0] * 40})
    ready = threading.Barrier(4)

    def call(_: int) -> None:
        ready.wait()
        for _ in range(10):
            faults(1)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(call, range(4)))
    assert sorted(each.attempt for each in faults.record()) == list(range(1, 41))


def test_a_call_that_ended_says_when_and_one_that_runs_does_not(tmp_path: Path) -> None:
    faults = Faults(tmp_path / "f", {1: [threading.Event.wait]}, fn=lambda _: time.sleep(0.01))
    faults(2)
    with pytest.raises(AttributeError):
        faults(1)
    (first, second) = faults.record()
    assert first.ended is not None
    assert first.ended - first.began >= 0.01
    assert (second.item, second.ended is None) == ("1", False)


def test_a_copy_that_travelled_writes_to_the_same_record(tmp_path: Path) -> None:
    faults = Faults(tmp_path / "f", {1: ["raise"]})
    with pytest.raises(OSError):
        pickle.loads(pickle.dumps(faults))(1)
    assert faults(1) == 1
    assert faults.counts() == {"1": 2}


def test_an_unknown_fault_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no fault 'explode'; the faults are raise, exit"):
        Faults(tmp_path / "f", {1: ["explode"]})


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if not (fault.ends_worker or fault.hangs)])
def test_a_fault_that_spares_its_process_does_so_in_a_fresh_one(name: str, tmp_path: Path) -> None:
    """The exit codes of the others are compared by `test_lost`, where they end workers."""
    import subprocess
    import sys

    code = f"""
from anypool.testing import FAULTS
try:
    FAULTS[{name!r}].act(5)
except BaseException as exc:
    print(type(exc).__name__, file=open("seen", "w"))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, timeout=240, check=False)
    assert done.returncode in (0, 120), done.stderr  # 120: standard output was closed under the interpreter
    if not name.startswith(("closed", "fork", "unpicklable result")):
        assert (tmp_path / "seen").read_text().strip().endswith(("Error", "Exit", "Interrupt"))
