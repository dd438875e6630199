"""Where `seed=` may be said, and which stream a call gets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import anypool

np = pytest.importorskip("numpy")


def draw(_: object = None) -> int:
    return int(anypool.rng().integers(1 << 40))


def expected(seed: object, count: int) -> list[int]:
    return [int(np.random.default_rng(each).integers(1 << 40)) for each in np.random.SeedSequence(seed).spawn(count)]


@pytest.fixture
def ex() -> Iterator[anypool.PoolExecutor]:
    with anypool.get_executor("serial") as executor:
        yield executor


def test_map_takes_a_seed(ex: anypool.PoolExecutor) -> None:
    assert list(ex.map(draw, range(5), seed=7)) == expected(7, 5)


def test_starmap_takes_a_seed(ex: anypool.PoolExecutor) -> None:
    assert list(ex.starmap(draw, [(1,), (2,)], seed=7)) == expected(7, 2)


def test_a_seed_sequence_is_taken_everywhere() -> None:
    seed = np.random.SeedSequence(7)
    with anypool.get_executor("serial", seed=seed) as executor:
        assert list(executor.map(draw, range(2))) == expected(7, 2)
        assert list(executor.options(seed=[1, 2]).map(draw, range(2))) == expected([1, 2], 2)


def test_each_submitted_call_has_the_stream_of_its_turn(ex: anypool.PoolExecutor) -> None:
    view = ex.options(seed=7)
    assert [view.submit(draw).result() for _ in range(3)] == expected(7, 3)


def test_a_seed_of_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYPOOL_SEED", "7")
    with anypool.get_executor("serial") as executor:
        assert list(executor.map(draw, range(2))) == expected(7, 2)


@pytest.mark.parametrize("seed", ["seven", -1, True, 1.5, object()])
def test_what_is_no_seed_is_refused_at_once(ex: anypool.PoolExecutor, seed: object) -> None:
    with pytest.raises(anypool.ConfigError, match="seed"):
        ex.map(draw, range(2), seed=seed)


def test_relay_takes_modes(ex: anypool.PoolExecutor, capsys: pytest.CaptureFixture[str]) -> None:
    results = ex.options(relay={"stdout": "live"}).map(print, ["now"])
    assert capsys.readouterr().out == "now\n"
    assert list(results) == [None]
