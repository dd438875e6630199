"""What a call logs: tapped after the level, and handled by the caller's logger of that name."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from anypool._relay_events import lost, pickled, unpickled
from anypool._relay_hooks import Hook
from anypool._relay_owner import owner_of

__all__ = ["logging_tap", "replay_record"]

# A larger argument of a log call stays on the worker; the text made from it travels. `log.info("%s", array)`
# must not send the array.
_LARGEST_ARGUMENT = 16_384

_PLAIN = (str, int, float, bool, bytes, type(None))


def logging_tap() -> Hook:
    """The tap on `Logger.handle`, after the level and before the filters."""

    def wrap(handled_before: Callable[[logging.Logger, logging.LogRecord], None]) -> tuple[Any, Any]:
        def handle(self: logging.Logger, record: logging.LogRecord) -> None:
            if not _take_record(self, record):
                handled_before(self, record)

        return handle, handled_before

    return Hook(logging.Logger, "handle", wrap)


def _take_record(logger: logging.Logger, record: logging.LogRecord) -> bool:
    """Capture a record that passed the level. False if it is not a call's."""
    capture = owner_of("logging")
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
    sent_args = pickled(state.pop("args", None))
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
        sent = pickled(value)
        sendable.append((name, False, str(value)) if sent is None else (name, True, sent))
    return tuple(sendable)


def _rebuilt_record(sent: Iterable[tuple[str, bool, Any]]) -> logging.LogRecord:
    state = {name: unpickled(value) if is_pickled else value for name, is_pickled, value in sent}
    if state["args"] is lost or state["msg"] is lost:
        state["msg"], state["args"] = state["message"] or repr(lost), None
    del state["message"]  # a formatter's to set
    return logging.makeLogRecord({name: repr(value) if value is lost else value for name, value in state.items()})


def replay_record(logger: str | logging.Logger, record: Any, worker: str) -> None:
    if isinstance(logger, str):
        logger, record = logging.getLogger(logger), _rebuilt_record(record)
    # An executor inside a call replayed it before: its worker is the one where it happened.
    if not hasattr(record, "anypool_worker"):
        record.anypool_worker = worker
    logger.handle(record)
