"""Whether a function is portable: on a sample of its input, does it do the same on every backend, and if not why?

::

    sample ─┬─► serial, watched ────► what should come, per item; what each call touches
            ├─► the same again ─────► determinism           ┐
            ├─► serial, strict ─────► what cannot be sent   ├─ each held against the first, item by item
            ├─► serial, reversed ───► order                 │
            └─► each other backend ─► value, error, output ┘
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import copy_context
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Literal, TypeAlias

from anypool import _config, _wire
from anypool._compare import choose_backends
from anypool._executor import PoolExecutor, get_executor
from anypool._identity import first_difference, short
from anypool._relay import Capture, RelaySettings
from anypool._seeds import Seed, as_seed, enter_call
from anypool._seeds_globals import seed_globals
from anypool._watch import Watched
from anypool.errors import BackendError, ConfigError, NotPortable, SendError, WorkerLost

__all__ = ["Finding", "Kind", "Verification", "verify", "verify_calls"]

Kind: TypeAlias = Literal[
    "determinism",
    "random",
    "state",
    "argument",
    "order",
    "send",
    "error",
    "value",
    "output",
    "backend",
    "alias",
]

_SERIAL, _STRICT = "serial", "serial?strict=true"
_END = object()

ADVICE: dict[Kind, str] = {
    "determinism": "let it depend on its arguments alone: pass in the time, the id, the state that it looks up, and "
    "draw random numbers from anypool.rng() with seed=",
    "random": "draw from anypool.rng() or anypool.random() instead, and give the executor a seed=; where calls run "
    "in threads, nothing can seed a global generator for one of them",
    "state": "return what the caller needs instead of storing it: another process has state of its own, and threads "
    "share it in any order; set up what all calls need with initializer=",
    "argument": "work on a copy, and return it: where memory is not shared, the caller never sees the change, and "
    "where it is shared, other calls do",
    "order": "let no call need what an earlier one left behind: the order and the place of calls are the backend's",
    "send": "make it inside the call, or in initializer=; or pass what it can be made from",
    "error": "look at what the call needs there: files, modules, environment, memory, threads",
    "value": "look for what differs there: process, thread, modules, environment, numbers of inner threads; pass it "
    "as an argument instead",
    "output": "print, warn and log in the call itself, by way of sys.stdout, sys.stderr, warnings and logging",
    "backend": "see what the backend says; `anypool backends --start` tells whether it runs at all",
    "alias": "return a copy if the caller may change the result or the argument",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is not the same everywhere.

    Parameters
    ----------
    kind : str
        `determinism`, two runs on `serial` differ; `random`, draws from a global generator; `state`, changes what
        outlives the call; `argument`, changes its argument; `order`, differs when run in reversed order; `send`,
        cannot be sent to or from a worker; `error`, `value`, `output`, differs from `serial`; `backend`, the
        backend failed; `alias`, returns a part of its argument.
    backend : str
        Where it was seen.
    item : int or None
        The index in the input of the first item of which it holds; None where it is of no one item.
    what : str
        What happened, in a line.
    advice : str
        What to change.
    """

    kind: Kind
    backend: str
    item: int | None
    what: str
    advice: str

    @property
    def is_note(self) -> bool:
        """Whether results, errors and output are the same in spite of it: it only matters to who changes them."""
        return self.kind == "alias"


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Verification:
    """Whether a function is portable. ``str()`` of it is a report.

    Parameters
    ----------
    function : str
        Its name.
    items : tuple of int
        The indices of the sample in the input.
    total : int or None
        How long the input is; None where that is not known.
    backends : tuple of str
        Where the sample ran, `serial` first.
    findings : tuple of Finding
        Causes before consequences.
    left_out : tuple of (str, str)
        Backends that are not installed, and what they need.
    """

    function: str
    items: tuple[int, ...]
    total: int | None
    backends: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def portable(self) -> bool:
        """Whether the sample did the same everywhere, and touched nothing on the way."""
        return all(finding.is_note for finding in self.findings)

    def require_portable(self) -> None:
        """Return if the function is portable.

        Raises
        ------
        NotPortable
            It is not; the message is the report.
        """
        if not self.portable:
            raise NotPortable(str(self))

    def __repr__(self) -> str:  # what a prompt and a notebook show, and so what `str` gives
        return self.render()

    def render(self, width: int | None = None) -> str:
        """Return the report, no line longer than `width` columns; None: as long as it gets."""
        verdict = "is portable" if self.portable else "is not portable"
        total = "" if self.total is None or self.total == len(self.items) else f" of {self.total}"
        items = f"{len(self.items)}{total} item{'s' * (len(self.items) != 1)}"
        lines = [f"{self.function} {verdict}: {items} on {', '.join(self.backends)}"]
        for same in _grouped(self.findings):
            first = same[0]
            place = "" if first.item is None else f"item {first.item}, "
            note = "note, " if first.is_note else ""
            where = ", ".join(dict.fromkeys(each.backend for each in same))
            lines += ["", f"{note}{first.kind} ({place}{where}): {first.what}", f"    {first.advice}"]
        lines += [f"left out: {reason}" for _, reason in self.left_out]
        return "\n".join(_wrapped(lines, width))

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it."""
        return {
            "function": self.function,
            "portable": self.portable,
            "items": list(self.items),
            "total": self.total,
            "backends": list(self.backends),
            "findings": [{**asdict(each), "is_note": each.is_note} for each in self.findings],
            "left_out": [{"backend": name, "reason": reason} for name, reason in self.left_out],
        }


def verify(
    fn: Callable[..., Any],
    /,
    *iterables: Iterable[Any],
    backends: Iterable[str] | None = None,
    sample: int = 20,
    seed: int = 0,
    max_workers: int = 2,
) -> Verification:
    """Return whether `fn` does the same on every backend; where it does not, why, and what to change.

    Compared item by item with `serial`: results, errors (by class and arguments), and what is printed, warned and
    logged. Watched on `serial`: changed arguments, draws from the global generators of `random` and `numpy`, and
    changes to what outlives a call, which are the globals of its module, its closure, defaults and object, the
    environment, the working directory, `sys.path` and the locale. Then it runs again, and in reversed order with
    everything sent through the wire. Times are not compared. What the calls print is dropped.

    Parameters
    ----------
    fn : callable
        Called with one item of each iterable, about five times and once more on each backend: let it do nothing
        that must not be repeated. A call that ends its process, or never ends, does so here too.
    *iterables : iterable
        Of sequences the sample is spread evenly, first and last item included; of others it is the first items.
        Each run gets a copy of its own; of what cannot be pickled it gets the originals.
    backends : iterable of str, optional
        Names, aliases or URLs; `serial` is always among them. Default: every backend that is installed.
    sample : int
        At most so many items, >= 1.
    seed : int
        The `seed=` of every run, so that `anypool.rng()` draws the same numbers everywhere.
    max_workers : int
        Workers of each backend, >= 1.

    Raises
    ------
    ConfigError
        A backend or an option that cannot be; no items, of which everything would hold.
    MissingExtra
        One of `backends` is not installed.

    Examples
    --------
    >>> verify(abs, [-1, 2], backends=["threads"]).portable
    True
    >>> collected = []
    >>> print(verify(collected.append, [1, 2], backends=["threads"]).findings[0].what)
    the list that list.append is a method of was changed: was 0 items, is 1: [] and [1]
    """
    if sample < 1:
        raise ConfigError(f"sample must be 1 or more, not {sample}")
    indices, calls, total = _sample(iterables, sample)
    return _verify(fn, indices, calls, total, backends, seed, max_workers)


def verify_calls(
    fn: Callable[..., Any],
    calls: Sequence[tuple[Any, ...]],
    *,
    backends: Iterable[str] | None = None,
    sample: int = 20,
    seed: int = 0,
    max_workers: int = 2,
) -> Verification:
    """Do as `verify`, with the arguments of each call in a tuple."""
    if sample < 1:
        raise ConfigError(f"sample must be 1 or more, not {sample}")
    indices = _spread(len(calls), sample)
    return _verify(fn, indices, [calls[i] for i in indices], len(calls), backends, seed, max_workers)


def _verify(
    fn: Callable[..., Any],
    indices: list[int],
    calls: list[tuple[Any, ...]],
    total: int | None,
    backends: Iterable[str] | None,
    seed: int,
    max_workers: int,
) -> Verification:
    if not callable(fn):
        raise ConfigError(f"a function is needed to verify, not {short(fn)}")
    if not calls:
        raise ConfigError("there are no items: nothing to verify")
    options: dict[str, Any] = {"reuse": False, "seed": seed, "max_workers": max_workers}
    _config.resolve(_SERIAL, options)
    chosen, left_out = choose_backends(backends, options)
    trial = _Trial(fn, indices, calls, options)
    trial.on_serial()
    for spec in chosen:
        trial.on(spec)
    order = list(ADVICE)
    return Verification(
        function=getattr(fn, "__qualname__", None) or type(fn).__qualname__,
        items=tuple(indices),
        total=total,
        backends=(_SERIAL, *chosen),
        findings=tuple(sorted(trial.findings, key=lambda finding: order.index(finding.kind))),
        left_out=tuple(left_out),
    )


# --- the sample ---------------------------------------------------------------------------------------------


def _sample(iterables: tuple[Iterable[Any], ...], size: int) -> tuple[list[int], list[tuple[Any, ...]], int | None]:
    """Return the indices, the calls, and how many there would be."""
    if iterables and all(isinstance(each, Sequence) for each in iterables):
        total = min(len(each) for each in iterables)  # type: ignore[arg-type]
        indices = _spread(total, size)
        return indices, [tuple(each[i] for each in iterables) for i in indices], total  # type: ignore[index]
    calls = list(islice(zip(*iterables, strict=False), size))
    return list(range(len(calls))), calls, None


def _spread(total: int, size: int) -> list[int]:
    """Return at most `size` indices below `total`, evenly spread, the first and the last among them."""
    if total <= size:
        return list(range(total))
    return [0] if size == 1 else [i * (total - 1) // (size - 1) for i in range(size)]


class _Copies:
    """The calls of the sample, new for each run: what one changes spoils no other."""

    def __init__(self, calls: list[tuple[Any, ...]]) -> None:
        self._kept = [_packed(call) for call in calls]

    def fresh(self) -> list[tuple[Any, ...]]:
        return [_wire.loads(each) if isinstance(each, bytes) else each for each in self._kept]


def _packed(call: tuple[Any, ...]) -> bytes | tuple[Any, ...]:
    try:
        data = _wire.dumps(call)
        _wire.loads(data)
    except SendError:
        return call
    return data


# --- the runs -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Outcome:
    """What came of each item of a run, in the order of the sample: the value or error, and the output."""

    values: list[Any]
    outputs: list[tuple[Any, ...]]


class _InPlace:
    """Calls `fn` with the random numbers of the item whose index comes first, wherever it stands in the input."""

    def __init__(self, fn: Callable[..., Any], seed: Seed) -> None:
        self._fn = fn
        self._seed = seed

    def __call__(self, index: int, *args: Any) -> Any:
        enter_call(self._seed, index)
        with seed_globals(self._seed, index):
            return self._fn(*args)


class _Trial:
    """The sample, what `serial` made of it, and what was found wherever else it ran."""

    def __init__(
        self, fn: Callable[..., Any], indices: list[int], calls: list[tuple[Any, ...]], options: dict[str, Any]
    ) -> None:
        self.findings: list[Finding] = []
        self._fn = fn
        self._indices = indices
        self._copies = _Copies(calls)
        self._options = options
        self._expected = _Outcome(values=[], outputs=[])
        self._settled: set[int] = set()  # items that differ on serial itself: to compare them tells nothing new

    def on_serial(self) -> None:
        """Run it here in each way that needs no other backend; the first sets what is expected."""
        # The watched run is the first: what a function stores only once, it stores here.
        watched = Watched(self._fn)
        self._expected = self._run(_SERIAL, watched, self._copies.fresh())
        watched.begin()
        again = self._run(_SERIAL, watched, self._copies.fresh())
        for touch in watched.touches:
            self._find(touch.kind, _SERIAL, touch.item, touch.what)
        strict = self._attempt(_STRICT)
        if strict is not None:
            # What cannot be sent can rarely be compared: that it is not the same twice would be no news.
            self._settled |= {item for item, value in enumerate(strict.values) if isinstance(value, SendError)}
        self._settled |= self._compare(_SERIAL, again, "determinism")
        if strict is not None:
            self._settled |= self._compare(_STRICT, strict)
        # What cannot be sent has been told; the order is then tried without sending.
        self._reversed(_SERIAL if strict is None else _STRICT)

    def on(self, spec: str) -> None:
        """Run it on one backend, and hold that against what is expected."""
        outcome = self._attempt(spec)
        if outcome is not None:
            self._compare(spec, outcome)

    def _attempt(self, spec: str) -> _Outcome | None:
        """Run it on one backend; None, and a finding, if that fails as a whole."""
        try:
            return self._run(spec, self._fn, self._copies.fresh())
        except SendError as exc:
            self._find("send", spec, None, str(exc))
        except Exception as exc:
            # Not swallowed but the answer: this backend cannot run these calls. A third party's may raise anything.
            self._find("backend", spec, None, f"{type(exc).__name__}: {' '.join(str(exc).split())}")
        return None

    def _reversed(self, spec: str) -> None:
        calls = [(index, *call) for index, call in enumerate(self._copies.fresh())]
        outcome = self._run(spec, _InPlace(self._fn, as_seed(self._options["seed"])), calls[::-1])
        ordered = _Outcome(values=outcome.values[::-1], outputs=outcome.outputs[::-1])
        self._compare(spec, ordered, "order", unsent=False)

    def _run(self, spec: str, fn: Callable[..., Any], calls: list[tuple[Any, ...]]) -> _Outcome:
        with get_executor(spec, **self._options) as ex:
            return _observe(ex, fn, calls)

    def _compare(self, spec: str, outcome: _Outcome, kind: Kind | None = None, *, unsent: bool = True) -> set[int]:
        """Hold a run against what is expected; tell the first item of each kind of difference.

        Of an item that could not be sent that is told, unless `unsent` is false, and nothing else.
        """
        found: dict[Kind, list[tuple[int, str]]] = {}
        for item in range(len(self._indices)):
            expected, got = self._expected.values[item], outcome.values[item]
            if isinstance(got, SendError) and not isinstance(expected, SendError):
                if unsent:
                    found.setdefault("send", []).append((item, str(got)))
            elif item not in self._settled:
                for each, what in self._differences(item, outcome):
                    found.setdefault(kind or each, []).append((item, what))
        for each, places in found.items():
            item, what = places[0]
            others = len({place for place, _ in places} - {item})
            more = f" (and {others} more item{'s' * (others != 1)})" if others else ""
            self._find(each, spec, item, what + more)
        return {item for places in found.values() for item, _ in places}

    def _differences(self, item: int, outcome: _Outcome) -> Iterator[tuple[Kind, str]]:
        expected, got = self._expected.values[item], outcome.values[item]
        where = first_difference(expected, got)
        if where is not None:
            failed = isinstance(expected, BaseException) or isinstance(got, BaseException)
            is_pools = isinstance(got, BackendError) and not isinstance(got, WorkerLost)
            yield (
                ("backend", short(str(got)))
                if is_pools
                else ("error", _error_told(expected, got, where))
                if failed
                else ("value", where)
            )
        if self._expected.outputs[item] != outcome.outputs[item]:
            yield "output", _output_told(self._expected.outputs[item], outcome.outputs[item])

    def _find(self, kind: Kind, backend: str, item: int | None, what: str) -> None:
        index = None if item is None else self._indices[item]
        self.findings.append(Finding(kind=kind, backend=backend, item=index, what=what, advice=ADVICE[kind]))


def _observe(ex: PoolExecutor, fn: Callable[..., Any], calls: list[tuple[Any, ...]]) -> _Outcome:
    """Run the calls, and see what the caller would: a result, and before it what the call put out."""
    values: list[Any] = []
    context = copy_context()
    # In a context of its own, so that what is put out beside, by other threads of the caller, is not taken.
    with Capture(RelaySettings(in_caller=True), values.__len__) as capture:
        capture.bind(context)
        results = context.run(ex.starmap, fn, calls, errors="return")
        while True:
            value = context.run(next, results, _END)
            if value is _END:
                break
            # A Ctrl-C that met a call in the caller's own process. To go on would be to ignore it.
            if isinstance(value, KeyboardInterrupt):
                raise value
            values.append(value)
    outputs: list[list[Any]] = [[] for _ in calls]
    for event in capture.events:
        if event[0] < len(outputs):  # what comes after the last result is no item's
            outputs[event[0]] += _said(event)
    return _Outcome(values=values, outputs=[tuple(each) for each in outputs])


def _said(event: tuple[Any, ...]) -> list[tuple[str, ...]]:
    """What of an event must be the same everywhere; a mere flush is nothing."""
    match event:
        case (_, "warnings", categories, text, *_):
            return [("a warning", categories[0].replace(":", "."), text)]
        case (_, "logging", logger, record):
            return [("a log record", logger.name, record.levelname, record.getMessage())]
        case (_, kind, text, _):
            return [(kind, text)] if text else []
    raise AssertionError(event)


# --- in words -----------------------------------------------------------------------------------------------


def _error_told(expected: Any, got: Any, where: str) -> str:
    if isinstance(expected, BaseException) and isinstance(got, BaseException):
        return f"raised another error: {where}"
    if isinstance(got, BaseException):
        return f"raised {type(got).__qualname__}: {short(str(got))}, where {_SERIAL} gave {short(expected)}"
    return f"gave {short(got)}, where {_SERIAL} raised {type(expected).__qualname__}: {short(str(expected))}"


def _output_told(expected: tuple[Any, ...], got: tuple[Any, ...]) -> str:
    """The first piece of output that differs."""
    place = next(
        (i for i, (one, other) in enumerate(zip(expected, got, strict=False)) if one != other),
        min(len(expected), len(got)),
    )
    one, other = (" ".join(map(short, each[place])) if place < len(each) else "nothing" for each in (expected, got))
    return f"put out {other}, where it should be {one}"


def _grouped(findings: Iterable[Finding]) -> Iterable[list[Finding]]:
    """The findings that say the same of several backends, together."""
    groups: dict[tuple[Any, ...], list[Finding]] = {}
    for each in findings:
        groups.setdefault((each.kind, each.item, each.what), []).append(each)
    return groups.values()


def _wrapped(lines: Iterable[str], width: int | None) -> Iterator[str]:
    for line in lines:
        if width is None or len(line) <= width:
            yield line
        else:
            yield from textwrap.wrap(line, width, subsequent_indent="    ")
