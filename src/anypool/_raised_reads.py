"""What an exception and its class hold, read past whatever the user's class puts in the way."""

from __future__ import annotations

import types
from typing import Any

__all__ = [
    "BASE",
    "HEAP_TYPE",
    "TEXT",
    "class_name",
    "exact",
    "name_of",
    "read",
    "reason",
    "resolve",
    "slots_of",
    "text_of",
]

HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE of CPython's Include/object.h: a class made at run time
BASE = vars(BaseException)
TEXT = "_anypool_text"  # the attribute of a stand-in that holds the original's str()


def read(exc: BaseException, name: str) -> Any:
    """Return what the interpreter holds under `name`, past any property of the user's class."""
    return BASE[name].__get__(exc)


def slots_of(cls: type) -> dict[str, Any]:
    """The data descriptors below `BaseException`: `errno`, `code`, a user's `__slots__`."""
    found: dict[str, Any] = {}
    for owner in cls.__mro__:
        if owner in (BaseException, BaseExceptionGroup, object):  # their slots have fields of the node
            continue
        for name, value in vars(owner).items():
            is_slot = type(value) in (types.MemberDescriptorType, types.GetSetDescriptorType)
            if is_slot and not name.startswith("__") and not (owner is AttributeError and name == "obj"):
                found.setdefault(name, value)
    return found


def name_of(cls: type) -> tuple[str, str]:
    # By the descriptors of `type`: a metaclass may define properties of these names that raise.
    module = exact(type.__dict__["__module__"].__get__(cls))
    qualname = exact(type.__dict__["__qualname__"].__get__(cls))
    # What `spawn` calls the caller's script on a worker.
    return ("__main__" if module == "__mp_main__" else module), qualname


def class_name(cls: type) -> str:
    module, qualname = name_of(cls)
    return qualname if module == "builtins" else f"{module}.{qualname}"


def exact(text: Any) -> str:
    """Return `text` as a plain `str`, so that no class of the user's is left in a node."""
    return str.__str__(text) if issubclass(type(text), str) else f"<{type(text).__name__}>"


def text_of(exc: BaseException) -> str:
    try:
        return str.__str__(str(exc))
    except BaseException as trouble:  # the text says it to the caller
        return f"<{class_name(type(exc))}: its __str__ raised {class_name(type(trouble))}>"


def reason(exc: BaseException) -> str:
    return f"{class_name(type(exc))}: {text_of(exc)}"


def resolve(owner: Any, qualname: str) -> Any:
    for name in qualname.split("."):
        owner = getattr(owner, name, None)
    return owner
