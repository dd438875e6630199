"""Says when a function carries so much with it that sending it is what takes the time."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from anypool._frames import stacklevel_of_user
from anypool._pickler import parts
from anypool._wire import LARGE_FUNCTION, Parcel

__all__ = ["warn_of"]


def warn_of(fn: Callable[..., Any], parcel: Parcel) -> None:
    """Warn the user's code that `fn`, which is `parcel` when it is sent, is large, and because of what."""
    size = _size_of(parcel)
    if size < LARGE_FUNCTION:
        return
    name = getattr(fn, "__qualname__", None) or type(fn).__qualname__
    largest = max(parts(fn), key=lambda part: _size(part[1]), default=None)
    because = f", most of it {largest[0]} ({_megabytes(_size(largest[1]))})" if largest and _size(largest[1]) else ""
    warnings.warn(
        f"function {name!r} is {_megabytes(size)} when it is sent to a worker{because}; send such data once, by "
        f"shared = ex.share(data), and use shared in its place",
        RuntimeWarning,
        stacklevel=stacklevel_of_user(),
    )


def _size_of(parcel: Parcel) -> int:
    if isinstance(parcel, bytes):
        return len(parcel)
    data, refs = parcel
    # What `share` holds is referred to as well, and has been sent already; only segments are of this function.
    return len(data) + sum(ref[-1] for ref in refs if isinstance(ref, tuple)) if isinstance(refs, Sequence) else 0


def _size(value: object) -> int:
    """Roughly the bytes of one object: arrays and the like say it themselves."""
    size = getattr(value, "nbytes", None)
    return size if isinstance(size, int) else sys.getsizeof(value, 0)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
