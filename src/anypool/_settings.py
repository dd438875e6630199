"""The settings of every executor: what the core does, whichever backend runs the calls."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Literal

from anypool._retry import Retry
from anypool._seeds import Seed

__all__ = ["GENERAL", "POSITIVE", "SETTINGS", "Settings"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What the core does with every call of one executor. None of it reaches a backend.

    Parameters
    ----------
    relay : bool, "relay", "live", "off" or mapping
        Bring prints, warnings and log records of a call home, and replay them in input order. A mapping says it for
        each of ``"stdout"``, ``"stderr"``, ``"warnings"``, ``"logging"``: "live" passes it on where it runs.
    initializer : callable or None
        Run once on each worker, before its first call; in configuration ``"module:function"``.
    initargs : tuple
        The positional arguments of `initializer`.
    seed : int, Seed or None
        Item *i* of a map, and the *i*-th submitted call, draws from ``SeedSequence(seed, spawn_key=(i,))``. Sequences
        of int and `numpy.random.SeedSequence` are taken too. None declares no use of random numbers.
    chunksize : int or None
        Items sent to a worker at a time, >= 1. None adapts it to how long the calls take.
    buffersize : int or None
        Items read ahead of the one that was asked for, >= 1. None takes a few per worker.
    timeout : float or None
        Seconds from the call of a map until its last result, None for no limit.
    retries : int, Retry, mapping or None
        How often a call that raised runs again, with the same random numbers; a policy, or a mapping of its fields.
    on_lost : "raise" or "retry"
        What becomes of a call whose worker died: it fails with `WorkerLost`; or it runs again, up to three times.
    call_timeout : float or None
        Seconds that one call may run, counted on its worker; then it is stopped and fails with `CallTimeout`. Where
        a running call cannot be stopped, asking for it is an error (`Unsupported`).
    journal : str or path or None
        A file that keeps what each finished item of a map came to; a map that was interrupted goes on from it.
    progress : bool, "tqdm", "rich", "notebook", "text", "log", "none" or callable
        Show how many items of a map are done: True as whoever runs the program likes it best; or call this with an
        `anypool.Progress`.
    trace : bool, str or path
        Keep a receipt of each item for `report`; saved there at the end, if it is a path.
    inner_threads : int or None
        Threads that BLAS and OpenMP may use inside one call, >= 1. None means 1, on every backend, so that
        sums agree to the last bit.
    environment : tuple of str
        Names of environment variables whose values here hold for the calls, in processes that run nothing else.
    reuse : bool
        Keep the workers after the executor is left, for the next one of the same choice.
    nested : tuple of backend specs
        What an executor opened inside a call gets, one entry per depth; the last one stands for
        every depth below it. ``("serial",)`` because a pool inside a pool is rarely meant.
    """

    relay: bool | Literal["relay", "live", "off"] | Mapping[str, str] = True
    initializer: Callable[..., object] | None = None
    initargs: tuple[object, ...] = ()
    seed: int | Seed | None = None
    chunksize: int | None = None
    buffersize: int | None = None
    timeout: float | None = None
    retries: int | Retry | Mapping[str, object] | None = None
    on_lost: Literal["raise", "retry"] = "raise"
    call_timeout: float | None = None
    journal: str | os.PathLike[str] | None = None
    progress: bool | Literal["tqdm", "rich", "notebook", "text", "log", "none"] | Callable[..., object] = False
    trace: bool | str | os.PathLike[str] = False
    inner_threads: int | None = None
    environment: tuple[str, ...] = ()
    reuse: bool = False
    nested: tuple[object, ...] = ("serial",)


SETTINGS = tuple(field.name for field in fields(Settings))
"""The names of all settings. No backend may have an option of one of these names."""

GENERAL = ("max_workers", *SETTINGS)
"""What means the same on every backend, so that it may be set without naming one."""

POSITIVE = frozenset({"max_workers", "chunksize", "buffersize", "inner_threads"})
"""What must be 1 or more where it is given."""
