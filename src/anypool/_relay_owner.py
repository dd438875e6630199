"""Whose output it is: the capture that owns what is written here, now."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol

from anypool._relay_settings import RelaySettings

__all__ = ["Owner", "claim_the_rest", "current_owner", "disclaim_all", "disclaim_the_rest", "owner_of"]


class Owner(Protocol):
    """What the taps know of a `Capture`."""

    @property
    def settings(self) -> RelaySettings:
        """What it captures."""

    @property
    def outer(self) -> Owner | None:
        """The capture that gets what this one leaves."""

    def takes(self, kind: str) -> bool:
        """Whether output of this kind is captured here, now."""

    def add(self, kind: str, *payload: object) -> bool:
        """Add one event of the running item. False if the capture has ended: then nothing was added."""

    def is_overruled(self) -> bool:
        """Whether somebody, since the call began, took over the showing of warnings."""


current_owner: ContextVar[Owner | None] = ContextVar("anypool_capture", default=None)

# The captures of a process that runs one call at a time, the newest last. Global, because what no context
# claims may come from any thread of the process. Replaced, never changed: it is read without a lock.
_exclusive: tuple[Owner, ...] = ()


def owner_of(kind: str) -> Owner | None:
    """Return the capture that owns output of this kind written here, now."""
    owner = current_owner.get() or (_exclusive[-1] if _exclusive else None)
    while owner is not None and not owner.takes(kind):
        owner = owner.outer
    return owner


def claim_the_rest(owner: Owner) -> None:
    """Make it the owner of what no context claims. Called under one lock, as are the other two."""
    global _exclusive
    _exclusive = (*_exclusive, owner)


def disclaim_the_rest(owner: Owner) -> None:
    """Take that back; an older one that is still open owns it again."""
    global _exclusive
    _exclusive = tuple(other for other in _exclusive if other is not owner)


def disclaim_all() -> None:
    """Take all of that back, in a forked child."""
    global _exclusive
    _exclusive = ()
