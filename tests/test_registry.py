"""Backends by name, and options by their declared types."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anypool import _registry
from anypool.errors import ConfigError, MissingExtra, UnknownBackend, UnknownOption

if TYPE_CHECKING:
    from elsewhere import Client  # type: ignore[import-not-found]  # exists for type checkers only


class Inert:
    """A backend that does nothing."""

    def start(self) -> Any:
        raise AssertionError("nothing may be started")

    def submit(self, call: Any, payload: Any, /) -> Future[Any]:
        raise AssertionError("nothing may be started")

    def stop(self, *, cancel: bool) -> None:
        raise AssertionError("nothing may be started")


@dataclass(kw_only=True)
class Fake(Inert):
    name: ClassVar[str] = "fake"
    limit: ClassVar[int] = 3

    max_workers: int | None = None
    ratio: float = 1.0
    strict: bool = False
    label: str | None = None
    level: Literal["low", "high", 1] = "low"
    tags: tuple[str, ...] = ()
    sizes: list[int] = field(default_factory=list)
    pair: tuple[int, str] = (0, "")
    names: Sequence[str] = ()
    env: Mapping[str, str] | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    hook: Callable[[], object] | None = None
    kind: type[Exception] = Exception
    anything: Any = None
    cluster: object = None
    _private: int = 0


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what a test registers."""
    monkeypatch.setattr(_registry, "_registered", {})
    _registry.register_backend("fake", Fake)


def built(**options: Any) -> Any:
    return _registry.build("fake", options)


def distribution(folder: Path, name: str, entry_points: str, code: str = "") -> None:
    """Install a distribution that declares backends."""
    info = folder / f"{name}-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[anypool.backends]\n{entry_points}\n")
    (folder / f"{name}_code.py").write_text(textwrap.dedent(code))


INERT = """
    from dataclasses import dataclass

    @dataclass(kw_only=True)
    class Plugin:
        name = "plugin"
        def start(self): ...
        def submit(self, call, payload, /): ...
        def stop(self, *, cancel): ...
    """


# --- names ------------------------------------------------------------------------------------------


def test_an_unknown_name_is_told_with_the_nearest_and_the_known_ones() -> None:
    with pytest.raises(UnknownBackend, match=r"no backend 'lokky'; did you mean 'loky'\? known: serial, threads"):
        _registry.find("lokky")


def test_a_name_unlike_any_other_gets_no_suggestion() -> None:
    with pytest.raises(UnknownBackend, match=r"no backend 'qqqqq'; known: "):
        _registry.find("qqqqq")


def test_the_nearest_name_is_found_whatever_the_case() -> None:
    with pytest.raises(UnknownBackend, match="did you mean 'dask'"):
        _registry.find("DASK")


@pytest.mark.parametrize(
    ("alias", "name"),
    [("mp", "processes"), ("multiprocessing", "processes"), ("threading", "threads"), ("sync", "serial")],
)
def test_an_alias_stands_for_a_built_in_name(alias: str, name: str) -> None:
    assert _registry.canonical(alias) == name
    assert alias not in _registry.backend_names()
    assert name in _registry.backend_names()


def test_a_missing_library_is_a_missing_extra_caused_by_the_import_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtra) as caught:
        _registry.find("dask")
    assert str(caught.value) == "backend 'dask' needs: pip install 'anypool[dask]'"
    assert isinstance(caught.value.__cause__, ImportError)
    assert not _registry.installed("dask")


def test_an_import_error_inside_an_installed_library_is_not_disguised(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "leaf_with_trouble.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    broken = _registry._BuiltIn(target="leaf_with_trouble:Leaf", extra="broken", modules=("json",))
    monkeypatch.setattr(_registry, "_BUILT_IN", {**_registry._BUILT_IN, "broken": broken})
    with pytest.raises(ImportError, match="not_there_at_all") as caught:
        _registry.find("broken")
    assert not isinstance(caught.value, MissingExtra)


def test_installed_imports_nothing() -> None:
    code = textwrap.dedent("""
        import json, sys
        from anypool import _registry
        there = [_registry.installed(name) for name in ("serial", "loky", "joblib", "dask")]
        names = _registry.backend_names()
        libraries = {"loky", "joblib", "dask", "distributed", "numpy"}
        print(json.dumps([there, names[:3], sorted(libraries & set(sys.modules))]))
        """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True)
    there, names, imported = json.loads(done.stdout)
    assert names == ["serial", "threads", "processes"]
    assert there[0] is True
    assert imported == []


def test_importing_the_configuration_loads_no_parser_no_metadata_and_no_backend() -> None:
    code = textwrap.dedent("""
        import sys
        import anypool._config
        lazy = {"tomllib", "importlib.metadata", "difflib", "urllib.parse", "json", "anypool.backends"}
        print(sorted(lazy & set(sys.modules)))
        """)
    # -S: site-packages may hold path files that import such modules themselves
    path = str(Path(_registry.__file__).parents[1])
    command = [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {path!r})\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.strip() == "[]"


# --- third parties ----------------------------------------------------------------------------------


def test_a_registered_string_is_imported_only_when_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    distribution(tmp_path, "late", "", INERT)
    monkeypatch.syspath_prepend(str(tmp_path))
    _registry.register_backend("late", "late_code:Plugin")
    assert "late" in _registry.backend_names()
    assert _registry.installed("late")
    assert "late_code" not in sys.modules
    assert _registry.find("late").__module__ == "late_code"
    monkeypatch.delitem(sys.modules, "late_code")


@pytest.mark.parametrize("name", ["serial", "dask", "mp"])
def test_a_built_in_name_is_replaced_only_on_request(name: str) -> None:
    with pytest.raises(ConfigError, match="is built in; pass replace=True"):
        _registry.register_backend(name, Fake)
    _registry.register_backend(name, Fake, replace=True)
    assert _registry.find(name) is Fake


def test_a_registered_name_is_replaced_only_on_request() -> None:
    _registry.register_backend("fake", Fake)  # the same again: a module that is reloaded
    with pytest.raises(ConfigError, match="registered as"):
        _registry.register_backend("fake", "other:Fake")


@pytest.mark.parametrize("name", ["", "Upper", "a b", "7up", "a://b", "backend", "config", "relay", "max_workers"])
def test_what_would_be_mistaken_for_something_else_cannot_be_a_name(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of a backend"):
        _registry.register_backend(name, Fake)


def test_an_entry_point_makes_a_backend_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    distribution(tmp_path, "plugged", "plugin = plugged_code:Plugin", INERT)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "plugin" in _registry.backend_names()
    assert _registry.find("plugin").name == "plugin"
    monkeypatch.delitem(sys.modules, "plugged_code")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("import nowhere_else", "nowhere_else"),
        ("", "Plugin"),
    ],
)
def test_a_broken_entry_point_names_its_distribution(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, says: str
) -> None:
    distribution(tmp_path, "brokendist", "bad = brokendist_code:Plugin", code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "brokendist_code", raising=False)
    with pytest.raises(ConfigError, match=f"of the distribution 'brokendist' 1.5.*{says}"):
        _registry.find("bad")
    monkeypatch.delitem(sys.modules, "brokendist_code", raising=False)


def test_an_entry_point_cannot_take_a_built_in_name_unnoticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    distribution(tmp_path, "pirate", "serial = pirate_code:Plugin", INERT)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.warns(UserWarning, match="'serial' stays anypool's own.*'pirate' 1.5"):
        names = _registry.backend_names()
    assert names.count("serial") == 1
    assert _registry.canonical("serial") == "serial"


def test_two_distributions_that_claim_one_name_are_both_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    distribution(tmp_path, "first", "both = first_code:Plugin", INERT)
    distribution(tmp_path, "second", "both = second_code:Plugin", INERT)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="claimed twice.*'(first|second)'.*'(first|second)'"):
        _registry.find("both")


def test_a_backend_whose_module_is_missing_says_which() -> None:
    class Needs(Fake):
        requires = ("json", "absent_module")

    _registry.register_backend("needs", Needs)
    assert not _registry.installed("needs")
    with pytest.raises(MissingExtra, match="backend 'needs' needs the module 'absent_module'"):
        _registry.find("needs")


@pytest.mark.parametrize("target", [int, "json:loads"])
def test_what_is_not_a_backend_class_is_refused(target: Any) -> None:
    _registry.register_backend("wrong", target)
    with pytest.raises(ConfigError, match="'wrong'.*is not a backend class"):
        _registry.find("wrong")


def test_an_option_with_the_name_of_a_setting_is_refused() -> None:
    @dataclass(kw_only=True)
    class Clash(Fake):
        timeout: float = 1.0

    _registry.register_backend("clash", Clash)
    with pytest.raises(ConfigError, match="has an option 'timeout', which is a setting of every executor"):
        _registry.find("clash")


# --- options ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("max_workers", "4", 4),
        ("max_workers", " 4 ", 4),
        ("max_workers", "None", None),
        ("ratio", "0.5", 0.5),
        ("ratio", "2", 2.0),
        ("strict", "true", True),
        ("strict", "Yes", True),
        ("strict", "on", True),
        ("strict", "1", True),
        ("strict", "0", False),
        ("strict", "off", False),
        ("strict", "NO", False),
        ("strict", "False", False),
        ("label", "x", "x"),
        ("label", "4", "4"),
        ("level", "high", "high"),
        ("level", "1", 1),
        ("tags", "a, b", ("a", "b")),
        ("tags", '["a,b", "c"]', ("a,b", "c")),
        ("tags", "", ()),
        ("sizes", "1,2", [1, 2]),
        ("pair", "1,x", (1, "x")),
        ("names", "a,b", ("a", "b")),
        ("env", '{"A": "1"}', {"A": "1"}),
        ("env", "none", None),
        ("counts", '{"a": 2}', {"a": 2}),
        ("hook", "json:loads", json.loads),
        ("kind", "json:JSONDecodeError", json.JSONDecodeError),
        ("anything", "json:loads", json.loads),
        ("anything", "host:8786", "host:8786"),
        ("cluster", "json:loads", "json:loads"),
    ],
)
def test_text_becomes_what_is_declared(option: str, text: str, value: object) -> None:
    got = getattr(built(**{option: text}), option)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_workers", "four"),
        ("max_workers", "2.5"),
        ("max_workers", 2.5),
        ("max_workers", True),
        ("max_workers", [1]),
        ("ratio", True),
        ("ratio", "fast"),
        ("ratio", None),
        ("strict", 1),
        ("strict", "maybe"),
        ("label", 3),
        ("level", "medium"),
        ("level", True),
        ("tags", 3),
        ("tags", (1, 2)),
        ("sizes", "1,x"),
        ("pair", (1,)),
        ("env", '{"A": 1}'),
        ("env", "A=1"),
        ("env", "[1]"),
        ("hook", "json:nothing"),
        ("hook", "nowhere_else:f"),
        ("hook", "json"),
        ("hook", 3),
        ("kind", "json:loads"),
        ("anything", "json:nothing"),
    ],
)
def test_a_value_that_does_not_fit_is_told_with_option_backend_type_and_source(option: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        _registry.build("fake", {option: value}, sources={option: "file x.toml"})
    message = str(caught.value)
    assert message.startswith(f"backend 'fake': option {option!r} must be ")
    assert repr(value) in message
    assert ", from file x.toml" in message


def test_the_expected_type_is_told_in_words() -> None:
    with pytest.raises(ConfigError, match=r"must be int or None, not 'four' \(str\)$"):
        built(max_workers="four")
    with pytest.raises(ConfigError, match="must be one of 'low', 'high', 1"):
        built(level="x")


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "max_workers": st.none() | st.integers(1),
            "ratio": st.floats(allow_nan=False) | st.integers(),
            "strict": st.booleans(),
            "label": st.none() | st.text(),
            "tags": st.lists(st.text()).map(tuple),
            "sizes": st.lists(st.integers()),
            "env": st.none() | st.dictionaries(st.text(), st.text()),
            "cluster": st.builds(object) | st.text(),
        },
    )
)
def test_a_value_that_fits_passes_untouched(options: dict[str, Any]) -> None:
    backend = Fake(**_registry.check_options("fake", Fake, options))
    assert all(getattr(backend, name) is value for name, value in options.items())


@given(st.integers(1), st.floats(allow_nan=False), st.booleans(), st.sampled_from(["low", "high", 1]))
def test_every_number_survives_its_way_through_text(workers: int, ratio: float, strict: bool, level: Any) -> None:
    texts = {"max_workers": str(workers), "ratio": repr(ratio), "strict": str(strict), "level": str(level)}
    checked = _registry.check_options("fake", Fake, texts)
    assert checked == {"max_workers": workers, "ratio": ratio, "strict": strict, "level": level}


def test_numbers_of_numpy_are_numbers() -> None:
    backend = built(max_workers=np.int64(3), ratio=np.float32(0.5))
    assert (type(backend.max_workers), backend.max_workers) == (int, 3)
    assert backend.ratio == 0.5


@pytest.mark.parametrize("value", [0, -1, "0"])
def test_max_workers_below_one_is_a_value_error_as_in_the_standard_library(value: object) -> None:
    with pytest.raises(ValueError, match="max_workers must be greater than 0") as caught:
        built(max_workers=value)
    assert isinstance(caught.value, ConfigError)


@pytest.mark.parametrize("option", ["max_worker", "_private", "limit", "name"])
def test_an_unknown_option_is_told_with_the_known_ones(option: str) -> None:
    with pytest.raises(UnknownOption, match=f"backend 'fake' has no option '{option}'.* known: max_workers, ratio"):
        built(**{option: 1})


def test_an_unknown_option_is_told_with_the_nearest() -> None:
    with pytest.raises(UnknownOption, match=r"; did you mean 'max_workers'\?"):
        built(max_worker=1)


@dataclass(kw_only=True)
class Typed(Inert):
    name: ClassVar[str] = "typed"
    max_workers: int | None = None
    client: Client | None = None


def test_an_annotation_for_type_checkers_only_takes_anything_and_leaves_the_others_checked() -> None:
    client = object()
    _registry.register_backend("typed", Typed)
    assert _registry.build("typed", {"client": client, "max_workers": "2"}) == Typed(client=client, max_workers=2)
    with pytest.raises(ConfigError, match="must be int or None"):
        _registry.build("typed", {"max_workers": "two"})


def test_a_class_without_fields_cannot_hide_its_options() -> None:
    _registry.register_backend("bare", Inert)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="is not a dataclass"):
        _registry.find("bare")
