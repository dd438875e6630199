"""Which of all that was written holds: one `Choice` from the levels, strongest first.

The rule itself is told in `_config`. Everything here is a function of its arguments; only the class of the
backend that wins is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from anypool import _config_levels, _registry
from anypool._config_levels import ARGUMENT, Level, Said, Spec
from anypool._options import as_truth, did_you_mean, option_types
from anypool._retry import as_retry
from anypool._settings import GENERAL, SETTINGS, Settings
from anypool.errors import ConfigError, UnknownOption

if TYPE_CHECKING:
    from anypool.backend import Backend

__all__ = [
    "Choice",
    "Picked",
    "change_settings",
    "check_block",
    "checked",
    "class_of",
    "decide",
    "declared_by",
    "pick",
    "winner",
]

DEFAULT = Spec(name="processes", written="processes", source="default")


@dataclass(kw_only=True, slots=True, eq=False)
class Choice:
    """What was decided, checked and converted. Nothing has been started.

    Parameters
    ----------
    name : str
        The backend's own name, never an alias.
    backend : backend class or Backend
        An object only where the caller gave one.
    options : mapping
        The backend's options that were given; the others have their defaults.
    settings : Settings
        What the core does.
    sources : mapping of str to str
        Where "backend" and each given option and setting was written; what is not in it has its default.
    """

    name: str
    backend: type[Backend] | Backend
    options: Mapping[str, Any]
    settings: Settings
    sources: Mapping[str, str]

    def create(self) -> Backend:
        """Return the backend with its options: a new one, or the object that the caller gave."""
        return self.backend(**self.options) if isinstance(self.backend, type) else self.backend


@dataclass(kw_only=True, slots=True, eq=False)
class Picked:
    """What was written, sorted by whether it counts for the backend that won."""

    said: dict[str, list[Said]] = field(default_factory=dict)
    """By option, strongest first: the first one holds, the others lost."""
    ignored: list[Said] = field(default_factory=list)
    """Bound to another backend, or of no use to a backend object."""
    unknown: list[tuple[str, str]] = field(default_factory=list)
    """Variables that name no option of the backend, each with a hint."""


def decide(levels: Sequence[Level]) -> tuple[Choice, list[tuple[str, str]]]:
    """Return the choice, and variables that name no option of the backend."""
    spec = winner(levels)
    cls = class_of(spec)
    declared = declared_by(spec, cls)
    picked = pick(levels, spec, cls, declared)
    values = {key: checked(said[0], spec.name, declared) for key, said in picked.said.items()}
    options = {key: value for key, value in values.items() if key not in SETTINGS}
    choice = Choice(
        name=spec.name,
        backend=cls if spec.target is None else spec.target,
        options=options,
        settings=Settings(**{key: value for key, value in values.items() if key in SETTINGS}),
        sources={"backend": spec.source, **{key: said[0].source for key, said in picked.said.items()}},
    )
    return choice, picked.unknown


def winner(levels: Iterable[Level]) -> Spec:
    """Return the backend of the strongest place that names any, or else the default."""
    return next((level.spec for level in levels if level.spec is not None), DEFAULT)


def class_of(spec: Spec) -> type[Backend]:
    """Return the class of a backend, imported; raises as by `_registry.find`."""
    if spec.target is None:
        return _registry.find(spec.name, source=_foreign(spec.source))
    if isinstance(spec.target, type):
        return _registry.as_backend(spec.name, spec.target, "given as a class")
    return type(spec.target)


def declared_by(spec: Spec, cls: type[Backend]) -> dict[str, Any]:
    """Return every name that may be set, with its type; of an object the core's settings only."""
    return {**({} if spec.is_ready else option_types(cls)), **option_types(Settings)}


def pick(levels: Sequence[Level], spec: Spec, cls: type[Backend], declared: Mapping[str, Any]) -> Picked:
    """Return what `levels`, strongest first, say to the backend `spec`, whose options and settings are `declared`.

    Raises
    ------
    ConfigError
        A location that the backend cannot read, or options beside a backend object.
    """
    picked = Picked()
    for level in levels:
        is_beside = level is levels[0] or level.spec is spec
        for said in _said_by(level, spec, cls):
            if said.backend not in (None, spec.name):
                picked.ignored.append(said)
            elif spec.is_ready and said.key not in SETTINGS:
                if is_beside:
                    raise _options_beside_object(spec, said)
                picked.ignored.append(said)
            elif said.environment and said.key not in declared:
                picked.unknown.append(_unknown_variable(said, declared))
            else:
                picked.said.setdefault(said.key, []).append(said)
    return picked


def _said_by(level: Level, spec: Spec, cls: type[Backend]) -> Iterator[Said]:
    """Yield what one place says, strongest first."""
    yield from level.narrow
    if level.spec is not None and level.spec.name == spec.name:
        yield from _config_levels.spec_options(level.spec, cls)
    elif level.spec is not None:
        # Of a backend that lost, whose class may not even be installed, the location stays unread.
        for key, value in level.spec.options:
            yield Said(key=key, value=value, source=level.spec.source, backend=level.spec.name)
    yield from level.general


def _options_beside_object(spec: Spec, said: Said) -> ConfigError:
    error = ConfigError if said.key in GENERAL else UnknownOption
    return error(
        f"a backend object is used as it is: set {said.key!r} when creating {spec.target!r}; "
        f"beside it only settings can be given: {', '.join(SETTINGS)}"
    )


def _unknown_variable(said: Said, declared: Mapping[str, Any]) -> tuple[str, str]:
    variable = said.source.removeprefix("environment ")
    prefix = variable[: -len(said.key)]
    return variable, did_you_mean(said.key, declared, spell=lambda key: prefix + key.upper())


def checked(said: Said, backend: str, declared: Mapping[str, Any]) -> Any:
    """Return the value of what holds, as it is declared.

    Raises
    ------
    ConfigError
        It does not fit; `UnknownOption` if nothing of that name is declared.
    """
    key, source = said.key, _foreign(said.source)
    owner = "the executor" if key in SETTINGS else f"backend {backend!r}"
    sources = {} if source is None else {key: source}
    value = _registry.check_values(owner, declared, {key: said.value}, sources)[key]
    where = f", from {source}" if source else ""
    if key == "seed" and isinstance(value, int) and value < 0:
        raise ConfigError(f"seed must not be negative, but is {value!r}{where}")
    if key == "nested":
        _check_nested(value, said.source, where)
    if key == "call_timeout" and value is not None and not value > 0:
        raise ConfigError(f"call_timeout must be a number of seconds > 0, or None, but is {value!r}{where}")
    if key == "trace" and isinstance(value, str):
        return as_truth(value, value)  # "true" is no name of a file
    if key == "retries":
        return as_retry(value)
    return value


def _check_nested(plan: tuple[object, ...], source: str, where: str) -> None:
    if not plan:
        raise ConfigError(f"nested must name at least one backend, such as 'serial'{where}")
    for written in plan:
        spec = _config_levels.read_spec(written, source)
        if spec.target is None:
            _registry.require_known(spec.name, source=_foreign(source))


def change_settings(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """Return `settings` with other values, checked and converted as those of `get_executor`.

    Raises
    ------
    UnknownOption
        There is no such setting.
    ConfigError
        A value does not fit.
    """
    declared = option_types(Settings)
    for key in values:
        if key not in declared:
            raise _registry.unknown_option("the executor", key, declared, None)
    said = [Said(key=key, value=value, source=ARGUMENT) for key, value in values.items()]
    return replace(settings, **{each.key: checked(each, "any", declared) for each in said})


def check_block(level: Level) -> None:
    """Raise now what would be raised only when an executor is asked for."""
    if level.spec is not None:
        decide([level])
        return
    declared = {"max_workers": int | None, **option_types(Settings)}
    for said in level.narrow:
        if said.key not in declared:
            near = did_you_mean(said.key, declared) or ";"
            raise UnknownOption(
                f"use() without a backend has no option {said.key!r}{near} known: {', '.join(declared)}; "
                f"an option of one backend goes beside its name: use('name', {said.key}=...)"
            )
        checked(said, "any", declared)


def _foreign(source: str) -> str | None:
    """Return the source if an error should tell it: not for what stands in the very call that raises."""
    return None if source == ARGUMENT else source
