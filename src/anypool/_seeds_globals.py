"""The global generators, seeded for each item of a chunk and put back after it."""

from __future__ import annotations

import random as stdlib_random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from struct import unpack
from types import ModuleType
from typing import Any

from anypool._seeds import Seed, digest

__all__ = ["GlobalSeeds", "seed_globals"]


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
        hashed = digest(self._seed, index, "globals")
        stdlib_random.seed(int.from_bytes(hashed[:24], "big"))
        if self._numpy is not None:
            self._seed_numpy(self._numpy, list(unpack(">8I", hashed[24:56])))
        if self._torch is not None:
            self._torch.manual_seed(int.from_bytes(hashed[56:], "big") >> 1)

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
