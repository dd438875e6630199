"""A map with a journal: goes on where it was killed, on any backend, and takes no journal that is not its own."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import anypool
from anypool import JournalError
from anypool._fingerprint import fingerprint
from scripts import run_python

SCRIPT = """
    import os, time
    import anypool

    def work(x):
        with open("ran", "a") as file:
            file.write(f"{x}\\n")
        print("worked on", x)
        while x >= 70 and not os.path.exists("go"):
            time.sleep(0.01)
        return x * x

    with anypool.get_executor() as ex:
        for y in ex.map(work, range(100), chunksize=1, journal="run.journal"):
            print("result", y, flush=True)
"""


def _count(path: Path) -> Counter[int]:
    return Counter(map(int, path.read_text().split())) if path.exists() else Counter()


def _square(x: int) -> int:
    return x * x


_calls: list[int] = []


def _recorded(x: int) -> int:
    _calls.append(x)
    return -x


@pytest.mark.parametrize(
    ("first", "then"), [("processes", "threads"), ("threads", "processes"), ("processes", "serial")]
)
def test_a_map_that_was_killed_goes_on_elsewhere(first: str, then: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    environment = os.environ | {"ANYPOOL_BACKEND": first, "ANYPOOL_MAX_WORKERS": "2", "ANYPOOL_CONFIG": "none"}
    command = [sys.executable, "-u", str(script)]
    seen = 0
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            seen += line.startswith("result")
            if seen == 70:
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.read()  # until the workers, which have it too, are gone
    before = _count(tmp_path / "ran")
    assert set(range(70)) <= set(before) <= set(range(72))
    (tmp_path / "go").touch()
    done = run_python([str(script)], backend=then, directory=tmp_path)
    assert done.stderr == ""
    expected = [line for x in range(100) for line in (f"worked on {x}", f"result {x * x}")]
    assert done.stdout.splitlines() == expected  # the output of what had run before, too
    after = _count(tmp_path / "ran")
    assert set(after) == set(range(100))
    # What the caller had seen ran once; what was on its way when it was killed may have run again.
    assert all(after[x] == 1 for x in range(100) if x not in (70, 71))
    assert max(after.values()) <= 2


def test_a_finished_map_runs_nothing(tmp_path: Path) -> None:
    for _ in range(3):
        with anypool.get_executor("threads") as ex:
            assert list(ex.map(_recorded, range(20), journal=tmp_path / "j")) == [-x for x in range(20)]
    assert sorted(_calls) == list(range(20))
    assert [each.name for each in tmp_path.iterdir()] == ["j"]
    assert (tmp_path / "j").stat().st_mode & 0o777 == 0o600


def test_what_failed_runs_again_and_what_succeeded_does_not(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    broken = tmp_path / "broken"
    broken.touch()

    def work(x: int) -> int:
        with ran.open("a") as file:
            file.write(f"{x}\n")
        if x % 3 == 0 and broken.exists():
            raise OSError("broken")
        return x

    with anypool.get_executor("processes", max_workers=2, journal=tmp_path / "j") as ex:
        first = list(ex.map(work, range(12), errors="return"))
        assert [type(each) for each in first] == [OSError if x % 3 == 0 else int for x in range(12)]
        broken.unlink()
        assert list(ex.map(work, range(12))) == list(range(12))
    assert _count(ran) == {x: 2 if x % 3 == 0 else 1 for x in range(12)}


def test_more_items_than_before_go_on_at_the_end(tmp_path: Path) -> None:
    with anypool.get_executor("serial", journal=tmp_path / "j") as ex:
        assert list(ex.map(_square, range(5))) == [0, 1, 4, 9, 16]
        assert list(ex.map(_square, range(8), buffersize=2)) == [x * x for x in range(8)]
        assert sorted(ex.map(_square, iter(range(9)), ordered=False)) == [x * x for x in range(9)]


def test_the_random_numbers_of_an_item_do_not_depend_on_what_ran_before(tmp_path: Path) -> None:
    with anypool.get_executor("serial", seed=7) as ex:
        expected = list(ex.map(lambda _: anypool.random().random(), range(6)))
        view = ex.options(journal=tmp_path / "j")
        assert list(view.map(lambda _: anypool.random().random(), range(3))) == expected[:3]
        assert list(view.map(lambda _: anypool.random().random(), range(6))) == expected


@pytest.mark.parametrize(
    ("fn", "items", "seed", "about"),
    [
        (lambda x: x + 1, range(5), None, "function"),
        (functools.partial(pow, 2), range(5), None, "function"),
        (_square, [0, 1, 2, 30, 4], None, "item 3"),
        (_square, range(5), 1, "seed"),
    ],
)
def test_the_journal_of_another_map_is_refused_and_left_as_it_is(
    fn: Any, items: Any, seed: Any, about: str, tmp_path: Path
) -> None:
    with anypool.get_executor("serial", journal=tmp_path / "j") as ex:
        list(ex.map(_square, range(5)))
        with pytest.raises(JournalError, match=about):
            list(ex.map(fn, items, seed=seed))
        assert list(ex.map(_square, range(5))) == [0, 1, 4, 9, 16]


def test_a_file_of_another_kind_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("my notes\n" * 500)
    notes.chmod(0o600)
    with anypool.get_executor("serial") as ex, pytest.raises(JournalError, match="another kind"):
        ex.map(_square, [1], journal=notes)
    assert notes.read_text() == "my notes\n" * 500


def test_a_journal_that_others_can_write_is_not_unpickled(tmp_path: Path) -> None:
    journal = tmp_path / "j"
    with anypool.get_executor("serial") as ex:
        list(ex.map(_square, [1], journal=journal))
        journal.chmod(0o666)
        with pytest.raises(JournalError, match="another user"):
            ex.map(_square, [1], journal=journal)


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
@pytest.mark.parametrize("is_link", [False, True], ids=["file", "link"])
def test_what_others_have_laid_beside_a_journal_is_not_read(tmp_path: Path, suffix: str, is_link: bool) -> None:
    journal, beside = tmp_path / "j", tmp_path / f"j{suffix}"
    with anypool.get_executor("serial") as ex:
        list(ex.map(_square, [1], journal=journal))
        if is_link:
            beside.symlink_to("elsewhere")
        else:
            beside.touch()
            beside.chmod(0o666)
        with pytest.raises(JournalError, match="another user"):
            ex.map(_square, [1], journal=journal)
        beside.unlink()
        assert list(ex.map(_square, [1], journal=journal)) == [1]


def test_two_maps_at_once_cannot_have_one_journal(tmp_path: Path) -> None:
    with anypool.get_executor("serial") as ex:
        first = ex.map(_square, range(2000), journal=tmp_path / "j")
        next(first)
        with pytest.raises(JournalError, match="in use"):
            ex.map(_square, range(2000), journal=tmp_path / "j")
        first.close()  # type: ignore[attr-defined]
        assert len(list(ex.map(_square, range(2000), journal=tmp_path / "j"))) == 2000


def test_a_map_that_is_refused_a_journal_leaves_the_lock_with_the_one_that_has_it(tmp_path: Path) -> None:
    """A process that closes a file gives up all locks that it has on it."""
    (tmp_path / "script.py").write_text(
        "import anypool\n"
        "with anypool.get_executor('serial') as ex:\n"
        "    try:\n"
        "        print(list(ex.map(abs, range(2000), journal='j'))[:1])\n"
        "    except anypool.JournalError as exc:\n"
        "        print('in use' in str(exc))\n"
    )
    with anypool.get_executor("serial") as ex:
        first = ex.map(abs, range(2000), journal=tmp_path / "j")
        next(first)
        with pytest.raises(JournalError, match="in use"):
            ex.map(abs, range(2000), journal=tmp_path / "j")
        assert run_python(["script.py"], directory=tmp_path).stdout == "True\n"
        first.close()  # type: ignore[attr-defined]
    assert run_python(["script.py"], directory=tmp_path).stdout == "[0]\n"


def test_a_folder_that_is_not_there_is_said_before_the_first_call(tmp_path: Path) -> None:
    calls = []
    with anypool.get_executor("serial") as ex, pytest.raises(JournalError, match="cannot be written"):
        ex.map(calls.append, [1], journal=tmp_path / "none" / "j")
    assert calls == []


def test_a_full_disk_is_said_and_what_was_recorded_is_safe(tmp_path: Path) -> None:
    script = """
        import resource, signal, sys
        import anypool

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        if len(sys.argv) > 1:  # no file may be longer: what a full disk is to the one that writes
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
        with anypool.get_executor("serial") as ex:
            try:
                for y in ex.map(lambda x: b"%d" % x * 5000, range(100), journal="j"):
                    print("got", len(y) // 5000)
            except anypool.JournalError as exc:
                print(type(exc).__name__, str(exc).partition(": ")[0])
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    full = run_python(["script.py", "300000"], directory=tmp_path)
    assert "JournalError" in full.stdout.splitlines()[-1], full.stdout + full.stderr
    with contextlib.closing(sqlite3.connect(tmp_path / "j")) as found:
        recorded = found.execute("SELECT count(*) FROM items").fetchone()[0]
    assert full.stdout.count("got") <= recorded < 100
    assert recorded > 0
    none = tmp_path / "none"
    none.mkdir()
    assert run_python(["../script.py", "1000"], directory=none).stdout.startswith("JournalError")
    assert run_python(["script.py"], directory=tmp_path).stdout.count("got") == 100


def test_an_item_that_says_nothing_of_itself_is_refused(tmp_path: Path) -> None:
    with anypool.get_executor("threads") as ex, pytest.raises(JournalError, match="item 0 cannot be recognized"):
        list(ex.map(id, [(x for x in ())], journal=tmp_path / "j"))


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    code = """
        import collections, dataclasses, decimal, pathlib
        from anypool._fingerprint import fingerprint

        @dataclasses.dataclass
        class Point:
            x: int
            names: frozenset

        values = [
            {"a", "b", "c", "spam", "eggs"}, frozenset(str(n) for n in range(50)), Point(1, frozenset(["u", "v", "w"])),
            {"k": ["".join(["x", "y"]), "xy"]}, decimal.Decimal("1.5"), pathlib.PurePosixPath("/a/b"),
            collections.OrderedDict(a=1), lambda x: x in {"p", "q", "r"}, range(3), b"bytes", (1, (2, [3])),
        ]
        loop = []
        loop.append(loop)
        print([fingerprint(value).hex() for value in [*values, loop]])
    """
    outputs = set()
    for hash_seed in ("0", "1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.add(done.stdout)
    assert len(outputs) == 1


def test_fingerprints_tell_apart_what_differs() -> None:
    import numpy as np

    values: list[Any] = [
        0, 0.0, False, "", b"", None, (), [], {}, set(), [[]], [0], (0,), [0, 0], ["0"], {"a": 1}, {"a": 2}, {1}, {2},
        np.zeros(3), np.zeros(4), np.zeros((3, 1)), np.zeros(3, dtype=int), np.array(["a"], dtype=object),
        random.Random(1), random.Random(2), lambda x: x, lambda x: x + 1,
        functools.partial(pow, 2), functools.partial(pow, 3),
        functools.cache(lambda x: x + 2), functools.cache(lambda x: x + 3),
    ]  # fmt: skip
    marks = [fingerprint(value) for value in values]
    assert len(set(marks)) == len(values)
    assert [fingerprint(value) for value in values] == marks
