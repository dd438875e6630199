"""Input that nobody would choose: lengths that lie, slow iterables, items of any size, too little memory."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import subprocess
import sys
import textwrap
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anypool
from attempts import least_of_three

BACKENDS = ("serial", "threads", "processes")
MIB = 1 << 20

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and memory without a name is Linux's")


@pytest.fixture(params=BACKENDS)
def executor(request: pytest.FixtureRequest) -> Iterator[anypool.PoolExecutor]:
    """An executor of the test's own, which has learned nothing and holds nothing."""
    with anypool.get_executor(request.param, max_workers=2) as executor:
        yield executor


@pytest.fixture
def processes() -> Iterator[anypool.PoolExecutor]:
    """Processes of the test's own."""
    with anypool.get_executor("processes", max_workers=2) as executor:
        yield executor


def started(backend: str) -> Iterator[anypool.PoolExecutor]:
    """An executor for the tests of a class, none of which changes what the others find."""
    with anypool.get_executor(backend, max_workers=2) as executor:
        yield executor


def run_script(code: str, *, prefix: tuple[str, ...] = ()) -> str:
    """What a program printed; it must end well, and say nothing else."""
    source = str(Path(anypool.__file__).parents[1])
    done = subprocess.run(
        [*prefix, sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([source, *filter(None, sys.path)])},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def negate(item: int) -> int:
    return -item


def size_of(item: Any) -> int:
    return int(getattr(item, "nbytes", None) or len(item))


def make(size: int) -> Any:
    return b"x" if size == 1 else np.zeros(size, np.uint8)


# --- lengths that lie ----------------------------------------------------------------------------------------


class Liar:
    """Has `items`, and says that it has `length`."""

    def __init__(self, items: range, length: Any) -> None:
        self.items = items
        self.length = length

    def __len__(self) -> int:
        if isinstance(self.length, Exception):
            raise self.length
        return self.length  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[int]:
        return iter(self.items)


class TestLength:
    @pytest.fixture(scope="class", params=BACKENDS)
    @classmethod
    def workers(cls, request: pytest.FixtureRequest) -> Iterator[anypool.PoolExecutor]:
        yield from started(request.param)

    @pytest.mark.parametrize("length", [0, 1, 7, 10**12, -3, 2.5, RuntimeError("how long?")], ids=repr)
    @pytest.mark.parametrize("chunksize", [None, 4])
    def test_it_is_a_hint_and_not_believed(
        self, workers: anypool.PoolExecutor, length: Any, chunksize: int | None
    ) -> None:
        assert list(workers.map(negate, Liar(range(100), length), chunksize=chunksize)) == [-x for x in range(100)]


@pytest.mark.parametrize("length", [0, 10**12])
def test_what_a_lie_about_the_length_promised_is_run_to_its_true_end(length: int) -> None:
    with anypool.get_executor("threads", max_workers=2) as executor:
        seen: list[int] = []
        executor.map(seen.append, Liar(range(50), length))
    assert sorted(seen) == list(range(50)) or length == 0


# --- slow iterables ------------------------------------------------------------------------------------------


def test_results_do_not_wait_for_an_input_that_is_slower_than_the_calls(executor: anypool.PoolExecutor) -> None:
    def typically_read_ahead() -> int:
        read = 0

        def slow() -> Iterator[int]:
            nonlocal read
            for item in range(100):
                time.sleep(0.012)
                read += 1
                yield item

        ahead = []
        for count, result in enumerate(executor.map(negate, slow())):
            assert result == -count
            ahead.append(read - count)
        return sorted(ahead)[len(ahead) // 2]

    list(executor.map(time.sleep, [0.05] * 4, chunksize=1))  # while workers start, no result waits
    assert least_of_three(typically_read_ahead, 17) < 17  # of one that reads all before, it is fifty


def test_results_do_not_wait_for_an_input_that_turns_slow(executor: anypool.PoolExecutor) -> None:
    """After ten thousand quick items a chunk is large; it must not be filled with slow ones."""

    def most_read_ahead() -> int:
        read = 0

        def turning() -> Iterator[int]:
            nonlocal read
            for item in range(10_000):
                yield item
            for item in range(10_000, 10_060):
                time.sleep(0.02)
                read += 1
                yield item

        most = 0
        for count, result in enumerate(executor.map(negate, turning())):
            assert result == -count
            most = max(most, read - max(0, count - 10_000))
        return most

    # One for each chunk that is ready, while a worker is idle, and not all sixty.
    assert least_of_three(most_read_ahead, 41) < 41


# --- items of very different sizes ---------------------------------------------------------------------------


def test_large_arguments_among_small_ones_are_read_few_at_a_time(executor: anypool.PoolExecutor) -> None:
    alive: set[int] = set()
    most = 0
    sizes = [1] * 3000 + [32 * MIB, 1] * 12

    def items() -> Iterator[Any]:
        nonlocal most
        for index, size in enumerate(sizes):
            item = make(size)
            if size > 1:
                alive.add(index)
                weakref.finalize(item, alive.discard, index)
                most = max(most, len(alive))
            yield item
            del item

    assert list(executor.map(size_of, items())) == sizes
    assert most <= 8, f"{most} arrays of 32 MiB at once"


def test_large_arguments_that_do_not_say_so_are_sent_few_at_a_time(processes: anypool.PoolExecutor) -> None:
    """Their size is found when they are pickled; the rest of their chunk waits."""
    held = [_Wrapped(np.zeros(8 * MIB, np.uint8)) for _ in range(3)]
    items = [*[_Wrapped(b"x")] * 2000, *held * 10]
    before = _memory("RssShmem")
    most = 0
    for size, item in zip(processes.map(_size_of_wrapped, items), items, strict=True):
        assert size == len(item.content)
        most = max(most, _memory("RssShmem") - before)
    assert most < 200 * MIB


class _Wrapped:
    def __init__(self, content: Any) -> None:
        self.content = content


def _size_of_wrapped(item: _Wrapped) -> int:
    return len(item.content)


def test_large_results_among_small_ones_come_home_few_at_a_time(executor: anypool.PoolExecutor) -> None:
    sizes = [1] * 3000 + [32 * MIB, 1] * 12
    before, most = _memory("VmRSS"), 0
    for size, result in zip(sizes, executor.map(make, sizes), strict=True):
        assert size_of(result) == size
        most = max(most, _memory("VmRSS") - before)
        del result
    assert most < 10 * 32 * MIB


@on_linux
def test_a_consumer_that_takes_its_time_holds_few_large_results(executor: anypool.PoolExecutor) -> None:
    gc.collect()
    before, most = _memory("VmRSS"), 0
    for _ in executor.map(make, itertools.repeat(4 * MIB, 100)):
        time.sleep(0.005)
        most = max(most, _memory("VmRSS") - before)
    assert most < 300 * MIB


@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
@on_linux
def test_memory_is_flat_over_an_endless_stream_of_megabytes(executor: anypool.PoolExecutor, count: int) -> None:
    arrays = (np.full(MIB // 8, float(item)) for item in itertools.count())
    results = executor.map(np.negative, arrays)
    memory = []
    for item, result in enumerate(itertools.islice(results, count)):
        assert result[0] == -item
        assert result.nbytes == MIB
        memory.append(_memory("VmRSS"))
    results.close()  # type: ignore[attr-defined]
    half = count // 2
    assert max(memory[half:]) - max(memory[: half // 2]) < 96 * MIB
    assert max(memory) - memory[0] < 400 * MIB


def _memory(field: str) -> int:
    """A figure of /proc/self/status, in bytes; 0 where there is none."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(f"{field}:"))


# --- arrays that are not plain -------------------------------------------------------------------------------


def kinds_of_data(directory: Path) -> dict[str, Any]:
    base = np.arange(400_000, dtype=np.float64)
    mapped = np.memmap(directory / "mapped", dtype=np.float64, mode="w+", shape=(100_000,))
    mapped[:] = base[:100_000]
    read_only = base.copy()
    read_only.flags.writeable = False
    return {
        "plain": base,
        "not contiguous": base[::2],
        "negative strides": base[::-1],
        "Fortran": np.asfortranarray(base.reshape(400, 1000)),
        "transposed in three dimensions": base.reshape(40, 100, 100).transpose(2, 0, 1),
        "zero-size": np.empty((0, 7)),
        "zero-dimensional": np.array(7.5),
        "read-only": read_only,
        "memory-mapped": mapped,
        "of objects": np.array([{"a": 1}, None, "x"] * 50_000, dtype=object),
        "structured": np.zeros(100_000, dtype=[("x", "f8"), ("name", "S8")]),
        "strings": np.array(["abc", "de"] * 50_000),
        "dates": np.arange(100_000).astype("datetime64[s]"),
        "big-endian": base.astype(">f8"),
    }


def _there_and_back(value: Any) -> Any:
    return value


class TestThereAndBack:
    @pytest.fixture(scope="class")
    @classmethod
    def workers(cls) -> Iterator[anypool.PoolExecutor]:
        yield from started("processes")

    @pytest.mark.parametrize("kind", [
        "plain", "not contiguous", "negative strides", "Fortran", "transposed in three dimensions", "zero-size",
        "zero-dimensional", "read-only", "memory-mapped", "of objects", "structured", "strings", "dates", "big-endian",
    ])  # fmt: skip
    @pytest.mark.parametrize("way", ["alone", "nested"])
    def test_arrays_of_any_kind_go_and_come(
        self, workers: anypool.PoolExecutor, tmp_path: Path, kind: str, way: str
    ) -> None:
        array = kinds_of_data(tmp_path)[kind]
        sent = array if way == "alone" else {"list": [array, (array[:1] if array.ndim else array, b"y" * 300_000)]}
        got = workers.submit(_there_and_back, sent).result()
        for each in (got, *workers.map(_there_and_back, [sent, sent])):
            found = each if way == "alone" else each["list"][0]
            assert found.dtype == array.dtype
            assert found.shape == array.shape
            np.testing.assert_array_equal(found, array)
            if found.size and not found.dtype.hasobject and kind != "read-only":
                found.flat[0] = found.flat[-1]  # it is the caller's own
            if way == "nested":
                assert each["list"][1][1] == b"y" * 300_000

    @pytest.mark.parametrize("size", [0, 5, 1_000_000])
    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, str, list])
    def test_bytes_of_any_kind_go_and_come(self, workers: anypool.PoolExecutor, kind: Any, size: int) -> None:
        plain: Any = bytes(size) if kind is not str else "ä" * size
        sent = kind(plain)
        for value in (sent, {"nested": (sent, [sent])}):
            got = workers.submit(_there_and_back, value).result()
            assert got == value
        assert type(workers.submit(_there_and_back, sent).result()) is kind

    def test_views_of_many_dimensions_go_and_come(self, workers: anypool.PoolExecutor) -> None:
        view = memoryview(np.arange(60_000.0).reshape(20, 30, 100))
        for sent in (view, memoryview(np.asfortranarray(np.arange(60_000.0).reshape(200, 300)))):
            got = workers.submit(_there_and_back, sent).result()
            assert (got.shape, got.format) == (sent.shape, sent.format)
            assert got.tolist() == sent.tolist()

    @pytest.mark.parametrize("rows", [0, 10, 500_000])
    def test_arrow_tables_go_and_come(self, workers: anypool.PoolExecutor, rows: int) -> None:
        arrow = pytest.importorskip("pyarrow")
        table = arrow.table({"x": arrow.array(range(rows), arrow.int64()), "name": ["a", "bc"] * (rows // 2)})
        for sent in (table, table.slice(rows // 3)):
            assert workers.submit(_there_and_back, sent).result().equals(sent)
            assert [each.equals(sent) for each in workers.map(_there_and_back, [sent] * 3)] == [True] * 3


# --- too little memory ---------------------------------------------------------------------------------------

BUSY = """
    import numpy as np, anypool

    def use(array):
        return float(array.sum()), array * 2

    def table_of(handle, index):
        return float(handle.get()[index])

    def main(warns=0):
        import warnings
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with anypool.get_executor("processes", max_workers=2, initializer=np.sum, initargs=(np.ones(10**6),)) as ex:
                arrays = [np.full(200_000, float(item)) for item in range(20)]
                for item, (total, double) in enumerate(ex.map(use, arrays)):
                    assert total == 200_000.0 * item and double[7] == 2.0 * item, (item, total)
                with ex.share(np.arange(10**6)) as handle:
                    assert list(ex.map(table_of, [handle] * 4, range(4))) == [0.0, 1.0, 2.0, 3.0]
        print(sorted({str(each.message).partition(":")[0][:31] for each in caught}), len(caught))
"""


@on_linux
@pytest.mark.skipif(shutil.which("unshare") is None or os.geteuid() != 0, reason="needs a mount of its own")
def test_a_tiny_dev_shm_makes_no_difference() -> None:
    code = textwrap.dedent(BUSY) + textwrap.dedent(
        """
        import os, subprocess
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/dev/shm"], check=True)
        main()
        print(os.listdir("/dev/shm"))
        """
    )
    assert run_script(code, prefix=("unshare", "--mount")) == "[] 0\n[]\n"


@on_linux
def test_without_shared_memory_all_goes_on_and_is_said_once(tmp_path: Path) -> None:
    code = textwrap.dedent(BUSY) + textwrap.dedent(
        f"""
        import os, tempfile
        def refuse(*args):
            raise OSError(1, "Operation not permitted")
        os.memfd_create = refuse
        tempfile.tempdir = {str(tmp_path)!r}
        main()
        print(os.listdir({str(tmp_path)!r}))
        """
    )
    assert run_script(code) == "['large buffers travel slower tha', 'what all workers need is kept i'] 2\n[]\n"


@on_linux
def test_few_descriptors_make_no_difference() -> None:
    code = textwrap.dedent(BUSY) + textwrap.dedent(
        """
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))
        main()
        """
    )
    assert run_script(code).startswith("[")


@on_linux
def test_files_that_a_killed_process_left_are_removed_by_the_next(tmp_path: Path) -> None:
    code = textwrap.dedent(
        f"""
        import os, signal, tempfile, numpy as np, anypool, warnings
        warnings.simplefilter("ignore")
        def refuse(*args):
            raise OSError(1, "Operation not permitted")
        os.memfd_create = refuse
        tempfile.tempdir = {str(tmp_path)!r}
        ex = anypool.get_executor("processes", max_workers=1)
        handle = ex.share(np.arange(10**6))
        assert os.listdir({str(tmp_path)!r})
        """
    )
    source = str(Path(anypool.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([source, *filter(None, sys.path)])}
    killed = subprocess.run(
        [sys.executable, "-c", code + "os.kill(os.getpid(), signal.SIGKILL)"],
        env=environment, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert killed.returncode == -9
    assert os.listdir(tmp_path)
    run_script(code + "ex.shutdown()")
    assert os.listdir(tmp_path) == []
