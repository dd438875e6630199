"""What each place of configuration says: the caller's arguments, the environment, the file.

A place becomes a `Level`: perhaps a backend (`Spec`), and options (`Said`), each with where it was written
and with the backend that it is bound to, if any. Reading checks only syntax, and names that belong to no
backend at all; what the values mean is decided by `_config`, for the backend that wins.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from anypool import _registry
from anypool._options import did_you_mean
from anypool._settings import GENERAL
from anypool.errors import ConfigError, UnknownBackend, UnknownOption

if TYPE_CHECKING:
    from anypool.backend import Backend

__all__ = [
    "Level",
    "Said",
    "Spec",
    "read_arguments",
    "read_environment",
    "read_file",
    "read_spec",
    "spec_options",
]

ARGUMENT = "argument"
"""The source of what stands in the very call that asks."""

PREFIX = "ANYPOOL_"

# name, +scheme, ://location, ?options: each but the name may be missing
_URL = re.compile(r"(?P<name>[^+:/?]+)(\+(?P<scheme>[^+:/?]+))?(://(?P<location>[^?]*))?(\?(?P<query>.*))?", re.DOTALL)

# An address of this kind names its backend by itself.
_TRANSPORTS: Mapping[str, str] = MappingProxyType(
    {"tcp": "dask", "tls": "dask", "ucx": "dask", "ws": "dask", "wss": "dask"}
)


def from_source(source: str) -> str:
    """Return ``", from ..."`` for an error; nothing for what stands in the very call that raises it."""
    return "" if source == ARGUMENT else f", from {source}"


@dataclass(kw_only=True, slots=True, eq=False)
class Said:
    """One option as it was written in one place. Bound to `backend`, or to none in particular."""

    key: str
    value: Any
    source: str
    backend: str | None = None
    environment: bool = False


@dataclass(kw_only=True, slots=True, eq=False)
class Spec:
    """A backend as it was written in one place, with the options inside the spelling."""

    name: str
    written: Any
    source: str
    target: type[Backend] | Backend | None = None
    location: str | None = None
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def is_ready(self) -> bool:
        """Whether it is a backend object, to be used as it is."""
        return self.target is not None and not isinstance(self.target, type)


@dataclass(kw_only=True, slots=True, eq=False)
class Level:
    """What one place says, in order of strength: `narrow`, the options inside `spec`, `general`."""

    spec: Spec | None = None
    narrow: tuple[Said, ...] = ()
    general: tuple[Said, ...] = ()
    unknown: tuple[tuple[str, str], ...] = ()
    """Variables that mean nothing here, each with a hint."""


def read_spec(written: Any, source: str) -> Spec:
    """Return what a name, a URL, a mapping, a backend or a backend class says. Imports nothing.

    Raises
    ------
    ConfigError
        It is none of these, or an option is written twice.
    """
    if isinstance(written, str):
        return _read_url(written, source)
    if isinstance(written, Mapping):
        inner = read_spec(written.get("backend"), source)
        outer = tuple((str(key), value) for key, value in written.items() if key != "backend")
        return Spec(
            name=inner.name, written=written, source=source, target=inner.target, location=inner.location,
            options=(*outer, *inner.options),
        )  # fmt: skip
    name = getattr(written, "name", None)
    if all(callable(getattr(written, power, None)) for power in ("start", "submit", "stop")) and isinstance(name, str):
        return Spec(name=name, written=written, source=source, target=cast("Backend", written))
    raise ConfigError(
        f"a backend is a name, a URL, a mapping with the key 'backend', a Backend or its class, "
        f"not {written!r} ({type(written).__name__}){from_source(source)}"
    )


def _read_url(written: str, source: str) -> Spec:
    match = _URL.fullmatch(written.strip())
    if match is None:
        return Spec(name=written.strip(), written=written, source=source)  # a name that nobody has
    name, location = match["name"], match["location"] or None
    if match["scheme"] and location:
        location = f"{match['scheme']}://{location}"
    elif match["scheme"]:
        raise ConfigError(f"{written!r} has a '+{match['scheme']}' but no location after '://'{from_source(source)}")
    elif name in _TRANSPORTS and location:
        name, location = _TRANSPORTS[name], f"{name}://{location}"
    return Spec(
        name=_registry.canonical(name), written=written, source=source, location=location,
        options=_read_query(match["query"] or "", source),
    )  # fmt: skip


def _read_query(query: str, source: str) -> tuple[tuple[str, str], ...]:
    if not query:
        return ()
    from urllib.parse import parse_qsl

    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    except ValueError as exc:
        raise ConfigError(
            f"options {query!r} are not of the form 'name=value&name=value'{from_source(source)}"
        ) from exc
    twice = [key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index])]
    if twice:
        raise ConfigError(f"option {twice[0]!r} is written twice in {query!r}{from_source(source)}")
    return tuple(pairs)


def spec_options(spec: Spec, cls: type[Backend]) -> tuple[Said, ...]:
    """Return the options inside the spelling of a backend, its location made into options by the class.

    Raises
    ------
    ConfigError
        The backend takes no location, or cannot read this one.
    """
    said = list(spec.options)
    if spec.location is not None:
        said += [pair for pair in _read_location(spec, cls).items() if pair[0] not in dict(spec.options)]
    return tuple(Said(key=key, value=value, source=spec.source, backend=spec.name) for key, value in said)


def _read_location(spec: Spec, cls: type[Backend]) -> Mapping[str, Any]:
    from_url = getattr(cls, "from_url", None)
    if from_url is None:
        raise ConfigError(f"backend {spec.name!r} takes no location: {spec.written!r}{from_source(spec.source)}")
    try:
        return cast("Mapping[str, Any]", from_url(spec.location))
    except ValueError as exc:
        where = f"{spec.written!r}{from_source(spec.source)}"
        raise ConfigError(f"backend {spec.name!r} cannot read its location in {where}: {exc}") from exc


def read_arguments(written: Any, options: Mapping[str, Any], source: str) -> Level:
    """Return what a call says: a backend in any spelling or None, and keywords.

    Keywords are stronger than the options inside the spelling. One that is not general is bound to the
    backend beside it; with none beside it, it is for whichever backend wins.
    """
    if isinstance(written, Mapping) and written.get("backend") is None:
        inside = {key: value for key, value in written.items() if key != "backend"}
        written, options = None, {**inside, **options}
    spec = None if written is None else read_spec(written, source)
    bound = None if spec is None else spec.name
    return Level(
        spec=spec,
        narrow=tuple(
            Said(key=key, value=value, source=source, backend=None if key in GENERAL else bound)
            for key, value in options.items()
            if not (key == "max_workers" and value is None)  # how a signature spells "not given"
        ),
    )


def read_environment() -> Level:
    """Return what the variables ``ANYPOOL_*`` say. An empty one says nothing."""
    narrow: list[Said] = []
    general: list[Said] = []
    unknown: list[tuple[str, str]] = []
    spec = None
    for variable in sorted(os.environ):
        value = os.environ[variable]
        if not variable.startswith(PREFIX) or variable == "ANYPOOL_CONFIG" or not value:
            continue
        source = f"environment {variable}"
        if variable == "ANYPOOL_BACKEND":
            spec = read_spec(value, source)
        elif (place := _place_of(variable)) is None:
            unknown.append((variable, _variable_hint(variable)))
        else:
            key, backend = place
            said = Said(key=key, value=value, source=source, backend=backend, environment=True)
            (general if backend is None else narrow).append(said)
    return Level(spec=spec, narrow=tuple(narrow), general=tuple(general), unknown=tuple(unknown))


def _place_of(variable: str) -> tuple[str, str | None] | None:
    """Return the option that a variable sets and the backend it is bound to; None if it sets none."""
    rest = variable.removeprefix(PREFIX).lower()
    if rest in GENERAL:
        return rest, None
    for entry_points in (False, True):
        names = _registry.names_and_aliases(entry_points=entry_points)
        for name in sorted(names, key=len, reverse=True):  # of "a" and "a_b", the longer one is meant
            prefix = name.replace("-", "_") + "_"
            if rest.startswith(prefix) and rest != prefix:
                return rest.removeprefix(prefix), names[name]
    return None


def _variable_hint(variable: str) -> str:
    # The prefix is left out of the comparison: sharing it makes nothing similar.
    rest = variable.removeprefix(PREFIX)
    return did_you_mean(rest, ["backend", "config", *GENERAL], spell=lambda key: PREFIX + key.upper())


def read_file() -> Level:
    """Return what the configuration file says: the one that ANYPOOL_CONFIG names, or else the nearest.

    Raises
    ------
    ConfigError
        The file cannot be read, is not TOML, or has a key that means nothing; names file and key.
    """
    named = os.environ.get("ANYPOOL_CONFIG")
    if named is not None and named.strip().lower() in ("", "none"):
        return Level()
    found = _read_named(named) if named is not None else _read_nearest()
    return Level() if found is None else _read_table(*found)


def _read_named(path: str) -> tuple[str, Mapping[str, Any]]:
    path = os.path.expanduser(path)
    try:
        status = os.stat(path)
    except OSError as exc:
        raise ConfigError(f"file {path}, from environment ANYPOOL_CONFIG, cannot be read: {exc.strerror}") from exc
    return path, _parse(os.path.abspath(path), status.st_mtime_ns, status.st_size) or {}


def _read_nearest() -> tuple[str, Mapping[str, Any]] | None:
    try:
        here = os.getcwd()
    except FileNotFoundError:
        return None  # the working directory was removed: nothing is near
    for path in _candidates(here):
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as exc:
            raise _unreadable(path, exc) from exc
        table = _parse(path, status.st_mtime_ns, status.st_size)
        if table is not None:
            near = os.path.dirname(path) == here
            return os.path.basename(path) if near else path, table
    return None


def _candidates(directory: str) -> Iterator[str]:
    while True:
        yield os.path.join(directory, "anypool.toml")
        yield os.path.join(directory, "pyproject.toml")
        directory, below = os.path.dirname(directory), directory
        if directory == below:
            return


# The stamp makes an edited file another key; a few entries serve processes that change their working
# directory.
@lru_cache(maxsize=16)
def _parse(path: str, mtime_ns: int, size: int) -> Mapping[str, Any] | None:  # noqa: ARG001
    """Return our table of a file, None for a `pyproject.toml` that has none."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as exc:
        raise _unreadable(path, exc) from exc
    is_pyproject = os.path.basename(path) == "pyproject.toml"
    if is_pyproject and not _may_have_a_table_of_ours(content):
        return None  # spares the parsing, and a project that is not ours may be broken as it likes
    import tomllib

    try:
        table: Any = tomllib.loads(content.decode())
    except ValueError as exc:
        raise ConfigError(f"file {path} is not valid TOML: {exc}") from exc
    if is_pyproject:
        table = table.get("tool", {}).get("anypool")
    if table is not None and not isinstance(table, dict):
        raise ConfigError(f"file {path}: [tool.anypool] must be a table, not {table!r}")
    return table


def _may_have_a_table_of_ours(content: bytes) -> bool:
    """Whether `anypool` may be a key in it, plain or with letters escaped. Where it is only required it is none."""
    if b"anypool" not in content and b"\\" not in content:
        return False
    import re

    return re.search(rb"""anypool["']?\s*[].=]|\\[uUx]""", content) is not None


def _unreadable(path: str, exc: OSError) -> ConfigError:
    return ConfigError(f"file {path} cannot be read: {exc.strerror}; ANYPOOL_CONFIG=none reads no file")


def _read_table(path: str, table: Mapping[str, Any]) -> Level:
    header = "tool.anypool" if os.path.basename(path) == "pyproject.toml" else ""
    source = f"file {path} [{header}]" if header else f"file {path}"
    narrow: list[Said] = []
    general: list[Said] = []
    spec = None
    for key, value in table.items():
        if key == "backend":
            spec = _spec_in_file(value, source)
        elif key in GENERAL:
            general.append(Said(key=key, value=value, source=source))
        else:
            narrow += _read_backend_table(key, value, source, f"file {path} [{header}{'.' if header else ''}{key}]")
    return Level(spec=spec, narrow=tuple(narrow), general=tuple(general))


def _spec_in_file(value: Any, source: str) -> Spec:
    if not isinstance(value, str) and not (isinstance(value, Mapping) and isinstance(value.get("backend"), str)):
        raise ConfigError(f"key 'backend' must be a name, a URL or a table with the key 'backend', from {source}")
    return read_spec(value, source)


def _read_backend_table(key: str, value: Any, source: str, source_inside: str) -> Iterator[Said]:
    names = _registry.names_and_aliases(entry_points=False)
    if key not in names:
        names = _registry.names_and_aliases(entry_points=True)
    if key not in names:
        known = ["backend", *GENERAL, *_registry.backend_names()]
        near = did_you_mean(key, known) or ";"
        error = UnknownBackend if isinstance(value, Mapping) else UnknownOption
        raise error(f"unknown key {key!r}, from {source}{near} known: {', '.join(known)}")
    if not isinstance(value, Mapping):
        raise ConfigError(f"key {key!r} must be a table of options of the backend, not {value!r}, from {source}")
    for name, inner in value.items():
        yield Said(key=name, value=inner, source=source_inside, backend=names[key])
