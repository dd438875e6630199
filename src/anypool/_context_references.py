"""An importable thing by its name, and again itself."""

from __future__ import annotations

import importlib
import sys
from typing import Any

__all__ = ["reference_to", "referred"]


def reference_to(obj: Any) -> str | None:
    """Return "module:qualname" if that leads back to `obj` and another process can follow it."""
    module, qualname = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(qualname, str) or module == "__main__":
        return None
    try:
        return f"{module}:{qualname}" if referred(f"{module}:{qualname}") is obj else None
    except (ImportError, AttributeError):
        return None


def referred(reference: str) -> Any:
    module, _, qualname = reference.partition(":")
    found: Any = sys.modules.get(module) or importlib.import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name)
    return found
