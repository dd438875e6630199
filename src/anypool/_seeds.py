"""From (seed, item index) to random numbers: the same on every backend, in any order.

Item `i` of a map with `seed=` owns the stream `SeedSequence(seed, spawn_key=(i,))`, which is the
`i`-th child that `SeedSequence(seed).spawn(n)` would give. It depends on nothing else: not on
chunks, workers, retries or the order of calls.

::

    seed=, index ─┬─ SeedSequence(entropy, spawn_key=(..., i)) ────────────> rng()
                  └─ SHA-512(entropy, spawn_key, purpose) ─┬─ "call" ──────> random()
                                                           └─ "globals" ─┬─> random.*
                                                                         ├─> numpy.random.*
                                                                         └─> torch

The purpose keeps `anypool.random()` and the global `random` of one call from giving the same
numbers. Only the standard library is loaded here; numpy when it is asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from operator import index as as_index
from typing import TYPE_CHECKING

from anypool.errors import AnypoolError, ConfigError, MissingExtra

if TYPE_CHECKING:
    import random as stdlib_random

    import numpy

__all__ = [
    "CallRandom",
    "Seed",
    "as_seed",
    "digest",
    "enter_call",
    "generator",
    "python_random",
    "random",
    "rng",
]

_ACCEPTED = "seed= takes an integer >= 0, a sequence of them, or a numpy.random.SeedSequence"


@dataclass(frozen=True, kw_only=True, slots=True)
class Seed:
    """What `seed=` becomes: the arguments of a `numpy.random.SeedSequence`, without numpy.

    Parameters
    ----------
    entropy : int or tuple of int
        As in `SeedSequence`; each integer may be of any size.
    spawn_key : tuple of int
        Where in the tree of spawned sequences this seed stands; the item's index is appended.
    pool_size : int
        Words of numpy's entropy pool; 4 is its default.
    """

    entropy: int | tuple[int, ...]
    spawn_key: tuple[int, ...] = ()
    pool_size: int = 4


def as_seed(value: object) -> Seed:
    """Return the `Seed` that a user's `seed=` means.

    Parameters
    ----------
    value : int, sequence of int, numpy.random.SeedSequence or Seed
        Of a `SeedSequence` the children that it has spawned already do not count: the same object
        gives the same streams in every map. Item `i` then shares its stream with the `i`-th child
        that the user spawned from it; pass one of the children instead to be apart.

    Raises
    ------
    ConfigError
        `value` is something else (`None`, a bool, a negative number, a Generator ...).
    """
    if isinstance(value, Seed):
        return value
    # Without numpy.random loaded nobody can hold one of its objects.
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None and isinstance(value, numpy_random.SeedSequence):
        entropy: object = value.entropy
        key = tuple(as_index(word) for word in value.spawn_key)
        return Seed(entropy=_as_entropy(entropy), spawn_key=key, pool_size=value.pool_size)
    return Seed(entropy=_as_entropy(value))


def _as_entropy(value: object) -> int | tuple[int, ...]:
    is_array = hasattr(value, "__array__") and getattr(value, "ndim", 0) == 1
    if is_array or (isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)):
        words = tuple(_as_word(word, value) for word in value)  # type: ignore[attr-defined]
        if not words:
            raise ConfigError(f"{_ACCEPTED}; an empty sequence has no randomness in it")
        return words
    return _as_word(value, value)


def _as_word(word: object, value: object) -> int:
    # A bool is an integer to Python, but `seed=True` is more likely meant as "on".
    if not isinstance(word, bool) and hasattr(word, "__index__"):
        try:
            number = as_index(word)
        except TypeError as exc:  # an array of more than one number has `__index__` too
            raise ConfigError(f"{_ACCEPTED}, not {value!r}") from exc
        if number >= 0:
            return number
    raise ConfigError(f"{_ACCEPTED}, not {value!r}")


# --- the generators of one item -------------------------------------------------------------------


def generator(seed: Seed, index: int) -> numpy.random.Generator:
    """Return the numpy Generator of item `index`, at the start of its stream.

    Raises
    ------
    MissingExtra
        numpy is not installed.
    """
    try:
        from numpy.random import SeedSequence, default_rng
    except ImportError as exc:
        raise MissingExtra(
            "anypool.rng() gives a numpy Generator, and numpy is not installed: "
            "pip install numpy, or use anypool.random(), a random.Random that needs nothing"
        ) from exc
    key = (*seed.spawn_key, index)
    return default_rng(SeedSequence(seed.entropy, spawn_key=key, pool_size=seed.pool_size))


def python_random(seed: Seed, index: int) -> stdlib_random.Random:
    """Return the `random.Random` of item `index`; the same whether or not numpy is installed."""
    from random import Random

    return Random(int.from_bytes(digest(seed, index, "call"), "big"))


def digest(seed: Seed, index: int, purpose: str) -> bytes:
    """Return 64 bytes for one item and one purpose; text is hashed, so machines agree."""
    # Imported here: most workers never see a seed, and hashlib takes milliseconds to load.
    from hashlib import sha512

    entropy = seed.entropy if isinstance(seed.entropy, tuple) else (seed.entropy,)
    text = f"anypool {purpose} {entropy} {(*seed.spawn_key, index)}"
    return sha512(text.encode("ascii")).digest()


# --- what a running call asks for -----------------------------------------------------------------


class CallRandom:
    """The generators of one running call, each made when it is first asked for.

    Parameters
    ----------
    seed, index
        The map's seed, and which item the call is for.
    """

    __slots__ = ("_python", "_rng", "index", "seed")

    def __init__(self, seed: Seed, index: int) -> None:
        self.seed = seed
        self.index = index
        self._rng: numpy.random.Generator | None = None
        self._python: stdlib_random.Random | None = None

    def rng(self) -> numpy.random.Generator:
        """Return the call's numpy Generator, the same object each time."""
        if self._rng is None:
            self._rng = generator(self.seed, self.index)
        return self._rng

    def random(self) -> stdlib_random.Random:
        """Return the call's `random.Random`, the same object each time."""
        if self._python is None:
            self._python = python_random(self.seed, self.index)
        return self._python


# No value: outside of any call. None: in a call without seed=.
_running: ContextVar[CallRandom | None] = ContextVar("anypool_call_random")


def enter_call(seed: Seed | None, index: int) -> None:
    """Tell `rng` and `random`, in the current context, which call they are in.

    To be run inside of each call's own context, without `seed=` too: a context that was copied
    from an outer call carries that call's generators.
    """
    _running.set(None if seed is None else CallRandom(seed, index))


def rng() -> numpy.random.Generator:
    """Return the numpy Generator of the running call: item `i`'s own stream of the map's `seed=`.

    The same object each time within one call, and the same numbers on every backend.

    Raises
    ------
    AnypoolError
        Not inside of a call, or `seed=` was not given. A generator with a seed from nowhere would
        give numbers that nobody can have again, which is what this function exists to prevent.
    MissingExtra
        numpy is not installed; `random` works without it.
    """
    return _call_random("rng").rng()


def random() -> stdlib_random.Random:
    """Return the `random.Random` of the running call; as `rng`, but needs only the standard library.

    Its numbers are not those of `rng`, and do not depend on whether numpy is installed.

    Raises
    ------
    AnypoolError
        Not inside of a call, or `seed=` was not given.
    """
    return _call_random("random").random()


def _call_random(name: str) -> CallRandom:
    try:
        running = _running.get()
    except LookupError as exc:
        raise AnypoolError(
            f"anypool.{name}() works only inside of a call: in a function run by map or submit with seed="
        ) from exc
    if running is None:
        raise AnypoolError(
            f"anypool.{name}() has no seed: this call was made without one. Pass seed= "
            "to map (or to ex.options for submit), for example seed=0"
        )
    return running
