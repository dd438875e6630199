"""Values by their declared types: what a field's annotation accepts, and what text it can be made from.

Environment variables and URLs hold only text, TOML has no tuples and no functions, and Python callers pass
what they have. One rule serves all of them: a value that already fits its annotation passes untouched; text
is converted where no text is declared; anything else does not fit.
"""

from __future__ import annotations

import operator
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any, Literal, Union

from anypool.errors import ConfigError

__all__ = ["as_truth", "check_option", "did_you_mean", "load_reference", "option_types"]

_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_TRUTH = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}
_NONE = frozenset({"none", "null"})


class _UnfitError(ValueError):
    """The value does not fit; the message, if any, says what is wrong inside it."""


# What other libraries call it.
_ELSEWHERE = {
    "batch_size": "chunksize",
    "n_jobs": "max_workers",
    "n_workers": "max_workers",
    "num_workers": "max_workers",
    "pre_dispatch": "buffersize",
    "random_state": "seed",
    "workers": "max_workers",
}


def did_you_mean(name: str, known: Iterable[str], *, spell: Callable[[str], str] = str) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest of `known`, spelled by `spell`, or an empty string."""
    import difflib

    by_lower = {each.lower(): each for each in known}
    elsewhere = _ELSEWHERE.get(name.lower())
    near = [elsewhere] if elsewhere in by_lower else difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {spell(by_lower[near[0]])!r}?" if near else ""


@lru_cache(maxsize=64)  # evaluating annotations was most of the time of choosing a backend
def option_types(cls: type) -> Mapping[str, Any]:
    """Return the options of a dataclass with their types: its public fields that `__init__` takes.

    An annotation that names something imported only for type checkers cannot be known at run time;
    such an option takes any value.
    """
    public = [field.name for field in fields(cls) if field.init and not field.name.startswith("_")]
    try:
        hints = typing.get_type_hints(cls)
    except (NameError, AttributeError):
        hints = {name: _hint_alone(cls, name) for name in public}
    return types.MappingProxyType({name: hints[name] for name in public})


def _hint_alone(cls: type, name: str) -> Any:
    declared = next(field.type for field in fields(cls) if field.name == name)
    owner = next((each for each in cls.__mro__ if name in vars(each).get("__annotations__", {})), cls)
    holder = types.SimpleNamespace(__annotations__={name: declared})
    try:
        return typing.get_type_hints(holder, globalns=vars(sys.modules[owner.__module__]))[name]
    except (NameError, AttributeError):
        return Any


def as_truth(text: str, otherwise: Any) -> Any:
    """Return the bool that `text` spells, or `otherwise`."""
    return _TRUTH.get(text.strip().lower(), otherwise)


def load_reference(reference: str) -> Any:
    """Return what ``"module:attribute"`` names; the module is imported.

    Raises
    ------
    ConfigError
        It is not of that form, or the module has no such attribute.
    ImportError
        The module cannot be imported.
    """
    import importlib

    if not _REFERENCE.fullmatch(reference):
        raise ConfigError(f"{reference!r} is not of the form 'module:attribute'")
    module, _, attribute = reference.partition(":")
    found = importlib.import_module(module)
    try:
        return operator.attrgetter(attribute)(found)
    except AttributeError as exc:
        raise ConfigError(f"module {module!r} has no {attribute!r}") from exc


def check_option(name: str, value: Any, hint: Any, *, owner: str, source: str | None = None) -> Any:
    """Return `value` as `hint` declares it.

    Parameters
    ----------
    name, owner : str
        The option, and what it is an option of ("backend 'loky'"), for the message.
    source : str or None
        Where the value was written, where that is not the caller's own code.

    Raises
    ------
    ConfigError
        The value does not fit; names option, owner, expected type, value and source.
    """
    try:
        if isinstance(value, str) and _takes_anything(hint) and _REFERENCE.fullmatch(value):
            return _from_reference(value)
        return _convert(value, hint)
    except _UnfitError as exc:
        got = f"{value!r} ({type(value).__name__})"
        where = f", from {source}" if source else ""
        detail = did_you_mean(value, _choices(hint)) if isinstance(value, str) else ""
        if not detail and str(exc):
            detail = f": {exc}"
        message = f"{owner}: option {name!r} must be {describe(hint)}, not {got}{where}{detail}"
        raise ConfigError(message) from exc.__cause__


def _choices(hint: Any) -> Iterator[str]:
    """The texts that `hint` names."""
    for each in typing.get_args(hint):
        if isinstance(each, str):
            yield each
        else:
            yield from _choices(each)


def describe(hint: Any) -> str:
    """Return the annotation in words: ``"int or None"``."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is type(None) or hint is None:
        return "None"
    if _is_union(hint):
        return " or ".join(describe(arg) for arg in args)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args))
    plain = origin or hint
    if plain is Callable:
        return "a callable"
    if plain is type:
        return "a class"
    if plain in (tuple, list, Sequence):
        inner = f" of {describe(args[0])}" if args and args[0] not in (Any, object) else ""
        return f"a {plain.__name__.lower()}{inner}"
    if isinstance(plain, type) and issubclass(plain, Mapping):
        return "a mapping"
    return getattr(plain, "__name__", None) or str(plain)


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (Union, types.UnionType)


def _takes_anything(hint: Any) -> bool:
    return hint is Any or (_is_union(hint) and Any in typing.get_args(hint))


def _convert(value: Any, hint: Any) -> Any:
    if _fits(value, hint):
        return value
    if _is_union(hint):
        return _convert_union(value, typing.get_args(hint))
    if isinstance(value, str):
        return _from_text(value.strip(), hint)
    return _from_value(value, hint)


def _convert_union(value: Any, hints: Sequence[Any]) -> Any:
    if isinstance(value, str) and type(None) in hints and value.strip().lower() in _NONE:
        return None
    reason = _UnfitError()
    for hint in hints:
        if hint is type(None):
            continue
        try:
            return _convert(value, hint)
        except _UnfitError as exc:
            reason = exc if str(exc) else reason
    raise reason


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any or hint is object:
        return True
    if _is_union(hint):
        return any(_fits(value, each) for each in typing.get_args(hint))
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in args)
    if hint in (int, float):
        return isinstance(value, (int, float) if hint is float else int) and not isinstance(value, bool)
    plain = type(None) if hint is None else origin or hint
    if not isinstance(plain, type):
        return True  # a type variable, a new type: nothing that can be checked here
    return _is_instance(value, plain) and _contents_fit(value, plain, args)


def _is_instance(value: Any, plain: type) -> bool:
    if plain is Sequence and isinstance(value, (str, bytes)):
        return False  # a text is a sequence, but never meant as one
    try:
        return isinstance(value, plain)
    except TypeError:
        return True  # a protocol that is not checkable at run time


def _contents_fit(value: Any, plain: type, args: tuple[Any, ...]) -> bool:
    if not args or not isinstance(value, (tuple, list, Mapping)):
        return True
    if isinstance(value, Mapping):
        return all(_fits(key, args[0]) and _fits(each, args[1]) for key, each in value.items())
    hints = _element_hints(len(value), plain, args)
    return hints is not None and all(map(_fits, value, hints))


def _element_hints(size: int, plain: Any, args: tuple[Any, ...]) -> Sequence[Any] | None:
    """Return the types of `size` elements; None if there must be another number of them."""
    if not args:
        return (object,) * size
    if plain is tuple and args[-1] is not Ellipsis:
        return args if len(args) == size else None
    return (args[0],) * size


def _from_text(text: str, hint: Any) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    plain = origin or hint
    if plain in (int, float):
        return _number_from_text(text, plain)
    if plain is bool:
        return _from_table(text.lower(), _TRUTH)
    if origin is Literal:
        return _from_table(text, {str(each): each for each in args})
    if plain in (tuple, list, Sequence):
        split = [part.strip() for part in text.split(",")] if text else []
        return _from_value(_from_json(text) if text.startswith("[") else split, hint)
    if plain is Callable or plain is type:
        return _convert(_from_reference(text), hint)
    if isinstance(plain, type) and issubclass(plain, Mapping):
        return _from_value(_from_json(text), hint)
    raise _UnfitError


def _number_from_text(text: str, number: type[int] | type[float]) -> float:
    try:
        return number(text)
    except ValueError:
        raise _UnfitError from None


def _from_table(text: str, table: Mapping[str, Any]) -> Any:
    if text not in table:
        raise _UnfitError
    return table[text]


def _from_json(text: str) -> Any:
    import json

    try:
        return json.loads(text)
    except ValueError as exc:
        raise _UnfitError(f"not JSON: {exc}") from exc


def _from_reference(text: str) -> Any:
    try:
        return load_reference(text)
    except (ConfigError, ImportError) as exc:
        raise _UnfitError(str(exc)) from exc


def _from_value(value: Any, hint: Any) -> Any:
    plain, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if plain is int or plain is float:
        return _number_from_value(value, plain)
    if plain in (tuple, list, Sequence) and isinstance(value, (tuple, list)):
        hints = _element_hints(len(value), plain, args)
        if hints is None:
            raise _UnfitError(f"{len(value)} elements instead of {len(args)}")
        make = list if plain is list else tuple
        return make(map(_convert, value, hints))
    if isinstance(plain, type) and issubclass(plain, Mapping) and isinstance(value, Mapping):
        key, each = args or (Any, Any)
        return {_convert(name, key): _convert(inner, each) for name, inner in value.items()}
    raise _UnfitError


def _number_from_value(value: Any, number: type[int] | type[float]) -> float:
    """Take numbers that are not Python's own, such as NumPy's; a bool is none, though it is an int."""
    if isinstance(value, bool):
        raise _UnfitError
    try:
        return operator.index(value)
    except TypeError:
        if number is float and hasattr(value, "__float__"):
            return float(value)
        raise _UnfitError from None
