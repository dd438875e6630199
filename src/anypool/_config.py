"""One decision: which backend, with which options and settings, and where each of them was written.

Five places are asked, strongest first:

1. the arguments of `get_executor`;
2. ``with use(...)`` blocks of this context, the innermost first;
3. the environment, ``ANYPOOL_*``;
4. the file: the nearest ``anypool.toml`` or ``pyproject.toml`` with ``[tool.anypool]``, from the working
   directory upwards; in one directory ``anypool.toml`` is read. ``ANYPOOL_CONFIG`` names another file, or
   with "" or "none" no file;
5. the default: ``processes`` and the defaults of its options.

**The backend** is the one of the strongest place that names any.

**Each option** has the value of the strongest place that gives it *to that backend*:

- *General* options mean the same everywhere: ``max_workers`` and the fields of `Settings`. Wherever they are
  written without a backend, they apply to whichever backend wins: ``ANYPOOL_MAX_WORKERS=3`` holds for
  ``get_executor("loky")``. The keywords of ``use("loky", max_workers=3)`` count as written without one.
- Everything else is *bound*: to the backend in the name of the variable (``ANYPOOL_DASK_ADDRESS``) or of the
  table (``[dask]``), to the one it is written inside of (``"loky?max_workers=3"``, ``{"backend": "loky",
  ...}``), to the one beside it (``use("processes", start_method="spawn")``). It applies if that backend wins,
  by whichever place, and is ignored if another one does. A keyword of `get_executor` with no backend beside
  it is for the winner.
- Within one place the narrower spelling wins: keyword, then inside the backend's spelling; variable or table
  of the backend, then inside the spelling, then the general one.

So with ``ANYPOOL_BACKEND=dask://host:8786`` the call ``get_executor("dask")`` gets that address, and
``get_executor("loky")`` has no use for it.

A backend object is used as it is: settings of the core apply to it, options of a backend don't. Next to it,
or as an argument of `get_executor`, they are an error.

What belongs to a backend is checked when that backend wins, so that no other backend is imported, and a stale
variable cannot break an explicit choice. What belongs to none is checked always: in the file an unknown key
is an error; an unknown ``ANYPOOL_*`` variable is only warned of, because the environment is shared with other
programs.

Nothing is read before the first `resolve`, and every `resolve` reads anew; a file is parsed again when it has
changed.
"""

from __future__ import annotations

import contextvars
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from anypool import _config_levels
from anypool._config_choice import Choice, change_settings, check_block, checked, decide
from anypool._config_levels import ARGUMENT, Level, Said
from anypool._options import option_types
from anypool._settings import Settings

if TYPE_CHECKING:
    from anypool._config_explain import Explanation

__all__ = ["Choice", "Settings", "change_settings", "explain", "resolve", "use", "wishes"]

F = TypeVar("F", bound=Callable[..., Any])

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep

# the blocks that are open in this context, innermost first
_used: contextvars.ContextVar[tuple[tuple[use, Level], ...]] = contextvars.ContextVar("anypool_use", default=())


def resolve(backend: object = None, options: Mapping[str, Any] | None = None) -> Choice:
    """Return the backend, its options and the settings that apply here and now.

    Parameters
    ----------
    backend : str, mapping, Backend, backend class or None
        A name or an alias; a URL with options (``"loky?max_workers=4"``, ``"dask://host:8786"``,
        ``"tls://host:8786"``); ``{"backend": "loky", "max_workers": 4}``; an object, used as it is; a class.
        None leaves it to configuration.
    options : mapping or None
        Options of the backend and settings, by name. ``max_workers=None`` is the same as none given.

    Raises
    ------
    UnknownBackend, UnknownOption
        A name that nobody has; names the known and the nearest.
    ConfigError
        A value that does not fit, a file that cannot be read or has an unknown key; names what and where.
    MissingExtra, ImportError
        The library of the backend is not installed, or cannot be imported.

    Warns
    -----
    UserWarning
        Variables ``ANYPOOL_*`` that mean nothing.

    Examples
    --------
    >>> resolve("serial?seed=7").settings.seed
    7
    """
    environment = _config_levels.read_environment()
    argument = _config_levels.read_arguments(backend, options or {}, ARGUMENT)
    choice, unknown = decide([argument, *_open_blocks(), environment, _config_levels.read_file()])
    _warn_of_unknown([*environment.unknown, *unknown])
    return choice


def wishes(setting: str) -> Iterator[Any]:
    """Yield what is said of a setting outside of the code that asks for it: by `use`, environment and file.

    Strongest first. What asks for progress by ``True`` leaves its kind to these.
    """
    declared = option_types(Settings)
    for level in (*_open_blocks(), _config_levels.read_environment(), _config_levels.read_file()):
        inside = () if level.spec is None else level.spec.options
        source = "" if level.spec is None else level.spec.source
        spelled = (Said(key=key, value=value, source=source) for key, value in inside)
        for said in (*level.narrow, *spelled, *level.general):
            if said.key == setting:
                yield checked(said, "any", declared)


class use:  # noqa: N801 - reads as a verb: `with use("loky"):`
    """A block, or a function, in which another backend or other options are chosen.

    Blocks nest: the inner one wins, and what it doesn't say is left to the outer one. A block holds for this
    thread or task and for what context variables reach from it. One object may be used many times, and by
    many threads.

    Parameters
    ----------
    backend : str, mapping, Backend, backend class or None
        As for `resolve`. With None only the options are chosen, and they must be general ones.
    **options
        Options of `backend`, and general ones.

    Raises
    ------
    ConfigError, MissingExtra, ImportError
        On entry, as by `resolve`.

    Examples
    --------
    >>> with use("serial", seed=7):
    ...     resolve().name
    'serial'
    """

    def __init__(self, backend: object = None, /, **options: Any) -> None:
        self._backend = backend
        self._options = options
        filename, line, _ = _caller()
        self._source = f"use(...) at {os.path.basename(filename)}:{line}"

    def __enter__(self) -> None:
        level = _config_levels.read_arguments(self._backend, self._options, self._source)
        check_block(level)
        _used.set(((self, level), *_used.get()))

    def __exit__(self, *exc_info: object) -> None:
        # Found by whose it is, not by a token: one object may be entered many times and by many threads, and
        # a generator that is suspended inside a block of its own leaves that block on top of ours.
        blocks = _used.get()
        ours = next((index for index, (owner, _) in enumerate(blocks) if owner is self), None)
        if ours is not None:
            _used.set((*blocks[:ours], *blocks[ours + 1 :]))

    def __call__(self, function: F) -> F:
        import inspect

        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"use() cannot decorate the generator {function.__qualname__}; write the block inside it")
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def in_block_async(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return await function(*args, **kwargs)

            return cast("F", in_block_async)

        @wraps(function)
        def in_block(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return cast("F", in_block)


def _open_blocks() -> list[Level]:
    return [level for _, level in _used.get()]


def _caller() -> tuple[str, int, int]:
    """Return file and line of the nearest code outside of anypool, and how many frames up it is."""
    frame = sys._getframe(1)
    depth = 1
    while frame.f_code.co_filename.startswith(_PACKAGE) and frame.f_back is not None:
        frame, depth = frame.f_back, depth + 1
    return frame.f_code.co_filename, frame.f_lineno, depth


def _warn_of_unknown(unknown: Sequence[tuple[str, str]]) -> None:
    if not unknown:
        return
    import warnings

    names = ", ".join(f"{variable}{hint.replace(';', ':')}" for variable, hint in unknown)
    warnings.warn(f"environment variables that mean nothing to anypool: {names}", stacklevel=_caller()[2])


def explain(backend: object = None, /, **options: Any) -> Explanation:
    """Return why `get_executor` with these arguments would choose what it would choose; nothing is started.

    What would be an error is reported in the answer, beside all that can still be said.

    Examples
    --------
    >>> explain("serial", seed=7).rows[0]
    Row(key='backend', value='serial', source='argument', lost=())
    """
    from anypool._config_explain import attempt, explain_levels

    errors: list[str] = []
    nothing = Level()
    levels = [
        attempt(lambda: _config_levels.read_arguments(backend, options, ARGUMENT), nothing, errors),
        *_open_blocks(),
        attempt(_config_levels.read_environment, nothing, errors),
        attempt(_config_levels.read_file, nothing, errors),
    ]
    return explain_levels(levels, errors)
