"""Which backend with which options, and where each was written."""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
import sys
import threading
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anypool import _config_levels, _registry
from anypool._config import Settings, change_settings, explain, resolve, use
from anypool.errors import ConfigError, MissingExtra, UnknownBackend, UnknownOption


class Inert:
    """A backend that must not be started: to choose one starts nothing."""

    def start(self) -> Any:
        raise AssertionError("nothing may be started")

    def submit(self, call: Any, payload: Any, /) -> Any:
        raise AssertionError("nothing may be started")

    def stop(self, *, cancel: bool) -> None:
        raise AssertionError("nothing may be started")


@dataclass(kw_only=True)
class Local(Inert):
    name: ClassVar[str] = "processes"
    max_workers: int | None = None
    start_method: str | None = None


@dataclass(kw_only=True)
class Near(Inert):
    name: ClassVar[str] = "near"
    max_workers: int | None = None
    size: int = 0
    flag: bool = False


@dataclass(kw_only=True)
class Far(Inert):
    name: ClassVar[str] = "dask"
    max_workers: int | None = None
    address: str | None = None

    @classmethod
    def from_url(cls, rest: str) -> dict[str, Any]:
        if " " in rest:
            raise ValueError("a blank in an address")
        return {"address": rest if "://" in rest else f"tcp://{rest}"}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty directory, no variable of ours, and three backends that nobody has to install."""
    for variable in [each for each in os.environ if each.startswith("ANYPOOL_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_registry, "_registered", {})
    for cls in (Local, Near, Far):
        _registry.register_backend(cls.name, cls, replace=True)


@pytest.fixture
def clean_levels() -> Iterator[None]:
    yield
    assert resolve().sources == {"backend": "default"}, "a test left something set"


def write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


# --- the rule ---------------------------------------------------------------------------------------


def test_with_nothing_written_the_default_holds() -> None:
    choice = resolve()
    assert choice.name == "processes"
    assert choice.create() == Local()
    assert choice.settings == type(choice.settings)()
    assert choice.sources == {"backend": "default"}


PLACES = ("argument", "use 1", "use 2", "environment", "file")
BACKENDS = ("near", "dask", "processes")
place_contents = st.fixed_dictionaries(
    {},
    optional={
        "backend": st.sampled_from(BACKENDS),
        "max_workers": st.integers(1, 99),
        "chunksize": st.integers(1, 99),
        "relay": st.booleans(),
    },
)


def spelled(place: str, said: Mapping[str, Any], stack: ExitStack) -> dict[str, Any]:
    """Write `said` in a place; return the arguments if the place is the call itself."""
    if place == "argument":
        return dict(said)
    if place.startswith("use"):
        options = {key: value for key, value in said.items() if key != "backend"}
        stack.enter_context(use(said.get("backend"), **options))
    elif place == "environment":
        variables = {f"ANYPOOL_{key.upper()}": str(value) for key, value in said.items()}
        stack.enter_context(mock.patch.dict(os.environ, variables))
    else:
        write("anypool.toml", "".join(f"{key} = {json.dumps(value)}\n" for key, value in said.items()))
    return {}


def kind_of(source: str) -> str:
    return source.split("(")[0].split(" ")[0]


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(PLACES, place_contents)))
@settings(deadline=None, max_examples=150)
def test_the_strongest_place_that_says_a_thing_wins_and_explain_names_it_and_the_losers(
    places: dict[str, dict[str, Any]],
) -> None:
    _config_levels._parse.cache_clear()  # files of one name, size and, on coarse clocks, time
    Path("anypool.toml").unlink(missing_ok=True)
    arguments: dict[str, Any] = {}
    with ExitStack() as stack:
        for place in reversed(PLACES):  # outer blocks first: "use 1" is the innermost
            arguments.update(spelled(place, places.get(place, {}), stack))
        backend = arguments.pop("backend", None)
        choice = resolve(backend, arguments)
        rows = {row.key: row for row in explain(backend, **arguments).rows}
    for key, default in [
        ("backend", "processes"),
        ("max_workers", None),
        ("chunksize", None),
        ("relay", True),
    ]:
        said = [(place, places[place][key]) for place in PLACES if key in places.get(place, {})]
        expected_source, expected = said[0] if said else ("default", default)
        got = {"backend": choice.name, "max_workers": choice.options.get("max_workers")}
        assert got.get(key, getattr(choice.settings, key, None)) == expected
        assert kind_of(choice.sources.get(key, "default")) == expected_source.split()[0]
        assert kind_of(rows[key].source) == expected_source.split()[0]
        assert rows[key].value == expected
        assert [kind_of(source) for _, source in rows[key].lost] == [place.split()[0] for place, _ in said[1:]]


@given(winner=st.sampled_from(BACKENDS), bound=st.dictionaries(st.sampled_from(BACKENDS), st.integers(1, 99)))
@settings(deadline=None)
def test_what_is_bound_to_a_backend_holds_for_that_one_only(winner: str, bound: dict[str, int]) -> None:
    variables = {f"ANYPOOL_{name.upper()}_MAX_WORKERS": str(value) for name, value in bound.items()}
    with mock.patch.dict(os.environ, variables):
        assert resolve(winner).options.get("max_workers") == bound.get(winner)
        assert len(explain(winner).ignored) == len(bound.keys() - {winner})


@pytest.mark.usefixtures("clean_levels")
def test_an_option_inside_a_url_is_bound_and_a_keyword_of_use_is_general() -> None:
    with use("near?max_workers=4"):
        assert resolve().options == {"max_workers": 4}
        assert resolve("near").options == {"max_workers": 4}
        assert resolve("dask").options == {}
    with use("near", max_workers=4, size=2):
        assert resolve("near").options == {"max_workers": 4, "size": 2}
        assert resolve("dask").options == {"max_workers": 4}


def test_within_one_place_the_narrower_spelling_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve("near?max_workers=4", {"max_workers": 2}).options == {"max_workers": 2}
    monkeypatch.setenv("ANYPOOL_MAX_WORKERS", "3")
    assert resolve("near").options == {"max_workers": 3}
    monkeypatch.setenv("ANYPOOL_BACKEND", "near?max_workers=4")
    assert resolve().options == {"max_workers": 4}
    monkeypatch.setenv("ANYPOOL_NEAR_MAX_WORKERS", "5")
    assert resolve().options == {"max_workers": 5}


def test_a_setting_may_be_bound_to_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYPOOL_NEAR_CHUNKSIZE", "7")
    assert resolve("near").settings.chunksize == 7
    assert resolve("dask").settings.chunksize is None


def test_max_workers_none_as_an_argument_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYPOOL_MAX_WORKERS", "3")
    assert resolve("near", {"max_workers": None}).options == {"max_workers": 3}


def test_a_keyword_without_a_backend_is_for_the_winner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYPOOL_BACKEND", "near")
    assert resolve(None, {"size": 3}).create() == Near(size=3)
    with pytest.raises(UnknownOption, match="backend 'near' has no option 'start_method'"):
        resolve(None, {"start_method": "spawn"})


def test_what_a_losing_place_says_of_its_backend_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYPOOL_BACKEND", "not-there://x?y=z")
    assert resolve("near").create() == Near()
    with pytest.raises(UnknownBackend, match="no backend 'not-there', from environment ANYPOOL_BACKEND"):
        resolve()


def test_an_alias_is_its_backend_wherever_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYPOOL_PROCESSES_START_METHOD", "spawn")
    write("anypool.toml", "[multiprocessing]\nmax_workers = 2")
    for written in ("mp", "process?", {"backend": "mp"}):
        choice = resolve(written)
        assert choice.name == "processes"
        assert choice.options == {"start_method": "spawn", "max_workers": 2}


# --- spellings of a backend -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "backend"),
    [
        ("near", Near()),
        (" near ", Near()),
        ("near?size=3&flag=yes", Near(size=3, flag=True)),
        ("near://?size=3", Near(size=3)),
        ("mp?start_method=spawn", Local(start_method="spawn")),
        ("mp?start_method=a%20b", Local(start_method="a b")),
        ("dask", Far()),
        ("distributed://host:8786", Far(address="tcp://host:8786")),
        ("dask://host:8786?max_workers=2", Far(address="tcp://host:8786", max_workers=2)),
        ("dask+tls://host:8786", Far(address="tls://host:8786")),
        ("tls://host:8786", Far(address="tls://host:8786")),
        ("tcp://host:8786", Far(address="tcp://host:8786")),
        ("dask://[::1]:8786", Far(address="tcp://[::1]:8786")),
        ({"backend": "near", "size": 3}, Near(size=3)),
        ({"backend": "near?size=3&flag=1", "size": 4}, Near(size=4, flag=True)),
        ({"max_workers": 3}, Local(max_workers=3)),
        (Near, Near()),
        ({"backend": Near, "size": 3}, Near(size=3)),
    ],
)
def test_a_backend_may_be_written_in_many_ways(written: Any, backend: object) -> None:
    assert resolve(written).create() == backend


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("near://host", "backend 'near' takes no location: 'near://host'"),
        ("dask+tls", r"'\+tls' but no location"),
        ("dask://a b", "cannot read its location in 'dask://a b': a blank in an address"),
        ("tcp", "no backend 'tcp'"),
        ("host:8786", "no backend 'host:8786'"),
        ("", "no backend ''"),
        ("near?size", "not of the form 'name=value&name=value'"),
        ("near?size=1&size=2", "option 'size' is written twice"),
        ("near?nothing=1", "backend 'near' has no option 'nothing'"),
        (3, r"a backend is a name, .* not 3 \(int\)"),
        ({"backend": {"max_workers": 3}}, "a backend is a name"),
        (int, "a backend is a name"),
        (Inert, "a backend is a name"),
    ],
)
def test_what_is_no_backend_is_told_as_written(written: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        resolve(written)


def test_a_backend_object_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYPOOL_MAX_WORKERS", "3")
    monkeypatch.setenv("ANYPOOL_CHUNKSIZE", "5")
    near = Near(size=2)
    choice = resolve(near, {"relay": False})
    assert choice.create() is near
    assert near == Near(size=2)
    assert (choice.settings.relay, choice.settings.chunksize) == (False, 5)


@pytest.mark.parametrize("option", ["max_workers", "size"])
def test_options_beside_a_backend_object_are_an_error(option: str) -> None:
    for choose in (lambda: resolve(Near(), {option: 1}), use(Near(), **{option: 1}).__enter__):
        with pytest.raises(ConfigError, match=f"used as it is: set '{option}' when creating"):
            choose()
    with pytest.raises(ConfigError, match="used as it is"):
        resolve({"backend": Near(), option: 1})


# --- the values of settings -------------------------------------------------------------------------


def test_settings_are_converted_from_text(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, text in {
        "relay": "off", "initializer": "json:loads", "initargs": '["{}"]', "seed": "0", "timeout": "2.5",
        "buffersize": "none", "inner_threads": "1", "reuse": "1", "nested": "threads?max_workers=2, serial",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"ANYPOOL_{key.upper()}", text)
    got = resolve().settings
    assert (got.relay, got.initializer, got.initargs, got.seed) == ("off", json.loads, ("{}",), 0)
    assert (got.timeout, got.buffersize, got.inner_threads, got.reuse) == (2.5, None, 1, True)
    assert got.nested == ("threads?max_workers=2", "serial")


def test_initargs_are_never_looked_into() -> None:
    assert resolve(None, {"initargs": ["json:loads", 3]}).settings.initargs == ("json:loads", 3)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("chunksize", 0, "chunksize must be greater than 0"),
        ("buffersize", -1, "buffersize must be greater than 0"),
        ("inner_threads", 0, "inner_threads must be greater than 0"),
        ("max_workers", 0, "max_workers must be greater than 0"),
        ("seed", -1, "seed must not be negative"),
        ("seed", True, "option 'seed' must be int or Seed or None, not True"),
        ("relay", "maybe", "option .relay. must be bool or one of"),
        ("nested", (), "nested must name at least one backend"),
        ("nested", ["serail"], "no backend 'serail'.*; did you mean 'serial'"),
        ("relays", True, "no option 'relays'; did you mean 'relay'"),
        ("on_lost", "rety", "must be one of 'raise', 'retry', not 'rety'.*; did you mean 'retry'"),
        ("progress", "tqmd", "not 'tqmd'.*; did you mean 'tqdm'"),
    ],
)
def test_a_value_that_cannot_be_is_a_config_error_in_every_place(
    option: str, value: Any, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for choose in (lambda: resolve(None, {option: value}), use(**{option: value}).__enter__):
        with pytest.raises(ConfigError, match=says):
            choose()
    if isinstance(value, int) and option != "relays":
        monkeypatch.setenv(f"ANYPOOL_{option.upper()}", str(value))
        with pytest.raises(ConfigError, match=f"from environment ANYPOOL_{option.upper()}"):
            resolve()


def test_changed_settings_are_checked_like_the_first_ones() -> None:
    before = Settings(seed=1)
    assert change_settings(before, {"chunksize": "3", "nested": ["serial"]}) == Settings(
        seed=1, chunksize=3, nested=("serial",)
    )
    assert before == Settings(seed=1)
    with pytest.raises(ConfigError, match="chunksize must be greater than 0"):
        change_settings(before, {"chunksize": 0})
    with pytest.raises(UnknownOption, match="the executor has no option 'max_workers'.*known: relay"):
        change_settings(before, {"max_workers": 3})


# --- the environment --------------------------------------------------------------------------------


def test_an_unknown_variable_is_one_warning_at_the_caller_and_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANYPOOL_CHUNKSIZ", "3")
    monkeypatch.setenv("ANYPOOL_NEAR_SIZES", "3")
    with pytest.warns(UserWarning, match="mean nothing to anypool: ANYPOOL_CHUNKSIZ: did you mean") as caught:
        choice = resolve("near")
    assert choice.create() == Near()
    assert len(caught) == 1
    assert "ANYPOOL_NEAR_SIZES: did you mean 'ANYPOOL_NEAR_SIZE'" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert explain("near").unknown == (
        "ANYPOOL_CHUNKSIZ; did you mean 'ANYPOOL_CHUNKSIZE'?",
        "ANYPOOL_NEAR_SIZES; did you mean 'ANYPOOL_NEAR_SIZE'?",
    )


def test_a_variable_unlike_any_other_gets_no_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYPOOL_QQQ", "3")
    assert explain().unknown == ("ANYPOOL_QQQ",)


def test_a_variable_of_another_backend_and_an_empty_one_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYPOOL_MP_START_METHOD", "spawn")
    monkeypatch.setenv("ANYPOOL_BACKEND", "")
    monkeypatch.setenv("ANYPOOL_SEED", "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve("near").sources == {"backend": "argument"}
        assert resolve().create() == Local(start_method="spawn")


def test_of_two_backends_whose_names_begin_alike_the_longer_one_is_meant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _registry.register_backend("near-by", Far)
    monkeypatch.setenv("ANYPOOL_NEAR_BY_ADDRESS", "x")
    assert resolve("near-by").options == {"address": "x"}
    assert resolve("near").options == {}


def test_a_variable_that_cannot_be_converted_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANYPOOL_NEAR_SIZE", "big")
    with pytest.raises(ConfigError, match="'size' must be int, not 'big'.*from environment ANYPOOL_NEAR_SIZE"):
        resolve("near")


# --- the file ---------------------------------------------------------------------------------------


def test_the_nearest_file_is_read_and_a_pyproject_without_the_table_does_not_stop_the_search(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write("anypool.toml", 'backend = "near"\n[near]\nsize = 1\n')
    write("a/pyproject.toml", '[project]\nname = "anypool-user"\n')
    write("a/b/pyproject.toml", "this is not TOML, nor ours")
    monkeypatch.chdir("a/b")
    choice = resolve()
    assert choice.create() == Near(size=1)
    assert choice.sources["size"] == f"file {tmp_path / 'anypool.toml'} [near]"


def test_the_table_of_pyproject_is_read_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    write("pyproject.toml", '[tool.anypool]\nbackend = "near"\nchunksize = 3\n[tool.anypool.near]\nsize = 1\n')
    write("a/x", "")
    assert resolve().sources == {
        "backend": "file pyproject.toml [tool.anypool]",
        "chunksize": "file pyproject.toml [tool.anypool]",
        "size": "file pyproject.toml [tool.anypool.near]",
    }


@pytest.mark.parametrize(
    "content",
    [
        '[tool]\nanypool.backend = "near"',
        '[tool]\nanypool={backend="near"}',
        '[tool . "anypool"]\nbackend = "near"',
        "tool . 'anypool' . backend = 'near'",
        '[tool."any\\u0070ool"]\nbackend = "near"',
        '[tool."any\\U00000070ool"]\nbackend = "near"',
    ],
)
def test_the_table_of_pyproject_is_found_however_it_is_written(content: str) -> None:
    write("pyproject.toml", content)
    assert resolve().name == "near"


def test_letters_that_are_escaped_as_toml_1_1_does_are_seen() -> None:
    """Which parsers read from Python 3.15 on."""
    assert _config_levels._may_have_a_table_of_ours(b'[tool."any\\x70ool"]')
    assert not _config_levels._may_have_a_table_of_ours(b'[project]\nname = "a\\tb"\nrequires = ["anypool", "b"]')


def test_a_project_that_only_requires_us_is_not_parsed() -> None:
    write("pyproject.toml", '[project]\ndependencies = ["anypool", "anypool[all]>=1"]\nthis is not TOML')
    assert resolve("near").name == "near"


def test_anypool_toml_wins_over_pyproject_in_one_directory() -> None:
    write("pyproject.toml", '[tool.anypool]\nbackend = "dask"\nseed = 3')
    write("anypool.toml", 'backend = "near"')
    choice = resolve()
    assert (choice.name, choice.settings.seed) == ("near", None)


def test_a_table_is_used_only_if_its_backend_wins_and_by_its_alias_too() -> None:
    write("anypool.toml", '[distributed]\naddress = "x"\nbogus = 1\n[near]\nsize = 2')
    assert resolve("near").create() == Near(size=2)
    with pytest.raises(UnknownOption, match=r"'dask' has no option 'bogus', from file anypool.toml \[distributed\]"):
        resolve("dask")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("backend = ", r"file .*anypool\.toml is not valid TOML"),
        ("chunk_size = 3", r"unknown key 'chunk_size', from file anypool\.toml; did you mean 'chunksize'"),
        ("[naer]\nsize=1", r"unknown key 'naer', from file anypool\.toml; did you mean 'near'"),
        ("near = 3", "key 'near' must be a table"),
        ("backend = 3", "key 'backend' must be a name"),
        ('backend = "naer"', r"no backend 'naer', from file anypool\.toml; did you mean 'near'"),
        ('max_workers = "many"', r"must be int or None, not 'many' \(str\), from file anypool\.toml"),
    ],
)
def test_a_file_that_cannot_be_followed_is_an_error_that_names_file_and_key(text: str, says: str) -> None:
    write("anypool.toml", text)
    with pytest.raises(ConfigError, match=says):
        resolve()
    assert explain().errors


def test_a_backend_may_be_a_table_in_the_file() -> None:
    write("anypool.toml", 'backend = {backend = "near", size = 3}')
    assert resolve().create() == Near(size=3)


def test_an_edited_file_is_read_again() -> None:
    write("anypool.toml", "seed = 1")
    assert resolve().settings.seed == 1
    write("anypool.toml", "seed = 22")
    assert resolve().settings.seed == 22
    Path("anypool.toml").unlink()
    assert resolve().settings.seed is None


def test_an_unchanged_file_is_parsed_once() -> None:
    write("anypool.toml", "seed = 1")
    _config_levels._parse.cache_clear()
    for _ in range(3):
        resolve()
    assert _config_levels._parse.cache_info().misses == 1


def test_a_file_that_cannot_be_read_is_an_error_and_not_silence() -> None:
    Path("anypool.toml").mkdir()
    with pytest.raises(ConfigError, match=r"anypool\.toml cannot be read: .*ANYPOOL_CONFIG=none reads no file"):
        resolve()


def test_anypool_config_names_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write("anypool.toml", "seed = 1")
    write("other/mine.toml", "seed = 2")
    write("other/pyproject.toml", "[tool.anypool]\nseed = 3")
    monkeypatch.setenv("ANYPOOL_CONFIG", "other/mine.toml")
    assert resolve().settings.seed == 2
    monkeypatch.setenv("ANYPOOL_CONFIG", "other/pyproject.toml")
    assert resolve().settings.seed == 3
    monkeypatch.setenv("ANYPOOL_CONFIG", "other/none.toml")
    with pytest.raises(ConfigError, match=r"file other.none\.toml, from environment ANYPOOL_CONFIG, cannot be read"):
        resolve()


@pytest.mark.parametrize("value", ["", "none", "None"])
def test_anypool_config_can_mean_no_file(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write("anypool.toml", "seed = 1")
    monkeypatch.setenv("ANYPOOL_CONFIG", value)
    assert resolve().settings.seed is None


@pytest.mark.skipif(os.name == "nt", reason="a working directory cannot be removed there")
def test_a_removed_working_directory_has_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir("gone")
    (tmp_path / "gone").rmdir()
    assert resolve().name == "processes"


# --- use --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("clean_levels")
def test_blocks_nest_and_end() -> None:
    with use("near", chunksize=2, seed=1):
        with use(chunksize=3):
            choice = resolve()
            assert (choice.name, choice.settings.chunksize, choice.settings.seed) == ("near", 3, 1)
        assert resolve().settings.chunksize == 2


@pytest.mark.usefixtures("clean_levels")
def test_a_block_ends_when_it_raises() -> None:
    with pytest.raises(ZeroDivisionError), use("near"):
        raise ZeroDivisionError


@pytest.mark.usefixtures("clean_levels")
def test_one_object_may_be_entered_within_itself_and_by_other_threads() -> None:
    block = use("near")
    entered, leave = threading.Event(), threading.Event()
    names: list[str] = []

    def other() -> None:
        with block:
            entered.set()
            assert leave.wait(30)
            names.append(resolve().name)

    thread = threading.Thread(target=other)
    with block, block:
        thread.start()
        assert entered.wait(30)
    assert resolve().name == "processes"
    leave.set()
    thread.join(30)
    assert names == ["near"]


def test_a_block_holds_in_its_own_context_only() -> None:
    seen: list[str] = []
    with use("near"):
        context = contextvars.copy_context()
        bare = threading.Thread(target=lambda: seen.append(resolve().name))
        carried = threading.Thread(target=context.run, args=(lambda: seen.append(resolve().name),))
        empty = contextvars.Context()
        empty.run(lambda: seen.append(resolve().name))
        carried.start()
        carried.join(30)
    bare.start()
    bare.join(30)
    assert seen == ["processes", "near", "processes"]


@pytest.mark.usefixtures("clean_levels")
def test_a_suspended_generator_leaves_no_block_behind() -> None:
    def suspended() -> Generator[None, None, None]:
        with use("near"):
            yield

    with use("dask"):
        generator = suspended()
        next(generator)
    assert resolve().name == "near"  # still open, as the generator is
    generator.close()


@pytest.mark.usefixtures("clean_levels")
def test_use_decorates_functions_and_coroutine_functions() -> None:
    @use("near")
    def plain(number: int) -> tuple[int, str]:
        return number, resolve().name

    @use("near")
    async def waiting() -> str:
        await asyncio.sleep(0)
        return resolve().name

    assert plain(3) == (3, "near")
    assert asyncio.run(waiting()) == "near"


def test_use_refuses_generators_which_would_run_outside_of_it() -> None:
    def generate() -> Iterator[int]:
        yield 1

    with pytest.raises(TypeError, match="cannot decorate the generator"):
        use("near")(generate)


@pytest.mark.usefixtures("clean_levels")
@pytest.mark.parametrize(
    ("written", "options", "error", "says"),
    [
        ("naer", {}, UnknownBackend, "did you mean 'near'"),
        ("near", {"sise": 1}, UnknownOption, "did you mean 'size'"),
        (
            None,
            {"size": 1},
            UnknownOption,
            r"use\(\) without a backend has no option 'size'.*use\('name', size=...\)",
        ),
        ("near", {"size": "x"}, ConfigError, r"must be int, not 'x'.*from use\(...\) at test_config.py:\d+"),
    ],
)
def test_a_wrong_block_is_an_error_on_entry(
    written: str | None, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    block = use(written, **options)
    with pytest.raises(error, match=says), block:
        raise AssertionError("the block was entered")


def test_a_block_of_a_backend_that_is_not_installed_is_an_error_on_entry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "loky", None)
    block = use("loky")
    with pytest.raises(MissingExtra, match="backend 'loky', from .*, needs: pip install"), block:
        raise AssertionError("the block was entered")


# --- explain ----------------------------------------------------------------------------------------


def test_the_explanation_is_a_table_of_what_won_and_what_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        "pyproject.toml",
        '[tool.anypool]\nbackend = "dask"\nmax_workers = 8\n[tool.anypool.dask]\naddress = "x"',
    )
    monkeypatch.setenv("ANYPOOL_BACKEND", "near")
    with use(max_workers=2):
        lines = str(explain(seed=7)).splitlines()
    cells = [[cell for cell in line.split("  ") if cell.strip()] for line in lines]
    cells = [[cell.strip() for cell in row] for row in cells]
    assert cells[0] == ["value", "from", "instead of"]
    assert [
        "backend",
        "near",
        "environment ANYPOOL_BACKEND",
        "dask (file pyproject.toml [tool.anypool])",
    ] in cells
    assert ["seed", "7", "argument"] in cells
    assert ["size", "0", "default"] in cells
    row = next(row for row in cells if row[0] == "max_workers")
    assert row[1] == "2"
    assert row[2].startswith("use(...) at test_config.py:")
    assert row[3] == "8 (file pyproject.toml [tool.anypool])"
    assert "ignored: dask.address = x (file pyproject.toml [tool.anypool.dask])" in lines


def test_the_explanation_goes_through_json() -> None:
    explanation = explain(
        {"backend": Near}, initializer=len, initargs=(1, object()), nested=["serial", {"backend": "near"}]
    )
    loaded = json.loads(json.dumps(explanation.to_dict()))
    rows = {row["key"]: row for row in loaded["rows"]}
    assert loaded["backend"] == "near"
    assert rows["initializer"]["value"] == "<built-in function len>"
    assert rows["nested"] == {
        "key": "nested",
        "value": ["serial", {"backend": "near"}],
        "source": "argument",
        "lost": [],
    }


@pytest.mark.parametrize(
    ("written", "options", "says"),
    [
        ("naer", {}, "UnknownBackend: no backend 'naer'; did you mean 'near'"),
        ("near", {"sise": 1}, "UnknownOption: backend 'near' has no option 'sise'"),
        ("near", {"size": "x"}, "ConfigError: backend 'near': option 'size' must be int"),
        ("near://x", {}, "ConfigError: backend 'near' takes no location"),
        (3, {}, "ConfigError: a backend is a name"),
        (Near(), {"size": 3}, "UnknownOption: a backend object is used as it is"),
        ("faulty", {}, "ConfigError: backend 'faulty'"),
    ],
)
def test_explain_reports_what_resolve_raises(written: Any, options: dict[str, Any], says: str) -> None:
    _registry.register_backend("faulty", "nowhere_at_all:Backend")
    with pytest.raises(ConfigError) as caught:
        resolve(written, options)
    explanation = explain(written, **options)
    assert explanation.errors[0].startswith(says)
    assert explanation.errors[0] == f"{type(caught.value).__name__}: {caught.value}"
    assert f"error: {says}" in str(explanation)


def test_explain_shows_the_options_of_a_backend_object() -> None:
    rows = {row.key: row for row in explain(Near(size=5)).rows}
    assert (rows["size"].value, rows["size"].source) == (5, "the object")
    assert rows["backend"].source == "argument"
