"""Functions that calls run, which a worker can import. Each does one thing that a test needs done."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from anypool.testing._effects import Gate, Tally

__all__ = [
    "Account",
    "Pair",
    "TwoArgumentsError",
    "add",
    "append_and_count",
    "arguments",
    "die_if",
    "double",
    "fail_at",
    "fork_and_die",
    "identity",
    "kill_self_if",
    "mark",
    "mark_and_wait",
    "raise_it",
    "run_program",
    "type_name",
    "wait_at",
    "where",
]


def identity(value: Any) -> Any:
    """The argument itself."""
    return value


def type_name(value: Any) -> str:
    """The name of the argument's type."""
    return type(value).__name__


def double(value: Any) -> Any:
    """Twice the argument."""
    return value * 2


def add(first: Any, second: Any, third: Any = 0) -> Any:
    """The sum."""
    return first + second + third


def arguments(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What arrived."""
    return args, kwargs


def where(_: Any = None) -> int:
    """The process that runs the call."""
    return os.getpid()


def mark(tally: Tally, label: Any) -> Any:
    """Leave a mark; return the label."""
    tally.mark(label)
    return label


def wait_at(gate: Gate, value: Any) -> Any:
    """Return the value when the gate is open."""
    gate.wait()
    return value


def mark_and_wait(tally: Tally, gate: Gate, label: Any) -> Any:
    """Leave a mark, then return the label when the gate is open."""
    tally.mark(label)
    gate.wait()
    return label


def fail_at(failing: tuple[int, ...], item: int) -> int:
    """Twice the item; `LookupError` for those that are to fail."""
    if item in failing:
        raise LookupError(item, f"no {item}")
    return item * 2


def raise_it(exc: BaseException) -> None:
    """Raise the argument."""
    raise exc


def append_and_count(values: list[Any]) -> int:
    """Change the argument; return what its length is then."""
    values.append(None)
    return len(values)


def die_if(value: Any, fatal: Any) -> Any:
    """The value; for the fatal one, end this process without a word."""
    if value == fatal:
        os._exit(3)
    return value


def kill_self_if(value: Any, fatal: Any) -> Any:
    """The value; for the fatal one, end this process as the out-of-memory killer would."""
    if value == fatal:
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    return value


_OUTLIVES = 200
"""Seconds that a process lives which nobody ends: longer than a test looks at it, and not for ever."""


def fork_and_die(path: Path) -> None:
    """Fork a child, which has all that this process has open; write down which, and be killed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from Python 3.12 on, where the worker has threads
        child = os.fork()
    if child == 0:
        time.sleep(_OUTLIVES)
        os._exit(0)
    path.write_text(str(child))
    os.kill(os.getpid(), signal.SIGKILL)


def run_program(path: Path) -> None:
    """Wait for a program that waits for another one; write down which they are."""
    words = f"sleep {_OUTLIVES} & echo $$ $! > '{path}.new' && mv '{path}.new' '{path}'; wait"
    subprocess.run(["sh", "-c", words], check=False)


class TwoArgumentsError(Exception):
    """Pickles well and cannot be rebuilt by pickle: its `__init__` needs more than `args` has."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class Pair(NamedTuple):
    """A value of a class that a worker can import."""

    left: Any
    right: Any


class Account:
    """A callable with state, and methods to bind."""

    def __init__(self, balance: int) -> None:
        self.balance = balance

    def __call__(self, amount: int) -> int:
        return self.balance + amount

    def times(self, factor: int) -> int:
        """A bound method's call."""
        return self.balance * factor

    @classmethod
    def opening(cls, balance: int) -> int:
        """A class method's call."""
        return cls(balance)(1)

    @staticmethod
    def negative(value: int) -> int:
        """A static method's call."""
        return -value
