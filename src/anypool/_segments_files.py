"""Buffers for all workers of this machine in files, where there is no memory to share."""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from anypool._segments import NO_BYTES, Buffer, Ref
from anypool._segments_owner import Segments
from anypool.errors import SendError

__all__ = ["FileRef", "Files", "SegmentsOrFiles"]

_PREFIX = "anypool-"
_SUFFIX = ".kept"


class FileRef(NamedTuple):
    """A buffer in a file of its own."""

    path: str
    device: int
    inode: int
    size: int
    digest: bytes

    def claim(self) -> mmap.mmap:
        """A private and writable view of it.

        Raises
        ------
        SendError
            Its owner took it back.
        """
        try:
            with Path(self.path).open("rb") as file:
                found = os.fstat(file.fileno())
                if (found.st_dev, found.st_ino, found.st_size) == self[1:4]:
                    return mmap.mmap(file.fileno(), self.size, access=mmap.ACCESS_COPY)
        except OSError as exc:
            raise SendError(f"a buffer of {self.size:,} bytes in {self.path} is gone: {exc}") from exc
        raise SendError(f"a buffer of {self.size:,} bytes in {self.path} was taken back by its owner")

    def look_at(self) -> mmap.mmap:
        """The same: only what is written to is copied."""
        return self.claim()

    def is_released(self) -> bool:
        """Whether its owner has removed it."""
        return not Path(self.path).exists()


class Files:
    """Buffers in files of this user's, removed when they are released, and those that a killed process left, too."""

    def __init__(self) -> None:
        self._refs: set[FileRef] = set()
        self._looked_for_leftovers = False

    def store(self, buffer: Buffer) -> FileRef | None:
        """The ref of a copy of `buffer`; None if there is no room for a file either."""
        if not self._looked_for_leftovers:
            self._looked_for_leftovers = True
            _remove_leftovers()
        path = Path(tempfile.gettempdir(), f"{_PREFIX}{os.getpid()}-{os.urandom(16).hex()}{_SUFFIX}")
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file, memoryview(buffer) as data:
                file.write(data)
        except OSError:
            path.unlink(missing_ok=True)
            return None
        found = path.stat()
        ref = FileRef(str(path), found.st_dev, found.st_ino, found.st_size, _digest(buffer))
        self._refs.add(ref)
        return ref

    def release(self, ref: FileRef) -> None:
        """Remove it. What is open stays good."""
        if ref not in self._refs:
            return
        try:
            Path(ref.path).unlink(missing_ok=True)
        except PermissionError:  # Windows: a worker has it open; `close` comes when they have ended
            return
        self._refs.remove(ref)

    def close(self) -> None:
        """Remove all of them."""
        for ref in list(self._refs):
            self.release(ref)


class SegmentsOrFiles:
    """Keeps buffers for all workers of this machine: in memory, and where that is refused in files.

    What goes to a single worker may travel inline instead; what goes to all of them, again and again, should not.
    """

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._files = Files()
        self._warned = False

    def keep(self, buffers: Sequence[Buffer]) -> Sequence[Ref] | None:
        """Their refs, good until `release`; None where there is no room for files either.

        Warns
        -----
        RuntimeWarning
            Once, if files are used.
        """
        refs: Sequence[Ref] | None = self._segments.keep(buffers)
        if refs is not None or self._segments.is_closed:
            return refs
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"what all workers need is kept in files in {tempfile.gettempdir()}, for want of shared memory",
                RuntimeWarning,
                stacklevel=2,
            )
        stored: list[Ref] = []
        for buffer in buffers:
            ref = self._files.store(buffer) if memoryview(buffer).nbytes else NO_BYTES
            if ref is None:
                self.release(stored)
                return None
            stored.append(ref)
        return stored

    def same(self, ref: Ref, buffer: Buffer) -> bool:
        """Whether `ref`, not released, holds the bytes of `buffer`."""
        if isinstance(ref, FileRef):
            return ref.size == memoryview(buffer).nbytes and ref.digest == _digest(buffer)
        assert type(ref) is tuple
        return self._segments.same(ref, buffer)

    def release(self, refs: Iterable[Ref]) -> None:
        """Need them no longer. What is open stays good."""
        for ref in refs:
            if isinstance(ref, FileRef):
                self._files.release(ref)
            elif type(ref) is tuple:
                self._segments.release([ref])

    def abandon(self, refs: Iterable[Ref]) -> None:
        """As `release`, for finalizers, which must not wait for a lock."""
        for ref in refs:
            if isinstance(ref, FileRef):
                self._files.release(ref)
            elif type(ref) is tuple:
                self._segments.abandon([ref])

    def close(self) -> None:
        """Remove the files; the segments are closed by whoever made them."""
        self._files.close()


def _digest(buffer: Buffer) -> bytes:
    return hashlib.sha256(buffer).digest()


def _remove_leftovers() -> None:
    """Remove files of processes of this user's that have ended without doing so."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*{_SUFFIX}"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        try:
            if pid.isdigit() and not _is_alive(int(pid)):
                path.unlink(missing_ok=True)
        except OSError:  # another user's
            continue


def _is_alive(pid: int) -> bool:
    if os.name == "nt":  # os.kill would end the process; a file in use cannot be removed there anyway
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
