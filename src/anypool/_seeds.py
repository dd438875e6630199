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

import random as stdlib_random
import sys
import warnings
from _random import Random as _Twister
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from operator import index as as_index
from struct import unpack
from types import ModuleType
from typing import TYPE_CHECKING, Any

from anypool._frames import stacklevel_of_user
from anypool.errors import AnypoolError, ConfigError, MissingExtra

if TYPE_CHECKING:
    import numpy

__all__ = [
    "CallRandom",
    "GlobalSeeds",
    "GlobalWatch",
    "Seed",
    "as_seed",
    "enter_call",
    "generator",
    "python_random",
    "random",
    "rng",
    "seed_globals",
    "warn_undeclared",
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
    return stdlib_random.Random(int.from_bytes(_digest(seed, index, "call"), "big"))


def _digest(seed: Seed, index: int, purpose: str) -> bytes:
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


# --- the global generators ------------------------------------------------------------------------


@contextmanager
def seed_globals(seed: Seed, index: int) -> Iterator[None]:
    """Seed the global generators for one call, and put them back to where they were.

    For several items in a row, `GlobalSeeds` saves and restores only once.
    """
    with GlobalSeeds(seed) as seeds:
        seeds.start(index)
        yield


class GlobalSeeds:
    """Seeds the global generators before each item of a chunk; puts them back after the chunk.

    `random`, numpy's legacy `np.random` if numpy is loaded, and torch's if torch is loaded. What a
    call imports itself for the first time comes too late to be seeded.

    Use it only where the globals are the call's own: not where calls run concurrently in one
    process. What was there before is restored to the bit, so it may run in the caller's process.

    Measured (numpy 2.4): 66 us a chunk, nearly all of it numpy's legacy `get_state` and
    `set_state`, and 24 us an item. Swapping numpy's global bit generator would be cheaper,
    but drops the second half of a pair of normal numbers that `RandomState` holds back.
    """

    def __init__(self, seed: Seed) -> None:
        self._seed = seed

    def __enter__(self) -> GlobalSeeds:
        self._python = stdlib_random.getstate()
        self._numpy = _numpy_random()
        if self._numpy is not None:
            self._numpy_state = self._numpy.get_state(legacy=False)
        self._torch = _torch()
        if self._torch is not None:
            self._torch_state = self._torch.get_rng_state()
            cuda = getattr(self._torch, "cuda", None)
            # Asking for CUDA's state would start CUDA.
            self._cuda = cuda if cuda is not None and cuda.is_initialized() else None
            if self._cuda is not None:
                self._cuda_states = self._cuda.get_rng_state_all()
        return self

    def start(self, index: int) -> None:
        """Seed for item `index`."""
        # One hash, a part of it for each: the parts are as good as independent.
        digest = _digest(self._seed, index, "globals")
        stdlib_random.seed(int.from_bytes(digest[:24], "big"))
        if self._numpy is not None:
            self._seed_numpy(self._numpy, list(unpack(">8I", digest[24:56])))
        if self._torch is not None:
            self._torch.manual_seed(int.from_bytes(digest[56:], "big") >> 1)

    @staticmethod
    def _seed_numpy(numpy_random: Any, words: list[int]) -> None:
        bit_generator = numpy_random.mtrand._rand._bit_generator
        if isinstance(bit_generator, numpy_random.MT19937):
            numpy_random.seed(words)
            return
        # The user put another one there with `np.random.set_bit_generator`: `seed` refuses it.
        state = type(bit_generator)(words).state
        numpy_random.set_state({**state, "has_gauss": 0, "gauss": 0.0})

    def __exit__(self, *_: object) -> None:
        stdlib_random.setstate(self._python)
        if self._numpy is not None:
            _set_numpy_state(self._numpy, self._numpy_state)
        if self._torch is not None:
            self._torch.set_rng_state(self._torch_state)
            if self._cuda is not None:
                self._cuda.set_rng_state_all(self._cuda_states)


def _set_numpy_state(numpy_random: Any, state: dict[str, Any]) -> None:
    words = state["state"]
    if state["bit_generator"] == "MT19937":
        # numpy copies the key number by number: three times as fast from a list as from its array.
        words = {**words, "key": words["key"].tolist()}
    numpy_random.set_state({**state, "state": words})


def _numpy_random() -> Any:
    """Return numpy.random if numpy is loaded, else None."""
    if sys.modules.get("numpy") is None:
        return None
    # `import numpy` alone does not load it: numpy does on first use, which would be in the call.
    import numpy.random

    return numpy.random


def _torch() -> Any:
    """Return torch if it is loaded, all of it, else None."""
    torch: ModuleType | None = sys.modules.get("torch")
    return torch if hasattr(torch, "set_rng_state") else None


# --- misuse ---------------------------------------------------------------------------------------


class GlobalWatch:
    """Tells whether a global generator was used between `start` and `used`, without moving it.

    It compares the generators' memory, since their states cost 10 us (`random`) and 40 us (numpy)
    to build: 5 us for a whole watch. For where calls have the process to themselves: numbers that
    another thread draws meanwhile count too. Not seen: a use that the call itself undid with
    `setstate`, and a lone `np.random.normal()` that finds a number held back from before.
    """

    def start(self) -> None:
        """Remember where the global generators are."""
        self._python = _python_mark()
        self._numpy = _numpy_mark()

    def used(self) -> frozenset[str]:
        """Return which of "random" and "numpy.random" have been used since `start`."""
        names = []
        if _python_mark() != self._python:
            names.append("random")
        if self._numpy_was_used():
            names.append("numpy.random")
        return frozenset(names)

    def _numpy_was_used(self) -> bool:
        now = _numpy_mark()
        if now is None or self._numpy is not None:
            return now != self._numpy
        # It was loaded meanwhile, as numpy does on first use: then it began where every new
        # Mersenne Twister begins, at a known place in a key of its own.
        numpy_random = sys.modules["numpy.random"]
        fresh: int = numpy_random.MT19937().state["state"]["pos"]
        position: int = numpy_random.get_state(legacy=False)["state"].get("pos", fresh)
        return position != fresh


def warn_undeclared(names: Iterable[str]) -> None:
    """Warn, where the user's code called us, that calls used global generators without `seed=`.

    Parameters
    ----------
    names
        What `GlobalWatch.used` returned.

    Warns
    -----
    RuntimeWarning
        Always: the numbers depend on which worker ran which call.
    """
    used = " and ".join(sorted(names))
    warnings.warn(
        f"calls drew numbers from the global generator of {used}, but the map had no seed=: the results "
        "differ from run to run, and workers may repeat each other's numbers. Pass seed= (any integer), "
        "which seeds each item's own; anypool.rng() in a call is safer still",
        RuntimeWarning,
        stacklevel=stacklevel_of_user(),
    )


def _python_mark() -> object:
    # The instance behind the module's functions.
    instance: Any = stdlib_random.getstate.__self__  # type: ignore[attr-defined]
    layout = _python_layout()
    if layout is None:
        return instance.getstate()
    return layout.read(id(instance) + layout.offset, layout.size), instance.gauss_next


def _numpy_mark() -> object:
    mtrand: Any = sys.modules.get("numpy.random.mtrand")
    singleton = getattr(mtrand, "_rand", None)  # None while another thread is importing numpy
    if singleton is None:
        return None
    bit_generator = singleton._bit_generator
    layout = _numpy_layout(bit_generator.__class__)
    if layout is None:
        return repr(bit_generator.state)
    return layout.read(bit_generator.ctypes.state_address, layout.size)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    """Where a Mersenne Twister keeps its 624 words of 32 bits and its position."""

    read: Callable[[int, int], bytes]
    offset: int
    size: int


@cache
def _python_layout() -> _Layout | None:
    """Return where a `random.Random` keeps its state; None unless a look confirms it."""
    string_at = _memory_reader()
    if string_at is None or sys.implementation.name != "cpython":  # elsewhere `id` is no address
        return None
    layout = _Layout(read=string_at, offset=object.__basicsize__, size=625 * 4)
    if _Twister.__basicsize__ < layout.offset + layout.size:
        return None
    probe = stdlib_random.Random(0)
    state = probe.getstate()[1]
    words = array("I", string_at(id(probe) + layout.offset, layout.size))
    return layout if words.tolist() == [state[-1], *state[:-1]] else None


@cache
def _numpy_layout(bit_generator: Any) -> _Layout | None:
    """Return where numpy's bit generators of this class keep their state; None as above."""
    string_at = _memory_reader()
    if string_at is None or bit_generator.__name__ != "MT19937":
        return None
    layout = _Layout(read=string_at, offset=0, size=625 * 4)
    probe: Any = bit_generator(0)
    state = probe.state["state"]
    words = array("I", string_at(probe.ctypes.state_address, layout.size))
    return layout if words.tolist() == [*state["key"].tolist(), state["pos"]] else None


def _memory_reader() -> Callable[[int, int], bytes] | None:
    try:
        from ctypes import string_at
    except ImportError:  # a Python built without libffi
        return None
    return string_at
