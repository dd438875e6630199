"""What people hold: one executor, whatever runs the calls."""

from __future__ import annotations

import itertools
import reprlib
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor as _StdlibExecutor
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import fields, replace
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeVar, final, runtime_checkable

from anypool import _config
from anypool._attempts import Attempts
from anypool._call_text import add_note, name_of, on_worker, short_call
from anypool._current import running
from anypool._dispatch import Dispatcher
from anypool._envelope import Job, Reply
from anypool._futures import CallFuture, Calls, CallTask, Shelf
from anypool._jobs import Jobs
from anypool._map import Map
from anypool._retry import as_retry
from anypool._seeds import as_seed
from anypool._settings import Settings
from anypool._weight import AT_HAND
from anypool.errors import AnypoolError, ConfigError, SendError

if TYPE_CHECKING:
    import os
    from types import TracebackType
    from typing import Self

    from anypool._as_pool_view import PoolView
    from anypool._as_runner import Runner
    from anypool._observe import Observer
    from anypool._report import Report
    from anypool._retry import Retry
    from anypool._share import Shared
    from anypool._submitted import Submitted
    from anypool._trace import Run
    from anypool.backend import Backend, Traits

__all__ = ["Executor", "PoolExecutor", "get_executor"]


class _Unset:
    def __repr__(self) -> str:
        return "<from settings>"


_UNSET: Final = _Unset()
_T = TypeVar("_T")


@runtime_checkable
class Executor(Protocol):
    """What library code should ask for: annotate with it, take ``executor: Executor | None = None``.

    Any `concurrent.futures.Executor` is one.
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Schedule ``fn(*args, **kwargs)``; return its future."""
        ...

    def map(self, fn: Callable[..., Any], /, *iterables: Iterable[Any], timeout: float | None = None) -> Iterator[Any]:
        """The results of ``fn`` for each item, in order."""
        ...

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the executor."""
        ...


def get_executor(backend: Any = None, /, *, max_workers: int | None = None, **options: Any) -> PoolExecutor:
    """An executor on the backend that was asked for, or that the configuration says, started.

    Parameters
    ----------
    backend : str, mapping, Backend or backend class, optional
        A name (``"loky"``), a URL (``"dask://host:8786"``, ``"loky?max_workers=4"``), a mapping with the key
        ``"backend"``, a backend. None: `use`, the environment, a file, then ``processes`` decide; inside a call, the
        plan for nested levels, then ``serial``.
    max_workers : int, optional
        How many calls run at once, >= 1. Default: what the CPU budget allows (`available_cpus`).
    **options
        Options of the backend, and settings (`anypool.Settings`).

    Returns
    -------
    PoolExecutor
        A `concurrent.futures.Executor`. Use it in a ``with`` block: it is gone at its end.

    Raises
    ------
    ConfigError
        The choice cannot be carried out as written: a typo, a wrong type, an unknown option.
    MissingExtra
        The backend's library is not installed.
    StartError
        The backend does not start, or does not answer.

    Examples
    --------
    >>> import anypool
    >>> with anypool.get_executor("serial") as ex:
    ...     list(ex.map(pow, [2, 3, 4], [5, 2, 3]))
    [32, 9, 64]
    """
    executor = PoolExecutor(backend, max_workers=max_workers, **options)
    executor._dispatcher.start()
    return executor


@final
class PoolExecutor(_StdlibExecutor):
    """A `concurrent.futures.Executor` on any backend; it starts with its first use.

    Made by `get_executor`, which also starts it. The parameters are the same. It pickles as its specification,
    never as its live pool: the copy starts workers of its own when it is first used.
    """

    def __init__(self, backend: Any = None, /, *, max_workers: int | None = None, **options: Any) -> None:
        if max_workers is not None:
            options["max_workers"] = max_workers
        _accept_seed(options)
        if backend is None:
            backend = _nested_backend()
        try:
            choice = _config.resolve(backend, options)
            created = choice.create()
        except AnypoolError as exc:
            exc.__traceback__ = None  # the way through our files is nothing to whoever wrote it
            raise
        self._set_up(created, choice.settings)

    def _set_up(self, backend: Backend, settings: Settings) -> None:
        self._backend = backend
        self._settings = settings
        self._shelf = Shelf()
        self._runs: list[Run] = []  # what was traced
        self._saved_in: set[str] = set()
        self._watches: dict[Any, Submitted] = {}  # of submitted calls
        self._at_end: list[Callable[[], object]] = [self._shelf.show_all]
        end = partial(_call_all, self._at_end)
        self._dispatcher = Dispatcher(_leased(backend) if settings.reuse else backend, at_end=end)
        self._jobs = Jobs(settings, self._dispatcher)
        self._submitted = itertools.count()
        self._calls = self._calls_of(settings)
        # An executor that nobody shut down ends when nobody can use it any more.
        self._finalizer = weakref.finalize(self, self._dispatcher.shutdown, wait=False)
        # The registry of finalizers holds the dispatcher, an error of which may hold frames that hold this executor.
        self._at_end.append(self._finalizer.detach)
        self._finalizer.atexit = False  # the dispatchers that run at exit are finished together, and waited for

    def _calls_of(self, settings: Settings) -> Calls:
        attempts = Attempts(as_retry(settings.retries), settings.on_lost)
        is_watched = settings.progress is not False or settings.trace is not False
        return Calls(self._dispatcher, self._shelf, attempts, limit=settings.call_timeout, is_watched=is_watched)

    # --- calls ----------------------------------------------------------------------------------------

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> CallFuture:
        """Schedule ``fn(*args, **kwargs)``. Every keyword reaches `fn`; for settings see `options`.

        Returns
        -------
        concurrent.futures.Future
            A call that cannot be sent has a future with `SendError`.

        Raises
        ------
        TypeError
            `fn` is not callable.
        ExecutorClosed
            After `shutdown`.
        """
        _check_callable(fn)
        traits = self._start()
        if self._calls.limit is not None:
            self._dispatcher.check_stops_calls()
        future = CallFuture()
        index = next(self._submitted)  # the n-th call has the n-th stream of a seed
        watch, began = None, 0.0
        if self._calls.is_watched:
            began = perf_counter()
            watch = self._watch_submitted(traits)
        call = (args, kwargs)
        try:
            job, head = self._jobs.for_call(fn, traits)
        except SendError as exc:
            if watch is not None:
                future._watched = watch.add(name_of(fn), index, call, None, began)
            future.set_running_or_notify_cancel()
            future.set_exception(exc.with_traceback(None))
            return future
        if watch is None:
            self._dispatcher.submit(CallTask(self._calls, job, head, index, fn, call, future))
            return future
        job = replace(job, observed=watch.observed)
        task = CallTask(self._calls, job, self._jobs.pack_head(job, traits), index, fn, call, future)
        future._watched = watch.add(name_of(fn), index, call, task.payload, began)
        try:
            self._dispatcher.submit(task)
        except BaseException:  # it was shut down meanwhile, or Ctrl-C: nobody gets the future
            if future._watched is not None:
                future._watched.gone(None)
            raise
        return future

    def _watch_submitted(self, traits: Traits) -> Submitted:
        """Who watches submitted calls."""
        from anypool._submitted import Submitted, key_of

        settings = self._settings
        # Before what saves the report.
        at_end = partial(self._at_end.insert, 1)
        watch = self._watches.setdefault(key_of(settings), Submitted(settings, self._runs, at_end))
        watch.begin(self._native_backend, traits, self.max_workers)
        self._save_at_end()
        return watch

    def cancel(self, future: Future[Any], /, *, running: bool = False) -> bool:
        """Cancel a submitted call; whether it is cancelled.

        Parameters
        ----------
        future : Future
            What `submit` of this executor, or of a view of it, returned.
        running : bool
            Also if it runs, where the backend can stop a running call: its worker is ended and replaced. False is
            `future.cancel()`.
        """
        if future.cancel() or not running or not isinstance(future, CallFuture):
            return future.cancelled()
        return future.stop()

    def map(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Iterable[Any],
        timeout: float | _Unset | None = _UNSET,
        chunksize: int | _Unset | None = _UNSET,
        buffersize: int | _Unset | None = _UNSET,
        seed: Any = _UNSET,
        retries: int | Retry | Mapping[str, Any] | _Unset | None = _UNSET,
        on_lost: Literal["raise", "retry"] | _Unset = _UNSET,
        call_timeout: float | _Unset | None = _UNSET,
        journal: str | os.PathLike[str] | _Unset | None = _UNSET,
        progress: bool | str | Callable[..., object] | _Unset = _UNSET,
        trace: bool | str | os.PathLike[str] | _Unset = _UNSET,
        ordered: bool = True,
        errors: Literal["raise", "return"] = "raise",
    ) -> Iterator[Any]:
        """The results of ``fn(*items)`` for the items of `iterables` taken together, in input order.

        It starts at once, and reads ahead no further than its window, so that endless inputs stream.

        Parameters
        ----------
        fn : callable
            Called with one item of each iterable.
        *iterables : iterable
            The shortest ends the map.
        timeout : float, optional
            Seconds from this call until the last result; `TimeoutError` from the iterator after it.
        chunksize : int, optional
            Items sent to a worker at a time, >= 1. None: adapted to how long the calls take. Never changes a result.
        buffersize : int, optional
            At most so many items are read but not yet returned, >= 1. None: enough to keep the workers busy.
        seed : int, sequence of int or numpy.random.SeedSequence, optional
            Item *i* draws from ``SeedSequence(seed, spawn_key=(i,))``, by `anypool.rng` or `anypool.random`.
        retries : int or Retry, optional
            How often a call that raised runs again, with the same random numbers; or a policy.
        on_lost : {"raise", "retry"}
            A call whose worker died fails with `WorkerLost`; or runs again, up to three times.
        call_timeout : float, optional
            Seconds that one call may run, counted on its worker; then it is stopped and fails with `CallTimeout`.
        journal : path, optional
            Keeps what each finished item came to, so that the same map goes on where it was interrupted.
        progress : bool, str or callable
            Show how many items are done: True as whoever runs the program likes it best, or ``"tqdm"``, ``"rich"``,
            ``"notebook"``, ``"text"``, ``"log"`` or ``"none"``; or call this with an `anypool.Progress`.
        trace : bool or path
            Keep a receipt of each item for `report`.
        ordered : bool
            False: results come as they are ready.
        errors : {"raise", "return"}
            What a call raised is raised in its place, and ends the map; or is returned in its place, and the
            map goes on. What is no `Exception` (KeyboardInterrupt, SystemExit, GeneratorExit) is always raised.

        Returns
        -------
        iterator
            Closing it, or dropping it after its first result, cancels what has not begun.

        Raises
        ------
        TypeError
            `fn` is not callable, or cannot be sent (`SendError`).
        ValueError
            `chunksize` or `buffersize` below 1.
        Unsupported
            `call_timeout` on a backend that cannot stop a running call.
        """
        view = self._with(
            timeout=timeout,
            chunksize=chunksize,
            buffersize=buffersize,
            seed=seed,
            retries=retries,
            on_lost=on_lost,
            call_timeout=call_timeout,
            journal=journal,
            progress=progress,
            trace=trace,
        )
        star = len(iterables) != 1
        items = zip(*iterables, strict=False) if star else iter(iterables[0])
        return view._make_map(fn, items, iterables, star, ordered, errors).results(view)

    def starmap(
        self,
        fn: Callable[..., Any],
        /,
        iterable: Iterable[Iterable[Any]],
        *,
        timeout: float | _Unset | None = _UNSET,
        chunksize: int | _Unset | None = _UNSET,
        buffersize: int | _Unset | None = _UNSET,
        seed: Any = _UNSET,
        retries: int | Retry | Mapping[str, Any] | _Unset | None = _UNSET,
        on_lost: Literal["raise", "retry"] | _Unset = _UNSET,
        call_timeout: float | _Unset | None = _UNSET,
        journal: str | os.PathLike[str] | _Unset | None = _UNSET,
        progress: bool | str | Callable[..., object] | _Unset = _UNSET,
        trace: bool | str | os.PathLike[str] | _Unset = _UNSET,
        ordered: bool = True,
        errors: Literal["raise", "return"] = "raise",
    ) -> Iterator[Any]:
        """The results of ``fn(*item)`` for the items of `iterable`; all else as for `map`."""
        view = self._with(
            timeout=timeout,
            chunksize=chunksize,
            buffersize=buffersize,
            seed=seed,
            retries=retries,
            on_lost=on_lost,
            call_timeout=call_timeout,
            journal=journal,
            progress=progress,
            trace=trace,
        )
        return view._make_map(fn, map(tuple, iterable), (iterable,), True, ordered, errors).results(view)

    def _with(self, **said: Any) -> PoolExecutor:
        """This executor, or a view with what was said for one map."""
        for name in ("chunksize", "buffersize"):
            _check_count(name, said[name])
        said = {name: value for name, value in said.items() if value is not _UNSET}
        return self.options(**said) if said else self

    def _make_map(
        self,
        fn: Callable[..., Any],
        items: Iterator[Any],
        iterables: tuple[Any, ...],
        star: bool,
        ordered: bool,
        errors: Literal["raise", "return"],
        **driven: Any,
    ) -> Map:
        _check_call(fn, errors)
        settings = self._settings
        traits = self._start()
        if settings.call_timeout is not None:
            self._dispatcher.check_stops_calls()

        def annotate(exc: BaseException, index: int, item: Any, reply: Reply) -> None:
            args = item if star else (item,)
            add_note(exc, f"item {index}, {name_of(fn)}{short_call(args, {})}{on_worker(reply.worker)}")

        style: Literal["one", "star"] = "star" if star else "one"
        try:
            job = self._jobs.for_map(fn, style, traits, keep_going=errors == "return")
        except SendError as exc:
            exc.__traceback__ = None  # the way through our files; what failed to be pickled is its cause
            raise
        journal = None
        if settings.journal is not None:
            from anypool._journal import Journal

            journal = Journal(settings.journal, fn, style, job.around.seed)
        observer = None
        if settings.progress is not False or settings.trace is not False:
            observer, job = self._observe(fn, job, traits, _length(iterables))
        return Map(
            self._dispatcher,
            job,
            items,
            head=self._jobs.pack_head(job, traits),
            total=_length(iterables),
            at_hand=AT_HAND.issuperset(map(type, iterables)),
            workers=self.max_workers,
            ordered=ordered,
            errors=errors,
            timeout=settings.timeout,
            chunksize=settings.chunksize,
            buffersize=settings.buffersize,
            annotate=annotate,
            observer=observer,
            retry=as_retry(settings.retries),
            on_lost=settings.on_lost,
            call_timeout=settings.call_timeout,
            journal=journal,
            **driven,
        )

    def _observe(
        self, fn: Callable[..., Any], job: Job, traits: Traits, total: int | None
    ) -> tuple[Observer | None, Job]:
        """Who watches a map, and its job with what the workers must do for it."""
        from anypool._observers import observers

        settings = self._settings
        self._save_at_end()

        def arguments(item: Any) -> Sequence[Any]:
            return tuple(item) if job.style == "star" else (item,)

        observer, observed = observers(
            settings,
            self._native_backend,
            traits,
            name=name_of(fn),
            total=total,
            workers=self.max_workers,
            runs=self._runs,
            describe=lambda item: f"{name_of(fn)}{short_call(arguments(item), {})}",
            arguments=arguments,
        )
        return observer, replace(job, observed=observed)

    @property
    def _native_backend(self) -> Backend:
        backend: Backend = getattr(self._dispatcher.backend, "leased", self._dispatcher.backend)
        return backend

    def _save_at_end(self) -> None:
        """Save the report when the executor has ended, if it is traced into a file."""
        if isinstance(self._settings.trace, bool):
            return
        from anypool._observers import path_of, save_at_end

        path = path_of(self._settings.trace)
        if path is not None and path not in self._saved_in:
            self._saved_in.add(path)
            self._at_end.append(partial(save_at_end, path, self._runs))

    def report(self) -> Report:
        """What the traced maps of this executor came to: where the time went, the slowest calls, a sentence of advice.

        Maps and submitted calls are traced with ``trace=True``, or by configuration. It may be asked for at any time,
        also after the end.

        Examples
        --------
        >>> import anypool
        >>> with anypool.get_executor("serial", trace=True) as ex:
        ...     list(ex.map(abs, [-1, -2, -3]))
        [1, 2, 3]
        >>> ex.report().calls
        3
        """
        from anypool._report import report_of

        return report_of(self._runs)

    def share(self, obj: _T) -> Shared[_T]:
        """A handle on `obj`, which then travels to each worker once, and not with every call that uses it.

        A call that has the handle, as an argument or anywhere inside of one, gets the object by ``handle.get()``.
        Objects that are equal byte by byte are stored once. From here on `obj` should not be changed: what calls see is
        what it is now, except on backends that share the caller's memory, where it is not copied.

        Returns
        -------
        Shared
            Its object is freed by ``close()``, at the end of a ``with`` block over it, when the handle is collected,
            and with the executor. Arrays and other buffers in the object are read-only on every backend.

        Raises
        ------
        SendError
            It cannot be pickled, and the backend does not share memory.
        ExecutorClosed
            After `shutdown`.

        Examples
        --------
        >>> import anypool
        >>> def lookup(word, table):
        ...     return table.get()[word]
        >>> with anypool.get_executor("serial") as ex:
        ...     table = ex.share({"one": 1, "two": 2})
        ...     list(ex.map(lookup, ["two", "one"], [table, table]))
        [2, 1]
        """
        self._start()
        return self._dispatcher.shares.share(obj)

    def options(self, **settings: Any) -> PoolExecutor:
        """A view of this executor with other settings: the same workers, nothing started, a microsecond.

        Raises
        ------
        UnknownOption
            Not a setting; those of the backend are fixed once it runs.

        Examples
        --------
        >>> import anypool
        >>> with anypool.get_executor("serial") as ex:
        ...     list(ex.options(chunksize=2).map(abs, [-1, -2, -3]))
        [1, 2, 3]
        """
        _accept_seed(settings)
        view = object.__new__(PoolExecutor)
        changed = _config.change_settings(self._settings, settings)
        view.__dict__.update(self.__dict__, _settings=changed, _parent=self)
        view._jobs = Jobs(changed, self._dispatcher, of=self._jobs)
        view._submitted = itertools.count()
        view._calls = view._calls_of(changed)
        return view

    def amap(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        chunksize: int | _Unset | None = _UNSET,
        buffersize: int | _Unset | None = _UNSET,
        timeout: float | _Unset | None = _UNSET,
        seed: Any = _UNSET,
        ordered: bool = True,
        errors: Literal["raise", "return"] = "raise",
    ) -> AsyncIterator[Any]:
        """The results of ``fn(*items)``, for ``async for``; the event loop never waits for a call.

        Any of `iterables` may be asynchronous. Other settings come from `options`.

        Parameters
        ----------
        fn : callable
            A plain function: it runs on a worker.
        *iterables : iterable or asynchronous iterable
            The shortest ends it. Read in the event loop, no further ahead than `buffersize`. What an asynchronous one
            has ready is sent at once while a worker is idle.
        chunksize, buffersize, timeout, seed, ordered, errors
            As for `map`.

        Returns
        -------
        asynchronous iterator
            It starts when it is first asked. When its consumer is cancelled or goes away, what has not begun is
            cancelled, and what runs is ended where the backend can.

        Examples
        --------
        >>> import anypool, asyncio
        >>> async def main():
        ...     with anypool.get_executor("serial") as ex:
        ...         return [y async for y in ex.amap(abs, [-1, -2])]
        >>> asyncio.run(main())
        [1, 2]
        """
        from anypool._amap import amap

        _check_call(fn, errors)
        view = self._with(timeout=timeout, chunksize=chunksize, buffersize=buffersize, seed=seed)

        def make_map(items: Iterator[Any], **driven: Any) -> Map:
            return view._make_map(fn, items, iterables, len(iterables) != 1, ordered, errors, **driven)

        return amap(view._dispatcher, make_map, iterables, view.settings.timeout)

    def as_runner(self) -> Runner:
        """This executor as an `elementwise_runner` of pymoo: ``runner(f, X)`` is the list of ``f(x)``."""
        from anypool._as_runner import Runner

        return Runner(self)

    def as_pool(self) -> PoolView:
        """This executor as a `multiprocessing.Pool`, for code that asks for one.

        Its end is not the executor's: `close` and `terminate` concern the calls of this pool alone.

        Examples
        --------
        >>> import anypool
        >>> with anypool.get_executor("serial") as ex, ex.as_pool() as pool:
        ...     pool.map(abs, [-1, -2, -3])
        [1, 2, 3]
        """
        from anypool._as_pool_view import PoolView

        return PoolView(self)

    # --- the end --------------------------------------------------------------------------------------

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no new call; finish those that were made; leave nothing behind. Idempotent.

        A map over an input of known length counts as made: its rest is run, as the stdlib would. One over an
        input without a length is not read further.

        Parameters
        ----------
        wait : bool
            Return when all is done and gone. False: at once; the rest goes on.
        cancel_futures : bool
            Cancel what has not begun.
        """
        self._dispatcher.shutdown(wait=wait, cancel_futures=cancel_futures)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Shut down. After an exception: cancel what has not begun, and stop what runs where that can be.

        Calls that cannot be stopped are waited for, as they may use what the block leaves behind; not after Ctrl-C.
        """
        failed = exc is not None
        interrupted = isinstance(exc, KeyboardInterrupt)
        try:
            self._dispatcher.shutdown(wait=True, cancel_futures=failed, stop_running=failed, abandon=interrupted)
        except KeyboardInterrupt:  # while it waited for the rest
            self._dispatcher.shutdown(wait=True, cancel_futures=True, stop_running=True, abandon=True)
            raise

    # --- what it is -----------------------------------------------------------------------------------

    def _start(self) -> Traits:
        self._dispatcher.check_usable()
        return self._dispatcher.start()[1]

    @property
    def backend(self) -> str:
        """The name of the backend."""
        return self._backend.name

    @property
    def settings(self) -> Settings:
        """The settings of this executor, or of this view of it."""
        return self._settings

    @property
    def traits(self) -> Traits:
        """What the backend is like. Starts it."""
        return self._dispatcher.start()[1]

    @property
    def max_workers(self) -> int:
        """How many calls run at once, >= 1. Starts the backend: a cluster decides this itself."""
        return self._dispatcher.start()[0]

    @property
    def num_workers(self) -> int:
        """`max_workers`, under the name that mpi4py has for it."""
        return self.max_workers

    @property
    def size(self) -> int:
        """`max_workers`, under the name that pools have for it."""
        return self.max_workers

    _max_workers = _processes = max_workers  # what Dask's local schedulers and dynesty look for

    @property
    def _broken(self) -> BaseException | None:
        return self._dispatcher.broken

    def clone(self, *, max_workers: int | None = None) -> PoolExecutor:
        """Another executor of the same specification, or of another size; not started."""
        options = _options(self._backend)
        if max_workers is not None:
            options["max_workers"] = max_workers
        return _rebuild(type(self._backend), options, self._settings)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self._backend), _options(self._backend), self._settings)

    def __repr__(self) -> str:
        said = [f"{name}={value!r}" for name, value in _options(self._backend).items() if value not in (None, {}, ())]
        options = f" ({', '.join(said)})" if said else ""
        state = "shut down" if self._dispatcher.is_closed else "open"
        return f"<anypool executor {self._backend.name!r}{options}, {state}>"


def _call_all(calls: list[Callable[[], object]]) -> None:
    """Call each, also those after one that fails."""
    with ExitStack() as stack:
        for call in reversed(calls):
            stack.callback(call)


def _leased(backend: Backend) -> Backend:
    from anypool._reuse import leased

    return leased(backend)


def _rebuild(kind: type[Backend], options: dict[str, Any], settings: Settings) -> PoolExecutor:
    executor = object.__new__(PoolExecutor)
    executor._set_up(kind(**options), settings)
    return executor


def _options(backend: Backend) -> dict[str, Any]:
    return {field.name: getattr(backend, field.name) for field in fields(backend) if field.init}  # type: ignore[arg-type]


def _nested_backend() -> Any:
    """Inside a call, the backend for one level deeper; None outside."""
    now = running.get()
    if now is None:
        return None
    around = now.job.around
    plan = around.nested or ("serial",)
    return plan[min(around.depth, len(plan)) - 1]


def _accept_seed(options: dict[str, Any]) -> None:
    """Check a seed that no file could hold, such as a `SeedSequence`, here; settings take what it becomes."""
    seed = options.get("seed")
    if seed is not None:
        checked = as_seed(seed)
        options["seed"] = seed if type(seed) is int else checked


def _check_callable(fn: object) -> None:
    if not callable(fn):
        raise TypeError(f"a function is needed: {reprlib.repr(fn)} ({type(fn).__qualname__}) is not callable")


def _check_call(fn: object, errors: object) -> None:
    _check_callable(fn)
    if errors not in ("raise", "return"):
        raise ConfigError(f"errors must be 'raise' or 'return', not {errors!r}")


def _check_count(name: str, value: object) -> None:
    if value is None or value is _UNSET:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer or None, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be None or > 0, not {value}")


def _length(iterables: tuple[Iterable[Any], ...]) -> int | None:
    """The most calls that there can be, as far as the iterables say it; None where none of them does."""
    lengths = []
    for each in iterables:
        try:
            lengths.append(len(each))  # type: ignore[arg-type]
        except Exception:  # no length, or a __len__ that fails: another may know, as beside repeat(x)
            continue
    return min(lengths) if lengths else None
