"""What the traced maps of an executor came to: numbers, a sentence of advice, and the pages made from them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from anypool._envelope import Worker
from anypool._report_advice import advise, shown_bytes, shown_seconds
from anypool._report_times import PARTS, parts_of
from anypool._trace import SLOWEST_KEPT
from anypool.errors import ConfigError

if TYPE_CHECKING:
    from anypool._trace import Run

__all__ = ["Receipt", "Report", "check_path", "report_of"]

_SLOWEST_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """What one call cost.

    Attributes
    ----------
    map : int
        Which of the traced maps, counted from 0. The submitted calls of an executor count as one.
    item : int
        Its index; of submitted calls, which one it was.
    worker : Worker
        Host, process and thread that ran it.
    started : float
        Seconds from the call of `map` until it ran.
    wait : float
        Seconds from when its chunk was ready to be packed until it ran.
    seconds : float
        How long it ran.
    cpu_seconds : float
        How much of that its thread had a CPU.
    bytes_sent, bytes_received : int
        Sizes of its argument and its result on their way; 0 where nothing travels.
    peak_memory : int or None
        The most memory, in bytes, that its process had while it ran, where the process is the pool's own; else the
        most that it ever had. None of calls that are too short to ask (2 ms).
    attempts : int
        How often it ran.
    error : str or None
        The class of what it raised at last.
    """

    map: int
    item: int
    worker: Worker
    started: float
    wait: float
    seconds: float
    cpu_seconds: float
    bytes_sent: int
    bytes_received: int
    peak_memory: int | None
    attempts: int = 1
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Report:
    """What the traced maps of an executor came to. ``print`` it, or `save` it.

    Attributes
    ----------
    calls, failed : int
        How many calls ran; how many of their items failed in the end.
    workers : int
        How many calls could run at once.
    seconds : float
        From the call of each map to its end, taken together.
    efficiency : float
        Part of the workers' time that ran calls, 0 to 1.
    overhead : float
        Seconds of worker time a call beyond the call itself.
    parts : mapping of str to float
        Where the workers' time went, in seconds.
    bytes_sent, bytes_received : int
        All that travelled.
    peak_memory : int or None
        Of the process that had the most, while a call ran.
    slowest : sequence of (seconds, item, call)
        The slowest calls, with their arguments.
    advice : str
        What would help most.
    """

    calls: int
    failed: int
    workers: int
    seconds: float
    efficiency: float
    overhead: float
    parts: Mapping[str, float]
    bytes_sent: int
    bytes_received: int
    peak_memory: int | None
    slowest: Sequence[tuple[float, int, str]]
    advice: str
    _runs: tuple[Run, ...] = field(repr=False)

    def receipts(self) -> Iterator[Receipt]:
        """Yield what each call cost, map by map, in the order in which their chunks came back."""
        for number, run in enumerate(self._runs):
            for item, chunk, call, sent in run.calls():
                yield Receipt(
                    map=number,
                    item=item,
                    worker=chunk.worker,
                    started=call.start - run.began,
                    wait=max(0.0, call.start - chunk.packed_at),
                    seconds=call.seconds,
                    cpu_seconds=call.cpu_seconds,
                    bytes_sent=sent,
                    bytes_received=call.received,
                    peak_memory=call.peak or None,
                    attempts=run.attempts.get(item, 1),
                    error=run.errors.get(item),
                )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file.

        Parameters
        ----------
        path : str or path
            ``.html``: a page that needs nothing else, with a timeline by worker. ``.json``: a trace that
            https://ui.perfetto.dev and Chrome's ``about:tracing`` open.

        Raises
        ------
        ConfigError
            Another ending.
        OSError
            It cannot be written.
        """
        check_path(path)
        if os.fspath(path).endswith(".json"):
            from anypool._report_chrome import as_trace_events

            text = as_trace_events(self._runs)
        else:
            from anypool._report_page import as_page

            text = as_page({each.name: getattr(self, each.name) for each in fields(self)}, self._runs)
        Path(path).write_text(text, encoding="utf-8")

    def __repr__(self) -> str:  # what a prompt and a notebook show, and so what `str` gives
        if not self.calls:
            return self.advice
        calls = _count(self.calls, "call") + (f", {self.failed} failed" if self.failed else "")
        without_receipt = self.failed - sum(each.error is not None for each in self.receipts()) if self.failed else 0
        if without_receipt:
            calls += f" ({without_receipt} of them not sent, or lost)"
        lines = [
            f"{calls} in {shown_seconds(self.seconds)} on {_count(self.workers, 'worker')}: "
            f"efficiency {self.efficiency:.0%}, overhead {shown_seconds(self.overhead)} a call",
            f"sent {shown_bytes(self.bytes_sent)}, received {shown_bytes(self.bytes_received)}"
            + (f", peak memory {shown_bytes(self.peak_memory)}" if self.peak_memory else ""),
            "",
            "the workers' time",
            *_shares(self.parts),
            "",
            "the slowest calls",
            *(
                f"  {shown_seconds(seconds):>8}  item {item}: {call}"
                for seconds, item, call in self.slowest[:_SLOWEST_SHOWN]
            ),
            "",
            self.advice,
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """For notebooks."""
        from html import escape

        return f"<pre>{escape(str(self))}</pre>"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _shares(parts: Mapping[str, float]) -> list[str]:
    total = sum(parts.values()) or 1.0
    shown = sorted(parts.items(), key=lambda part: -part[1])
    return [f"  {seconds / total:4.0%}  {PARTS[name]}" for name, seconds in shown if seconds >= 0.005 * total]


def report_of(runs: Sequence[Run]) -> Report:
    """The report of these maps."""
    parts = dict.fromkeys(PARTS, 0.0)
    calls = sent = received = peak = 0
    slowest: list[tuple[float, int, str]] = []
    for run in runs:
        for name, seconds in parts_of(run).items():
            parts[name] += seconds
        for _, _, call, size in run.calls():
            calls, sent, received, peak = calls + 1, sent + size, received + call.received, max(peak, call.peak)
        slowest += run.slowest
    total = sum(parts.values())
    return Report(
        calls=calls,
        failed=sum(len(run.errors) for run in runs),
        workers=max((run.workers for run in runs), default=0),
        seconds=sum(run.seconds for run in runs),
        efficiency=parts["run"] / total if total else 0.0,
        overhead=(total - parts["run"]) / calls if calls else 0.0,
        parts=parts,
        bytes_sent=sent,
        bytes_received=received,
        peak_memory=peak or None,
        slowest=sorted(slowest, key=lambda each: -each[0])[:SLOWEST_KEPT],
        advice=advise(runs, parts),
        _runs=tuple(runs),
    )


def check_path(path: str | os.PathLike[str]) -> None:
    """Raise unless a report can be saved there: before the work, not after it.

    Raises
    ------
    ConfigError
        The ending is neither ``.html`` nor ``.json``, or there is no such directory.
    """
    written = Path(path)
    if written.suffix not in (".html", ".json"):
        raise ConfigError(f"a report is saved as .html or .json, not as {os.fspath(path)!r}")
    if not written.parent.is_dir():
        raise ConfigError(f"there is no directory {str(written.parent)!r} to save a report in")
