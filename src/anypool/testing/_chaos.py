"""A backend that does to another one what bad days do: it delays, reorders, kills workers and repeats calls.

::

    submit ─held─▶ inner.submit ─▶ worker: dies before | runs | runs twice | dies after ─▶ reply ─held─▶ future

The contract allows each of these to happen, so a program that is right on the inner backend is right on this one: with
`kill` it asks for ``on_lost="retry"``, and with `repeat` its calls may run twice. What befalls the n-th call depends on
the seed and on n alone; when a `kill_every` strikes depends on the clock, too.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from anypool._bridge import settle
from anypool.backend import Backend, StopsCalls, Traits
from anypool.errors import ConfigError, ExecutorClosed
from anypool.testing._chaos_held import Clock, HeldFuture, Killer
from anypool.testing._chaos_worker import Call, Fate, suffer

__all__ = ["Chaos", "chaos"]


def chaos(
    backend: Any = None,
    /,
    *,
    seed: int = 0,
    delay: float = 0.005,
    reorder: bool = True,
    kill: float = 0.0,
    kill_every: float = 0.0,
    repeat: float = 0.0,
    **options: Any,
) -> Chaos:
    """A backend for `anypool.get_executor` that is `backend` on a bad day.

    Parameters
    ----------
    backend : str, mapping or backend class, optional
        As for `get_executor`; None: what the configuration says.
    seed : int
        The same seed does the same to the same calls.
    delay : float
        Each call is held back by up to so many seconds before it is sent, and its reply once more.
    reorder : bool
        Whether calls and replies overtake each other while they are held back.
    kill : float
        The probability that a call's worker is killed: before the call, during it, or after it, when it has run but
        has not replied.
    kill_every : float
        Seconds: workers that have run calls are killed from outside at random moments, so far apart on average.
    repeat : float
        The probability that a call is run twice, as a cluster does that makes up for a lost worker.
    **options
        Options of `backend`, such as `max_workers`.

    Raises
    ------
    ConfigError
        No such backend or option; a probability out of range; workers are to be killed that cannot be, since they
        run in the caller's process (when it starts: only then is it known).
    """
    from anypool import _config

    choice = _config.resolve(backend, options)
    kind = choice.backend if isinstance(choice.backend, type) else type(choice.backend)
    for name, value in (("kill", kill), ("repeat", repeat)):
        if not 0 <= value < 1:
            raise ConfigError(f"chaos: {name} is a probability below 1, not {value!r}")
    own = dict(choice.options)
    cls = StoppingChaos if issubclass(kind, StopsCalls) else Chaos
    return cls(
        of=kind,
        max_workers=own.pop("max_workers", None),
        of_options=own,
        dice=seed,
        delay=delay,
        reorder=reorder,
        kill=kill,
        kill_every=kill_every,
        repeat=repeat,
    )


@dataclass(kw_only=True)
class Chaos:
    """What `chaos` returns; its parameters are explained there. `dice` is the seed."""

    name: ClassVar[str] = "chaos"

    of: Any
    of_options: Mapping[str, Any] = field(default_factory=dict)
    max_workers: int | None = None
    dice: int = 0
    delay: float = 0.0
    reorder: bool = True
    kill: float = 0.0
    kill_every: float = 0.0
    repeat: float = 0.0

    def __post_init__(self) -> None:
        self._inner: Backend | None = None
        self._numbers = itertools.count()
        self._clock = Clock(self.reorder)
        self._killer = Killer(self.kill_every, self.dice)

    def start(self) -> tuple[int, Traits]:
        """Start the inner backend.

        Raises
        ------
        ConfigError
            It runs calls in the caller's process and is to be killed, or while the caller waits in `submit`.
        """
        options = dict(self.of_options)
        if self.max_workers is not None:
            options["max_workers"] = self.max_workers
        inner: Backend = self.of(**options)
        size, traits = inner.start()
        trouble = None
        if traits.synchronous:
            trouble = "runs each call before submit returns: there is nothing to delay or to reorder"
        elif traits.in_caller and (self.kill or self.kill_every):
            trouble = "runs calls in the caller's process: to kill a worker is to kill the caller"
        elif traits.remote and self.kill_every:
            trouble = "may have its workers on other machines: use kill, which strikes on the worker"
        if trouble is not None:
            inner.stop(cancel=True)
            raise ConfigError(f"chaos: backend {inner.name!r} {trouble}")
        self._inner = inner
        self._clock.start()
        self._killer.start()
        if self.repeat:  # on purpose: the second run is not to be refused
            traits = replace(traits, reruns_lost_calls=True, resends_lost_calls=False)
        return size, traits

    def submit(self, call: Call, payload: Any, /) -> Future[Any]:
        """Have the call run, sooner or later."""
        if self._inner is None:
            raise ExecutorClosed("the backend 'chaos' is not running")
        fate = self._fate(next(self._numbers))
        future = HeldFuture()
        self._clock.after(fate.waits, lambda: self._send(future, (fate, call, payload)))
        return future

    def _fate(self, number: int) -> Fate:
        """What befalls the `number`-th call, whenever and by whichever thread it is made."""
        dice = random.Random(f"{self.dice}/{number}")
        return Fate(
            waits=dice.uniform(0, self.delay),
            lingers=dice.uniform(0, self.delay),
            dies=dice.choice(["before", "during", "after"]) if dice.random() < self.kill else "",
            dies_after=dice.uniform(0, 0.02),
            repeats=dice.random() < self.repeat,
        )

    def _send(self, future: HeldFuture, task: tuple[Fate, Call, Any]) -> None:
        inner = self._inner
        assert inner is not None
        try:
            native = future.hand_over(lambda: inner.submit(suffer, task))
        except Exception as exc:
            settle(future, error=exc)
            return
        if native is not None:
            fate = task[0]
            again = (replace(fate, repeats=False), *task[1:]) if fate.repeats else None  # else it keeps the payload
            native.add_done_callback(lambda done: self._receive(future, fate, again, done))

    def _receive(
        self, future: HeldFuture, fate: Fate, again: tuple[Fate, Call, Any] | None, native: Future[Any]
    ) -> None:
        if native.cancelled():
            future.settle_cancelled()
            return
        future.replied()
        error, value = native.exception(), None
        if error is None:
            pid, value = native.result()
            self._killer.saw(pid)
            if again is not None:
                self._clock.after(fate.waits, lambda: self._send(future, again))
                return
        self._clock.after(fate.lingers, lambda: settle(future, value, error=error))

    def stop(self, *, cancel: bool) -> None:
        """Stop the inner backend and all that holds calls back."""
        self._killer.stop()
        if self._inner is not None:
            # What is held back goes its way first: a call that was not sent would never be answered.
            self._clock.stop()
            self._inner.stop(cancel=cancel)


class StoppingChaos(Chaos):
    """The same for a backend that can end one running call."""

    def stop_call(self, future: Future[Any], /) -> bool:
        """End the running call of `future`; False if it is held back, or had ended."""
        native = getattr(future, "native", None)
        return isinstance(self._inner, StopsCalls) and native is not None and self._inner.stop_call(native)
