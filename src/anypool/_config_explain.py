"""Why it would be this backend with these options: what `explain` answers, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from anypool._config_choice import Picked, checked, class_of, declared_by, pick, winner
from anypool._config_levels import Level, Said, Spec
from anypool._options import option_types
from anypool._settings import Settings

if TYPE_CHECKING:
    from anypool.backend import Backend

__all__ = ["Explanation", "Row", "attempt", "explain_levels"]

T = TypeVar("T")
D = TypeVar("D")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of an `Explanation`: what holds, where it was written, and what lost against it."""

    key: str
    value: Any
    source: str
    lost: tuple[tuple[Any, str], ...] = ()
    """Values and sources, strongest first."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Explanation:
    """Why it would be this backend with these options. ``str()`` of it is a table.

    Parameters
    ----------
    backend : str
        The name of the backend that was chosen, be it known or not.
    rows : tuple of Row
        The backend, each of its options, each setting.
    ignored : tuple of (str, value, str)
        What was written for another backend: ``"dask.address"``, the value, the source.
    unknown : tuple of str
        Variables ``ANYPOOL_*`` that mean nothing, with a hint where there is one.
    errors : tuple of str
        What `resolve` would raise, the first one first.
    """

    backend: str
    rows: tuple[Row, ...]
    ignored: tuple[tuple[str, Any, str], ...] = ()
    unknown: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()

    def __repr__(self) -> str:  # what a prompt and a notebook show, and so what `str` gives
        lines = [("", "value", "from", "instead of")]
        for row in self.rows:
            lost = ", ".join(f"{_shown(value)} ({source})" for value, source in row.lost)
            lines.append((row.key, _shown(row.value), row.source, lost))
        widths = [max(len(line[column]) for line in lines) for column in range(3)]
        table = ["  ".join([*map(str.ljust, line, widths), line[3]]).rstrip() for line in lines]
        table += [f"ignored: {key} = {_shown(value)} ({source})" for key, value, source in self.ignored]
        table += [f"unknown: environment {each}" for each in self.unknown]
        table += [f"error: {each}" for each in self.errors]
        return "\n".join(table)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it; what JSON has no form for is its repr."""
        return {
            "backend": self.backend,
            "rows": [
                {
                    "key": row.key,
                    "value": _plain(row.value),
                    "source": row.source,
                    "lost": [{"value": _plain(value), "source": source} for value, source in row.lost],
                }
                for row in self.rows
            ],
            "ignored": [{"key": key, "value": _plain(value), "source": source} for key, value, source in self.ignored],
            "unknown": list(self.unknown),
            "errors": list(self.errors),
        }


def explain_levels(levels: Sequence[Level], errors: list[str]) -> Explanation:
    """Return the explanation of what `levels`, strongest first, amount to.

    Parameters
    ----------
    errors : list of str
        What went wrong in reading the levels. Further errors are appended.
    """
    spec = winner(levels)
    cls = attempt(lambda: class_of(spec), None, errors)
    declared, picked = option_types(Settings), Picked()
    if cls is not None:
        declared = declared_by(spec, cls)
        picked = attempt(lambda: pick(levels, spec, cls, declared), picked, errors)
    unknown = [*(each for level in levels for each in level.unknown), *picked.unknown]
    return Explanation(
        backend=spec.name,
        rows=(_backend_row(levels, spec), *_option_rows(spec, cls, picked, declared, errors)),
        ignored=tuple((_full_name(said), said.value, said.source) for said in picked.ignored),
        unknown=tuple(variable + hint for variable, hint in unknown),
        errors=tuple(errors),
    )


def attempt(step: Callable[[], T], otherwise: D, errors: list[str]) -> T | D:
    """Return what `step` returns; if it raises, append the error to `errors` and return `otherwise`."""
    try:
        return step()
    except Exception as exc:
        # A third party's module may raise anything when imported; to report it is the purpose of `explain`.
        errors.append(f"{type(exc).__name__}: {exc}")
        return otherwise


def _full_name(said: Said) -> str:
    return said.key if said.backend is None else f"{said.backend}.{said.key}"


def _backend_row(levels: Sequence[Level], spec: Spec) -> Row:
    lost = [level.spec for level in levels if level.spec is not None and level.spec is not spec]
    return Row(
        key="backend",
        value=spec.written,
        source=spec.source,
        lost=tuple((each.written, each.source) for each in lost),
    )


def _option_rows(
    spec: Spec, cls: type[Backend] | None, picked: Picked, declared: Mapping[str, Any], errors: list[str]
) -> Iterator[Row]:
    for key, default, source in (*_own_defaults(spec, cls), *_class_defaults(Settings)):
        if key not in picked.said:
            yield Row(key=key, value=default, source=source)
        else:
            yield _said_row(spec, picked.said[key], declared, errors)
    for key in picked.said:
        if key not in declared:
            yield _said_row(spec, picked.said[key], declared, errors)


def _said_row(spec: Spec, said: Sequence[Said], declared: Mapping[str, Any], errors: list[str]) -> Row:
    holds, *lost = said
    return Row(
        key=holds.key,
        value=attempt(lambda: checked(holds, spec.name, declared), holds.value, errors),
        source=holds.source,
        lost=tuple((each.value, each.source) for each in lost),
    )


def _own_defaults(spec: Spec, cls: type[Backend] | None) -> Iterator[tuple[str, Any, str]]:
    """Yield the options of the backend with what holds if nobody says anything."""
    if cls is None or not is_dataclass(cls):
        return
    for key, default, source in _class_defaults(cls):
        yield ((key, getattr(spec.target, key, default), "the object") if spec.is_ready else (key, default, source))


def _class_defaults(cls: type) -> Iterator[tuple[str, Any, str]]:
    by_name = {field.name: field for field in fields(cls)}
    for key in option_types(cls):
        field = by_name[key]
        default = field.default if field.default_factory is MISSING else field.default_factory()
        yield key, None if default is MISSING else default, "default"


def _shown(value: Any) -> str:
    shown = value if isinstance(value, str) else repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return repr(value)
