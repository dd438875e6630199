"""Large buffers between processes: the bytes arrive, stay, belong to the reader, and nothing leaks."""

from __future__ import annotations

import contextlib
import errno
import gc
import mmap
import os
import pickle
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import anypool
from anypool import _segments_file, _segments_owner, _segments_reader, _wire
from anypool._segments import THRESHOLD, Ref
from anypool._segments_cache import Cache
from anypool._segments_owner import Segments
from anypool._segments_reader import claim, open_refs
from anypool.errors import SendError

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="memory without a name is Linux's"),
]

SIZE = 200_000


class Peer:
    """Another process, which runs statements that it is sent in one namespace."""

    LOOP = textwrap.dedent(
        """
        import pickle, sys
        from anypool._segments_cache import Cache
        from anypool._segments_owner import Segments
        from anypool._segments_reader import claim, open_refs
        segments, names = Segments(), globals()
        while True:
            try:
                code, more = pickle.load(sys.stdin.buffer)
            except EOFError:
                break
            names.update(more)
            try:
                exec(code, names)
                reply = names.pop("answer", None)
            except Exception as exc:
                reply = exc
            pickle.dump(reply, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        """
    )

    def __init__(self) -> None:
        source = str(Path(anypool.__file__).parents[1])
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.LOOP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": source},
        )

    def run(self, code: str, **names: Any) -> Any:
        """What `code` leaves in `answer`; raises what it raises."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        pickle.dump((textwrap.dedent(code), names), self.process.stdin)
        self.process.stdin.flush()
        reply = pickle.load(self.process.stdout)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        self.process.wait()


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.end()


@pytest.fixture
def segments() -> Iterator[Segments]:
    segments = Segments()
    yield segments
    segments.close()


@pytest.fixture(autouse=True)
def _no_descriptor_is_left() -> Iterator[None]:
    before = open_descriptors()
    yield
    gc.collect()
    assert open_descriptors() <= before, "descriptors were left open"


def open_descriptors() -> set[str]:
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            target = os.readlink(f"/proc/self/fd/{number}")
            if "memfd:" in target:
                found.add(f"{number} {target}")
    return found


def holders(ref: Ref) -> set[int]:
    """The processes that have the memory of `ref` open or mapped; with none the kernel has freed it."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            for number in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(FileNotFoundError):
                    info = os.stat(f"/proc/{pid}/fd/{number}")
                    if (info.st_dev, info.st_ino) == (ref[2], ref[3]):
                        found.add(int(pid))
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                if "memfd:anypool" in line and line.split()[4] == str(ref[3]):
                    found.add(int(pid))
    return found


def stored(refs: list[Ref] | None) -> list[Ref]:
    assert refs is not None
    return refs


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def is_reused(segments: Segments, ref: Ref, size: int = SIZE) -> bool:
    """Whether the next buffer goes into the memory of `ref`, which it then overwrites."""
    fresh = stored(segments.store([b"\xee" * size]))
    same = fresh[0][3] == ref[3]
    claim(fresh)
    return same


# -------------------------------------------------------------------------------------- the bytes arrive


def test_buffers_of_any_kind_arrive_in_another_process(segments: Segments, peer: Peer) -> None:
    frozen = np.arange(1000.0)
    frozen.flags.writeable = False
    buffers = [
        b"bytes" * 1000,
        bytearray(b"more"),
        memoryview(np.arange(12).reshape(3, 4)),
        pickle.PickleBuffer(np.asfortranarray(np.arange(12.0).reshape(3, 4))),
        pickle.PickleBuffer(frozen),
        b"",
        memoryview(np.empty((0, 3))),
    ]
    refs = stored(segments.store(buffers))
    expected = [bytes(pickle.PickleBuffer(buffer).raw()) for buffer in buffers]
    assert peer.run("answer = [bytes(b) for b in open_refs(refs)]", refs=refs) == expected


def test_buffers_come_back_from_another_process(peer: Peer) -> None:
    refs = peer.run("answer = segments.store([b'x' * 100_000, b'y' * 5])")
    assert [bytes(buffer) for buffer in open_refs(refs)] == [b"x" * 100_000, b"y" * 5]


def test_arrays_are_rebuilt_over_the_memory_itself(segments: Segments) -> None:
    array = np.arange(100_000)
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(array, 5, buffer_callback=buffers.append)
    view = open_refs(stored(segments.store(buffers)))[0]
    copy = pickle.loads(data, buffers=[view])
    assert np.array_equal(copy, array)
    assert copy.flags.writeable
    assert np.shares_memory(copy, np.frombuffer(view, array.dtype))


def test_buffers_larger_than_one_write_arrive_whole(segments: Segments, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LARGEST_MOVE", "_PIECE", "_COMPARED_PIECE"):
        monkeypatch.setattr(_segments_file, name, 4099)
    monkeypatch.setattr(_segments_reader, "LARGEST_MOVE", 4099)
    for round_ in range(3):  # fresh memory, memory mapped for the first time, mapped memory
        data = os.urandom(SIZE)
        refs = stored(segments.store([data], readers=None))
        assert segments.same(refs[0], data), round_
        with monkeypatch.context() as patch:
            patch.setattr(_segments_reader, "descriptor_limit", lambda: 0)
            assert bytes(open_refs(refs)[0]) == data
        segments.release(refs)


@pytest.mark.parametrize("threads", [True, False])
def test_a_large_buffer_is_compared_to_its_last_byte(
    threads: bool, segments: Segments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_segments_file, "_COMPARED_PIECE", 4099)
    monkeypatch.setattr(_segments_file, "_COMPARED_BY_TWO", SIZE)
    if not threads:
        monkeypatch.setattr(threading.Thread, "start", _refuse_to_start)
    data = bytearray(os.urandom(SIZE))
    (ref,) = stored(segments.store([data], readers=None))
    assert segments.same(ref, data)
    for place in (0, 4098, 4099, SIZE // 2, SIZE // 2 + 4099, SIZE - 1):
        data[place] ^= 1
        assert not segments.same(ref, data), place
        data[place] ^= 1
    assert segments.same(ref, data)


@pytest.fixture
def compared_by_two(segments: Segments, monkeypatch: pytest.MonkeyPatch) -> tuple[Ref, bytes]:
    monkeypatch.setattr(_segments_file, "_COMPARED_PIECE", 4099)
    monkeypatch.setattr(_segments_file, "_COMPARED_BY_TWO", SIZE)
    data = os.urandom(SIZE)
    (ref,) = stored(segments.store([data], readers=None))
    return ref, data


def test_an_error_of_the_second_thread_that_compares_is_the_callers(
    compared_by_two: tuple[Ref, bytes], segments: Segments, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller, read = threading.current_thread(), os.pread

    def fail_elsewhere(*args: int) -> bytes:
        if threading.current_thread() is not caller:
            raise OSError("not here")
        return read(*args)

    monkeypatch.setattr(os, "pread", fail_elsewhere)
    with pytest.raises(OSError, match="not here"):
        segments.same(*compared_by_two)


def test_an_interrupted_comparison_has_let_go_of_the_buffer(
    compared_by_two: tuple[Ref, bytes], segments: Segments, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller, read, is_alive = threading.current_thread(), os.pread, threading.Thread.is_alive
    asked: list[threading.Thread] = []
    is_waited_for = threading.Event()
    ref, data = compared_by_two[0], bytearray(compared_by_two[1])

    def read_late(*args: int) -> bytes:
        if threading.current_thread() is not caller:
            is_waited_for.wait(1.0)
        return read(*args)

    def interrupted_at_first(self: threading.Thread) -> bool:
        asked.append(self)
        if len(asked) == 1:
            raise KeyboardInterrupt
        is_waited_for.set()
        return is_alive(self)

    monkeypatch.setattr(os, "pread", read_late)
    monkeypatch.setattr(threading.Thread, "is_alive", interrupted_at_first)
    with pytest.raises(KeyboardInterrupt):
        segments.same(ref, data)
    data.append(0)  # refused while somebody looks at it


def _refuse_to_start(self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_what_travels_in_a_segment_is_what_a_segment_is_quicker_for() -> None:
    # Two constants, because a worker loads `_wire` at once, and segments only with its first large buffer.
    assert _wire._LARGE == THRESHOLD


def test_a_ref_is_a_plain_tuple_of_numbers(segments: Segments) -> None:
    (ref,) = stored(segments.store([b"x" * SIZE]))
    assert type(ref) is tuple
    assert {type(part) for part in ref} == {int}


# --------------------------------------------------------------------------- writable, private, unchanging


def test_what_a_reader_writes_no_other_reader_sees(segments: Segments, peer: Peer) -> None:
    source = bytearray(b"a" * SIZE)
    refs = stored(segments.store([source], readers=None))
    mine = open_refs(refs)[0]
    peer.run("view = open_refs(refs)[0]; view[:] = b'b' * len(view)", refs=refs)
    mine[0:1] = b"c"
    source[1:2] = b"d"
    assert bytes(mine) == b"c" + b"a" * (SIZE - 1)
    assert bytes(open_refs(refs)[0]) == b"a" * SIZE
    assert peer.run("answer = bytes(view)") == b"b" * SIZE


def test_memory_is_reused_once_the_reader_has_dropped_it(segments: Segments, peer: Peer) -> None:
    refs = stored(segments.store([b"a" * SIZE]))
    assert not is_reused(segments, refs[0]), "nobody has read it yet"
    peer.run("view = memoryview(open_refs(refs)[0])[5:]", refs=refs)
    assert not is_reused(segments, refs[0]), "it is being read"
    assert peer.run("answer = bytes(view)") == b"a" * (SIZE - 5)
    peer.run("del view")
    segments.trim()
    refs = stored(segments.store([b"a" * SIZE]))
    inode = refs[0][3]
    peer.run("view = open_refs(refs)[0]; del view", refs=refs)
    again = stored(segments.store([b"b" * SIZE]))
    assert again[0][3] == inode
    assert again[0][4] != refs[0][4]
    assert peer.run("answer = bytes(open_refs(refs)[0])", refs=again) == b"b" * SIZE


KEEPERS: dict[str, Callable[[Any], Any]] = {
    "buffer": lambda view: view,
    "memoryview": memoryview,
    "slice": lambda view: memoryview(view)[1:7],
    "cast": lambda view: memoryview(view).cast("d"),
    "array": lambda view: np.frombuffer(view, "u1"),
    "reshaped": lambda view: np.frombuffer(view, "f8").reshape(5, -1).T,
    "slice of an array": lambda view: np.frombuffer(view, "u1")[10:11],
    "shallow copy": lambda view: np.frombuffer(view, "u1").view(),
    "iterator": lambda view: iter(memoryview(view)),
    "exported buffer": lambda view: pickle.PickleBuffer(np.frombuffer(view, "u1")),
}


@pytest.mark.parametrize("name", KEEPERS)
def test_memory_is_not_reused_while_anything_looks_at_it(segments: Segments, name: str) -> None:
    refs = stored(segments.store([b"a" * SIZE]))
    kept = KEEPERS[name](open_refs(refs)[0])
    for _ in range(3):
        gc.collect()
        assert not is_reused(segments, refs[0])
        segments.trim()
    content = kept.tobytes() if hasattr(kept, "tobytes") else bytes(kept)
    assert set(content) == {ord("a")}
    del kept
    segments.trim()
    assert holders(refs[0]) == set()


def test_memory_that_a_finalizer_brings_back_to_life_is_not_reused(segments: Segments) -> None:
    saved = []

    class Phoenix:
        def __del__(self) -> None:
            saved.append(self.view)

    refs = stored(segments.store([b"a" * SIZE]))
    phoenix: Any = Phoenix()
    phoenix.view = memoryview(open_refs(refs)[0])
    phoenix.itself = phoenix
    del phoenix
    gc.collect()
    assert saved, "the cycle was not collected"
    assert not is_reused(segments, refs[0])
    assert bytes(saved[0]) == b"a" * SIZE


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_memory_is_not_reused_while_a_fork_of_the_reader_has_it(segments: Segments) -> None:
    refs = stored(segments.store([b"a" * SIZE]))
    view = open_refs(refs)[0]
    ask_read, ask_write = os.pipe()
    answer_read, answer_write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # should it hang
        os.close(ask_write)
        os.read(ask_read, 1)
        os.write(answer_write, bytes(view[:10]))
        os._exit(0)
    os.close(ask_read)
    del view
    assert not is_reused(segments, refs[0])
    os.write(ask_write, b"!")
    assert os.read(answer_read, 10) == b"a" * 10
    os.waitpid(child, 0)
    for descriptor in (ask_write, answer_read, answer_write):
        os.close(descriptor)
    assert any(is_reused(segments, refs[0]) for _ in range(2)), "the lock outlived the fork"


# ------------------------------------------------------------------------------------------ stale refs


def test_a_ref_is_refused_once_its_memory_was_reused(segments: Segments) -> None:
    old = stored(segments.store([b"a" * SIZE]))
    open_refs(old)
    new = stored(segments.store([b"b" * SIZE]))
    assert new[0][:4] == old[0][:4]
    with pytest.raises(SendError, match="taken back"):
        claim(old)
    assert bytes(open_refs(new)[0]) == b"b" * SIZE


def test_a_ref_is_refused_once_it_was_released_or_its_owner_closed(segments: Segments) -> None:
    released = stored(segments.store([b"a" * SIZE]))
    segments.release(released)
    with pytest.raises(SendError, match="200,000 bytes .* taken back"):
        claim(released)
    closed = stored(segments.store([b"a" * SIZE]))
    segments.close()
    with pytest.raises(SendError, match="not on this machine"):
        claim(closed)
    assert segments.store([b"a" * SIZE]) is None


def test_a_ref_of_an_ended_process_is_refused_by_name(peer: Peer) -> None:
    refs = peer.run("answer = segments.store([b'x' * 100_000])")
    peer.kill()
    with pytest.raises(SendError, match=f"process {peer.process.pid} is gone: .* not on this machine"):
        claim(refs)


def test_a_number_that_means_another_file_by_now_is_not_opened(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    descriptor = os.open(fifo, os.O_RDWR)
    try:
        with pytest.raises(SendError, match="is gone"):
            claim([(os.getpid(), descriptor, 1, 2, 3, 4)])
        found = os.fstat(descriptor)
        with pytest.raises(SendError):
            claim([(os.getpid(), descriptor, found.st_dev, found.st_ino, 3, 4)])
    finally:
        os.close(descriptor)


def test_a_lie_about_the_size_is_refused(segments: Segments) -> None:
    (ref,) = stored(segments.store([b"a" * SIZE]))
    with pytest.raises(SendError):
        claim([(*ref[:5], 10 * SIZE)])


def test_a_reader_of_another_user_is_told_so(segments: Segments, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = stored(segments.store([b"a" * SIZE]))

    def forbid(*_args: object, **_options: object) -> os.stat_result:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch, pytest.raises(SendError, match="another user"):
        patch.setattr(os, "stat", forbid)
        claim(refs)


def test_claimed_buffers_are_given_out_once(segments: Segments) -> None:
    claimed = claim(stored(segments.store([b"a" * SIZE])))
    claimed.open()
    with pytest.raises(RuntimeError, match="already"):
        claimed.open()


# -------------------------------------------------------------------------------------- kept for several


def test_what_is_kept_can_be_read_again_and_again_until_released(segments: Segments, peer: Peer) -> None:
    refs = stored(segments.store([b"a" * SIZE], readers=None))
    for _ in range(3):
        assert peer.run("answer = bytes(open_refs(refs)[0])", refs=refs) == b"a" * SIZE
        assert not is_reused(segments, refs[0])
        segments.trim()
    view = open_refs(refs)[0]
    segments.release(refs)
    assert not is_reused(segments, refs[0])
    assert bytes(view) == b"a" * SIZE
    segments.trim()
    del view
    segments.trim()
    assert holders(refs[0]) == set()


def test_same_compares_the_bytes(segments: Segments) -> None:
    array = np.random.default_rng(0).random(400_000)
    (ref,) = stored(segments.store([array.data], readers=None))
    assert segments.same(ref, array.data)
    array[-1] += 1
    assert not segments.same(ref, array.data)
    assert not segments.same(ref, array[:-1].data)
    segments.release([ref])
    assert not segments.same(ref, array.data)


# --------------------------------------------------------------------------------------- nothing is left


def test_an_owner_that_is_killed_leaves_what_was_claimed_and_nothing_else(peer: Peer) -> None:
    refs = peer.run("answer = segments.store([b'x' * 100_000, b'y' * 100_000])")
    claimed = claim(refs[:1])
    peer.kill()
    (view,) = claimed.open()
    assert bytes(view) == b"x" * 100_000
    assert holders(refs[0]) == {os.getpid()}
    assert holders(refs[1]) == set()
    del view, claimed
    assert holders(refs[0]) == set()


def test_the_memory_of_a_reader_that_is_killed_comes_back(segments: Segments, peer: Peer) -> None:
    refs = stored(segments.store([b"a" * SIZE]))
    peer.run("view = open_refs(refs)[0]", refs=refs)
    assert holders(refs[0]) == {os.getpid(), peer.process.pid}
    peer.kill()
    assert holders(refs[0]) == {os.getpid()}
    assert is_reused(segments, refs[0])


def test_close_and_garbage_free_the_memory() -> None:
    for finish in (Segments.close, lambda _: None):
        segments = Segments()
        (ref,) = stored(segments.store([b"a" * SIZE]))
        assert holders(ref) == {os.getpid()}
        finish(segments)
        del segments
        assert holders(ref) == set()


def test_arrays_outlive_the_owner(segments: Segments) -> None:
    (view,) = open_refs(stored(segments.store([b"a" * SIZE])))
    segments.close()
    assert bytes(view) == b"a" * SIZE


def test_trim_returns_idle_memory_and_keeps_what_is_wanted(segments: Segments) -> None:
    wanted = stored(segments.store([b"a" * SIZE]))
    done = stored(segments.store([b"b" * SIZE]))
    claim(done)
    segments.trim(older_than=3600)
    assert holders(done[0])
    segments.trim()
    assert holders(done[0]) == set()
    assert bytes(open_refs(wanted)[0]) == b"a" * SIZE


def test_idle_memory_is_bounded_in_bytes_and_time() -> None:
    segments = Segments(idle_bytes=3 * SIZE, idle_seconds=3600)
    refs = stored(segments.store([b"a" * SIZE] * 10))
    claim(refs)
    segments.store([b"b" * SIZE])
    assert sum(bool(holders(ref)) for ref in refs) <= 4  # three idle, one of the former in use
    segments = Segments(idle_seconds=0)
    refs = stored(segments.store([b"a" * SIZE]))
    claim(refs)
    segments.store([b"b" * 10])
    assert holders(refs[0]) == set()


def test_a_small_buffer_does_not_pin_much_larger_memory(segments: Segments) -> None:
    refs = stored(segments.store([b"a" * (8 << 20)]))
    claim(refs)
    assert not is_reused(segments, refs[0], 1000)
    assert is_reused(segments, refs[0], 7 << 20)


def test_children_inherit_no_descriptor(segments: Segments) -> None:
    refs = stored(segments.store([b"a" * SIZE]))
    view = open_refs(refs)
    listing = "(p.readlink() for p in Path('/proc/self/fd').iterdir() if p.exists())"
    child = [sys.executable, "-c", f"from pathlib import Path; print(*{listing})"]
    done = subprocess.run(child, close_fds=False, capture_output=True, text=True, check=True)
    assert "pipe:" in done.stdout
    assert "memfd:anypool" not in done.stdout
    del view


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_of_the_owner_does_not_touch_its_segments(segments: Segments) -> None:
    refs = stored(segments.store([b"a" * SIZE]))
    claim(stored(segments.store([b"c" * SIZE])))  # one that could be reused
    read, write = os.pipe()
    with segments._own.get().lock:  # as if another thread were in `store` during the fork
        child = os.fork()
        if child == 0:
            signal.alarm(30)  # should it hang
            ours = stored(segments.store([b"b" * SIZE]))
            segments.release(refs)
            segments.trim()
            segments.close()
            os.write(write, pickle.dumps((ours, os.getpid() in holders(refs[0]))))
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as reply:
        ours, holds = pickle.load(reply)
    os.waitpid(child, 0)
    assert ours[0][0] == child
    assert not holds
    assert bytes(open_refs(refs)[0]) == b"a" * SIZE
    assert len(segments._own.get().busy) == 2


@pytest.mark.soak
def test_ten_thousand_rounds_leave_descriptors_and_memory_flat(segments: Segments) -> None:
    data = np.zeros(64 << 10, "u1")

    def turn() -> None:
        for value in range(1000):
            data[:] = value % 256
            (view,) = open_refs(stored(segments.store([data])))
            assert view[0] == view[-1] == value % 256

    def resident() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    turn()
    before = (len(os.listdir("/proc/self/fd")), resident())
    for _ in range(10):
        turn()
    assert len(os.listdir("/proc/self/fd")) <= before[0] + 1
    assert resident() - before[1] < 4 << 20


# -------------------------------------------------------------------------------------------- exhaustion


def test_beyond_the_bound_buffers_travel_inline() -> None:
    segments = Segments(live=3)
    refs = stored(segments.store([b"a" * 100, b"b" * 100, b"c" * 100]))
    assert segments.store([b"d" * 100]) is None
    assert [bytes(buffer)[:1] for buffer in open_refs(refs)] == [b"a", b"b", b"c"]
    assert segments.store([b"d" * 100]) is not None


def test_what_the_reader_keeps_does_not_use_up_the_bound() -> None:
    segments = Segments(live=3)
    kept = [open_refs(stored(segments.store([bytes([value]) * 100])))[0] for value in range(20)]
    assert [buffer[0] for buffer in kept] == list(range(20))


def test_a_partial_store_takes_all_back() -> None:
    segments = Segments(live=2)
    assert segments.store([b"a" * 100] * 3) is None
    assert stored(segments.store([b"b" * 100] * 2))


def test_a_reader_short_of_descriptors_copies_instead_of_holding(segments: Segments, peer: Peer) -> None:
    peer.run("import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)); views = []")
    for value in range(100):
        refs = stored(segments.store([bytes([value]) * 10_000]))
        peer.run("views += open_refs(refs)", refs=refs)
    answer = peer.run("import os; answer = [bytes(v) for v in views], len(os.listdir('/proc/self/fd'))")
    assert answer[0] == [bytes([value]) * 10_000 for value in range(100)]
    assert answer[1] <= 25, "half of the descriptors are left to others"
    assert peer.run("view = views[-1]; view[0] = 7; answer = view[0]") == 7


def test_an_owner_short_of_descriptors_sends_inline_and_leaves_half_to_others(peer: Peer) -> None:
    answer = peer.run(
        """
        import os, resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        refs = [segments.store([b'x' * 10_000]) for _ in range(100)]
        answer = refs, len(os.listdir('/proc/self/fd'))
        """
    )
    refs, count = answer
    assert refs[0] is not None
    assert refs[-1] is None
    assert count <= 25
    assert bytes(open_refs(refs[0])[0]) == b"x" * 10_000


def test_a_reader_without_any_descriptor_left_says_so(segments: Segments) -> None:
    refs = stored(segments.store([b"a" * SIZE]))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    taken = [os.dup(0) for _ in range(highest + 1)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 1, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        with pytest.raises(SendError, match="too many open files here"):
            claim(refs)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)
    assert bytes(open_refs(refs)[0]) == b"a" * SIZE


def test_a_mapping_that_is_refused_is_copied(segments: Segments, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = stored(segments.store([b"a" * SIZE]))
    real = mmap.mmap

    def refuse(descriptor: int, *args: Any, **options: Any) -> mmap.mmap:
        if descriptor != -1:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return real(descriptor, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(mmap, "mmap", refuse)
        (view,) = open_refs(refs)
    assert bytes(view) == b"a" * SIZE
    with monkeypatch.context() as patch:  # and so is the owner's, who then writes through the file
        claim(refs)
        patch.setattr(mmap, "mmap", refuse)
        again = stored(segments.store([b"b" * SIZE]))
    assert bytes(open_refs(again)[0]) == b"b" * SIZE


def test_a_reader_without_memory_says_so(peer: Peer, segments: Segments) -> None:
    refs = stored(segments.store([bytes(64 << 20)], readers=None))
    peer.run("import resource as r; r.setrlimit(r.RLIMIT_AS, (64 << 20, r.getrlimit(r.RLIMIT_AS)[1]))")
    with pytest.raises(SendError, match="no memory here for a buffer of 67,108,864 bytes"):
        peer.run("claim(refs)", refs=refs)
    peer.run("r.setrlimit(r.RLIMIT_AS, (r.RLIM_INFINITY, r.RLIM_INFINITY))")
    assert peer.run("answer = len(open_refs(refs)[0])", refs=refs) == 64 << 20


@pytest.mark.parametrize("error", [errno.EPERM, errno.EMFILE, errno.ENOMEM])
def test_a_system_that_refuses_is_told_once_and_buffers_travel_inline(
    error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "memfd_create", refuse)
    segments = Segments()
    with pytest.warns(RuntimeWarning, match=os.strerror(error)):
        assert segments.store([b"a" * SIZE]) is None
    assert segments.store([b"a" * SIZE]) is None


def test_memory_that_runs_out_while_storing_leaves_nothing(peer: Peer) -> None:
    answer = peer.run(
        """
        import os, resource, warnings
        before = len(os.listdir('/proc/self/fd'))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter('always')
            refs = [segments.store([b'x' * 10_000, b'x' * 1_000_000]) for _ in range(3)]
        segments.trim()
        answer = refs, [str(w.message) for w in seen], len(os.listdir('/proc/self/fd')) - before
        """
    )
    assert answer[0] == [None] * 3
    assert len(answer[1]) == 1
    assert "File too large" in answer[1][0]
    assert answer[2] == 0


def test_a_buffer_that_is_not_contiguous_is_refused_and_takes_the_others_back(segments: Segments) -> None:
    with pytest.raises(BufferError):
        segments.store([b"a" * SIZE, np.arange(100)[::2].data])
    assert not segments._own.get().busy


def test_a_warning_that_is_an_error_leaves_nothing(monkeypatch: pytest.MonkeyPatch, segments: Segments) -> None:
    claim(stored(segments.store([b"a" * 100])))

    def refuse(*_args: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="Too many"):
            segments.store([b"a" * 100, b"b" * SIZE])
    assert not segments._own.get().busy


def test_a_platform_that_has_no_such_memory_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_segments_owner, "_HAS_MEMFD", False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Segments().store([b"a" * SIZE]) is None


def test_a_process_that_others_may_not_look_into_sends_inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.warns(RuntimeWarning, match="may not be looked into"):
        assert Segments().store([b"a" * SIZE]) is None


# ----------------------------------------------------------------------------------- threads, sequences


def test_threads_store_and_read_without_mixing_buffers_up(segments: Segments) -> None:
    gate = threading.Barrier(4)
    wrong: list[object] = []

    def work(number: int) -> None:
        kept: list[tuple[int, Any]] = []
        gate.wait()
        for turn in range(150):
            value = (number * 64 + turn) % 256
            refs = stored(segments.store([bytes([value]) * (5000 + 700 * (turn % 5))]))
            (view,) = open_refs(refs)
            kept.append((value, view))
            wrong.extend(value for value, view in kept if set(view[:]) != {value})
            del kept[: -(turn % 4 + 1)]
            if not turn % 7:
                segments.release(refs)
                segments.trim()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class Traffic(RuleBasedStateMachine):
    """Any sequence of storing, opening, writing, dropping and releasing."""

    def __init__(self) -> None:
        super().__init__()
        self.segments = Segments(live=6, idle_bytes=60_000, idle_seconds=3600)
        self.counter = 0
        self.sent: dict[Ref, tuple[bytes, bool]] = {}
        self.held: list[tuple[bytearray, Any]] = []

    @rule(size=st.integers(1, 20_000), kept=st.booleans())
    def store(self, size: int, kept: bool) -> None:
        self.counter += 1
        data = self.counter.to_bytes(4, "little") * (size // 4 + 1)
        refs = self.segments.store([data], readers=None if kept else 1)
        if refs is None:
            wanted = len(self.sent)
            assert wanted >= 6, "there was room"
        else:
            self.sent[refs[0]] = (data, kept)

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), write=st.booleans())
    def open(self, data: st.DataObject, write: bool) -> None:
        ref = data.draw(st.sampled_from(sorted(self.sent)))
        content, kept = self.sent[ref]
        (view,) = open_refs([ref])
        expected = bytearray(content)
        if write:
            view[:3] = expected[:3] = b"\xff\xff\xff"
        self.held.append((expected, view))
        if not kept:
            del self.sent[ref]

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        ref = data.draw(st.sampled_from(sorted(self.sent)))
        self.segments.release([ref])
        del self.sent[ref]
        with pytest.raises(SendError):
            # Still read by someone: then the ref is good until that reader is gone, and may be opened.
            open_refs([ref])
            raise SendError("was still being read")

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        del self.held[data.draw(st.integers(0, len(self.held) - 1))]

    @rule()
    def trim(self) -> None:
        self.segments.trim()

    @invariant()
    def every_reader_has_its_own_bytes(self) -> None:
        for expected, view in self.held:
            assert view[:] == expected

    @invariant()
    def what_was_sent_is_as_it_was(self) -> None:
        for ref, (content, kept) in self.sent.items():
            assert not kept or self.segments.same(ref, content)

    def teardown(self) -> None:
        self.held.clear()
        self.segments.close()


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# --------------------------------------------------------------------------------------------- broadcast


@pytest.fixture
def cache(segments: Segments) -> Cache:
    return Cache(segments)


def test_the_same_object_with_the_same_bytes_is_stored_once(segments: Segments, cache: Cache) -> None:
    array, other = np.arange(50_000), np.arange(50_000)
    first = stored(cache.store_shared([pickle.PickleBuffer(array), pickle.PickleBuffer(other)]))
    again = stored(cache.store_shared([pickle.PickleBuffer(array), pickle.PickleBuffer(other)]))
    assert again == first
    assert first[0] != first[1]


def test_an_object_that_changed_is_stored_anew_and_the_old_bytes_stay(cache: Cache) -> None:
    array = np.arange(50_000)
    old = stored(cache.store_shared([array.data]))
    array[7] = -1
    new = stored(cache.store_shared([array.data]))
    assert new != old
    assert np.frombuffer(open_refs(old)[0], array.dtype)[7] == 7
    assert np.frombuffer(open_refs(new)[0], array.dtype)[7] == -1
    cache.release(old)
    with pytest.raises(SendError):
        claim(old)
    assert stored(cache.store_shared([array.data])) == new


def test_what_is_in_use_stays_when_its_object_dies_and_goes_after(cache: Cache, segments: Segments) -> None:
    array = np.arange(50_000)
    refs = stored(cache.store_shared([pickle.PickleBuffer(array)]))
    del array
    assert stored(cache.store_shared([np.arange(3)]))
    assert np.frombuffer(open_refs(refs)[0], np.int64)[9] == 9
    cache.release(refs)
    with pytest.raises(SendError):
        claim(refs)


def test_what_is_not_in_use_goes_when_its_object_dies(cache: Cache) -> None:
    array = np.arange(50_000)
    refs = stored(cache.store_shared([pickle.PickleBuffer(array)]))
    cache.release(refs)
    claim(refs)
    del array
    cache.release([])
    with pytest.raises(SendError):
        claim(refs)


def test_it_is_kept_until_released_as_often_as_stored(segments: Segments) -> None:
    cache = Cache(segments, spare_bytes=0)
    array = np.arange(50_000)
    refs = stored(cache.store_shared([array.data]))
    cache.store_shared([array.data])
    cache.release(refs)
    claim(refs)
    cache.release(refs)
    with pytest.raises(SendError):
        claim(refs)


def test_what_no_call_uses_is_bounded_the_least_recent_goes_first(segments: Segments) -> None:
    cache = Cache(segments, spare_bytes=2 * SIZE)
    arrays = [np.full(SIZE, value, "u1") for value in range(3)]
    refs = [stored(cache.store_shared([array.data])) for array in arrays]
    assert stored(cache.store_shared([arrays[0].data])) == refs[0]
    for shared in (*refs, refs[0]):
        cache.release(shared)
    claim(refs[0])
    claim(refs[2])
    with pytest.raises(SendError):
        claim(refs[1])


def test_buffers_without_weak_references_and_empty_ones_are_shared_too(cache: Cache) -> None:
    data = b"x" * SIZE
    refs = stored(cache.store_shared([data, b""]))
    assert stored(cache.store_shared([data, b""])) == refs
    assert [bytes(buffer) for buffer in open_refs(refs)] == [data, b""]


def test_what_cannot_be_stored_is_sent_inline_and_nothing_stays_pinned() -> None:
    segments = Segments(live=2)
    cache = Cache(segments, spare_bytes=0)
    arrays = [np.full(SIZE, value, "u1") for value in range(3)]
    assert cache.store_shared([array.data for array in arrays]) is None
    assert stored(cache.store_shared([array.data for array in arrays[:2]]))
