"""The function and the input that a command line names: modules, files, literals, lines of JSON."""

from __future__ import annotations

import ast
import importlib.util
import json
import operator
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from anypool.errors import ConfigError

__all__ = ["load_input", "load_named", "local_imports"]

_INPUT_FORMS = (
    "MODULE:NAME, path/to/file.py:NAME, :NAME (in the file of the function), a list or another literal, "
    "range(...), a .jsonl file, or - for lines of JSON on the standard input"
)


@contextmanager
def local_imports() -> Iterator[None]:
    """Let modules of the working directory be imported inside the block, as `python -m` does.

    What the block adds to `sys.path` and to what is pickled by value is taken back at its end.
    """
    path = sys.path[:]
    sys.path.insert(0, os.getcwd())
    before = _pickled_by_value()
    try:
        yield
    finally:
        sys.path[:] = path
        for name in _pickled_by_value() - before:
            import cloudpickle

            cloudpickle.unregister_pickle_by_value(sys.modules[name])
            del sys.modules[name]


def load_named(reference: str) -> Any:
    """Return what ``"module:name"`` or ``"path/to/file.py:name"`` stands for.

    A file is run as a module of its own, not as ``__main__``, with its directory first on `sys.path`. What is
    defined in it travels to workers by value, as from a script: a worker need not have it, nor run it again.

    Raises
    ------
    ConfigError
        It is of neither form, cannot be imported, or has no such name.
    """
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise ConfigError(f"{reference!r} is not of the form MODULE:NAME or path/to/file.py:NAME")
    is_file = place.endswith(".py") or "/" in place or os.sep in place
    try:
        module = _load_file(Path(place)) if is_file else importlib.import_module(place)
    except ConfigError:
        raise
    except (Exception, SystemExit) as exc:  # running somebody's module may raise anything
        raise ConfigError(f"{place!r} cannot be imported: {type(exc).__name__}: {exc}") from exc
    try:
        return operator.attrgetter(name)(module)
    except AttributeError as exc:
        raise ConfigError(f"{place!r} has no {name!r}") from exc


def load_input(text: str, function: str) -> list[Any]:
    """Return the items that `text` stands for.

    Parameters
    ----------
    text : str
        See the message below for its forms.
    function : str
        The reference of the function, whose file or module ``":NAME"`` means.

    Raises
    ------
    ConfigError
        It has none of the forms, cannot be read, or is nothing to iterate over.
    """
    if text == "-":
        return list(_json_lines(sys.stdin, "standard input"))
    if text.endswith(".jsonl"):
        try:
            with open(text, encoding="utf-8") as lines:
                return list(_json_lines(lines, text))
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"{text!r} cannot be read: {exc}") from exc
    found, value = _literal(text)
    if not found:
        if ":" not in text:
            raise ConfigError(f"{text!r} is no input; an input is {_INPUT_FORMS}")
        value = load_named(function.rpartition(":")[0] + text if text.startswith(":") else text)
    return _items(value, text)


def _items(value: Any, text: str) -> list[Any]:
    try:
        iterable: Iterable[Any] = value() if callable(value) else value
        return list(iterable)
    except Exception as exc:  # the user's function or iterator may raise anything
        raise ConfigError(f"input {text!r} gives no items: {type(exc).__name__}: {exc}") from exc


def _json_lines(lines: Iterable[str], source: str) -> Iterator[Any]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as exc:
                raise ConfigError(f"{source}, line {number}: not JSON: {exc}") from exc


def _literal(text: str) -> tuple[bool, Any]:
    """Return whether `text` is a literal or `range` of literals, and its value. Nothing else is evaluated."""
    try:
        expression = ast.parse(text.strip(), mode="eval").body
        match expression:
            case ast.Call(func=ast.Name(id="range"), args=args, keywords=[]):
                return True, range(*map(ast.literal_eval, args))
        return True, ast.literal_eval(expression)
    except (SyntaxError, ValueError):
        return False, None
    except (TypeError, MemoryError, RecursionError) as exc:
        raise ConfigError(f"{text!r} cannot be evaluated: {type(exc).__name__}: {exc}") from exc


def _load_file(path: Path) -> ModuleType:
    import cloudpickle

    path = path.resolve()
    if not path.is_file():
        raise ConfigError(f"there is no file {str(path)!r}")
    # No import finds that name. A worker that looks a class up by the name of a file would run the file, and get
    # another class.
    name = f"<{path.stem}>"
    loaded = sys.modules.get(name)
    if loaded is not None and loaded.__file__ == str(path):
        return loaded
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{str(path)!r} is not a Python file")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    cloudpickle.register_pickle_by_value(module)
    return module


def _pickled_by_value() -> set[str]:
    import cloudpickle

    return set(cloudpickle.list_registry_pickle_by_value())
