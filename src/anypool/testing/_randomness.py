"""Randomness: `seed=` gives item *i* its stream, whatever runs the calls; undeclared use is reported."""

from __future__ import annotations

import random
import warnings
from typing import Any

import pytest

from anypool.errors import AnypoolError
from anypool.testing._clauses import clause, needs, offers
from anypool.testing._effects import LIMIT
from anypool.testing._subject import SubjectFixtures

__all__ = ["RandomnessTests"]

_SIZES = (None, 1, 3, 100)


def _draw(_: int) -> list[float]:
    import anypool

    return [float(each) for each in anypool.rng().random(3)]


def _draw_without_numpy(_: int) -> float:
    import anypool

    return anypool.random().random()


def _draw_globally(_: int) -> float:
    return random.random()


def _draw_globally_with_numpy(_: int) -> float:
    import numpy

    return float(numpy.random.random())


def _draw_if_odd(item: int) -> Any:
    return _draw(item) if item % 2 else None


def _fail_after_drawing(item: int) -> list[float]:
    drawn = _draw(item)
    if item == 2:
        raise LookupError(drawn)
    return drawn


@clause("randomness")
class RandomnessTests(SubjectFixtures):
    """Clause "randomness"."""

    @needs("seed")
    @pytest.mark.parametrize("chunksize", _SIZES)
    def test_item_i_has_the_stream_that_numpy_would_spawn(self, executor: Any, chunksize: int | None) -> None:
        numpy = pytest.importorskip("numpy")
        got = list(executor.options(seed=42).map(_draw, range(8), chunksize=chunksize))
        spawned = numpy.random.SeedSequence(42).spawn(8)
        assert got == [numpy.random.default_rng(each).random(3).tolist() for each in spawned]

    @needs("seed")
    @pytest.mark.parametrize("draw", [_draw_without_numpy, _draw])
    def test_a_seed_gives_the_same_numbers_again_and_another_seed_others(self, executor: Any, draw: Any) -> None:
        pytest.importorskip("numpy")
        seeded = executor.options(seed=1)
        first, again = list(seeded.map(draw, range(6))), list(seeded.map(draw, range(6), chunksize=6))
        assert first == again
        assert len({str(each) for each in first}) == 6
        assert list(executor.options(seed=2).map(draw, range(6))) != first

    @needs("seed")
    def test_what_other_items_draw_does_not_matter(self, executor: Any) -> None:
        pytest.importorskip("numpy")
        seeded = executor.options(seed=3)
        assert list(seeded.map(_draw_if_odd, range(6)))[1::2] == list(seeded.map(_draw, range(6)))[1::2]

    @needs("seed", "errors")
    def test_an_error_moves_no_stream(self, executor: Any) -> None:
        pytest.importorskip("numpy")
        seeded = executor.options(seed=3)
        expected = list(seeded.map(_draw, range(5)))
        got = list(seeded.map(_fail_after_drawing, range(5), chunksize=5, errors="return"))
        assert got[2].args == (expected[2],)
        assert [*got[:2], *got[3:]] == [*expected[:2], *expected[3:]]

    @needs("seed")
    @offers(concurrent_in_process=False)
    @pytest.mark.parametrize("draw", [_draw_globally, _draw_globally_with_numpy])
    def test_global_generators_are_seeded_for_each_item(self, executor: Any, draw: Any) -> None:
        pytest.importorskip("numpy")
        seeded = executor.options(seed=4)
        list(seeded.map(_draw_globally_with_numpy, range(8)))  # NumPy is loaded wherever calls run
        runs = [list(seeded.map(draw, range(6), chunksize=chunksize)) for chunksize in _SIZES]
        assert runs == [runs[0]] * len(_SIZES)
        assert len(set(runs[0])) == 6

    @needs("seed")
    def test_the_callers_own_generators_are_not_moved(self, executor: Any) -> None:
        numpy = pytest.importorskip("numpy")
        states = random.getstate(), repr(numpy.random.get_state())
        list(executor.options(seed=4).map(_draw, range(6)))
        list(executor.options(seed=4).map(_draw_without_numpy, range(6)))
        executor.submit(abs, 1).result(timeout=LIMIT)
        assert (random.getstate(), repr(numpy.random.get_state())) == states

    @needs("seed")
    def test_a_call_without_a_seed_has_no_stream(self, executor: Any) -> None:
        with pytest.raises(AnypoolError, match="seed"):
            executor.submit(_draw_without_numpy, 1).result(timeout=LIMIT)

    @needs("seed")
    @offers(concurrent_in_process=False, in_caller=False)  # in a caller with threads nobody knows who drew
    def test_undeclared_use_of_a_global_generator_is_reported(self, executor: Any) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            list(executor.map(_draw_globally, range(6)))
        assert [each.category for each in caught] == [RuntimeWarning]
        assert "seed=" in str(caught[0].message)

    @needs("seed")
    def test_declared_use_is_not_reported(self, executor: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            list(executor.options(seed=1).map(_draw_without_numpy, range(6)))
            list(executor.map(abs, range(6)))
