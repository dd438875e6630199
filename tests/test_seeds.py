"""Random numbers depend on the seed and the item, and on nothing else."""

from __future__ import annotations

import contextvars
import os
import pickle
import random
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import anypool
from anypool import _seeds, _seeds_watch
from anypool._seeds import CallRandom, Seed, as_seed, enter_call, generator, python_random
from anypool._seeds_globals import GlobalSeeds, seed_globals
from anypool._seeds_watch import GlobalWatch
from anypool.errors import AnypoolError, ConfigError, MissingExtra

np = pytest.importorskip("numpy")

seeds = st.integers(0, 2**200)
indices = st.integers(0, 2**40)


@pytest.fixture(autouse=True)
def _caller_generators() -> Iterator[None]:
    python, numpy_state = random.getstate(), np.random.get_state(legacy=False)
    yield
    random.setstate(python)
    np.random.set_state(numpy_state)


def run_python(code: str) -> str:
    """Run code in a new interpreter that finds this anypool; return what it printed."""
    source = Path(anypool.__path__[0]).parent
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def numpy_position() -> tuple[Any, ...]:
    state = np.random.get_state(legacy=False)
    return (state["state"]["key"].tolist(), state["state"]["pos"], state["has_gauss"], state["gauss"])


# --- seeds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 2**130, [1, 2, 3], (2**40, 7), range(3)])
def test_item_i_has_the_stream_of_numpys_ith_spawned_child(value: Any) -> None:
    children = np.random.SeedSequence(list(value) if isinstance(value, range) else value).spawn(50)
    seed = as_seed(value)
    for index, child in enumerate(children):
        expected = np.random.default_rng(child).integers(2**63, size=4)
        assert (generator(seed, index).integers(2**63, size=4) == expected).all()


def test_a_seed_sequence_keeps_its_place_in_the_tree_and_its_pool_size() -> None:
    parent = np.random.SeedSequence([4, 2], pool_size=8).spawn(3)[2]
    seed = as_seed(parent)
    assert seed == Seed(entropy=(4, 2), spawn_key=(2,), pool_size=8)
    expected = [np.random.default_rng(child).random() for child in parent.spawn(5)]
    assert [generator(seed, index).random() for index in range(5)] == expected


def test_children_that_were_spawned_before_do_not_shift_the_streams() -> None:
    fresh, used = np.random.SeedSequence(3), np.random.SeedSequence(3)
    used.spawn(10)
    assert as_seed(used) == as_seed(fresh)


def test_a_seed_does_not_move_the_seed_sequence_it_was_made_from() -> None:
    sequence = np.random.SeedSequence(3)
    generator(as_seed(sequence), 5)
    assert sequence.n_children_spawned == 0


@pytest.mark.parametrize(
    "value", [np.int64(7), np.array([7, 8], dtype=np.uint32), [np.uint8(7)], np.random.SeedSequence(7)]
)
def test_a_seed_holds_no_numpy_object(value: object) -> None:
    assert b"numpy" not in pickle.dumps(as_seed(value))


def test_a_seed_made_twice_is_the_same_seed() -> None:
    seed = as_seed(7)
    assert as_seed(seed) is seed
    assert pickle.loads(pickle.dumps(seed)) == seed


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, -1, 1.0, "7", b"7", [], [1, -1], [1, None], [[1], [2]], {1, 2}, {1: 2}, iter([1]),
        np.float64(1), np.array([]), np.array([1.5]), np.array([[1]]), np.array([1, -2]), np.bool_(True),
        np.random.default_rng(0), np.random.PCG64(0), random.Random(0), object(), types,
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_cannot_be_a_seed_is_refused_and_told_what_can(value: object) -> None:
    with pytest.raises(ConfigError, match=r"integer >= 0, a sequence of them, or a numpy"):
        as_seed(value)


# --- streams --------------------------------------------------------------------------------------


@given(seed=seeds, order=st.permutations(range(6)))
def test_streams_do_not_depend_on_the_order_they_are_made_in(seed: int, order: list[int]) -> None:
    def draw(index: int) -> tuple[float, float]:
        return generator(as_seed(seed), index).random(), python_random(as_seed(seed), index).random()

    in_order = [draw(index) for index in range(6)]
    assert {index: draw(index) for index in order} == dict(enumerate(in_order))


@given(one=st.tuples(seeds, indices), other=st.tuples(seeds, indices))
def test_another_seed_or_item_gives_other_numbers(one: tuple[int, int], other: tuple[int, int]) -> None:
    same = one == other
    draws = [python_random(as_seed(seed), index).getrandbits(256) for seed, index in (one, other)]
    assert (draws[0] == draws[1]) is same


@given(seed=seeds, index=indices)
def test_making_a_generator_moves_no_global_one(seed: int, index: int) -> None:
    before = random.getstate(), numpy_position()
    generator(as_seed(seed), index).random()
    python_random(as_seed(seed), index).random()
    assert (random.getstate(), numpy_position()) == before


def test_two_children_of_one_seed_sequence_give_different_python_numbers() -> None:
    one, other = (as_seed(child) for child in np.random.SeedSequence(1).spawn(2))
    assert python_random(one, 0).random() != python_random(other, 0).random()


def test_python_numbers_are_the_same_in_every_release() -> None:
    # Written down: a change here changes the results of everybody who gave a seed.
    assert python_random(as_seed(1), 0).getrandbits(64) == EXPECTED_NUMBER
    assert python_random(as_seed([1]), 0).getrandbits(64) == EXPECTED_NUMBER


EXPECTED_NUMBER = 9436906091214275880


def test_python_numbers_are_the_same_without_numpy() -> None:
    code = """
        import sys
        sys.modules["numpy"] = None
        from anypool._seeds import as_seed, enter_call, random
        from anypool._seeds_globals import GlobalSeeds
        from anypool._seeds_watch import GlobalWatch
        import random as stdlib
        enter_call(as_seed([5, 6]), 3)
        watch = GlobalWatch()
        watch.start()
        with GlobalSeeds(as_seed([5, 6])) as seeds:
            seeds.start(3)
            print(random().getrandbits(64), stdlib.getrandbits(64), end=" ")
            assert watch.used() == {"random"}
        assert watch.used() == frozenset()
    """
    with seed_globals(as_seed([5, 6]), 3):
        of_global = random.getrandbits(64)
    assert run_python(code) == f"{python_random(as_seed([5, 6]), 3).getrandbits(64)} {of_global}"


def test_nothing_but_the_standard_library_is_loaded_by_the_module() -> None:
    code = """
        import sys
        import anypool._seeds, anypool._seeds_globals, anypool._seeds_watch
        print([m for m in ('numpy', 'torch', 'hashlib') if m in sys.modules])
    """
    assert run_python(code) in ("[]", "['hashlib']")  # 3.11's `random` may load hashlib itself


# --- rng() and random() ---------------------------------------------------------------------------


def in_call(seed: Seed | None, index: int, fn: Any) -> Any:
    def call() -> Any:
        enter_call(seed, index)
        return fn()

    return contextvars.copy_context().run(call)


def test_a_call_finds_the_generators_of_its_item() -> None:
    seed = as_seed(11)
    assert in_call(seed, 4, lambda: _seeds.rng().random()) == generator(seed, 4).random()
    assert in_call(seed, 4, lambda: _seeds.random().random()) == python_random(seed, 4).random()


def test_a_call_that_asks_again_goes_on_with_the_same_generator() -> None:
    assert in_call(as_seed(11), 4, lambda: _seeds.rng() is _seeds.rng())
    assert in_call(as_seed(11), 4, lambda: _seeds.random() is _seeds.random())


def test_a_calls_own_random_differs_from_the_global_one() -> None:
    seed = as_seed(11)
    with seed_globals(seed, 4):
        assert random.random() != python_random(seed, 4).random()


@pytest.mark.parametrize("function", [_seeds.rng, _seeds.random])
def test_outside_of_a_call_there_is_no_generator(function: Any) -> None:
    with pytest.raises(AnypoolError, match=rf"anypool\.{function.__name__}\(\) works only inside of a call"):
        contextvars.Context().run(function)


@pytest.mark.parametrize("function", [_seeds.rng, _seeds.random])
def test_a_call_without_a_seed_is_told_to_pass_one(function: Any) -> None:
    with pytest.raises(AnypoolError, match=r"Pass seed="):
        in_call(None, 0, function)


def test_a_call_without_a_seed_does_not_inherit_the_generators_of_an_outer_call() -> None:
    with pytest.raises(AnypoolError, match=r"Pass seed="):
        in_call(as_seed(1), 0, lambda: in_call(None, 0, _seeds.rng))


def test_rng_without_numpy_names_numpy_and_the_way_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    monkeypatch.setitem(sys.modules, "numpy.random", None)
    with pytest.raises(MissingExtra, match=r"pip install numpy.*anypool\.random\(\)"):
        CallRandom(as_seed(1), 0).rng()


# --- the global generators ------------------------------------------------------------------------


def draw_globals() -> tuple[float, float, float]:
    return random.gauss(0, 1), float(np.random.normal()), float(np.random.rand())


def test_global_generators_are_the_items_in_any_order() -> None:
    def draw(index: int) -> tuple[float, ...]:
        with seed_globals(as_seed(9), index):
            return draw_globals()

    backward = [draw(index) for index in reversed(range(5))][::-1]
    with GlobalSeeds(as_seed(9)) as of_chunk:
        in_chunk = []
        for index in range(5):
            of_chunk.start(index)
            in_chunk.append(draw_globals())
    assert in_chunk == backward
    assert len(set(in_chunk)) == 5


@given(draws=st.integers(0, 1300), normals=st.integers(0, 3))
def test_global_generators_are_put_back_to_the_bit(draws: int, normals: int) -> None:
    random.seed(draws)
    np.random.seed(draws)
    for _ in range(normals):  # an odd number leaves the second half of a pair held back
        random.gauss(0, 1)
        np.random.normal()
    before = random.getstate(), numpy_position()
    with seed_globals(as_seed(1), 2):
        assert (random.getstate(), numpy_position()) != before
        for _ in range(draws):
            random.random()
        draw_globals()
    assert (random.getstate(), numpy_position()) == before
    following = draw_globals()
    random.setstate(before[0])
    np.random.seed(draws)
    for _ in range(normals):
        np.random.normal()
    assert draw_globals() == following


def test_global_generators_are_put_back_when_the_call_raises() -> None:
    before = random.getstate(), numpy_position()

    def draw_and_fail() -> None:
        with seed_globals(as_seed(1), 2):
            draw_globals()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        draw_and_fail()
    assert (random.getstate(), numpy_position()) == before


@pytest.mark.skipif(not hasattr(np.random, "set_bit_generator"), reason="numpy < 1.24")
def test_another_global_bit_generator_is_seeded_and_put_back_too() -> None:
    mersenne = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(3))
    try:
        before = np.random.get_bit_generator().state
        draws = []
        for _ in range(2):
            with seed_globals(as_seed(1), 2):
                draws.append(np.random.rand())
        watch = GlobalWatch()
        watch.start()
        assert watch.used() == frozenset()
        assert draws[0] == draws[1]
        assert np.random.get_bit_generator().state == before
        np.random.rand()
        assert watch.used() == {"numpy.random"}
    finally:
        np.random.set_bit_generator(mersenne)


def test_numpys_generator_is_seeded_though_only_numpy_itself_was_imported() -> None:
    code = """
        import numpy
        from anypool._seeds import as_seed
        from anypool._seeds_globals import seed_globals
        with seed_globals(as_seed(1), 2):
            print(numpy.random.randint(2**31 - 1))
    """
    with seed_globals(as_seed(1), 2):
        assert run_python(code) == str(np.random.randint(2**31 - 1))


class FakeCuda:
    def __init__(self, *, initialized: bool) -> None:
        self.initialized = initialized
        self.states = ["gpu 0", "gpu 1"]

    def is_initialized(self) -> bool:
        return self.initialized

    def get_rng_state_all(self) -> list[str]:
        assert self.initialized, "this would start CUDA"
        return list(self.states)

    def set_rng_state_all(self, states: list[str]) -> None:
        self.states = states


class FakeTorch(types.ModuleType):
    def __init__(self, *, cuda: bool) -> None:
        super().__init__("torch")
        self.cuda = FakeCuda(initialized=cuda)
        self.state: object = "before"

    def get_rng_state(self) -> object:
        return self.state

    def set_rng_state(self, state: object) -> None:
        self.state = state

    def manual_seed(self, number: int) -> None:
        assert 0 <= number < 2**63
        self.state = number
        self.cuda.states = [f"seeded {number}"] * 2


@pytest.mark.parametrize("cuda", [True, False])
def test_torch_is_seeded_where_it_is_loaded_and_put_back(monkeypatch: pytest.MonkeyPatch, cuda: bool) -> None:
    torch = FakeTorch(cuda=cuda)
    monkeypatch.setitem(sys.modules, "torch", torch)
    states = []
    for index in (1, 2, 1):
        with seed_globals(as_seed(1), index):
            states.append(torch.state)
        assert torch.state == "before"
        assert torch.cuda.states == ["gpu 0", "gpu 1"] or not cuda
    assert states[0] == states[2] != states[1]
    assert isinstance(states[0], int)


# --- misuse ---------------------------------------------------------------------------------------

USES = {
    "random": [
        random.random,
        lambda: random.gauss(0, 1),
        lambda: random.shuffle([1, 2, 3]),
        lambda: random.seed(5),
        lambda: [random.getrandbits(32) for _ in range(624)],  # once round: the same position
    ],
    "numpy.random": [
        np.random.rand,
        lambda: np.random.shuffle([1, 2, 3]),
        lambda: np.random.seed(5),
        lambda: np.random.bytes(624 * 4),
    ],
}


@pytest.mark.parametrize(("name", "use"), [(name, use) for name in USES for use in USES[name]])
@pytest.mark.parametrize("by_memory", [True, False])
def test_a_use_of_a_global_generator_is_seen(
    monkeypatch: pytest.MonkeyPatch, by_memory: bool, name: str, use: Any
) -> None:
    if not by_memory:
        monkeypatch.setattr(_seeds_watch, "_python_layout", lambda: None)
        monkeypatch.setattr(_seeds_watch, "_numpy_layout", lambda _: None)
    watch = GlobalWatch()
    watch.start()
    assert watch.used() == frozenset()
    use()
    assert watch.used() == {name}
    watch.start()
    assert watch.used() == frozenset()


def test_the_half_of_a_pair_that_gauss_held_back_counts_as_a_use() -> None:
    random.gauss(0, 1)
    watch = GlobalWatch()
    watch.start()
    random.gauss(0, 1)
    assert watch.used() == {"random"}


def test_generators_of_ones_own_are_no_use_of_the_global_ones() -> None:
    watch = GlobalWatch()
    watch.start()
    random.Random(1).random()
    np.random.default_rng(1).random()
    np.random.RandomState(1).rand()
    assert watch.used() == frozenset()


def test_watching_does_not_move_what_it_watches() -> None:
    before = random.getstate(), numpy_position()
    watch = GlobalWatch()
    watch.start()
    watch.used()
    assert (random.getstate(), numpy_position()) == before


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="reads CPython's memory")
def test_the_memory_of_both_generators_is_where_it_is_expected() -> None:
    # Else the watch is right, but ten times slower: a new Python or numpy has moved its fields.
    assert _seeds_watch._python_layout() is not None
    assert _seeds_watch._numpy_layout(np.random.MT19937) is not None


@pytest.mark.parametrize(
    ("use", "seen"),
    [("numpy.random.rand()", True), ("numpy.random.seed(1)", True), ("numpy.random.default_rng(1)", False)],
)
def test_a_use_is_seen_though_numpy_was_first_imported_by_the_call(use: str, seen: bool) -> None:
    code = f"""
        from anypool._seeds_watch import GlobalWatch
        watch = GlobalWatch()
        watch.start()
        import numpy
        {use}
        print("numpy.random" in watch.used())
    """
    assert run_python(code) == str(seen)


def test_the_warning_of_undeclared_use_names_the_generators_and_points_to_the_users_line() -> None:
    inside = types.ModuleType("anypool.inside")
    exec("def report(warn, names): warn(names)", inside.__dict__)
    with pytest.warns(RuntimeWarning, match=r"numpy\.random and random.*Pass seed=") as caught:
        inside.report(_seeds_watch.warn_undeclared, {"random", "numpy.random"})
    assert [warning.filename for warning in caught] == [__file__]
