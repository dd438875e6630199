"""The job of each map and of each submitted call: what its chunks need besides items, packed once where that can be."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from anypool import _packing, _wire
from anypool._context import capture_context
from anypool._current import running
from anypool._envelope import Initializer, Job, Surroundings
from anypool._inner_threads import DEFAULT_INNER_THREADS
from anypool._relay_settings import RelaySettings
from anypool._seeds import as_seed
from anypool.errors import SendError

if TYPE_CHECKING:
    from anypool._context_snapshot import ContextSnapshot
    from anypool._dispatch import Dispatcher
    from anypool._settings import Settings
    from anypool.backend import Traits

__all__ = ["Jobs"]


class Jobs:
    """Makes the jobs of one executor, or of a view of it.

    Parameters
    ----------
    settings : Settings
        Of the executor, or of the view.
    dispatcher : Dispatcher
        Its backend, and where large buffers go.
    of : Jobs, optional
        Those of the executor that this is a view of.
    """

    def __init__(self, settings: Settings, dispatcher: Dispatcher, of: Jobs | None = None) -> None:
        self._settings = settings
        self._dispatcher = dispatcher
        self._key: str = os.urandom(16).hex() if of is None else of._key
        self._count: itertools.count[int] = itertools.count() if of is None else of._count
        self._around: Surroundings | None = None
        self._packed_around: tuple[Surroundings, bytes] | None = None
        self._last_call: tuple[Job, bytes | None] | None = None
        is_same = (
            of is not None
            and of._settings.initializer is settings.initializer
            and of._settings.initargs is settings.initargs
        )
        self._initialized: Initializer | None = None
        self._initialized_by = of if is_same else None  # or a worker would run it once for each view

    def for_map(
        self, fn: Callable[..., Any], style: Literal["one", "star"], traits: Traits, *, keep_going: bool = False
    ) -> Job:
        """The job of one map.

        Raises
        ------
        SendError
            `fn`, or the initializer, cannot be sent.
        """
        sent_fn = self._packed_function(fn, traits)
        # After the function is packed: that tells which context variables it refers to.
        around = self._surroundings(traits)
        return Job(
            key=self._next_key(),
            fn=sent_fn,
            style=style,
            keep_going=keep_going,
            around=around,
            initializer=self._initializer(traits),
        )

    def for_call(self, fn: Callable[..., Any], traits: Traits) -> tuple[Job, bytes | None]:
        """The job of one submitted call, and its head; the last again, if it is the same.

        Raises
        ------
        SendError
            As for a map.
        """
        sent_fn = self._packed_function(fn, traits)
        around = self._surroundings(traits)
        last = self._last_call
        if last is not None and last[0].around is around and last[0].fn == sent_fn:
            return last
        initializer = self._initializer(traits)
        job = Job(key="", fn=sent_fn, style="call", keep_going=False, around=around, initializer=initializer)
        made = (job, self.pack_head(job, traits))
        # Nothing of the caller's is kept alive, or compared.
        self._last_call = made if _packing.is_small(sent_fn) else None
        return made

    def _packed_function(self, fn: Callable[..., Any], traits: Traits) -> Callable[..., Any] | _wire.Parcel:
        if traits.shares_memory:
            return fn
        by_name = _wire.dumps_by_name(fn)
        if by_name is not None:
            return by_name
        stores = self._dispatcher.stores
        sent_fn = _wire.to_parcel(fn, stores.store_function if stores else None)
        if type(sent_fn) is not bytes or len(sent_fn) >= _wire.LARGE_FUNCTION:
            from anypool import _large_functions

            _large_functions.warn_of(fn, sent_fn)
        return sent_fn

    def _surroundings(self, traits: Traits) -> Surroundings:
        """What is the same for all calls while nothing changes around them; then the same object again."""
        names = self._settings.environment
        context = capture_context(names, dumps=_wire.dumps, shares_memory=traits.shares_memory)
        parent = running.get()
        depth = 1 + (parent.job.around.depth if parent else 0)
        last = self._around
        if last is not None and last.context is context and last.depth == depth:
            return last
        if last is None:
            around = self._first_surroundings(traits, context, depth)
        else:
            around = replace(last, key=self._next_key(), context=context, depth=depth)
        self._around = around
        return around

    def _first_surroundings(self, traits: Traits, context: ContextSnapshot, depth: int) -> Surroundings:
        settings = self._settings
        return Surroundings(
            key=self._next_key(),
            backend=self._dispatcher.backend.name,
            exclusive=not traits.concurrent_in_process,
            in_caller=traits.in_caller,
            remote=traits.remote,
            depth=depth,
            nested=tuple(settings.nested),
            seed=None if settings.seed is None else as_seed(settings.seed),
            inner_threads=settings.inner_threads or DEFAULT_INNER_THREADS,
            context=context,
            relay=_relay_settings(settings, traits),
        )

    def _next_key(self) -> str:
        return f"{self._key}-{next(self._count)}"

    def pack_head(self, job: Job, traits: Traits) -> bytes | None:
        """What is the same for all envelopes of `job`; None where calls share the memory."""
        if traits.shares_memory:
            return None
        around, last = job.around, self._packed_around
        if last is None or last[0] is not around:
            self._packed_around = last = (around, _packing.pack_surroundings(around))
        return _packing.pack_head(job, last[1], keeps_buffers=self._dispatcher.stores is not None)

    def _initializer(self, traits: Traits) -> Initializer | None:
        """What runs first on each worker; packed, and stored if it is large, once for all workers and calls."""
        settings = self._settings
        if settings.initializer is None:
            return None
        if self._initialized_by is not None:
            return self._initialized_by._initializer(traits)
        if self._initialized is None:
            call = (settings.initializer, tuple(settings.initargs))
            if traits.shares_memory:
                self._initialized = Initializer(key=self._next_key(), call=call)
            else:
                stores = self._dispatcher.stores
                try:
                    parcel = _wire.to_parcel(call, stores.store_function if stores else None)
                except SendError as exc:
                    raise SendError(f"the initializer: {exc}") from exc
                self._initialized = Initializer(key=self._next_key(), parcel=parcel)
        return self._initialized


def _relay_settings(settings: Settings, traits: Traits) -> RelaySettings | None:
    relay = replace(
        RelaySettings.of(settings.relay),
        exclusive=not (traits.concurrent_in_process or traits.in_caller),
        in_caller=traits.shares_memory and settings.journal is None,  # else it must be plain data
    )
    return relay if relay.relayed else None
