"""Who watches a map, made from its settings. Loaded only where somebody does."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from anypool import _config
from anypool._current import running
from anypool._observe import Observer, Observers
from anypool._settings import Settings

if TYPE_CHECKING:
    from anypool._envelope import Notes, Observed
    from anypool._notes_inbox import Inbox
    from anypool._progress_meter import Display, Meter
    from anypool._trace import Run
    from anypool.backend import Backend, Traits

__all__ = ["kind_shown", "meter_parts", "observers", "path_of", "save_at_end"]


def observers(
    settings: Settings,
    backend: Backend,
    traits: Traits,
    *,
    name: str,
    total: int | None,
    workers: int,
    runs: list[Run],
    describe: Callable[[Any], str],
    arguments: Callable[[Any], Sequence[Any]],
) -> tuple[Observer | None, Observed | None]:
    """Who watches, and what the workers must do for it.

    Parameters
    ----------
    settings : Settings
        Of the map.
    backend, traits
        What runs it.
    name : str
        The function's.
    total : int, optional
        How many items there may be.
    workers : int
        How many calls run at once.
    runs : list of Run
        Gets the receipts, if they are wanted.
    describe, arguments : callable
        Of an item: its call in words, and the arguments of it.
    """
    found: list[Observer] = []
    notes = None
    kind = kind_shown(settings.progress)
    if kind is not False:
        meter, notes = _meter(kind, backend, traits, name, total)
        if meter is not None:
            found.append(meter)
    if settings.trace is not False:
        from anypool._trace import Recorder, Run

        run = Run(name=name, backend=backend.name, workers=workers)
        runs.append(run)
        found.append(Recorder(run, describe, arguments))
    if not found:
        return None, None
    return (found[0] if len(found) == 1 else Observers(*found)), (settings.trace is not False, notes)


def save_at_end(path: str, runs: list[Run]) -> None:
    """Save the report of `runs` in `path`; called when their executor has ended."""
    from anypool._report import report_of

    report_of(runs).save(path)


def path_of(trace: bool | str | os.PathLike[str]) -> str | None:
    """The file that is to be written at the end, if any; raises if it could not be.

    Raises
    ------
    ConfigError
        It is no path of a report.
    """
    if isinstance(trace, bool) or running.get() is not None:  # inside of a call, the file is the caller's
        return None
    from anypool._report import check_path

    check_path(trace)
    return os.path.abspath(trace)


def kind_shown(asked: bool | str | Callable[..., object]) -> bool | str | Callable[..., object]:
    """What is shown where code asks for `asked`.

    True leaves the kind to whoever runs the program. Inside of a call nothing is shown: its terminal is another one,
    or is in use by the display of the map that the call belongs to.
    """
    if asked is True:
        asked = next((wish for wish in _config.wishes("progress") if wish is not True), True)
    if asked in (False, "none") or (running.get() is not None and not callable(asked)):
        return False
    return asked


def meter_parts(
    kind: Any, backend: Backend, traits: Traits, name: str, total: int | None, on_line: Callable[[], object]
) -> tuple[Display, Inbox] | None:
    """A display of that kind, and where notes of calls for it arrive; None if nothing is shown."""
    from anypool._notes_inbox import Inbox
    from anypool._progress_displays import display_of

    display = display_of(kind, name, total)
    return None if display is None else (display, Inbox(backend, traits, on_line))


def _meter(
    kind: Any, backend: Backend, traits: Traits, name: str, total: int | None
) -> tuple[Meter | None, Notes | None]:
    from anypool._progress_meter import Meter

    found = meter_parts(kind, backend, traits, name, total, lambda: meter.note_is_here())
    if found is None:
        return None, None
    display, inbox = found
    meter = Meter(display, inbox.read, name=name, total=total, close=inbox.close)
    return meter, inbox.address
