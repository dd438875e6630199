"""Which failed calls run again, and after how long. Pure: no clock, and no random number but one told by its place."""

from __future__ import annotations

import builtins
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any

from anypool.errors import BackendError, ConfigError, ExecutorClosed, SendError

__all__ = ["LOST_AGAIN", "Retry", "as_retry"]

LOST_AGAIN = 3
"""How often a call whose worker was lost runs again with ``on_lost="retry"``: then it is the call that kills them."""

_NEVER = (BackendError, ExecutorClosed, SendError)
"""What another run would not mend, or what `on_lost` is for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """When a call that raised is run again: with the same arguments and the same random numbers.

    Parameters
    ----------
    times : int
        How often at most, after its first run; >= 0.
    on : tuple of exception classes
        Only what is an instance of one of these is run again; in configuration a class may be written as a name of
        `builtins` or as ``"module:Class"``. `CallTimeout` is one of `TimeoutError`. Never what is no `Exception`,
        and not the pool's own trouble: for lost workers there is `on_lost`.
    delay : float
        Seconds before the first retry, counted from when the failure was seen.
    backoff : float
        Each further delay is the one before times this; >= 1.
    max_delay : float
        No delay is longer, in seconds.
    jitter : float
        Share of a delay that is drawn, from 0 to 1: calls that failed together do not come back together. It depends
        on the item and the attempt alone.
    budget : int, optional
        How many retries one map, or all submitted calls of one executor, have together; None: no limit.

    Raises
    ------
    ConfigError
        A value is out of its range, or `on` holds what is no exception class.

    Examples
    --------
    >>> from anypool import Retry
    >>> policy = Retry(times=3, on=(OSError,), delay=0.5, jitter=0)
    >>> [policy.wait(0, attempt) for attempt in (1, 2, 3)]
    [0.5, 1.0, 2.0]
    >>> policy.allows(KeyError("x"), 1), policy.allows(OSError(), 3), policy.allows(OSError(), 4)
    (False, True, False)
    """

    times: int = 2
    on: tuple[type[Exception], ...] = (Exception,)
    delay: float = 0.0
    backoff: float = 2.0
    max_delay: float = 60.0
    jitter: float = 0.25
    budget: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "on", tuple(_exception_class(each) for each in _as_tuple(self.on)))
        for name, least, most in _RANGES:
            value = getattr(self, name)
            is_count = name in ("times", "budget")
            if value is None and name == "budget":
                continue
            fits = type(value) is int if is_count else isinstance(value, (int, float)) and not isinstance(value, bool)
            if not fits or not least <= value <= most:
                kind = "an integer" if is_count else "a number"
                bound = f"from {least} to {most}" if most < math.inf else f">= {least}"
                raise ConfigError(f"retries: {name} must be {kind} {bound}, not {value!r}")

    def allows(self, error: BaseException, attempt: int) -> bool:
        """Whether the call that raised `error` in its run number `attempt`, from 1, may run again."""
        if isinstance(error, _NEVER) or not isinstance(error, Exception):
            return False
        return attempt <= self.times and isinstance(error, self.on)

    def wait(self, index: int, attempt: int) -> float:
        """Seconds from the failure of run number `attempt` of item `index` to its next."""
        try:
            delay = min(self.max_delay, self.delay * self.backoff ** (attempt - 1))
        except OverflowError:
            delay = self.max_delay
        if not delay or not self.jitter:
            return delay
        from hashlib import blake2b

        drawn = int.from_bytes(blake2b(b"%d/%d" % (index, attempt), digest_size=7).digest()) / (1 << 56)
        return delay * (1 - self.jitter * drawn)


_RANGES = (
    ("times", 0, math.inf),
    ("delay", 0, math.inf),
    ("backoff", 1, math.inf),
    ("max_delay", 0, math.inf),
    ("jitter", 0, 1),
    ("budget", 0, math.inf),
)


def as_retry(value: object) -> Retry | None:
    """The policy that a user's `retries=` means: a number of times, a mapping of the policy's fields, a policy.

    Raises
    ------
    ConfigError
        It is none of these, or not a policy that can be.
    """
    if value is None or isinstance(value, Retry):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return Retry(times=value) if value else None
    if isinstance(value, Mapping):
        known = [each.name for each in fields(Retry)]
        for name in value:
            if name not in known:
                raise ConfigError(f"retries has no {name!r}; known: {', '.join(known)}")
        return Retry(**value)
    raise ConfigError(f"retries must be a number of times, an anypool.Retry or a mapping of its fields, not {value!r}")


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _exception_class(value: Any) -> type[Exception]:
    found = value
    if isinstance(value, str):
        module, _, name = value.rpartition(":")
        try:
            found = getattr(import_module(module) if module else builtins, name)
        except (ImportError, AttributeError) as exc:
            raise ConfigError(f"retries: there is no exception {value!r}: {exc}") from exc
    if not (isinstance(found, type) and issubclass(found, Exception)):
        raise ConfigError(f"retries: on must hold classes of exceptions, not {value!r}")
    return found
