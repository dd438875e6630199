"""What a call writes to `sys.stdout` and `sys.stderr`: tapped where it runs, written again by the caller."""

from __future__ import annotations

import io
import sys
from collections import deque
from collections.abc import Iterable
from typing import Any

from anypool._relay_hooks import Hook
from anypool._relay_owner import owner_of

__all__ = ["replay_text", "stream_tap"]


class _BytesTap:
    """`sys.stdout.buffer` with its writes captured; everything else is the underlying buffer's."""

    def __init__(self, kind: str, target: Any) -> None:
        self._kind = kind
        self._target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def write(self, data: Any, /) -> int:
        capture = owner_of(self._kind)
        if capture is not None:
            view = memoryview(data)
            if capture.add(self._kind, view.tobytes(), False):
                return view.nbytes
        return int(self._target.write(data))

    def writelines(self, lines: Iterable[Any], /) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        capture = owner_of(self._kind)
        if capture is None or not capture.add(self._kind, b"", True):
            self._target.flush()


class _StreamTap:
    """`sys.stdout` or `sys.stderr` with its writes captured; everything else is the underlying stream's.

    Outside a capture it is transparent, for ever: whoever saved `sys.stdout` during a capture may put this
    object back long after. No subclass of `io.TextIOBase`, whose finalizer would close the underlying stream.
    """

    __slots__ = ("_kind", "_original", "_target")
    _kind: str
    _original: Any
    _target: Any

    def __init__(self, kind: str, original: Any) -> None:
        target = original
        if original is None:
            target = io.TextIOWrapper(io.BufferedWriter(_Void()), "utf-8", "backslashreplace")
        set_own = object.__setattr__
        set_own(self, "_kind", kind)
        set_own(self, "_original", original)
        set_own(self, "_target", target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._target, name, value)

    def __repr__(self) -> str:
        return f"<anypool tap on {self._original!r}>"

    def __iter__(self) -> Any:
        return iter(self._target)

    def __next__(self) -> Any:
        return next(self._target)

    def __enter__(self) -> _StreamTap:
        self._target.__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> Any:
        return self._target.__exit__(*exc_info)

    def write(self, text: str, /) -> int:
        capture = owner_of(self._kind)
        if capture is not None:
            if not isinstance(text, str):
                raise TypeError(f"write() argument must be str, not {type(text).__name__}")
            # A subclass of str need not be importable where the event is read.
            if capture.add(self._kind, text if type(text) is str else str.__str__(text), False):
                return len(text)
        written = self._target.write(text)
        return len(text) if written is None else int(written)

    def writelines(self, lines: Iterable[str], /) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        capture = owner_of(self._kind)
        if capture is None or not capture.add(self._kind, "", True):
            self._target.flush()

    @property
    def buffer(self) -> _BytesTap:
        return _BytesTap(self._kind, self._target.buffer)


# So that `isinstance(sys.stdout, io.TextIOBase)` stays as true as it was.
io.TextIOBase.register(_StreamTap)


class _Void(io.RawIOBase):
    """Stands under a `sys.stdout` that is None (pythonw, some services), where `print` writes nothing."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        return memoryview(data).nbytes


def stream_tap(kind: str) -> Hook:
    """The tap on `sys.stdout` or `sys.stderr`."""

    def wrap(stream: Any) -> tuple[Any, Any]:
        # A tap left over by somebody's restore is as good as a new one, and taking it off heals the leftover.
        tap = stream if isinstance(stream, _StreamTap) else _kept_tap(kind, stream)
        return tap, tap._original

    return Hook(sys, kind, wrap)


# CPython's `print` uses `sys.stdout` without a reference of its own (mended in 2025: python/cpython#130163).
# A tap that is freed when it is taken off, while another thread prints, would crash the process. So the last
# ones are kept, and serve the same stream again. Few: each keeps its stream, which may be a large StringIO.
_kept_taps: deque[_StreamTap] = deque(maxlen=4)


def _kept_tap(kind: str, stream: Any) -> _StreamTap:
    for tap in _kept_taps:
        if tap._original is stream and tap._kind == kind:
            return tap
    tap = _StreamTap(kind, stream)
    _kept_taps.append(tap)
    return tap


def replay_text(stream: Any, data: str | bytes, flushed: bool) -> None:
    if stream is None:  # as `print` does
        return
    if isinstance(data, bytes):
        _write_bytes(stream, data)
    elif data:
        _write_text(stream, data)
    if flushed:
        stream.flush()


def _write_bytes(stream: Any, data: bytes) -> None:
    buffer = getattr(stream, "buffer", None)
    if buffer is None:
        stream.write(data.decode(getattr(stream, "encoding", None) or "utf-8", "backslashreplace"))
        return
    stream.flush()  # the text before it is still above the buffer
    buffer.write(data)


def _write_text(stream: Any, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError:
        # The worker's stream could encode it, this one cannot. It is too late to tell the call.
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
