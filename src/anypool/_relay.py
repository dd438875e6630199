"""Output comes home: what a call prints, warns and logs is captured where it runs and replayed by the caller.

::

    worker   print ─► sys.stdout ─► _StreamTap ──────┐
             warn ──► filters ──► _showwarnmsg tap ──┤ which capture?  none ─► where it went before
             log ───► levels ───► Logger.handle tap ─┘      │
                                                            ▼
                                    Capture (one a chunk): (item offset, kind, ...) in order
                                                            │ reply
    caller   replay(events of one item) ◄───────────────────┘
                print ─► sys.stdout as it is now
                warn ──► the caller's filters and registries, which alone decide what is a repetition
                log ───► the caller's logger of that name: its filters, handlers and propagation, once

Who owns a piece of output is found by a `ContextVar`, because `sys.stdout` and the hooks of `warnings` and
`logging` belong to the whole process: the taps are process-wide, and each writer's context says which
capture is its own. The taps are in place only while a capture is open (or for good, in a worker process).

Three rules about warnings make the transcript independent of workers and chunks.

1. The caller's filters hold on the worker (`_context` applies them), so "error" raises inside the call and
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
import io
import linecache
import logging
import os
import pickle
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context, ContextVar
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Literal, TypeAlias, get_args

from anypool.errors import ConfigError

__all__ = ["Capture", "Event", "Mode", "RelaySettings", "install_for_good", "replay"]

Mode: TypeAlias = Literal["relay", "live", "off"]

Event: TypeAlias = tuple[Any, ...]
"""(item offset in the chunk, kind, ...): the kind is a field of `RelaySettings`; see `Capture.events`."""

_KINDS = ("stdout", "stderr", "warnings", "logging")

# A larger argument of a log call stays on the worker; the text made from it travels. `log.info("%s", array)`
# must not send the array.
_LARGEST_ARGUMENT = 16_384

_PLAIN = (str, int, float, bool, bytes, type(None))


@dataclass(frozen=True, kw_only=True, slots=True)
class RelaySettings:
    """Which output of a call comes home.

    Parameters
    ----------
    stdout, stderr, warnings, logging : "relay", "live" or "off"
        "relay": captured, and replayed by the caller when the result is delivered. "live": passed on at once,
        where it runs; nothing is captured. "off": left to the backend, whatever it does with it. This module
        treats the last two alike; a pool that would redirect or close its workers' streams must not do so
        for "live".
    exclusive : bool
        The process runs one call at a time, and nothing but calls. Output of threads that the call
        started is then the call's; elsewhere nothing tells whose it is, and it goes where it went before.
    in_caller : bool
        The capture runs in the process that replays: warnings and log records are kept as they are.

    Attributes
    ----------
    relayed : frozenset of str
        Those of the four that are "relay". Kept, because a capture is made for each chunk.
    """

    stdout: Mode = "relay"
    stderr: Mode = "relay"
    warnings: Mode = "relay"
    logging: Mode = "relay"
    exclusive: bool = False
    in_caller: bool = False
    relayed: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        relayed = frozenset(kind for kind in _KINDS if getattr(self, kind) == "relay")
        object.__setattr__(self, "relayed", relayed)

    @classmethod
    def of(cls, value: bool | str | Mapping[str, str] | RelaySettings) -> RelaySettings:
        """Return the settings that a user's `relay=` means.

        Parameters
        ----------
        value : bool, str, mapping or RelaySettings
            True is "relay" for all four, False is "off" for all four, a mode is that mode for all
            four; a mapping sets those it names, the others are "relay".

        Raises
        ------
        ConfigError
            An unknown mode, or a mapping that names something else than the four.

        Examples
        --------
        >>> RelaySettings.of({"stderr": "live"}).stderr
        'live'
        >>> RelaySettings.of(False).logging
        'off'
        """
        if isinstance(value, RelaySettings):
            return value
        if isinstance(value, bool):
            value = "relay" if value else "off"
        chosen = dict.fromkeys(_KINDS, value) if isinstance(value, str) else dict(value)
        for kind, mode in chosen.items():
            if kind not in _KINDS:
                raise ConfigError(f"relay: no output is called {kind!r}; known are {', '.join(_KINDS)}")
            if mode not in get_args(Mode):
                raise ConfigError(f"relay: {kind}={mode!r} is none of {', '.join(map(repr, get_args(Mode)))}")
        return replace(cls(), **{str(kind): mode for kind, mode in chosen.items()})  # type: ignore[arg-type]


class Capture:
    """The output of one chunk, in the order in which it happened.

    `with` opens it and installs the taps. Opening alone captures nothing of the thread that opens: calls run
    in a `contextvars.Context` given to `bind` (or in copies of it).

    Parameters
    ----------
    settings : RelaySettings
        What is captured.
    position : callable
        Returns the offset in the chunk of the item whose call is running; asked at each event.
    """

    __slots__ = ("_kinds", "_lock", "_log", "_outer", "_position", "_sealed", "_sink", "settings")

    def __init__(self, settings: RelaySettings, position: Callable[[], int]) -> None:
        self.settings = settings
        self._kinds = settings.relayed
        self._position = position
        self._outer: Capture | None = None
        self._sink: tuple[object, ...] = ()
        self._log: list[Event] | None = None
        self._sealed: list[Event] = []
        # Reentrant: a finalizer may warn or print in the midst of an append.
        self._lock = threading.RLock()

    def __enter__(self) -> Capture:
        self._log = []
        if self._kinds:
            _taps.open(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._kinds:
            _taps.close(self)
        self.seal()

    def bind(self, context: Context) -> None:
        """Make what runs in `context`, or in a copy of it, write here.

        A capture that `context` was bound to before becomes the outer one: it gets what this one leaves.
        """
        context.run(self._become_current)

    @property
    def events(self) -> list[Event]:
        """What was captured so far, as plain tuples that any pickler takes (unless `in_caller`).

        - `(offset, "stdout" or "stderr", text or bytes, flushed)`; adjacent writes are one event;
        - `(offset, "warnings", categories, text, message, filename, lineno, line, module)`;
        - `(offset, "logging", logger, record)`.
        """
        with self._lock:
            return self._sealed if self._log is None else _merged(self._log)

    def takes(self, kind: str) -> bool:
        """Whether output of this kind is captured here, now."""
        return self._log is not None and kind in self._kinds

    def add(self, kind: str, *payload: object) -> bool:
        """Add one event of the running item. False if the capture has ended: then nothing was added."""
        with self._lock:
            if self._log is None:
                return False
            self._log.append((self._position(), kind, *payload))
            return True

    def seal(self) -> None:
        """End the capture: whoever still writes, say a thread that outlives its call, writes elsewhere."""
        with self._lock:
            if self._log is not None:
                self._sealed, self._log = _merged(self._log), None

    def abandon(self) -> None:
        """End it in a forked child, whose copy nobody will read, and whose copy of the lock may be held."""
        self._lock = threading.RLock()
        self._log = None

    def is_overruled(self) -> bool:
        """Whether somebody, since the call began, took over the showing of warnings (`catch_warnings`)."""
        return _warning_sink() not in (self._sink, _taps.sink)

    def _become_current(self) -> None:
        self._outer = _current.get()
        self._sink = _warning_sink()
        _current.set(self)


_current: ContextVar[Capture | None] = ContextVar("anypool_capture", default=None)

# Module and registry of the warning that is being replayed: its frame is gone, so a capture around the
# replay (an executor inside a call) could not find them.
_replayed_origin: ContextVar[tuple[str, dict[Any, Any]] | None] = ContextVar("anypool_origin", default=None)


def _capture_for(kind: str) -> Capture | None:
    """Return the capture that owns output of this kind written here, now."""
    capture = _current.get() or _taps.fallback()
    while capture is not None and not capture.takes(kind):
        capture = capture._outer
    return capture


def _merged(log: list[Event]) -> list[Event]:
    """Return the events with adjacent writes of one item to one stream made one (`print` writes twice)."""
    events: list[Event] = []
    parts: list[Any] = []
    for event in log:
        kind = event[1]
        last = events[-1] if events else None
        if kind not in ("stdout", "stderr") or last is None or last[:2] != event[:2]:
            _join_last(events, parts)
            events.append(event)
            parts = [event[2]] if kind in ("stdout", "stderr") else []
        elif not event[2]:
            events[-1] = (*last[:3], last[3] or event[3])
        elif not last[2] or type(last[2]) is type(event[2]):
            events[-1] = (*event[:3], last[3] or event[3])
            parts.append(event[2])
        else:
            _join_last(events, parts)
            events.append(event)
            parts = [event[2]]
    _join_last(events, parts)
    return events


def _join_last(events: list[Event], parts: list[Any]) -> None:
    parts = [part for part in parts if part]
    if len(parts) > 1:
        offset, kind, _, flushed = events[-1]
        events[-1] = (offset, kind, type(parts[0])().join(parts), flushed)


# --- the taps -----------------------------------------------------------------------------------------------


class _Taps:
    """The taps of this process, in place while a capture is open.

    The one instance is global because what it replaces is: `sys.stdout`, `sys.stderr`, and the hooks of
    `warnings` and `logging`.
    """

    def __init__(self) -> None:
        self.sink: tuple[object, ...] = ()
        self._lock = threading.RLock()
        self._open: dict[Capture, None] = {}
        self._exclusive: tuple[Capture, ...] = ()
        self._undo: list[Callable[[], None]] = []
        self._stays = False
        self._minds_forks = False

    def open(self, capture: Capture) -> None:
        with self._lock:
            self._open[capture] = None
            if capture.settings.exclusive:
                self._exclusive = (*self._exclusive, capture)
            if not self._undo:
                self._install()

    def close(self, capture: Capture) -> None:
        with self._lock:
            self._open.pop(capture, None)
            if capture.settings.exclusive:
                self._exclusive = tuple(other for other in self._exclusive if other is not capture)
            if not self._open and not self._stays:
                self._remove()

    def stay(self) -> None:
        with self._lock:
            self._stays = True
            if not self._undo:
                self._install()

    def fallback(self) -> Capture | None:
        """Return the capture that owns what no context claims, in a process that runs one call at a time."""
        exclusive = self._exclusive
        return exclusive[-1] if exclusive else None

    def _install(self) -> None:
        if not self._minds_forks and hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._leave_forked_child)
        self._minds_forks = True
        self.sink = _warning_sink()
        self._undo = [_tap_stream("stdout"), _tap_stream("stderr"), _tap_warnings(), _tap_logging()]

    def _remove(self) -> None:
        for undo in self._undo:
            undo()
        self._undo = []

    def _leave_forked_child(self) -> None:
        # A process that a call forks inherits the capture, but nobody will read the child's copy of it: its
        # output must go to the inherited descriptors.
        self._lock = threading.RLock()
        for capture in self._open:
            capture.abandon()
        self._open, self._exclusive, self._stays = {}, (), False
        self._remove()


_taps = _Taps()


def install_for_good() -> None:
    """Install the taps until the process ends. For a dedicated worker process: a capture then costs less."""
    _taps.stay()


class _BytesTap:
    """`sys.stdout.buffer` with its writes captured; everything else is the underlying buffer's."""

    def __init__(self, kind: str, target: Any) -> None:
        self._kind = kind
        self._target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def write(self, data: Any, /) -> int:
        capture = _capture_for(self._kind)
        if capture is not None:
            view = memoryview(data)
            if capture.add(self._kind, view.tobytes(), False):
                return view.nbytes
        return int(self._target.write(data))

    def writelines(self, lines: Iterable[Any], /) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        capture = _capture_for(self._kind)
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
        capture = _capture_for(self._kind)
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
        capture = _capture_for(self._kind)
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


def _tap_stream(kind: str) -> Callable[[], None]:
    """Put a tap on `sys.stdout` or `sys.stderr`; return what takes it off."""
    stream = getattr(sys, kind)
    # A tap left over by somebody's restore is as good as a new one, and taking it off heals the leftover.
    tap = stream if isinstance(stream, _StreamTap) else _kept_tap(kind, stream)
    setattr(sys, kind, tap)

    def undo() -> None:
        if getattr(sys, kind) is tap:
            setattr(sys, kind, tap._original)

    return undo


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


def _tap_warnings() -> Callable[[], None]:
    """Put a tap where a warning that passed the filters is shown; return what takes it off.

    `_showwarnmsg` is private, but the one place that both the C and the Python implementation call, on
    every version since 3.6, and that `catch_warnings` does not swap. `showwarning` is bypassed by
    `catch_warnings(record=True)`; and `warn` itself is reached from C and by `from warnings import warn`.
    """
    name = "_showwarnmsg"
    shown_before = getattr(warnings, name)

    def show(msg: warnings.WarningMessage) -> None:
        if not _take_warning(msg):
            shown_before(msg)

    setattr(warnings, name, show)

    def undo() -> None:
        if getattr(warnings, name) is show:
            setattr(warnings, name, shown_before)

    return undo


def _tap_logging() -> Callable[[], None]:
    """Put a tap on `Logger.handle`, after the level and before the filters; return what takes it off."""
    handled_before = logging.Logger.handle

    def handle(self: logging.Logger, record: logging.LogRecord) -> None:
        if not _take_record(self, record):
            handled_before(self, record)

    setattr(logging.Logger, "handle", handle)  # noqa: B010 (mypy refuses the assignment)

    def undo() -> None:
        if logging.Logger.handle is handle:
            setattr(logging.Logger, "handle", handled_before)  # noqa: B010

    return undo


# --- warnings -----------------------------------------------------------------------------------------------


def _warning_sink() -> tuple[object, ...]:
    """Return what identifies where a shown warning goes: `catch_warnings(record=True)` changes it."""
    sink: tuple[object, ...] = (warnings.showwarning, getattr(warnings, "_showwarnmsg_impl", None))
    if getattr(sys.flags, "context_aware_warnings", False):  # Python 3.14: the list is in the context
        return (*sink, id(getattr(warnings, "_get_context")().log))  # noqa: B009 (unknown to 3.11's types)
    return sink


def _take_warning(msg: warnings.WarningMessage) -> bool:
    """Capture a warning that is about to be shown. False if it is no call's, or the call shows it itself."""
    capture = _capture_for("warnings")
    if capture is None or capture.is_overruled():
        return False
    module, registry = _replayed_origin.get() or _warning_origin(msg.filename, msg.lineno)
    message = msg.message if isinstance(msg.message, Warning) else msg.category(msg.message)
    text = str(message)
    _unmark(registry, text, msg.category, msg.lineno)
    line = msg.line
    if not capture.settings.in_caller:
        line = line or linecache.getline(msg.filename, msg.lineno)
    sendable = message if capture.settings.in_caller else _pickled(message)
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


def _replay_warning(
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
    message = _unpickled(sent) if isinstance(sent, bytes) else sent
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


# --- log records --------------------------------------------------------------------------------------------


def _take_record(logger: logging.Logger, record: logging.LogRecord) -> bool:
    """Capture a record that passed the level. False if it is not a call's."""
    capture = _capture_for("logging")
    if capture is None:
        return False
    if capture.settings.in_caller:
        if not all(isinstance(arg, _PLAIN) for arg in _arguments(record)):
            # What an argument looks like now is what belongs into the log, not what it will look like later.
            message = _message_of(record)
            if message is not None:
                record.msg, record.args = message, None
        return capture.add("logging", logger, record)
    return capture.add("logging", logger.name, _sendable_record(record))


def _arguments(record: logging.LogRecord) -> Iterable[object]:
    args = record.args or ()
    return args.values() if isinstance(args, Mapping) else args


def _message_of(record: logging.LogRecord) -> str | None:
    """Return its text; None if format and arguments do not fit, which is a handler's to report, at replay."""
    try:
        return record.getMessage()
    except Exception:  # a call must not fail for what logging tolerates (`Handler.handleError`)
        return None


def _sendable_record(record: logging.LogRecord) -> tuple[tuple[str, bool, Any], ...]:
    """Return the attributes as (name, pickled, value); what cannot be sent as its text."""
    state = dict(vars(record))
    if state.get("exc_info"):
        state["exc_text"] = state.get("exc_text") or logging.Formatter().formatException(state["exc_info"])
        state["exc_info"] = None
    sent_args = _pickled(state.pop("args", None))
    message = _message_of(record)
    if sent_args is None or len(sent_args) > _LARGEST_ARGUMENT:
        if message is None:  # it will not fit there either, and is reported with texts for arguments
            sent_args = pickle.dumps(tuple(map(object.__repr__, _arguments(record))))
        else:
            state["msg"], sent_args = message, pickle.dumps(None)
    sendable = [("args", True, sent_args), ("message", False, message)]
    state.pop("message", None)
    for name, value in state.items():
        if type(value) in _PLAIN:
            sendable.append((name, False, value))
            continue
        sent = _pickled(value)
        sendable.append((name, False, str(value)) if sent is None else (name, True, sent))
    return tuple(sendable)


def _rebuilt_record(sent: Iterable[tuple[str, bool, Any]]) -> logging.LogRecord:
    state = {name: _unpickled(value) if pickled else value for name, pickled, value in sent}
    if state["args"] is _lost or state["msg"] is _lost:
        state["msg"], state["args"] = state["message"] or repr(_lost), None
    del state["message"]  # a formatter's to set
    return logging.makeLogRecord({name: repr(value) if value is _lost else value for name, value in state.items()})


def _replay_record(logger: str | logging.Logger, record: Any, worker: str) -> None:
    if isinstance(logger, str):
        logger, record = logging.getLogger(logger), _rebuilt_record(record)
    # An executor inside a call replayed it before: its worker is the one where it happened.
    if not hasattr(record, "anypool_worker"):
        record.anypool_worker = worker
    logger.handle(record)


# --- plain data ---------------------------------------------------------------------------------------------


class _Lost:
    """What a value becomes that could be pickled there and cannot be rebuilt here."""

    def __repr__(self) -> str:
        return "<cannot be rebuilt here>"


_lost = _Lost()


def _pickled(value: object) -> bytes | None:
    """Return the pickle, or None if there is none; then the caller of this sends a text instead."""
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception:  # whatever a `__reduce__` of the user's raises
        return None


def _unpickled(data: bytes) -> Any:
    try:
        return pickle.loads(data)
    except Exception:  # whatever a constructor of the user's raises; each use of `_lost` shows it in its text
        return _lost


# --- replay -------------------------------------------------------------------------------------------------


def replay(events: Iterable[Event], *, worker: str) -> None:
    """Write, warn and log here what the calls did there, in the same order.

    Parameters
    ----------
    events : iterable of Event
        Usually those of one item. What is replayed twice happens twice.
    worker : str
        The worker that ran the call; becomes `record.anypool_worker` of each log record.

    Raises
    ------
    Exception
        The first that a stream, a warning filter with action "error" or a log handler raised. The other
        events are replayed before it is raised; what they raise becomes notes of the first.
    """
    failure: Exception | None = None
    for event in events:
        try:
            _replay_event(event, worker)
        except Exception as exc:
            if failure is None:
                failure = exc
            else:
                failure.add_note(f"Replaying the output of the same call also raised {exc!r}")
    if failure is not None:
        raise failure


def _replay_event(event: Event, worker: str) -> None:
    _, kind, *payload = event
    if kind == "warnings":
        _replay_warning(*payload)
    elif kind == "logging":
        _replay_record(payload[0], payload[1], worker)
    else:
        _replay_text(getattr(sys, kind), *payload)


def _replay_text(stream: Any, data: str | bytes, flushed: bool) -> None:
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
