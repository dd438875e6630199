"""`anypool backends`: what there is, what is missing, what each is like."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import click

import anypool
from anypool.cli._command import Command, json_option
from anypool.cli._output import FAILED, OK, one_line, width, write_json, write_text
from anypool.errors import MissingExtra

if TYPE_CHECKING:
    from anypool.backend import Traits

__all__ = ["backends"]

_EPILOG = """
Exit status: 0 fine; 1 with --start: one that is installed does not start; 2 wrong use
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class _BackendRow:
    """One backend as `anypool backends` tells it."""

    name: str
    library: str
    """The distribution that runs it, with its version; of what is not there, nothing."""
    aliases: tuple[str, ...]
    workers: int | None = None
    """How many a default start has; None where only the start tells."""
    traits: Traits | None = None
    problem: str = ""
    """Why it cannot be used: not installed, with what to do; broken; failed to start."""
    installed: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "installed": self.installed,
            "library": self.library,
            "workers": self.workers,
            "traits": None if self.traits is None else _trait_values(self.traits),
            "aliases": list(self.aliases),
            "problem": self.problem,
        }


@click.command(cls=Command, epilog=_EPILOG, short_help="List the backends.")
@click.option("--start", is_flag=True, help="Start each one, to see its real size and traits.")
@json_option
def backends(start: bool, as_json: bool) -> int:
    """List every backend, those of other distributions included."""
    from anypool import _registry

    aliases: dict[str, list[str]] = {}
    for alias, name in _registry.names_and_aliases(entry_points=True).items():
        if alias != name:
            aliases.setdefault(name, []).append(alias)
    rows = [_backend_row(name, tuple(sorted(aliases.get(name, ()))), start=start) for name in _registry.backend_names()]
    if as_json:
        write_json({"backends": [row.to_dict() for row in rows]})
    else:
        write_text(_backend_table(rows, started=start))
    return FAILED if start and any(row.installed and row.problem for row in rows) else OK


def _backend_row(name: str, aliases: tuple[str, ...], *, start: bool) -> _BackendRow:
    from anypool import _registry

    built_in = _registry._BUILT_IN.get(name)
    try:
        # A built-in one whose library is here is not imported for a mere list: that may take a second.
        if built_in is None or not _registry.installed(name):
            _registry.find(name)
        library = _library(name, None if built_in is None else built_in.modules)
    except MissingExtra as exc:
        return _BackendRow(name=name, library="", aliases=aliases, problem=str(exc))
    except Exception as exc:  # a third party's module may raise anything; the row is where that is told
        return _BackendRow(name=name, library="", aliases=aliases, problem=one_line(exc), installed=True)
    workers, traits, problem = _started(name) if start else (_default_workers(name), None, "")
    return _BackendRow(
        name=name,
        library=library,
        aliases=aliases,
        workers=workers,
        traits=traits,
        problem=problem,
        installed=True,
    )


def _library(name: str, modules: tuple[str, ...] | None) -> str:
    """Return who runs the calls of a backend: the last of its `modules`, or its own distribution."""
    from importlib.metadata import PackageNotFoundError, version

    from anypool import _registry

    if modules is None:
        found = _registry._entry_points().get(name)
        dist = found[0].dist if found else None
        return "registered" if dist is None else f"{dist.name} {dist.version}"
    if not modules:
        return "Python {}.{}.{}".format(*sys.version_info)
    try:
        return f"{modules[-1]} {version(modules[-1])}"
    except PackageNotFoundError:  # importable without having been installed, say from a source tree
        return modules[-1]


def _default_workers(name: str) -> int | None:
    """Return how many workers a default start has, as far as that can be known without one."""
    from anypool import _config, _registry, available_cpus

    if name == "serial":
        return 1
    said = {row.key: row.value for row in _config.explain(name).rows if row.source != "default"}
    if name not in _registry._BUILT_IN or said.get("address"):
        return None
    workers = said.get("max_workers")
    return workers if isinstance(workers, int) else available_cpus()


def _started(name: str) -> tuple[int | None, Traits | None, str]:
    try:
        with anypool.get_executor(name) as ex:
            return ex.max_workers, ex.traits, ""
    except Exception as exc:  # of a third party's backend, anything; it is told in the row
        return None, None, f"does not start: {one_line(exc)}"


def _backend_table(rows: Sequence[_BackendRow], *, started: bool) -> str:
    from anypool._table import table

    header = ["backend", "library", "workers", "aliases", "traits" if started else "note"]
    cells = [
        [
            row.name,
            row.library or ("broken" if row.installed else "not installed"),
            "-" if row.workers is None else str(row.workers),
            ", ".join(row.aliases),
            row.problem or ("" if row.traits is None else _traits_text(row.traits)),
        ]
        for row in rows
    ]
    text = table(header, cells, width=width(), right={"workers"})
    return text if started else f"{text}\nsizes and traits as they are once started: anypool backends --start"


def _traits_text(traits: Traits) -> str:
    return ", ".join(name.replace("_", " ") for name, value in _trait_values(traits).items() if value is True)


def _trait_values(traits: Traits) -> dict[str, Any]:
    values = {field.name: getattr(traits, field.name) for field in fields(traits)}
    return {**values, "lost": [f"{cls.__module__}.{cls.__qualname__}" for cls in traits.lost]}
