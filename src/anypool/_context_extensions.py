"""Settings of libraries that calls get too, because somebody registered them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from anypool._context_references import reference_to, referred
from anypool._context_snapshot import Dumps, try_dumps

__all__ = ["enter_extension", "packed_extensions", "register_context", "registered"]


@dataclass(kw_only=True, slots=True, eq=False)
class Extension:
    """How a setting is read, and by what reference a worker finds what applies it."""

    capture: Callable[[], object]
    apply: str


# Global, because what is registered is a library's setting, which is the process's or the thread's.
_extensions: dict[str, Extension] = {}


def register_context(
    name: str, capture: Callable[[], object], apply: Callable[[Any], AbstractContextManager[Any]] | str
) -> None:
    """Carry a library's setting to the calls, on every backend.

    Parameters
    ----------
    name : str
        The setting's name, for messages. Registering it again replaces it.
    capture : callable
        Called by the caller for each map and submit; returns the setting, which must pickle. Keep it quick.
    apply : callable or "module:attribute"
        Called on the worker with that setting; returns a context manager that is entered in the thread and
        in the context in which the calls of a chunk run. Workers import it, from a module that they have.

    Raises
    ------
    ValueError
        `apply` cannot be imported, by the name it has, from the module it says it is from.

    Examples
    --------
    >>> import sklearn  # doctest: +SKIP
    >>> register_context("sklearn", sklearn.get_config, "anypool_sklearn:restored")  # doctest: +SKIP
    """
    reference = apply if isinstance(apply, str) else reference_to(apply)
    if reference is None or ":" not in reference:
        raise ValueError(
            f"register_context({name!r}): workers cannot import {apply!r}. "
            "Define it at the top of a module that they have, or name it as 'module:attribute'."
        )
    _extensions[name] = Extension(capture=capture, apply=reference)


def registered() -> dict[str, Extension]:
    """Return what is registered now, by name."""
    return _extensions.copy()


def packed_extensions(dumps: Dumps) -> Iterator[tuple[str, str, Any]]:
    for name, extension in registered().items():
        packed = try_dumps(extension.capture(), dumps, f"the registered context {name!r}")
        if packed is not None:
            yield (name, extension.apply, packed)


def enter_extension(reference: str, value: object, context: Context, stack: ExitStack) -> None:
    manager = referred(reference)(value)
    context.run(type(manager).__enter__, manager)
    stack.callback(context.run, type(manager).__exit__, manager, None, None, None)
