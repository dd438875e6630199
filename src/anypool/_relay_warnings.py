"""What a call warns: tapped where it is shown, and shown, or not, by the caller.

Three rules make the transcript independent of workers and chunks.

1. The caller's filters hold on the worker (see `_context_process`), so "error" raises inside the call and
   "ignore" costs nothing.
2. `warnings` remembers what it has shown ("default", "once", "module") *before* it shows it. A captured
   warning has not been shown yet, so its mark is taken back at once: each occurrence is captured.
3. At replay the warning goes through the caller's filters and the registry of the module that warned, in
   input order: the first is shown and marked, and repetitions end there, as they do in a plain loop.

In the caller's own process the registries are the same objects for 2 and 3. What the caller was shown before
is then suppressed where it occurs, which is what a plain loop would do. Before Python 3.14 another thread can
meet the mark in the microseconds before it is taken back; its repetition is then not captured, the first is.
"""

from __future__ import annotations

import importlib
import linecache
import sys
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from anypool._relay_events import pickled, unpickled
from anypool._relay_hooks import Hook
from anypool._relay_owner import owner_of

__all__ = ["replay_warning", "warning_sink", "warnings_tap"]

# Module and registry of the warning that is being replayed: its frame is gone, so a capture around the
# replay (an executor inside a call) could not find them.
_replayed_origin: ContextVar[tuple[str, dict[Any, Any]] | None] = ContextVar("anypool_origin", default=None)


_ARE_IN_CONTEXT = bool(getattr(sys.flags, "context_aware_warnings", False))
"""Python 3.14 may keep the list of `catch_warnings(record=True)` in the context."""


def warnings_tap() -> Hook:
    """The tap where a warning that passed the filters is shown.

    `_showwarnmsg` is private, but the one place that both the C and the Python implementation call, on
    every version since 3.6, and that `catch_warnings` does not swap. `showwarning` is bypassed by
    `catch_warnings(record=True)`; and `warn` itself is reached from C and by `from warnings import warn`.
    """

    def wrap(shown_before: Callable[[warnings.WarningMessage], None]) -> tuple[Any, Any]:
        def show(msg: warnings.WarningMessage) -> None:
            if not _take_warning(msg):
                shown_before(msg)

        return show, shown_before

    return Hook(warnings, "_showwarnmsg", wrap)


def warning_sink() -> tuple[object, ...]:
    """Return what identifies where a shown warning goes: `catch_warnings(record=True)` changes it."""
    sink: tuple[object, ...] = (warnings.showwarning, getattr(warnings, "_showwarnmsg_impl", None))
    if _ARE_IN_CONTEXT:
        return (*sink, id(getattr(warnings, "_get_context")().log))  # noqa: B009 (unknown to 3.11's types)
    return sink


def _take_warning(msg: warnings.WarningMessage) -> bool:
    """Capture a warning that is about to be shown. False if it is no call's, or the call shows it itself."""
    capture = owner_of("warnings")
    if capture is None or capture.is_overruled():
        return False
    module, registry = _replayed_origin.get() or _warning_origin(msg.filename, msg.lineno)
    message = msg.message if isinstance(msg.message, Warning) else msg.category(msg.message)
    text = str(message)
    _unmark(registry, text, msg.category, msg.lineno)
    line = msg.line
    if not capture.settings.in_caller:
        line = line or linecache.getline(msg.filename, msg.lineno)
    sendable = message if capture.settings.in_caller else pickled(message)
    categories = tuple(f"{cls.__module__}:{cls.__qualname__}" for cls in msg.category.__mro__)
    return capture.add("warnings", categories, text, sendable, msg.filename, msg.lineno, line, module)


def _warning_origin(filename: str, lineno: int) -> tuple[str, dict[Any, Any] | None]:
    """Return the name and the registry of the module that warned, by the frame that is being blamed."""
    frame = sys._getframe(1).f_back
    while frame is not None:
        if frame.f_lineno == lineno and frame.f_code.co_filename == filename:
            module = frame.f_globals
            return str(module.get("__name__", "<string>")), module.get("__warningregistry__")
        frame = frame.f_back
    # `warn_explicit` about a place that is not running, e.g. the source of a SyntaxWarning. It names the
    # module by the file; what C code reports that way has no registry.
    return filename.removesuffix(".py") or "<unknown>", None


def _unmark(registry: dict[Any, Any] | None, text: str, category: type[Warning], lineno: int) -> None:
    """Make `warnings` forget that it showed this: it did not, yet.

    The keys are those of CPython's `_warnings.c` (the two-part one) and of its `warnings.py`.
    """
    if isinstance(registry, dict):
        for key in ((text, category, lineno), (text, category, 0), (text, category)):
            registry.pop(key, None)
    default = getattr(warnings, "defaultaction", "default")
    if default == "once" or any(entry[0] == "once" for entry in warnings.filters):
        getattr(warnings, "onceregistry", {}).pop((text, category), None)


# Stands in for the `__warningregistry__` of modules that only workers have loaded. Global because those are.
_registries: dict[str, dict[Any, Any]] = {}


def replay_warning(
    categories: tuple[str, ...],
    text: str,
    sent: object,
    filename: str,
    lineno: int,
    line: str | None,
    module: str,
) -> None:
    message, category = _rebuilt_warning(categories, text, sent)
    module = _name_here(module)
    registry = _registry_of(module)
    _remember_line(filename, lineno, line)
    token = _replayed_origin.set((module, registry))
    try:
        warnings.warn_explicit(message, category, filename, lineno, module, registry)
    finally:
        _replayed_origin.reset(token)


def _registry_of(module: str) -> dict[Any, Any]:
    """Return what `warnings` keeps about this module in this process."""
    loaded = sys.modules.get(module)
    if loaded is None:
        return _registries.setdefault(module, {})
    registry: dict[Any, Any] = vars(loaded).setdefault("__warningregistry__", {})
    return registry


def _name_here(module: str) -> str:
    # What multiprocessing's spawn calls the caller's main module on a worker.
    return "__main__" if module == "__mp_main__" else module


def _rebuilt_warning(categories: tuple[str, ...], text: str, sent: object) -> tuple[str | Warning, type[Warning]]:
    """Return the warning itself; where it cannot be rebuilt here, its text and the nearest category."""
    message = unpickled(sent) if isinstance(sent, bytes) else sent
    if isinstance(message, Warning):
        return message, type(message)
    for name in categories:
        category = _class_named(name)
        if category is not None:
            break
    else:
        category = Warning
    if name != categories[0]:
        text = f"{text} [a {categories[0].replace(':', '.')} on the worker, which cannot be imported here]"
    try:
        category(text)
    except TypeError:  # its constructor wants something else than a text
        return f"{text} [a {categories[0].replace(':', '.')} on the worker]", UserWarning
    return text, category


def _class_named(name: str) -> type[Warning] | None:
    module_name, _, qualname = name.partition(":")
    module_name = _name_here(module_name)
    found: Any
    try:
        found = sys.modules.get(module_name) or importlib.import_module(module_name)
        for part in qualname.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return None
    return found if isinstance(found, type) and issubclass(found, Warning) else None


def _remember_line(filename: str, lineno: int, line: str | None) -> None:
    """Let a warning about a file that only the worker has be shown with its source line, as there."""
    if not line or linecache.getline(filename, lineno):
        return
    known = linecache.getlines(filename)
    entry = linecache.cache.get(filename)
    if known and (entry is None or len(entry) != 4 or entry[1] is not None):
        return  # the file is here, only not the same one
    lines = known + ["\n"] * (lineno - len(known))
    lines[lineno - 1] = line if line.endswith("\n") else line + "\n"
    # No modification time: `linecache.checkcache` leaves such entries alone.
    linecache.cache[filename] = (sum(map(len, lines)), None, lines, filename)
