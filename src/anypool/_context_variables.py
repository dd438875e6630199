"""Where a context variable lives, and which one that is in another process."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context, ContextVar
from types import ModuleType
from typing import Any, TypeAlias

from anypool._context_snapshot import Dumps, try_dumps

__all__ = ["contextvar_at", "homes", "packed_variables", "reduce_contextvar"]

Home: TypeAlias = tuple[str, str]
"""Module and attribute that hold a variable; ("", token) for one that no module holds."""

# Their variables describe the process or the pool they are in. NumPy's and decimal's travel by public API.
_NOT_CARRIED = frozenset({"anypool", "numpy", "dask", "distributed", "joblib", "loky", "ray", *sys.stdlib_module_names})


class _Homes:
    """Finds the module attribute that holds a variable, and the variable that a home means here.

    One instance: it describes `sys.modules`. Variables are remembered by id, with a reference that keeps the
    id from being given to another: they cannot be referred to weakly, and are made to live for ever.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._known: dict[int, tuple[ContextVar[Any], Home]] = {}
        self._homeless: dict[int, tuple[ContextVar[Any], object]] = {}
        self._scanned: set[str] = set()
        self._made: dict[Home, ContextVar[Any]] = {}

    def find(self, var: ContextVar[Any]) -> Home | None:
        """Return the home of a variable that travels; None for one that does not."""
        known = self._known.get(id(var))
        if known is not None and self.holds(known[1], var):
            return known[1] if _is_carried(known[1]) else None
        homeless = self._homeless.get(id(var))
        if homeless is not None and homeless[1] == self.version():
            return None
        with self._lock:
            # The first time in all modules: it may have been put into one that was scanned before.
            self._scan(known is None and homeless is not None)
            known = self._known.get(id(var))
            if known is not None and self.holds(known[1], var):
                self._homeless.pop(id(var), None)
                return known[1] if _is_carried(known[1]) else None
            self._known.pop(id(var), None)
            self._homeless[id(var)] = (var, self.version())
        return None

    def version(self) -> tuple[int, int, int]:
        """Return what changes when a variable without a home may have one now.

        A module was loaded, `__main__` has got a name, or a function that was sent refers to a variable.
        """
        main = sys.modules.get("__main__")
        return len(sys.modules), len(vars(main)) if main is not None else 0, len(self._known)

    def name(self, var: ContextVar[Any]) -> Home:
        """Return the home of any variable; one that has none is given a token."""
        self.find(var)
        with self._lock:
            known = self._known.get(id(var))
            if known is None:
                home = ("", os.urandom(16).hex())
                self._made[home] = var
                known = self._known[id(var)] = (var, home)
        return known[1]

    def make(self, home: Home, name: str, default: tuple[Any, ...] | None) -> ContextVar[Any]:
        """Return this process's variable for a home that no module here has; the same one each time."""
        with self._lock:
            var = self._made.get(home)
            if var is None:
                var = ContextVar(name, default=default[0]) if default else ContextVar(name)
                self._made[home] = var
                self._known[id(var)] = (var, home)
            return var

    def holds(self, home: Home, var: ContextVar[Any]) -> bool:
        """Whether `home` still means this variable."""
        # A notebook cell that runs again binds the name to a new variable, and the old one is nobody's.
        return self._made.get(home) is var or getattr(sys.modules.get(home[0]), home[1], None) is var

    def _scan(self, only_new: bool) -> None:
        modules = [(name, module) for name, module in sys.modules.copy().items() if name != "__main__"]
        if only_new:
            modules = [(name, module) for name, module in modules if name not in self._scanned]
        # `__main__` last: of a variable imported there, the module it is from is the better home.
        for name, module in [*modules, ("__main__", sys.modules.get("__main__"))]:
            self._scanned.add(name)
            if isinstance(module, ModuleType):
                self._scan_module(name, module)

    def _scan_module(self, module_name: str, module: ModuleType) -> None:
        for name, value in vars(module).copy().items():
            if type(value) is ContextVar:
                known = self._known.get(id(value))
                if known is None or not self.holds(known[1], value):
                    self._known[id(value)] = (value, (module_name, name))


def _is_carried(home: Home) -> bool:
    module = home[0]
    return module.partition(".")[0] not in _NOT_CARRIED or module.startswith("anypool.testing")


homes = _Homes()


def reduce_contextvar(var: ContextVar[Any]) -> tuple[Callable[..., ContextVar[Any]], tuple[Any, ...]]:
    """Return the reduce value of a variable, for a pickler: rebuilt, it is the variable of its home there.

    With its default, for the worker that has to make it: if its home is in `__main__`, or if no module holds
    it, say a variable that a closure refers to.
    """
    module, name = homes.name(var)
    default = default_of(var) if module in ("", "__main__") else None
    return contextvar_at, (module, name, var.name, default)


def contextvar_at(module: str, name: str, label: str, default: tuple[Any, ...] | None = None) -> ContextVar[Any]:
    """Return the context variable of that home in this process, made if there is none.

    Parameters
    ----------
    module, name : str
        Its home: a module, imported if need be, and an attribute; or "" and a token.
    label : str
        The variable's own name. An attribute that holds a variable of another name is another one.
    default : 1-tuple or None
        Its default, if it has one.
    """
    made = homes._made.get((module, name))
    if made is not None:
        return made
    found = getattr(_module_named(module), name, None) if module else None
    if isinstance(found, ContextVar) and found.name == label:
        return found
    return homes.make((module, name), label, default)


def _module_named(name: str) -> ModuleType | None:
    loaded = sys.modules.get(name)
    if loaded is not None:
        return loaded
    try:
        return importlib.import_module(name)
    except ImportError:
        return None  # then no call here can have got the variable by importing it either


def default_of(var: ContextVar[Any]) -> tuple[Any, ...] | None:
    try:
        return (Context().run(var.get),)
    except LookupError:
        return None


def packed_variables(
    carried: Sequence[tuple[ContextVar[Any], Home, Any]], dumps: Dumps
) -> Iterator[tuple[str, str, str, bytes | None, bytes]]:
    for var, (module, name), value in carried:
        what = None
        if module in ("", "__main__") or not name.startswith("_"):
            what = f"the context variable {var.name!r}" + (f" ({module}.{name})" if module else "")
        packed = try_dumps(value, dumps, what)
        if packed is None:
            continue
        default = None
        if module in ("", "__main__"):  # the worker has to make it
            default = try_dumps(default_of(var), dumps, None)
        yield (module, name, var.name, default, packed)
