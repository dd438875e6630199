"""How progress is shown: tqdm, rich, a notebook's bar, a line of text, the log, or somebody's own callable."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from anypool._progress import Progress
from anypool._progress_meter import Display
from anypool.errors import MissingExtra

__all__ = ["KINDS", "display_of"]

_TERMINAL_EVERY = 0.1
_FILE_EVERY = 10.0  # where each state is a line that stays
_NOTES_IN_A_LINE = 2
_BAR_WIDTH = 24


def display_of(kind: str | bool | Callable[..., object], name: str, total: int | None) -> Display | None:
    """The display of that kind; None: nothing is shown.

    Raises
    ------
    MissingExtra
        Its library is not installed.
    """
    if callable(kind):
        return _Called(kind)
    if kind is True:
        kind = _best()
    make = KINDS["none" if kind is False else kind]
    return None if make is None else make(name, total)


def _best() -> str:
    if _in_notebook() and _has("tqdm") and _has("ipywidgets"):
        return "notebook"
    return "tqdm" if _has("tqdm") else "rich" if _has("rich") else "text"


def _has(module: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(module) is not None
    except ValueError:  # loaded, but made by hand and without a spec
        return True


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return type(shell).__name__ == "ZMQInteractiveShell"


def _needs(kind: str, *modules: str) -> None:
    for module in modules:
        if not _has(module):
            raise MissingExtra(
                f"progress {kind!r} needs: pip install 'anypool[progress]' ({module!r} is not installed)", name=module
            )


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # none at all, as under pythonw; or closed
        return False


def _notes_in_a_line(progress: Progress) -> str:
    return "; ".join(map(str, progress.notes[:_NOTES_IN_A_LINE]))


# --- a callable ---------------------------------------------------------------------------------------


class _Called:
    """Calls somebody's function."""

    every = _TERMINAL_EVERY
    beats = False

    def __init__(self, call: Callable[[Progress], object]) -> None:
        self._call = call

    def show(self, progress: Progress) -> None:
        self._call(progress)

    def aside(self) -> AbstractContextManager[object]:
        return nullcontext()


# --- tqdm ---------------------------------------------------------------------------------------------


class _Tqdm:
    """A bar of tqdm, on stderr or in a notebook. tqdm places several below each other."""

    beats = True

    def __init__(self, make: Any, name: str, total: int | None, *, is_terminal: bool) -> None:
        class Bar(make):  # type: ignore[misc]
            monitor_interval = 0  # no thread that looks after it: the map does

        self._is_terminal = is_terminal
        self.every = _TERMINAL_EVERY if is_terminal else _FILE_EVERY
        self._bar = Bar(total=total, desc=name, unit="item", mininterval=0, miniters=0, dynamic_ncols=True)

    def show(self, progress: Progress) -> None:
        bar = self._bar
        if progress.total != bar.total:
            bar.total = progress.total
        failed = f"{progress.failed} failed" if progress.failed else ""
        bar.set_postfix_str("; ".join(filter(None, (failed, _notes_in_a_line(progress)))), refresh=False)
        if not bar.update(progress.done - bar.n):
            bar.refresh()
        if progress.is_over:
            bar.close()

    @contextmanager
    def aside(self) -> Iterator[None]:
        if not self._is_terminal:
            yield
            return
        self._bar.clear()
        try:
            yield
        finally:
            self._bar.refresh()


def _tqdm(name: str, total: int | None) -> Display:
    _needs("tqdm", "tqdm")
    from tqdm.std import tqdm

    return _Tqdm(tqdm, name, total, is_terminal=_is_terminal(sys.stderr))


def _notebook(name: str, total: int | None) -> Display:
    _needs("notebook", "tqdm", "ipywidgets")
    from tqdm.notebook import tqdm

    return _Tqdm(tqdm, name, total, is_terminal=True)


# --- rich ---------------------------------------------------------------------------------------------


class _Rich:
    """A line in the live display that all maps of this process share: a terminal has room for one."""

    every = _TERMINAL_EVERY
    beats = True

    def __init__(self, name: str, total: int | None) -> None:
        self._task = _rich_live.add(name, total)

    def show(self, progress: Progress) -> None:
        failed = f"[red]{progress.failed} failed[/]" if progress.failed else ""
        _rich_live.update(self._task, progress, failed)
        if progress.is_over:
            _rich_live.remove(self._task)

    def aside(self) -> AbstractContextManager[object]:
        return _rich_live.aside()


class _RichLive:
    """The live display: there while a map of this process is shown by it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._bars: Any = None
        self._open: set[Any] = set()

    def add(self, name: str, total: int | None) -> Any:
        from rich.markup import escape

        with self._lock:
            if self._bars is None:
                self._bars = _rich_bars()
                self._bars.start()
            task = self._bars.add_task(escape(name), total=total, failed="", notes="")
            self._open.add(task)
            return task

    def update(self, task: Any, progress: Progress, failed: str) -> None:
        from rich.markup import escape

        notes = escape(_notes_in_a_line(progress))
        with self._lock:
            self._bars.update(task, completed=progress.done, total=progress.total, failed=failed, notes=notes)
            self._bars.refresh()

    def remove(self, task: Any) -> None:
        with self._lock:
            self._bars.stop_task(task)
            self._open.discard(task)
            if not self._open:
                bars, self._bars = self._bars, None
                bars.stop()

    @contextmanager
    def aside(self) -> Iterator[None]:
        # Not by rich's own redirection, which would send what is for stdout to stderr, where the bars are.
        with self._lock:
            if self._bars is None or not self._bars.console.is_terminal:
                yield
                return
            live = self._bars.live
            live.transient = True
            live.stop()
            live.transient = False
            try:
                yield
            finally:
                live.start(refresh=True)


_rich_live = _RichLive()


def _rich_bars() -> Any:
    from rich import progress as rich
    from rich.console import Console

    return rich.Progress(
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TaskProgressColumn(show_speed=True),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[failed]}"),
        rich.TextColumn("[dim]{task.fields[notes]}"),
        console=Console(stderr=True),
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )


def _rich(name: str, total: int | None) -> Display:
    _needs("rich", "rich")
    return _Rich(name, total)


# --- a line of text -----------------------------------------------------------------------------------


class _Text:
    """One line on stderr, written over on a terminal; elsewhere a line every ten seconds, and the last."""

    beats = True

    def __init__(self) -> None:
        self._stream = sys.stderr
        self._is_terminal = _is_terminal(self._stream)
        self.every = _TERMINAL_EVERY if self._is_terminal else _FILE_EVERY
        self._line = ""

    def show(self, progress: Progress) -> None:
        if self._stream is None:  # as under pythonw
            return
        line = _line_of(progress)
        if self._is_terminal:
            line = line[: shutil.get_terminal_size().columns - 1]
        if not self._is_terminal:
            if progress.done or progress.is_over:
                self._write(f"{line}\n")
            return
        self._write(f"\r{line}{' ' * (len(self._line) - len(line))}" + ("\n" if progress.is_over else ""))
        self._line = line

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    @contextmanager
    def aside(self) -> Iterator[None]:
        if not self._is_terminal or not self._line:
            yield
            return
        self._write(f"\r{' ' * len(self._line)}\r")
        try:
            yield
        finally:
            self._write(self._line)


def _line_of(progress: Progress) -> str:
    done, total = progress.done, progress.total
    parts = [f"{progress.name}: {done}" if total is None else f"{progress.name}: {done} of {total} items"]
    if total:
        full = min(_BAR_WIDTH, _BAR_WIDTH * done // total)
        parts = [f"{parts[0]} [{'#' * full}{'.' * (_BAR_WIDTH - full)}] {done / total:.0%}"]
    if progress.elapsed > 0 and done:
        parts.append(f"{done / progress.elapsed:.3g} a second")
    left = None if progress.is_over else progress.left
    parts.append(f"{_clock(progress.elapsed)}" if left is None else f"{_clock(left)} left")
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    if notes := _notes_in_a_line(progress):
        parts.append(notes)
    return ", ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


# --- the log ------------------------------------------------------------------------------------------


class _Log:
    """Records of the logger ``anypool.progress``, one every ten seconds, and the last."""

    every = _FILE_EVERY
    beats = True

    def __init__(self) -> None:
        self._logger = logging.getLogger("anypool.progress")

    def show(self, progress: Progress) -> None:
        if progress.done or progress.is_over:
            self._logger.info("%s", _line_of(progress))

    def aside(self) -> AbstractContextManager[object]:
        return contextlib.nullcontext()


KINDS: dict[str, Callable[[str, int | None], Display] | None] = {
    "tqdm": _tqdm,
    "rich": _rich,
    "notebook": _notebook,
    "text": lambda _name, _total: _Text(),
    "log": lambda _name, _total: _Log(),
    "none": None,
}
"""What a display may be called, and what makes it."""
