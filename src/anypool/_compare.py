"""The same calls on several backends, held against `serial`: is every result the same, and what does it cost?"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from statistics import median
from time import perf_counter
from typing import Any

from anypool import _config, _registry, _wire
from anypool._executor import PoolExecutor, get_executor
from anypool._identity import first_difference, short
from anypool._table import table
from anypool.errors import ConfigError, MissingExtra, SendError

__all__ = ["Compared", "Comparison", "Difference", "choose_backends", "compare", "compare_calls"]

_REFERENCE = "serial"
_COLUMNS = ("backend", "workers", "first map", "warm map", "speed-up", "overhead", "results")
_NOTHING = object()


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """The first item of which a backend gave another result than `serial`.

    Parameters
    ----------
    item : int
        Its index in the input.
    expected, got : str
        What `serial` gave and what the backend gave, short.
    where : str
        The part of the result that differs, and how.
    """

    item: int
    expected: str
    got: str
    where: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """What one backend did with the calls.

    Parameters
    ----------
    backend : str
        As it was asked for.
    workers : int or None
        How many it had; None, as the times, if it did not finish.
    first : float or None
        Seconds of the first map, with the start of the workers.
    warm : float or None
        Seconds of another map on the same workers: the median, where there were several.
    speedup : float or None
        How many times shorter its warm map is than that of `serial`.
    overhead : float or None
        Seconds per item that the warm map took beyond a perfect split of `serial`'s time over the workers.
        Below zero is noise. Too few CPUs, or one lock for all threads, are overhead like any other.
    difference : Difference or None
        The first result that is not that of `serial`, in whichever of its maps.
    error : str or None
        What ended its maps. An error that a call raised is a result, not this.
    """

    backend: str
    workers: int | None = None
    first: float | None = None
    warm: float | None = None
    speedup: float | None = None
    overhead: float | None = None
    difference: Difference | None = None
    error: str | None = None

    @property
    def identical(self) -> bool:
        """Whether it ended, with every result that of `serial`."""
        return self.difference is None and self.error is None


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Comparison:
    """One function on several backends. ``str()`` of it is a table.

    Parameters
    ----------
    function : str
        The name of the function.
    items : int
        The number of calls in each map.
    repeat : int
        The number of warm maps.
    rows : tuple of Compared
        `serial` first. If it differs from itself, the function's results depend on more than its arguments.
    left_out : tuple of (str, str)
        Backends that are not installed, and what they need.
    """

    function: str
    items: int
    repeat: int
    rows: tuple[Compared, ...]
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def identical(self) -> bool:
        """Whether every backend gave every result that `serial` gave."""
        return all(row.identical for row in self.rows)

    def __repr__(self) -> str:  # what a prompt and a notebook show, and so what `str` gives
        return self.render()

    def render(self, width: int | None = None) -> str:
        """Return the table for a terminal of `width` columns; None: as wide as it gets."""
        numbers = {"workers", "first map", "warm map", "speed-up", "overhead"}
        lines = [
            f"{self.function} on {self.items} item{'s' * (self.items != 1)}",
            table(_COLUMNS, [_cells(row) for row in self.rows], width=width, right=numbers),
        ]
        lines += [f"left out: {reason}" for _, reason in self.left_out]
        for row in self.rows:
            lines += _findings(row)
        return "\n".join(lines)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the times as bars into an SVG file, which any browser shows.

        Raises
        ------
        ValueError
            The name of the file does not end in ``.svg``.
        """
        from anypool._compare_plot import bars

        if not os.fspath(path).lower().endswith(".svg"):
            raise ValueError(f"the bars are an SVG file: {os.fspath(path)!r} must end in '.svg'")
        title = f"{self.function} on {self.items} item{'s' * (self.items != 1)}"
        rows = [(row.backend, row.first, row.warm, _remark(row)) for row in self.rows]
        with open(path, "w", encoding="utf-8") as file:
            file.write(bars(title, rows))

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it; times are in seconds."""
        return {
            "function": self.function,
            "items": self.items,
            "repeat": self.repeat,
            "identical": self.identical,
            "rows": [_plain(row) for row in self.rows],
            "left_out": [{"backend": name, "reason": reason} for name, reason in self.left_out],
        }


def _remark(row: Compared) -> str:
    if row.error is not None:
        return "failed"
    return "" if row.identical else "results differ"


def compare(
    fn: Callable[..., Any],
    /,
    *iterables: Iterable[Any],
    backends: Iterable[str] | None = None,
    max_workers: int | None = None,
    repeat: int = 1,
    seed: int | None = None,
) -> Comparison:
    """Return whether ``fn`` gives the same results on every backend, and how long each one takes.

    Parameters
    ----------
    fn : callable
        Called with one item of each iterable. An error that it raises is a result, and is compared too.
    *iterables : iterable
        Read to the end of the shortest before anything starts. Each map gets a copy of its own, so that calls
        which change their arguments do not spoil the next map; of what cannot be pickled it gets the originals.
    backends : iterable of str, optional
        Names, aliases or URLs; `serial` is always among them. Default: every backend that is installed.
    max_workers : int, optional
        Workers of each backend. Default: what each takes by itself.
    repeat : int
        Warm maps of each backend, >= 1. Every one of them is compared.
    seed : int, optional
        As for `get_executor`; a function that draws random numbers without one differs, rightly.

    Raises
    ------
    ConfigError
        A backend or an option that cannot be; no items, which would be identical whatever happens.
    MissingExtra
        One of `backends` is not installed.

    Notes
    -----
    `anypool._identity.first_difference` says what "the same" means. The other settings are those that
    configuration says, except that no workers are reused.

    Examples
    --------
    >>> compare(abs, [-1, 2], backends=["threads"]).identical
    True
    """
    calls = list(zip(*iterables, strict=False))
    return compare_calls(fn, calls, backends=backends, max_workers=max_workers, repeat=repeat, seed=seed)


def compare_calls(
    fn: Callable[..., Any],
    calls: Sequence[tuple[Any, ...]],
    *,
    backends: Iterable[str] | None = None,
    max_workers: int | None = None,
    repeat: int = 1,
    seed: int | None = None,
) -> Comparison:
    """Do as `compare`, with the arguments of each call in a tuple."""
    if not callable(fn):
        raise ConfigError(f"a function is needed to compare, not {short(fn)}")
    if not calls:
        raise ConfigError("there are no items: nothing to compare")
    if repeat < 1:
        raise ConfigError(f"repeat must be 1 or more, not {repeat}")
    options: dict[str, Any] = {"reuse": False, **({} if seed is None else {"seed": seed})}
    _config.resolve(_REFERENCE, options)
    chosen, left_out = choose_backends(backends, options)
    if max_workers is not None:
        options["max_workers"] = max_workers
        _config.resolve(_REFERENCE, options)
    trial = _Trial(fn, calls, repeat, options)
    rows = [trial.reference(), *(trial.on(spec) for spec in chosen)]
    name = getattr(fn, "__qualname__", None) or type(fn).__qualname__
    return Comparison(function=name, items=len(calls), repeat=repeat, rows=tuple(rows), left_out=tuple(left_out))


def choose_backends(backends: Iterable[str] | None, options: dict[str, Any]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the backends to hold against `serial`, and those that are not installed with what they need.

    Raises
    ------
    ConfigError, MissingExtra
        One that was asked for by name cannot be started with these options.
    """
    if backends is None:
        return _installed()
    specs = list(backends)
    for spec in specs:
        _config.resolve(spec, options)
    return [spec for spec in specs if _registry.canonical(spec) != _REFERENCE], []


def _installed() -> tuple[list[str], list[tuple[str, str]]]:
    chosen: list[str] = []
    left_out: list[tuple[str, str]] = []
    for name in _registry.backend_names():
        try:
            _registry.find(name)
        except MissingExtra as exc:
            left_out.append((name, str(exc)))
        except Exception:  # what is installed but broken says so in its row, when it is tried
            chosen.append(name)
        else:
            chosen.append(name)
    return [name for name in chosen if name != _REFERENCE], left_out


class _Trial:
    """The calls, what `serial` made of them, and one backend after the other that tries them."""

    def __init__(
        self, fn: Callable[..., Any], calls: Sequence[tuple[Any, ...]], repeat: int, options: dict[str, Any]
    ) -> None:
        self._fn = fn
        self._calls = calls
        self._repeat = repeat
        self._options = options
        self._expected: list[Any] | None = None
        self._serial_warm = 0.0
        try:
            self._packed: bytes | None = _wire.dumps(list(calls))
        except SendError:
            self._packed = None  # said in the docstring of `compare`: the originals then

    def reference(self) -> Compared:
        row = self._run(_REFERENCE)
        assert row.warm is not None
        self._serial_warm = row.warm
        return self._rated(row)

    def on(self, spec: str) -> Compared:
        try:
            return self._rated(self._run(spec))
        except Exception as exc:
            # Not swallowed but the answer: this backend cannot run these calls. A third party's may raise anything.
            text = " ".join(str(exc).split())
            return Compared(backend=spec, error=f"{type(exc).__name__}: {text}")

    def _run(self, spec: str) -> Compared:
        calls = self._fresh_calls()
        began = perf_counter()
        with get_executor(spec, **self._options) as ex:
            results = self._map(ex, calls)
            first = perf_counter() - began
            if self._expected is None:
                self._expected = results
            difference = _first_differing(self._expected, results)
            warm = []
            for _ in range(self._repeat):
                calls = self._fresh_calls()
                began = perf_counter()
                results = self._map(ex, calls)
                warm.append(perf_counter() - began)
                difference = difference or _first_differing(self._expected, results)
            workers = ex.max_workers
        return Compared(backend=spec, workers=workers, first=first, warm=median(warm), difference=difference)

    def _map(self, ex: PoolExecutor, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        results: list[Any] = []
        if all(len(call) == 1 for call in calls):
            mapped = ex.map(self._fn, [call[0] for call in calls], errors="return")
        else:
            mapped = ex.starmap(self._fn, calls, errors="return")
        for value in mapped:
            # A Ctrl-C that met a call in the caller's own process. To go on would be to ignore it.
            if isinstance(value, KeyboardInterrupt):
                raise value
            results.append(value)
        return results

    def _fresh_calls(self) -> Sequence[tuple[Any, ...]]:
        if self._packed is None:
            return self._calls
        fresh: list[tuple[Any, ...]] = _wire.loads(self._packed)
        return fresh

    def _rated(self, row: Compared) -> Compared:
        assert row.workers is not None
        assert row.warm is not None
        items = len(self._calls)
        perfect = self._serial_warm / min(row.workers, items)
        return Compared(
            backend=row.backend,
            workers=row.workers,
            first=row.first,
            warm=row.warm,
            speedup=self._serial_warm / max(row.warm, 1e-9),  # clocks of some systems tick slowly
            overhead=(row.warm - perfect) / items,
            difference=row.difference,
        )


def _first_differing(expected: list[Any], results: list[Any]) -> Difference | None:
    for index, (one, other) in enumerate(zip_longest(expected, results, fillvalue=_NOTHING)):
        if one is _NOTHING or other is _NOTHING:
            where = f"expected {len(expected)} results, got {len(results)}"
        else:
            found = first_difference(one, other)
            if found is None:
                continue
            where = found
        return Difference(item=index, expected=_value(one), got=_value(other), where=where)
    return None


def _value(value: Any) -> str:
    return "nothing" if value is _NOTHING else f"{short(value)} ({type(value).__qualname__})"


def _findings(row: Compared) -> list[str]:
    if row.error is not None:
        return [f"{row.backend} failed: {row.error}"]
    if row.difference is None:
        return []
    itself = row.backend == _REFERENCE
    return [
        f"item {row.difference.item} on {row.backend}: {row.difference.where}",
        f"  {_REFERENCE} gave {row.difference.expected}",
        f"  {row.backend} gave {row.difference.got}{', another time' * itself}",
        *["  so it depends on more than its arguments; random numbers need a seed"] * itself,
    ]


def _cells(row: Compared) -> list[str]:
    # Short, so that the table fits 80 columns; the rest is told below it.
    verdict = "identical"
    if row.error is not None:
        verdict = "failed"
    elif row.difference is not None:
        verdict = f"item {row.difference.item} differs"
    return [
        row.backend,
        "-" if row.workers is None else str(row.workers),
        _duration(row.first),
        _duration(row.warm),
        "-" if row.speedup is None else f"{row.speedup:.2f}x",
        "-" if row.overhead is None else f"{_duration(row.overhead)}/item",
        verdict,
    ]


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if abs(seconds) * factor >= 1:
            return f"{seconds * factor:.3g} {unit}" if abs(seconds) < 1000 else f"{seconds:.0f} s"
    return f"{seconds * 1e6:.3g} us"


def _plain(row: Compared) -> dict[str, Any]:
    differs = row.difference
    return {
        "backend": row.backend,
        "workers": row.workers,
        "first": row.first,
        "warm": row.warm,
        "speedup": row.speedup,
        "overhead": row.overhead,
        "identical": row.identical,
        "difference": None
        if differs is None
        else {"item": differs.item, "expected": differs.expected, "got": differs.got, "where": differs.where},
        "error": row.error,
    }
