"""`compare`: the same calls on several backends, held against `serial`."""

from __future__ import annotations

import json
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

import anypool
from anypool import _registry
from anypool._compare import Compared, Comparison, Difference, compare, compare_calls
from anypool.backend import Traits
from anypool.errors import ConfigError, StartError, UnknownBackend

TWO = ["threads", "processes"]


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYPOOL_CONFIG", "none")


def square(x: int) -> int:
    return x * x


def backend_now() -> str:
    worker = anypool.current_worker()
    assert worker is not None
    return worker.backend


def test_what_every_backend_computes_alike_is_identical() -> None:
    comparison = compare(square, range(20), backends=TWO, max_workers=2, repeat=2)
    assert comparison.identical
    assert [row.backend for row in comparison.rows] == ["serial", *TWO]
    assert [row.workers for row in comparison.rows] == [1, 2, 2]
    assert (comparison.function, comparison.items, comparison.repeat) == ("square", 20, 2)
    for row in comparison.rows:
        assert row.first is not None
        assert row.warm is not None
        assert row.first > 0
        assert row.warm > 0
    assert comparison.rows[0].speedup == pytest.approx(1)
    assert comparison.rows[0].overhead == pytest.approx(0)


def test_the_first_item_that_differs_is_named_with_both_values() -> None:
    def lies(x: int) -> object:
        return [x, float(x) if x >= 3 and backend_now() == "threads" else x]

    comparison = compare(lies, range(6), backends=TWO, max_workers=2)
    assert not comparison.identical
    assert [row.identical for row in comparison.rows] == [True, False, True]
    assert comparison.rows[1].difference == Difference(
        item=3, expected="[3, 3] (list)", got="[3, 3.0] (list)", where="[1]: expected 3 (int), got 3.0 (float)"
    )
    text = str(comparison)
    assert "item 3 on threads: [1]: expected 3 (int), got 3.0 (float)" in text
    assert "threads gave [3, 3.0] (list)" in text


def test_errors_of_calls_are_results_and_are_compared() -> None:
    def fails(x: int) -> int:
        if x == 2:
            raise KeyError("two", backend_now() if x in differing else "same")
        return x

    differing: list[int] = []
    assert compare(fails, range(4), backends=TWO, max_workers=2).identical
    differing.append(2)
    comparison = compare(fails, range(4), backends=["threads"], max_workers=2)
    first = comparison.rows[1].difference
    assert first is not None
    assert (first.item, first.where) == (2, ".args[1]: expected 'serial', got 'threads'")


def test_a_call_that_changes_its_argument_spoils_no_other_map() -> None:
    def grow(items: list[int]) -> list[int]:
        items.append(len(items))
        return items

    inputs = [[], [0]]
    assert compare(grow, inputs, backends=TWO, max_workers=2, repeat=2).identical
    assert inputs == [[], [0]]


def test_what_cannot_be_pickled_is_compared_where_memory_is_shared() -> None:
    def held(lock: Any) -> bool:
        return bool(lock.locked())

    comparison = compare(held, [threading.Lock()], backends=["threads"], max_workers=1)
    assert comparison.identical


def test_warm_maps_are_compared_too() -> None:
    count = 0

    def counts(x: int) -> int:
        nonlocal count
        count += 1
        return 0 if count <= 2 else count

    comparison = compare(counts, range(2), backends=[])
    assert comparison.rows[0].difference == Difference(
        item=0, expected="0 (int)", got="3 (int)", where="expected 0, got 3"
    )
    assert "depends on more than its arguments" in str(comparison)


def test_the_same_seed_gives_the_same_numbers() -> None:
    def draw(x: int) -> float:
        import random

        return random.random()

    assert compare(draw, range(5), backends=["processes"], max_workers=2, seed=7).identical


def test_several_iterables_and_calls_of_any_length() -> None:
    assert compare(pow, [2, 3], [3, 2, 9], backends=TWO, max_workers=2).items == 2
    comparison = compare_calls(max, [(1, 2), (1, 2, 3), ([4],)], backends=TWO, max_workers=2)
    assert comparison.identical
    assert comparison.items == 3


@pytest.mark.parametrize(
    ("fn", "items", "options", "told"),
    [
        (square, [], {}, "nothing to compare"),
        (3, [1], {}, "a function is needed"),
        (square, [1], {"repeat": 0}, "repeat must be 1 or more"),
        (square, [1], {"max_workers": 0}, "max_workers"),
        (square, [1], {"seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_compared_is_refused(fn: Any, items: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        compare(fn, items, backends=["threads"], **options)


def test_an_unknown_backend_is_refused_before_anything_runs() -> None:
    ran = []
    with pytest.raises(UnknownBackend, match="did you mean 'threads'"):
        compare(ran.append, [1], backends=["processes", "thraeds"])
    assert ran == []


@dataclass(kw_only=True)
class Unstartable:
    name: ClassVar[str] = "unstartable"
    max_workers: int | None = None

    def start(self) -> tuple[int, Traits]:
        raise StartError("no\nroom")

    def submit(self, call: Any, payload: Any, /) -> Future[Any]:
        raise AssertionError

    def stop(self, *, cancel: bool) -> None: ...


def test_a_backend_that_fails_is_told_in_its_row_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_registry._registered, "unstartable", Unstartable)
    comparison = compare(square, range(3), backends=["unstartable", "threads"], max_workers=1)
    assert not comparison.identical
    assert comparison.rows[1] == Compared(backend="unstartable", error="StartError: no room")
    assert comparison.rows[2].identical
    assert "unstartable failed: StartError: no room" in str(comparison)


def test_by_default_every_installed_backend_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "backend_names", lambda: ["serial", "threads", "loky", "unstartable"])
    monkeypatch.setitem(_registry._registered, "unstartable", Unstartable)
    monkeypatch.setitem(__import__("sys").modules, "loky", None)
    comparison = compare(square, range(3), max_workers=1)
    assert [row.backend for row in comparison.rows] == ["serial", "threads", "unstartable"]
    assert comparison.left_out == (("loky", "backend 'loky' needs: pip install 'anypool[loky]'"),)
    assert "left out: backend 'loky' needs: pip install" in str(comparison)


def test_serial_is_the_reference_and_is_there_once() -> None:
    assert [row.backend for row in compare(square, [1], backends=["sync", "serial", "threads"]).rows] == [
        "serial",
        "threads",
    ]


def test_an_interrupt_ends_the_comparison() -> None:
    def interrupted(x: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(interrupted, [1], backends=[])


def test_json_holds_all_of_it() -> None:
    comparison = Comparison(
        function="f",
        items=4,
        repeat=1,
        rows=(
            Compared(backend="serial", workers=1, first=0.5, warm=0.25, speedup=1.0, overhead=0.0),
            Compared(backend="a", difference=Difference(item=2, expected="1", got="2", where="w"), workers=2),
            Compared(backend="b", error="E: e"),
        ),
        left_out=(("c", "needs c"),),
    )
    told = json.loads(json.dumps(comparison.to_dict()))
    assert told["identical"] is False
    assert [row["identical"] for row in told["rows"]] == [True, False, False]
    assert told["rows"][0]["warm"] == 0.25
    assert told["rows"][1]["difference"] == {"item": 2, "expected": "1", "got": "2", "where": "w"}
    assert told["rows"][2]["error"] == "E: e"
    assert told["left_out"] == [{"backend": "c", "reason": "needs c"}]


def test_the_table_fits_80_columns_and_narrower() -> None:
    row = {"workers": 16, "first": 1234.5678, "warm": 0.0456789, "speedup": 123.456, "overhead": -0.00012345}
    rows = (Compared(backend="processes", **row), Compared(backend="dask", error="E", **row))
    comparison = Comparison(function="f", items=3, repeat=1, rows=rows)
    for width in (80, 40):
        assert max(map(len, comparison.render(width).splitlines())) <= width
    assert "1235 s   45.7 ms   123.46x  -123 us/item  identical" in comparison.render(80)


def test_the_times_are_drawn_as_bars(tmp_path: Path) -> None:
    from xml.etree import ElementTree

    comparison = anypool.compare(abs, [-1, 2], backends=["threads"])
    comparison.save(tmp_path / "times.svg")
    root = ElementTree.parse(tmp_path / "times.svg").getroot()
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"abs on 2 items", "serial", "threads"} <= set(texts)
    assert len(list(root.iter("{http://www.w3.org/2000/svg}rect"))) == 4
    with pytest.raises(ValueError, match="svg"):
        comparison.save(tmp_path / "times.png")
