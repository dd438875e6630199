"""What calls do that a test can see by a second road: files that they wait for, and files that they leave."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

__all__ = ["LIMIT", "Gate", "Tally", "poll"]

LIMIT = float(os.environ.get("PYTEST_ANYPOOL_LIMIT", "60"))
"""Seconds within which anything that must happen does happen, on a machine that does other work as well."""

_STEP = 0.002


def poll(condition: Callable[[], object], what: str, *, limit: float = LIMIT) -> None:
    """Return when `condition` holds.

    Raises
    ------
    TimeoutError
        It did not hold within `limit` seconds; the message says `what` was waited for.
    """
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {limit} s")
        time.sleep(_STEP)


class Gate:
    """A gate that calls wait at, until anyone opens it: a file, so that any process of this machine sees it.

    Parameters
    ----------
    path : Path
        The file that means "open".
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self) -> None:
        """Let pass who waits, and whoever comes."""
        self._path.touch()

    @property
    def is_open(self) -> bool:
        """Whether it was opened."""
        return self._path.exists()

    def wait(self, *, limit: float = LIMIT) -> None:
        """Return when it is open.

        Raises
        ------
        TimeoutError
            It was not opened within `limit` seconds.
        """
        poll(self._path.exists, f"gate {self._path.name!r}", limit=limit)


class Tally:
    """Counts what calls did, wherever they ran: each mark is a file of its own.

    Parameters
    ----------
    directory : Path
        Made if it does not exist; of this tally alone.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(exist_ok=True)

    def mark(self, label: object = "") -> None:
        """Leave one mark, with a label without ``@``."""
        path = self._directory / f"{label}@{uuid.uuid4().hex}"
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))

    def labels(self) -> list[str]:
        """The labels of all marks, sorted."""
        return sorted(name.partition("@")[0] for name in os.listdir(self._directory))

    def __len__(self) -> int:
        return len(self.labels())

    def __bool__(self) -> bool:
        return True
