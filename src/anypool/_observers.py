"""Who watches a map, made from its settings. Loaded only where somebody does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from anypool import _config
from anypool._current import running
from anypool._observe import Observer, Observers
from anypool._settings import Settings

if TYPE_CHECKING:
    from anypool._envelope import Notes, Observed
    from anypool._progress_meter import Meter
    from anypool.backend import Backend, Traits

__all__ = ["observers"]


def observers(
    settings: Settings, backend: Backend, traits: Traits, *, name: str, total: int | None
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
    """
    found: list[Observer] = []
    notes = None
    kind = _kind(settings.progress)
    if kind is not False:
        meter, notes = _meter(kind, backend, traits, name, total)
        if meter is not None:
            found.append(meter)
    if not found:
        return None, None
    return (found[0] if len(found) == 1 else Observers(*found)), (False, notes)


def _kind(asked: bool | str | Callable[..., object]) -> bool | str | Callable[..., object]:
    """What is shown where code asks for `asked`.

    True leaves the kind to whoever runs the program. Inside of a call nothing is shown: its terminal is another one,
    or is in use by the display of the map that the call belongs to.
    """
    if asked is True:
        asked = next((wish for wish in _config.wishes("progress") if wish is not True), True)
    if asked in (False, "none") or (running.get() is not None and not callable(asked)):
        return False
    return asked


def _meter(
    kind: Any, backend: Backend, traits: Traits, name: str, total: int | None
) -> tuple[Meter | None, Notes | None]:
    from anypool._notes_inbox import Inbox
    from anypool._progress_displays import display_of
    from anypool._progress_meter import Meter

    display = display_of(kind, name, total)
    if display is None:
        return None, None
    inbox = Inbox(backend, traits, lambda: meter.note_is_here())
    meter = Meter(display, inbox.read, name=name, total=total, close=inbox.close)
    return meter, inbox.address
