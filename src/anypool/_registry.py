"""Backends by name: which class a name stands for, whether it can be used, and one made from options.

A name is a string until someone asks for it: no backend and no library is imported before. Three places know
names, strongest first: `register_backend`, the table of built-in ones, and the entry points of installed
distributions. Entry points are looked at only for a name that the other two do not know, and for the full
list, because reading the metadata of a large environment takes tens of milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING, Any, cast

from anypool._options import check_option, did_you_mean, load_reference, option_types
from anypool._settings import GENERAL, POSITIVE, SETTINGS
from anypool.errors import AnypoolError, ConfigError, MissingExtra, UnknownBackend, UnknownOption

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from anypool.backend import Backend

__all__ = [
    "as_backend",
    "backend_names",
    "build",
    "canonical",
    "check_options",
    "check_values",
    "find",
    "installed",
    "names_and_aliases",
    "register_backend",
    "require_known",
    "unknown_option",
]

GROUP = "anypool.backends"


@dataclass(kw_only=True, slots=True, eq=False)
class _BuiltIn:
    """One of our own backends: its class, and the extra that brings the modules it imports."""

    target: str
    extra: str | None = None
    modules: tuple[str, ...] = ()


_BUILT_IN: Mapping[str, _BuiltIn] = {
    "serial": _BuiltIn(target="anypool.backends.serial:Serial"),
    "threads": _BuiltIn(target="anypool.backends.threads:Threads"),
    "processes": _BuiltIn(target="anypool.backends.processes:Processes"),
    "loky": _BuiltIn(target="anypool.backends.loky:Loky", extra="loky", modules=("loky",)),
    "joblib": _BuiltIn(target="anypool.backends.joblib:Joblib", extra="joblib", modules=("joblib",)),
    "dask": _BuiltIn(target="anypool.backends.dask:Dask", extra="dask", modules=("dask", "distributed")),
}

_ALIASES: Mapping[str, str] = {
    "sequential": "serial",
    "sync": "serial",
    "synchronous": "serial",
    "thread": "threads",
    "threading": "threads",
    "process": "processes",
    "multiprocessing": "processes",
    "mp": "processes",
    "distributed": "dask",
}

# Mutable and global because it is what `register_backend` is for: a name that is registered once must be
# found by every later caller in the process, as with the codecs and the entry points that it complements.
_registered: dict[str, str | type[Backend]] = {}


def register_backend(name: str, target: str | type[Backend], *, replace: bool = False) -> None:
    """Make `name` stand for a backend, in this process.

    A distribution declares its backend once for all, in the entry point group ``anypool.backends``.

    Parameters
    ----------
    name : str
        Lower-case letters, digits, ``_`` and ``-``, with a letter first.
    target : str or backend class
        The class, or ``"module:Class"``, which is imported when the backend is first asked for.
    replace : bool
        Let `name` stand for `target` even if it is known, built-in names and aliases included.

    Raises
    ------
    ConfigError
        The name is taken, or cannot be one.

    Examples
    --------
    >>> register_backend("serial", "mine:Backend")
    Traceback (most recent call last):
    anypool.errors.ConfigError: backend 'serial' is built in; pass replace=True to replace it
    """
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name) or name in ("backend", "config", *GENERAL):
        raise ConfigError(f"{name!r} cannot be the name of a backend")
    if not replace and _registered.get(name, target) != target:
        raise ConfigError(f"backend {name!r} is registered as {_registered[name]!r}; pass replace=True to replace it")
    if not replace and (name in _BUILT_IN or name in _ALIASES):
        raise ConfigError(f"backend {name!r} is built in; pass replace=True to replace it")
    _registered[name] = target


def backend_names() -> list[str]:
    """Return the name of every backend: built-in ones first, then registered ones and entry points."""
    others = {*_registered, *_entry_points()} - set(_BUILT_IN)
    return [*_BUILT_IN, *sorted(others)]


def names_and_aliases(*, entry_points: bool) -> dict[str, str]:
    """Return every known name and alias with the name it stands for; the entry points are the slow part."""
    own = {name: name for name in (*_BUILT_IN, *_registered)}
    found = {name: name for name in _entry_points()} if entry_points else {}
    return {**found, **_ALIASES, **own}


def canonical(name: str) -> str:
    """Return the name that an alias stands for; any other name as it is, known or not."""
    return name if name in _registered else _ALIASES.get(name, name)


def find(name: str, *, source: str | None = None) -> type[Backend]:
    """Return the class of the backend `name`.

    Parameters
    ----------
    name : str
        A name or an alias.
    source : str or None
        Where the name was written, where that is not the caller's own code.

    Raises
    ------
    UnknownBackend
        No backend has that name.
    MissingExtra
        Its library is not installed.
    ConfigError
        What the name stands for cannot be loaded, or is not a backend.
    ImportError
        Its library is installed, but cannot be imported. It arrives as itself: installing the
        extra once more would not help.
    """
    name = canonical(name)
    target = _registered.get(name)
    if target is None and name in _BUILT_IN:
        return _find_built_in(name, _BUILT_IN[name], source)
    if target is None:
        return _find_entry_point(name, source)
    loaded = _load(name, target, "registered by register_backend") if isinstance(target, str) else target
    return as_backend(name, loaded, "registered by register_backend")


def require_known(name: str, *, source: str | None = None) -> None:
    """Raise `UnknownBackend` unless `name` is a name or an alias. Nothing is imported."""
    if name not in names_and_aliases(entry_points=False):
        _entry_point(name, source)


def installed(name: str) -> bool:
    """Return whether the backend's library is there, without importing it.

    A backend of a third party says which modules it needs in its class attribute `requires`, a
    name or a tuple of names; a class that is not loaded yet is asked for its own package only.

    Raises
    ------
    UnknownBackend
        No backend has that name.
    """
    name = canonical(name)
    target = _registered.get(name)
    if target is None and name in _BUILT_IN:
        return not _missing(_BUILT_IN[name].modules)
    if target is None:
        target = _entry_point(name, None).value
    if isinstance(target, str):
        return not _missing((target.partition(":")[0].partition(".")[0],))
    return not _missing(_requirements(target))


def build(name: str, options: Mapping[str, Any], *, sources: Mapping[str, str] | None = None) -> Backend:
    """Return a backend made from options; nothing is started.

    Parameters
    ----------
    options : mapping
        By name; checked and converted as by `check_options`.
    sources : mapping or None
        For each option that came from configuration, where it was written.

    Raises
    ------
    ConfigError
        As by `find` and `check_options`.
    MissingExtra, ImportError
        As by `find`.
    """
    cls = find(name)
    return cls(**check_options(canonical(name), cls, options, sources=sources))


def check_options(
    name: str, cls: type[Backend], options: Mapping[str, Any], *, sources: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return `options` as the fields of the backend's class declare them.

    Text becomes what is declared: numbers; true, yes, on, 1 and their opposites; none; lists from commas or
    JSON; mappings from JSON; callables, classes and anything undeclared from ``"module:attribute"``.

    Raises
    ------
    UnknownOption
        The backend has no such option; names the known and the nearest.
    ConfigError
        A value does not fit; names option, backend, expected type, value and source.
    """
    declared = option_types(cls)
    return check_values(f"backend {name!r}", declared, options, sources or {})


def check_values(
    owner: str, declared: Mapping[str, Any], values: Mapping[str, Any], sources: Mapping[str, str]
) -> dict[str, Any]:
    """Return `values` as `declared`, a type for each name; `owner`, who has them, is for the messages."""
    checked = {}
    for key, value in values.items():
        source = sources.get(key)
        if key not in declared:
            raise unknown_option(owner, key, declared, source)
        fitting = check_option(key, value, declared[key], owner=owner, source=source)
        if key in POSITIVE and isinstance(fitting, (int, float)) and fitting < 1:
            raise ConfigError(f"{key} must be greater than 0, not {fitting!r} ({owner}{_written(source)})")
        checked[key] = fitting
    return checked


def unknown_option(owner: str, key: str, known: Mapping[str, Any], source: str | None) -> UnknownOption:
    """Return the error for an option that `owner` does not have."""
    near = did_you_mean(key, known) or ";"
    return UnknownOption(f"{owner} has no option {key!r}{_written(source)}{near} known: {', '.join(known)}")


def _written(source: str | None) -> str:
    return f", from {source}" if source else ""


def _find_built_in(name: str, entry: _BuiltIn, source: str | None) -> type[Backend]:
    import importlib

    written = f"{_written(source)}," if source else ""
    hint = f"backend {name!r}{written} needs: pip install 'anypool[{entry.extra}]'"
    for module in _missing(entry.modules):
        try:
            importlib.import_module(module)
        except ImportError as exc:
            raise MissingExtra(hint, name=module) from exc
    return as_backend(name, load_reference(entry.target), "built in")


def _find_entry_point(name: str, source: str | None) -> type[Backend]:
    entry = _entry_point(name, source)
    return as_backend(name, _load(name, entry.value, _origin(entry)), _origin(entry))


def _load(name: str, target: str, origin: str) -> Any:
    try:
        return load_reference(target)
    except AnypoolError as exc:
        if isinstance(exc, MissingExtra):
            raise
        raise ConfigError(f"backend {name!r}, {origin}: {exc}") from exc
    except Exception as exc:
        # Importing a third party's module runs its code, which may raise anything.
        raise ConfigError(
            f"backend {name!r}, {origin}, cannot be loaded from {target!r}: {type(exc).__name__}: {exc}"
        ) from exc


def as_backend(name: str, loaded: Any, origin: str) -> type[Backend]:
    """Return `loaded` if it is a backend class that can be used; `origin` says where it is from.

    Raises
    ------
    ConfigError
        It is no backend class, or has an option with the name of a setting.
    MissingExtra
        A module that it `requires` is not installed.
    """
    powers = (getattr(loaded, power, None) for power in ("start", "submit", "stop"))
    if not isinstance(loaded, type) or not all(map(callable, powers)):
        raise ConfigError(f"backend {name!r}, {origin}, is not a backend class: {loaded!r}")
    if not is_dataclass(loaded):
        raise ConfigError(f"backend {name!r}, {origin}, is not a dataclass, whose fields would be its options")
    taken = [key for key in option_types(loaded) if key in SETTINGS]
    if taken:
        raise ConfigError(
            f"backend {name!r}, {origin}, has an option {taken[0]!r}, which is a setting of every executor: "
            "its author must rename it"
        )
    for module in _missing(_requirements(loaded)):
        raise MissingExtra(f"backend {name!r} needs the module {module!r}, which is not installed", name=module)
    return cast("type[Backend]", loaded)


def _requirements(cls: type) -> tuple[str, ...]:
    declared = getattr(cls, "requires", ())
    return (declared,) if isinstance(declared, str) else tuple(declared)


def _missing(modules: tuple[str, ...]) -> list[str]:
    """Return those of the top-level modules that are not installed; none is imported."""
    return [module for module in modules if not _exists(module)]


def _exists(module: str) -> bool:
    import importlib.util

    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:
        return True  # loaded, but made by hand and without a spec


def _entry_point(name: str, source: str | None) -> EntryPoint:
    found = _entry_points().get(name)
    if not found:
        known = names_and_aliases(entry_points=True)
        near = did_you_mean(name, known) or ";"
        raise UnknownBackend(f"no backend {name!r}{_written(source)}{near} known: {', '.join(backend_names())}")
    if len({entry.value for entry in found}) > 1:
        origins = " and ".join(_origin(entry) for entry in found)
        raise ConfigError(f"backend {name!r} is claimed twice: {origins}; register_backend() settles it")
    return found[0]


def _entry_points() -> dict[str, list[EntryPoint]]:
    """Return the entry points of third parties by name. One that takes a built-in name is not among them."""
    import importlib.metadata
    import warnings

    found: dict[str, list[EntryPoint]] = {}
    for entry in importlib.metadata.entry_points(group=GROUP):
        if entry.name in _BUILT_IN or entry.name in _ALIASES:
            warnings.warn(
                f"{entry.name!r} stays anypool's own backend, though {_origin(entry)} claims that name",
                stacklevel=2,
            )
            continue
        found.setdefault(entry.name, []).append(entry)
    return found


def _origin(entry: EntryPoint) -> str:
    if entry.dist is None:
        return f"an entry point in {GROUP!r}"
    return f"of the distribution {entry.dist.name!r} {entry.dist.version}"
