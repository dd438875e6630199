"""What the finished items of one map came to, on disk, so that the map goes on after the program was killed.

::

    journal (SQLite): about   what the map is: format, function, kind of call, seed
                      items   index | fingerprint of the item | pickled result | pickled output

What a chunk came to is committed before any of it is delivered, so what the caller has seen is never run again, and
chunks are kept short. SQLite's log makes a commit whole or nothing, however the program ends. A commit reaches the disk
within about a second: the program may be killed at any moment, and after a power failure that second runs again.

What is in the file is unpickled, so it must be its user's own, and writable by nobody else.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from anypool import _wire
from anypool._envelope import Reply, Worker
from anypool._fingerprint import fingerprint
from anypool.errors import JournalError, SendError

__all__ = ["Journal"]

_FORMAT = "anypool journal 1"
_SYNC_EVERY = 1.0
"""Seconds between commits that wait for the disk."""

_OF_THE_JOURNAL = Worker("journal", "", 0, "")

_BESIDE = ("-wal", "-shm", "-journal")
"""What SQLite appends to the name of its file for others."""

_LOOKED_UP_AT_ONCE = 256

_LOOK_UP = 'SELECT "index", fingerprint, result, output FROM items WHERE "index" >= ? AND "index" < ?'

_TABLES = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS items (
    "index" INTEGER PRIMARY KEY, fingerprint BLOB NOT NULL, result BLOB NOT NULL, output BLOB
);
"""


class Journal:
    """The journal of one map, open. Used by one thread at a time.

    Parameters
    ----------
    path : path
        Made if it is not there, readable by its owner only.
    fn : callable
        The function of the map.
    style : str
        How it is called; see `Job`.
    seed : object
        What `seed=` became; its `repr` counts.

    Raises
    ------
    JournalError
        It is of another map, of another user, in use, no journal, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], fn: Callable[..., Any], style: str, seed: object) -> None:
        self._path = os.fspath(path)
        self._fingerprints: dict[int, bytes] = {}  # of what was read and is not recorded yet
        self._synced = monotonic()
        about = {"format": _FORMAT, "function": _identity(fn), "style": style, "seed": repr(seed)}
        self._make_file()
        try:
            self._connection = sqlite3.connect(self._path, timeout=0.0, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as exc:
            raise self._error("cannot be opened", exc) from exc
        try:
            self._prepare()
            self._compare(about)
            ((last,),) = self._execute('SELECT max("index") FROM items')
            self._end = 0 if last is None else last + 1
        except BaseException:
            self._connection.close()
            raise

    def ahead(self, index: int) -> int:
        """How many items from `index` on are worth reading at once, since results of theirs may be here."""
        return max(0, min(_LOOKED_UP_AT_ONCE, self._end - index))

    def known(self, start: int, items: Sequence[Any]) -> list[tuple[int, Reply]]:
        """The items, by offset, whose results are here; the others are remembered, to be recorded.

        Raises
        ------
        JournalError
            The item that was recorded in that place was another.
        """
        recorded: dict[int, list[bytes]] = {}
        if start < self._end:
            recorded = {index: row for index, *row in self._execute(_LOOK_UP, (start, start + len(items)))}
        found = []
        for offset, item in enumerate(items):
            index = start + offset
            mark = self._mark(index, item)
            row = recorded.get(index)
            if row is None:
                self._fingerprints[index] = mark
                continue
            if row[0] != mark:
                raise JournalError(
                    f"journal {self._path!r} was written for another input: its item {index} is not the one that was "
                    "read now; use another file, or delete this one to begin anew"
                )
            events = [] if row[2] is None else pickle.loads(row[2])
            found.append((offset, Reply([_wire.loads(row[1])], {}, events, 0.0, _OF_THE_JOURNAL)))
        return found

    def record(self, held: Sequence[tuple[int, Reply, Sequence[Any]]]) -> None:
        """Record what is final of a chunk, but for calls that failed: those run again the next time.

        Raises
        ------
        JournalError
            The disk is full, or the file is gone: what was recorded before is safe.
        """
        rows = [row for start, reply, _ in held for row in self._rows(start, reply)]
        if not rows:
            return
        now = monotonic()
        sync = now - self._synced >= _SYNC_EVERY
        if sync:
            self._synced = now
            self._execute("PRAGMA synchronous=FULL")
        self._execute("BEGIN IMMEDIATE")
        try:
            for row in rows:
                self._execute("INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?)", row)
            self._execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # a full disk has rolled it back already
                self._connection.execute("ROLLBACK")
            raise
        finally:
            if sync:
                self._execute("PRAGMA synchronous=NORMAL")

    def close(self) -> None:
        """Write what is left to the disk, into the one file. Idempotent."""
        self._connection.close()

    def _rows(self, start: int, reply: Reply) -> list[tuple[int, bytes, bytes, bytes | None]]:
        rows = []
        for offset, value in enumerate(reply.values):
            mark = self._fingerprints.pop(start + offset, None)
            if mark is None or offset in reply.errors:
                continue
            events = [(0, *event[1:]) for event in reply.events if event[0] == offset]
            try:
                result = _wire.dumps(value)
                output = pickle.dumps(events, _wire.PROTOCOL) if events else None
            except Exception as exc:
                raise JournalError(
                    f"journal {self._path!r}: the result of item {start + offset} cannot be kept: {exc}"
                ) from exc
            rows.append((start + offset, mark, result, output))
        return rows

    def _mark(self, index: int, item: Any) -> bytes:
        try:
            return fingerprint(item)
        except Exception as exc:
            raise JournalError(
                f"journal {self._path!r}: item {index} cannot be recognized when it comes again "
                f"({type(exc).__name__}: {exc}); give the map what identifies it instead"
            ) from exc

    def _make_file(self) -> None:
        """Make the file for its owner alone, or see that it is so already.

        One that is there is not opened: to close it would take the lock from another map of this process, since POSIX
        ends all locks that a process has on a file when it closes any descriptor of it.
        """
        try:
            with contextlib.suppress(FileExistsError):
                os.close(os.open(os.path.realpath(self._path), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            found = os.stat(self._path)
        except OSError as exc:
            raise self._error("cannot be written", exc) from exc
        if not stat.S_ISREG(found.st_mode):
            raise JournalError(f"journal {self._path!r} is not a file")
        self._check_owner(self._path, found)
        # What SQLite finds in them it takes for a part of the journal; in a folder like /tmp anybody can make them.
        for path in (self._path + suffix for suffix in _BESIDE):
            with contextlib.suppress(FileNotFoundError):
                self._check_owner(path, os.lstat(path))

    def _check_owner(self, path: str, found: os.stat_result) -> None:
        is_own = not hasattr(os, "geteuid") or (found.st_uid == os.geteuid() and not found.st_mode & 0o022)
        if not is_own or not stat.S_ISREG(found.st_mode):
            raise JournalError(
                f"journal {self._path!r}: {path!r} could have been written by another user, and what it holds is "
                "unpickled: it must be a file of yours, and writable by you alone (chmod go-w)"
            )

    def _prepare(self) -> None:
        """Take the file for this process alone, and write to it once, so that a full disk is seen now."""
        self._execute("PRAGMA locking_mode=EXCLUSIVE")
        # Where the file system cannot hold SQLite's write-ahead log, each commit waits for the disk.
        ((mode,),) = self._execute("PRAGMA journal_mode=WAL")
        self._execute(f"PRAGMA synchronous={'NORMAL' if mode == 'wal' else 'FULL'}")
        self._execute("BEGIN EXCLUSIVE")
        for statement in _TABLES.split(";"):
            self._execute(statement)
        self._execute("INSERT OR REPLACE INTO about VALUES ('opened by', ?)", (str(os.getpid()),))
        self._execute("COMMIT")

    def _compare(self, about: dict[str, str]) -> None:
        written: dict[str, str] = dict(self._execute("SELECT key, value FROM about"))
        for key, value in about.items():
            before = written.get(key, value)
            if before != value:
                raise JournalError(
                    f"journal {self._path!r} was written for another map: its {key} was {before}, and now it is "
                    f"{value}; use another file, or delete this one to begin anew"
                )
        self._execute("BEGIN EXCLUSIVE")
        for pair in about.items():
            self._execute("INSERT OR IGNORE INTO about VALUES (?, ?)", pair)
        self._execute("COMMIT")

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as exc:
            if "locked" in str(exc) or "locking" in str(exc):
                raise self._error(self._why_locked(), exc) from exc
            if "not a database" in str(exc):
                raise self._error("is a file of another kind, and was left as it is", exc) from exc
            raise self._error("cannot be written", exc) from exc

    def _why_locked(self) -> str:
        """What keeps the lock from us: SQLite says the same of another map and of a file system without locks."""
        if os.name == "posix":
            import fcntl

            try:
                with tempfile.TemporaryFile(dir=os.path.dirname(self._path) or ".") as file:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                return f"is in a folder that keeps no locks ({exc.strerror}); put it on a disk of this machine"
        return "is in use by another map"

    def _error(self, what: str, exc: Exception) -> JournalError:
        return JournalError(f"journal {self._path!r} {what}: {exc}")


def _identity(fn: Callable[..., Any]) -> str:
    name = getattr(fn, "__qualname__", None) or type(fn).__qualname__
    try:
        return f"{name} {fingerprint(fn).hex()}"
    except Exception as exc:
        raise SendError(f"the function cannot be recognized when it comes again: {type(exc).__name__}: {exc}") from exc
