"""Whether calls used a global generator that nobody seeded, and the warning that says so."""

from __future__ import annotations

import random as stdlib_random
import sys
import warnings
from _random import Random as _Twister
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from anypool._frames import stacklevel_of_user

__all__ = ["GlobalWatch", "warn_undeclared"]


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
        f"calls drew numbers from the global generator of {used}, but there was no seed=: the results "
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
