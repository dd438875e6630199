"""What a test says about itself: its clause of the contract, and what it asks of the executor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from anypool.backend import Traits

__all__ = ["CLAUSES", "FEATURES", "clause", "clause_of", "needs", "needs_of", "offers", "unmet"]

CLAUSES = (
    "values",
    "once",
    "any function",
    "lazy and bounded",
    "chunks are invisible",
    "the user's error is itself",
    "bad payloads",
    "lost workers",
    "time",
    "randomness",
    "output",
    "context",
    "progress and receipts",
    "nesting",
    "budget",
    "end",
    "futures",
    "configuration",
)
"""The clauses, in the order of the contract's table; the last two are what clients of executors rely on."""

FEATURES = {
    "any_function": "functions that a worker cannot import are sent",
    "lazy": "`map` reads its input as results are taken",
    "buffersize": "`map(buffersize=)`",
    "errors": "`map(errors='return')`",
    "unordered": "`map(ordered=False)`",
    "starmap": "`starmap`",
    "amap": "`amap`, a map for `async for`",
    "options": "`options(...)`, a view with other settings",
    "notes": "a failed call's exception has a note naming the call",
    "send_errors": "what cannot be sent is a `SendError`, of its own call only",
    "worker_lost": "a vanished worker is a `WorkerLost`",
    "initializer": "`initializer=` and `initargs=` of the executor",
    "configuration": "the backend can be chosen by a name and by the environment",
    "specification": "the executor pickles as its specification",
    "size_names": "the number of workers, under every name in use",
    "nesting": "`get_executor()` inside a call",
    "share": "`share` gives a handle on an object for all calls",
    "seed": "`seed=` gives each item its random stream",
    "progress": "`map(progress=)`, and `anypool.report` from inside of a call",
    "trace": "`map(trace=)`, and `report` of the executor",
    "relay": "prints, warnings and log records come home",
    "context": "context variables, filters and levels reach the call",
    "checked_arguments": "what is no function, and a chunk size below 1, is refused at once",
    "prompt_cancel": "those who wait for a call learn at once that it was cancelled",
    "retries": "`map(retries=)`",
    "on_lost": "`map(on_lost=)`",
    "call_timeout": "`map(call_timeout=)`",
    "cancel_running": "`cancel(future, running=True)`",
    "waiting_callbacks": "a callback of a future may wait for other calls",
    "forked_callers": "a child that the caller forks is told that the calls are its parent's",
    "finishes": "shutdown runs what a map over an input of known length has left",
}
"""What a test may ask for beyond ``submit``, ``map(timeout=, chunksize=)`` and ``shutdown`` of the stdlib."""

_TRAITS = frozenset(field.name for field in fields(Traits))

_F = TypeVar("_F", bound=Callable[..., Any])


def clause(name: str) -> Callable[[_F], _F]:
    """Mark a test, or a class of tests, with the clause of the contract that it checks.

    A test's own mark is stronger than that of its class.

    Raises
    ------
    ValueError
        No clause of that name.
    """
    if name not in CLAUSES:
        raise ValueError(f"no clause {name!r}; the clauses are {', '.join(CLAUSES)}")
    return _marked("_anypool_clause", name)


def needs(*features: str) -> Callable[[_F], _F]:
    """Mark a test as asking for `features`; an executor without one of them does not offer what it checks.

    Raises
    ------
    ValueError
        No feature of that name.
    """
    for feature in features:
        if feature not in FEATURES:
            raise ValueError(f"no feature {feature!r}; the features are {', '.join(FEATURES)}")
    return _marked("_anypool_needs", frozenset(features))


def offers(**traits: bool) -> Callable[[_F], _F]:
    """Mark a test as made for executors with these traits, as in ``@offers(shares_memory=False)``.

    Raises
    ------
    ValueError
        No trait of that name.
    """
    for trait in traits:
        if trait not in _TRAITS:
            raise ValueError(f"no trait {trait!r}; the traits are {', '.join(sorted(_TRAITS))}")
    return _marked("_anypool_offers", traits)


def _marked(attribute: str, value: object) -> Callable[[_F], _F]:
    def mark(test: _F) -> _F:
        setattr(test, attribute, value)
        return test

    return mark


def clause_of(test: object, cls: type | None = None) -> str | None:
    """The clause of a test: its own, or that of the class which defines it, or what it overrides."""
    own: str | None = getattr(test, "_anypool_clause", None)
    if own is not None or cls is None:
        return own
    name = getattr(test, "__name__", "")
    for each in cls.__mro__:
        if name in vars(each):
            # Not by getattr: a class inherits the marks of the clauses that it is made of.
            found = getattr(vars(each)[name], "_anypool_clause", None) or vars(each).get("_anypool_clause")
            if found is not None:
                return str(found)
    return None


def needs_of(test: object) -> frozenset[str]:
    """The features that a test asks for."""
    found: frozenset[str] = getattr(test, "_anypool_needs", frozenset())
    return found


def unmet(test: object, traits: Traits, features: frozenset[str]) -> str | None:
    """Why the executor does not offer what `test` checks; None if it does."""
    missing = sorted(needs_of(test) - features)
    if missing:
        return f"not offered: {', '.join(FEATURES[each] for each in missing)}"
    asked: dict[str, bool] = getattr(test, "_anypool_offers", {})
    for trait, value in asked.items():
        if bool(getattr(traits, trait)) is not value:
            return f"made for executors with {trait}={value}"
    return None
