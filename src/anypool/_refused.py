"""Why a worker does not run an envelope that it got."""

from __future__ import annotations

__all__ = ["BegunBefore", "Revoked"]


class Revoked(Exception):
    """The chunk was given up here, and runs elsewhere."""


class BegunBefore(Exception):
    """The chunk was begun by another worker, which was lost before its reply was fetched.

    Parameters
    ----------
    pid : int
        Of that worker.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(pid)
        self.pid = pid

    def __str__(self) -> str:
        return f"process {self.pid} had begun it, and was lost before its result was fetched"
