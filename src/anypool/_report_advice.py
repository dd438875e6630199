"""One sentence of advice from where the time of the workers went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anypool._trace import Run

__all__ = ["advise", "shown_bytes", "shown_seconds"]

_GOOD = 0.85  # of the workers' time; above it there is little to gain
_COMPUTES = 0.5  # of a call's time on a CPU; below it, it mostly waits
_SHORT = 0.000_5  # seconds: calls that cost less than a tenth of sending one alone
_HEAVY = 100_000  # bytes a call: from here on the size matters more than the number

_GROUPS = {
    "sending": ("unpack", "sends", "travels"),
    "returning": ("pack", "receives"),
    "starting": ("starts",),
    "reading": ("reads",),
    "using": ("uses",),
    "ending": ("ends",),
    "between": ("between",),
}


def advise(runs: Sequence[Run], parts: Mapping[str, float]) -> str:
    """What would help most."""
    total = sum(parts.values())
    if not total or not any(run.chunks for run in runs):
        return "Nothing was recorded: ask for it with trace=True, and run a map or submit calls."
    if parts["run"] >= _GOOD * total:
        return _praise(runs, parts["run"] / total)
    groups = {name: sum(parts[part] for part in group) for name, group in _GROUPS.items()}
    worst = max(groups, key=lambda name: groups[name])
    return _ADVICE[worst](runs, f"{groups[worst] / total:.0%}")


def _praise(runs: Sequence[Run], efficiency: float) -> str:
    words = f"{efficiency:.0%} of the workers' time ran calls"
    seconds = sum(call.seconds for run in runs for _, _, call, _ in run.calls())
    cpu = sum(call.cpu_seconds for run in runs for _, _, call, _ in run.calls())
    if seconds and cpu < _COMPUTES * seconds:
        return f"{words}, which mostly waited (CPU {cpu / seconds:.0%}): more workers than CPUs would help, or threads."
    return f"{words}: only more workers or quicker calls would gain much."


def _on_sending(runs: Sequence[Run], share: str) -> str:
    count, sent = 0, 0
    for run in runs:
        for _, _, _, size in run.calls():
            count, sent = count + 1, sent + size
    place, part = _heaviest(runs)
    if place is not None and sent >= _HEAVY * count:
        words = f"{share} of the workers' time went into sending arguments, {part:.0%} of that argument {place}"
        if any(place in run.repeated for run in runs):
            return f"{words}, which is the same object in every call: share it, ex.share(...)."
        return f"{words} ({shown_bytes(sent / count)} a call): send what it is made from, or do more in a call."
    if sent >= _HEAVY * count:
        return (
            f"{share} of the workers' time went into sending arguments, {shown_bytes(sent / count)} a call: send less."
        )
    heavy = max(run.function_bytes for run in runs)
    if heavy >= _HEAVY:
        return (
            f"{share} of the workers' time went into sending; the function alone has {shown_bytes(heavy)}: "
            "share the data that it refers to, ex.share(...)."
        )
    return _on_short(runs, share, "into sending")


def _on_short(runs: Sequence[Run], share: str, what: str) -> str:
    calls = [call.seconds for run in runs for _, _, call, _ in run.calls()]
    mean = sum(calls) / len(calls)
    words = f"{share} of the workers' time went {what}; a call takes {shown_seconds(mean)}"
    longest = max(len(chunk.calls) for run in runs for chunk in run.chunks)
    if mean >= _SHORT:
        return f"{words}: do more in a call."
    if longest == 1 and all(run.is_submitted for run in runs):
        return f"{words}: use map, with which many travel together, or do more in a call."
    if longest == 1:
        return f"{words}: leave chunksize out, so that many travel together, or do more in a call."
    return f"{words}, too little for any pool: do more in a call, or run them by backend 'serial'."


def _heaviest(runs: Sequence[Run]) -> tuple[int | None, float]:
    weights: dict[int, int] = {}
    for run in runs:
        for place, sizes in run.weights.items():
            weights[place] = weights.get(place, 0) + sum(sizes)
    if not weights:
        return None, 0.0
    place = max(weights, key=lambda each: weights[each])
    return place, weights[place] / max(1, sum(weights.values()))


def _on_returning(runs: Sequence[Run], share: str) -> str:
    sizes = [call.received for run in runs for _, _, call, _ in run.calls()]
    mean = sum(sizes) / len(sizes)
    if mean < _HEAVY:
        return _on_short(runs, share, "into returning results")
    return (
        f"{share} of the workers' time went into returning results, {shown_bytes(mean)} a call: "
        "return less, such as a sum or a path."
    )


def _on_starting(runs: Sequence[Run], share: str) -> str:  # noqa: ARG001
    return (
        f"{share} of the workers' time went into the start of the workers: keep them for the next map, by one executor "
        "for all maps, or reuse=True."
    )


def _on_reading(runs: Sequence[Run], share: str) -> str:
    count = sum(len(chunk.calls) for run in runs for chunk in run.chunks)
    seconds = sum(each.end - each.begin for run in runs for each in run.caller if each.kind == "read")
    return (
        f"{share} of the workers' time was spent waiting for the input, which takes "
        f"{shown_seconds(seconds / count)} an item to read: read it inside of the calls."
    )


def _on_using(runs: Sequence[Run], share: str) -> str:
    if max(runs, key=lambda each: each.seconds).is_submitted:
        return (
            f"{share} of the workers' time passed while no more calls were submitted: submit the next ones before "
            "waiting for results, or use map."
        )
    return (
        f"{share} of the workers' time was spent waiting for the loop that uses the results: do that work inside of "
        "the calls, or raise buffersize."
    )


def _on_ending(runs: Sequence[Run], share: str) -> str:
    if all(len(chunk.calls) < 2 for run in runs for chunk in run.chunks) and all(
        sum(len(chunk.calls) for chunk in run.chunks) < run.workers for run in runs
    ):
        return f"{share} of the workers' time was not needed: there were fewer calls than workers."
    run = max(runs, key=lambda each: each.seconds)
    seconds, item, _ = max(run.slowest)
    return (
        f"{share} of the workers' time passed with nothing left to do, while the last calls ran (the slowest, item "
        f"{item}, took {shown_seconds(seconds)}): put long calls first, or split them."
    )


def _on_between(runs: Sequence[Run], share: str) -> str:
    return _on_short(runs, share, "between the calls of a chunk")


_ADVICE = {
    "sending": _on_sending,
    "returning": _on_returning,
    "starting": _on_starting,
    "reading": _on_reading,
    "using": _on_using,
    "ending": _on_ending,
    "between": _on_between,
}


def shown_seconds(seconds: float) -> str:
    """As ``"1.2 s"``, ``"35 ms"`` or ``"4 us"``."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}" if seconds < 1000 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds * 1e6:.3g} us"


def shown_bytes(size: float) -> str:
    """As ``"1.2 MB"``."""
    for unit, many in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= many:
            return f"{size / many:.3g} {unit}"
    return f"{size:.0f} B"
