"""One map: reads the input, keeps the workers busy, gives the results in order.

::

    input ─read─> chunk ─pack─> ChunkTask ─dispatcher─> worker
                    ^                                      │ (any thread)
                    └─ handed back, or to run again ─┐     v
    caller <─yield─ Flow: ready <─ held <─ Attempts <─── arrivals (queue)

All of it runs in the thread that asks for results, since generators are not thread-safe; other threads only
put what arrived into the queue. So nothing is read, and nothing sent, while nobody asks, except at shutdown.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from heapq import heappop, heappush
from itertools import count, islice, repeat
from queue import Empty, SimpleQueue
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, Literal

from anypool import _packing
from anypool._attempts import NEVER, Attempts, Outcome
from anypool._chunks import JOURNALED, ChunkSizes, Plan, read
from anypool._dispatch import Dispatcher
from anypool._envelope import Envelope, Job, Reply
from anypool._flow import Flow, Part
from anypool._outbox import Outbox
from anypool._task import LOOKS_UP_AFTER, SENT, Task
from anypool._weight import HEAVIEST_CHUNK, read_weighing
from anypool.errors import ExecutorClosed

if TYPE_CHECKING:
    from anypool._journal import Journal
    from anypool._observe import Observer
    from anypool._retry import Retry

# Without `buffersize`: enough that a slow first item does not leave the other workers idle for want of room,
# and at most this many chunks' worth of results held back.
_WINDOW_ITEMS_PER_WORKER = 512
_WINDOW_CHUNKS_PER_WORKER = 4
_CHUNKS_OUT_PER_WORKER = 2
# ... and at most so many bytes of arguments sent and results held back. What is less than the second is not counted.
_WINDOW_BYTES_PER_WORKER = 64 << 20
_WEIGHED_APART = 4096
# With a result ready to go out, the input is read no longer than this, in seconds, before it goes out.
_READ_AHEAD_SECONDS = 0.002


class ChunkTask(Task):
    """One chunk of a map on its way. Keeps its items: they may be handed back, or named in an error."""

    def __init__(
        self,
        payload: Any,
        outbox: Outbox | None,
        start: int,
        items: Sequence[Any],
        arrivals: SimpleQueue[tuple[ChunkTask, Any, Any, float]],
        limit: float | None,
    ) -> None:
        super().__init__(payload, outbox, limit)
        self.start = start
        self.items = items
        self.weight = 0
        self._arrivals = arrivals

    def deliver(self, reply: Any, error: BaseException | None) -> None:
        self._arrivals.put((self, reply, error, perf_counter()))

    def withdrawn(self) -> None:
        self._arrivals.put((self, None, None, 0.0))


class Map:
    """The state of one `map` call.

    Parameters
    ----------
    dispatcher : Dispatcher
        Takes the chunks.
    job : Job
        What is the same for all chunks.
    items : iterator
        The input: one object per call.
    head : bytes or None
        What is the same for all envelopes of `job`, packed; None where chunks travel as they are.
    total : int or None
        Its length, where known; believed only as a hint.
    at_hand : bool
        Reading the input takes neither time nor memory: the items are in containers.
    workers : int
        How many chunks run at once.
    ordered, errors, timeout, chunksize, buffersize
        As for `PoolExecutor.map`.
    annotate : callable
        ``annotate(exc, index, item, reply)`` adds the note of a failed call.
    retry, on_lost, call_timeout
        As of `Settings`.
    journal : Journal, optional
        What has run before, and is not run again. Closed with the map.
    observer : Observer, optional
        Is told what happens; with None nothing is spent on it.
    readable : callable, optional
        How many items can be read now without waiting for them; `NEVER` once the input has no more to wait for.
    arrivals : SimpleQueue, optional
        Where what arrives is put.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        job: Job,
        items: Iterator[Any],
        *,
        head: bytes | None,
        total: int | None,
        at_hand: bool,
        workers: int,
        ordered: bool,
        errors: Literal["raise", "return"],
        timeout: float | None,
        chunksize: int | None,
        buffersize: int | None,
        annotate: Callable[[BaseException, int, Any, Reply], None],
        retry: Retry | None = None,
        on_lost: Literal["raise", "retry"] = "raise",
        call_timeout: float | None = None,
        journal: Journal | None = None,
        observer: Observer | None = None,
        readable: Callable[[], int] | None = None,
        arrivals: SimpleQueue[tuple[ChunkTask, Any, Any, float]] | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._readable = readable
        self._runs_in_submit = dispatcher.start()[1].synchronous
        self._observer = observer
        self._job = job
        self._head = head
        self._input = items
        self._total = total
        self._workers = workers
        self._returns_errors = errors == "return"
        self._timeout = timeout
        self._deadline = None if timeout is None else monotonic() + timeout
        self._annotate = annotate
        self._sizes = ChunkSizes(workers, chunksize, **({} if journal is None else {"longest": JOURNALED}))
        self._chunksize = chunksize
        self._buffersize = buffersize
        self._flow = Flow(buffersize or _WINDOW_ITEMS_PER_WORKER * workers, ordered=ordered)
        self._arrivals: SimpleQueue[tuple[ChunkTask, Any, Any, float]] = SimpleQueue() if arrivals is None else arrivals
        self._out: set[ChunkTask] = set()
        self._input_ended = False
        self._fails_at = NEVER  # the lowest item known to fail: nothing behind it will be delivered
        self._is_cancelled = False
        self._is_asked = False  # somebody has asked for a result
        self._is_closed = False  # whoever had the iterator closed it, or dropped it
        self._is_dropped = False  # nobody can ask for one any more
        self._input_error: BaseException | None = None
        self._call_timeout = call_timeout
        self._journal = journal
        self._attempts = Attempts(retry, on_lost, self._is_returned)
        self._later: list[tuple[float, int, Part]] = []  # a heap of what runs again: when, a number that decides, what
        self._later_count = count()
        self._random_used: set[str] = set()
        # Held for a step, not between them: shutdown may have to finish the map from another thread.
        self._lock = threading.RLock()
        self._at_hand = at_hand
        self._reads_slowly = False  # the last chunk was cut short, because the input kept others waiting
        self._most_bytes: float = _WINDOW_BYTES_PER_WORKER * workers if buffersize is None else math.inf
        self._bytes_out = 0  # of arguments that are sent
        self._bytes_held = 0  # of results that are not delivered
        self._weights: dict[int, int] = {}  # of these, by the index of the first item

    # --- for the caller -------------------------------------------------------------------------------

    def results(self, owner: object) -> Iterator[Any]:
        """The results, as an iterator that has started: the first chunks are on their way.

        It keeps `owner`, the executor, from being collected.
        """
        self._dispatcher.open_map(self)
        if self._observer is not None:
            self._observer.began()
        generator = self._generate(owner)
        next(generator)
        return generator

    def _generate(self, _owner: object) -> Iterator[Any]:
        # A generator, not a quicker chain of the stdlib, which loses results where two threads ask at once.
        try:
            self._begin()
            if self._observer is not None:
                self._observer.away()
            yield None  # taken by results(), so that from here on close() reaches `finally`
            self._is_asked = True
            while (answer := self._next_answer()) is not None:
                if self._observer is not None:
                    self._observer.away()
                length, (start, reply, items) = answer
                if reply.errors or reply.events:
                    yield from self._one_by_one(start, reply, items)
                elif reply.is_plain:
                    yield from reply.values
                else:
                    values = reply.values
                    del reply, items, answer
                    values.reverse()
                    yield from map(list.pop, repeat(values, length))  # keeps no reference to what went out
                self._delivered(start, length)
                answer = reply = items = None  # type: ignore[assignment]
            self._report_random()
            if self._input_error is not None:
                raise self._input_error
        except (GeneratorExit, KeyboardInterrupt):
            self._is_closed = True
            raise
        finally:
            self._leave()

    def _begin(self) -> None:
        try:
            with self._lock:
                self._pump()
        except BaseException:  # Ctrl-C: nobody will have the iterator, so that shutdown must not run the rest
            self.cancel()
            raise

    def _one_by_one(self, start: int, reply: Reply, items: Sequence[Any]) -> Iterator[Any]:
        events: dict[int, list[Any]] = {}
        for event in reply.events:
            events.setdefault(event[0], []).append(event)
        values = reply.values
        for offset in range(len(values)):
            if offset in events:
                from anypool._relay import replay

                with nullcontext() if self._observer is None else self._observer.aside():
                    replay(events.pop(offset), worker=str(reply.worker))
            error = reply.errors.pop(offset, None)
            if error is None:
                value, values[offset] = values[offset], None
                yield value
                del value
                continue
            self._annotate(error, start + offset, items[offset] if offset < len(items) else None, reply)
            if not self._is_returned(error):
                try:
                    raise error
                finally:
                    del error  # it holds this frame by its traceback
            yield error

    def _leave(self) -> None:
        """The caller has the last result, closed the iterator, or dropped it."""
        if not self._is_asked and self._must_finish:
            self._is_dropped = True  # fire and forget: shutdown runs the rest
            return
        if self._is_asked:
            self.cancel(end_running=self._is_closed)
        self._close()

    def _close(self) -> None:
        stores = self._dispatcher.stores
        if stores is not None and isinstance(self._job.fn, (bytes, tuple)):
            stores.release_function(self._job.fn)
        if self._journal is not None:
            self._journal.close()
        self._dispatcher.close_map(self)
        if self._observer is not None:
            self._observer.ended()

    # --- for `amap`, which must not wait ----------------------------------------------------------------

    def begin(self) -> None:
        """Send the first chunks."""
        if self._observer is not None:
            self._observer.began()
        self._begin()

    def take(self) -> tuple[int, tuple[int, Reply, Sequence[Any]]] | None:
        """Take in what has arrived, and send what there is room for; the next answer in order, if it is there."""
        with self._lock:
            while not self._arrivals.empty():
                self._absorb(self._arrivals.get())
            if not (self._runs_in_submit and self._flow.has_ready):
                self._pump()
            return self._flow.take_ready()

    def results_of(self, answer: tuple[int, tuple[int, Reply, Sequence[Any]]]) -> Iterator[Any]:
        """Its values; shows output in its place, and raises what ends the map."""
        length, (start, reply, items) = answer
        if reply.errors or reply.events:
            yield from self._one_by_one(start, reply, items)
        else:
            reply.values.reverse()
            yield from map(list.pop, repeat(reply.values, length))
        self._delivered(start, length)

    @property
    def room(self) -> int:
        """How many more items may be read now."""
        return 0 if self._is_cancelled or self._fails_at < NEVER else self._flow.room

    @property
    def is_over(self) -> bool:
        """Whether nothing more will arrive, or be there to be sent.

        Raises
        ------
        CancelledError
            Because the executor was shut down.
        """
        if self._out or self._later:
            return False
        self._check_complete()
        return self._is_done

    def patience(self, deadline: float | None) -> float | None:
        """For how long to wait, in seconds, unless something arrives; None: for ever."""
        longest = math.inf if self._observer is None else self._observer.waits(LOOKS_UP_AFTER)
        for due in (deadline, self._later[0][0] if self._later else None):
            if due is not None:
                longest = min(longest, due - monotonic())
        return None if longest == math.inf else max(0.0, longest)

    def check_end(self) -> None:
        """Say what there is to say at the end of the results.

        Raises
        ------
        Exception
            What reading the input raised.
        """
        self._report_random()
        if self._input_error is not None:
            raise self._input_error

    def leave(self) -> list[ChunkTask]:
        """Take back what has not begun; what still runs."""
        self.cancel()
        return [task for task in self._out if task.state == SENT]

    def close(self) -> None:
        """Free what the map holds. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self._close()

    # --- for the dispatcher ---------------------------------------------------------------------------

    @property
    def _must_finish(self) -> bool:
        """Whether shutdown runs what was not asked for yet: all of an input of known length, as in the stdlib.

        An input without a length may be endless, and a `buffersize` says that no more may be held.
        """
        return self._total is not None and self._buffersize is None and not self._is_cancelled and not self._is_done

    @property
    def _is_done(self) -> bool:
        return self._input_ended and self._flow.is_drained and not self._later

    def finish(self) -> None:
        """Run the rest of an input of known length; hold its results for whoever asks."""
        with self._lock:
            self._flow.window = NEVER
            self._most_bytes = math.inf
            while self._must_finish:
                sent = self._pump()
                if self._out or self._later:
                    self._absorb_next(None)
                elif not sent:
                    break
        if self._is_dropped:
            self._discard()

    def _discard(self) -> None:
        """Show what the calls of a map that nobody reads wrote, and say so if one failed."""
        self._returns_errors = True
        while (answer := self._flow.take_ready()) is not None:
            length, (start, reply, items) = answer
            if reply.errors:
                import warnings

                offset = min(reply.errors)
                warnings.warn(
                    f"a map whose results nobody read failed at item {start + offset}: {reply.errors[offset]!r}",
                    RuntimeWarning,
                    stacklevel=2,
                )
            for _ in self._one_by_one(start, reply, items):
                pass
            self._delivered(start, length)
        self._close()

    def cancel(self, *, end_running: bool = True) -> None:
        """Send nothing more, take back what has not begun; what runs need not be waited for, unless the map failed."""
        self._is_cancelled = True
        # The last first: else those behind would take the place of the first, and begin.
        for task in sorted(self._out, key=lambda task: task.start, reverse=True):
            task.is_wanted = not end_running
            self._dispatcher.withdraw(task, task.withdrawn)

    def leave_forked_child(self) -> None:
        """Wait for no thread of the parent: a shutdown there may have been at a step of this map."""
        self._lock = threading.RLock()

    def _delivered(self, start: int, length: int) -> None:
        self._flow.delivered(length)
        self._bytes_held -= self._weights.pop(start, 0)

    # --- the loop -------------------------------------------------------------------------------------

    def _next_answer(self) -> tuple[int, tuple[int, Reply, Sequence[Any]]] | None:
        """The next answer in order; None at the end."""
        if self._observer is not None:
            self._observer.back()
        while True:
            with self._lock:
                # Where calls run in their submit, no worker is to be kept busy: more results would only be held.
                if not (self._runs_in_submit and self._flow.has_ready):
                    self._pump()
                answer = self._flow.take_ready()
                if answer is not None:
                    return answer
                if not self._out and not self._later:
                    self._check_complete()
                    return None
                self._absorb_next(self._deadline)

    def _check_complete(self) -> None:
        if self._is_cancelled and not self._is_done:
            from concurrent.futures import CancelledError

            raise CancelledError("the map was cancelled by the shutdown of its executor")

    def _absorb_next(self, deadline: float | None) -> None:
        """Wait until a chunk arrives, or one is due to run again; take in all that has arrived."""
        now = monotonic()
        patience = LOOKS_UP_AFTER if self._observer is None else self._observer.waits(LOOKS_UP_AFTER)
        if deadline is not None:
            patience = min(patience, deadline - now)
        if self._later:
            patience = min(patience, self._later[0][0] - now)
        try:
            self._absorb(self._arrivals.get(timeout=max(0.0, patience)))
        except Empty:
            if deadline is not None and monotonic() >= deadline:
                text = f"the results were not there {self._timeout} s after the call of map"
                raise TimeoutError(text) from None
        while not self._arrivals.empty():
            self._absorb(self._arrivals.get())

    def _pump(self) -> bool:
        """Send chunks while there is room; whether any went out."""
        if self._is_cancelled:
            return False
        sent = False
        started = perf_counter()
        while len(self._out) < self._workers * _CHUNKS_OUT_PER_WORKER:
            while not self._arrivals.empty():
                self._absorb(self._arrivals.get())
            patience = 0.0 if self._runs_in_submit else _READ_AHEAD_SECONDS
            if sent and self._flow.has_ready and perf_counter() - started > patience:
                break
            chunk = self._next_chunk()
            if chunk is None:
                break
            self._send(*chunk)
            sent = True
        return sent

    def _next_chunk(self) -> tuple[int, Sequence[Any], Plan] | None:
        """The next chunk to send: (start, items, plan); what was handed back goes first."""
        if self._is_full and (self._out or self._flow.has_ready):
            return None
        if self._reads_slowly and self._flow.has_ready and len(self._out) >= self._workers:
            return None
        while (chunk := self._next_again()) is None:
            if self._input_ended or self._fails_at < NEVER or not self._flow.room:
                return None
            plan = self._sizes.plan(self._remaining(0))
            if self._buffersize is None:
                self._flow.window = max(self._flow.window, plan.size * self._workers * _WINDOW_CHUNKS_PER_WORKER)
            ahead = 0 if self._journal is None else self._journal.ahead(self._flow.items_read)
            size = min(max(plan.size, ahead), self._flow.room)
            if self._readable is not None and not (size := min(size, self._readable())):
                return None
            began = 0.0 if self._observer is None else perf_counter()
            items = self._read(size)
            if self._observer is not None:
                is_all = self._input_ended and self._input_error is None
                self._observer.read(began, len(items), self._flow.items_read + len(items) if is_all else None)
            if not items:
                return None
            start = self._flow.read(len(items))
            if self._journal is None:
                return start, items, plan
            self._look_up(self._journal, start, items)
        return chunk

    def _remaining(self, count: int) -> int | None:
        """How many items are to be sent, with `count` that were read before; None while nobody knows."""
        if self._input_ended:
            return max(1, count)
        return None if self._total is None else max(1, count + self._total - self._flow.items_read)

    @property
    def _is_full(self) -> bool:
        """Whether as many bytes are on their way, or back, as may be held; each worker gets one item all the same."""
        if self._bytes_held + self._bytes_out < self._most_bytes:
            return False
        return self._bytes_held >= self._most_bytes or len(self._out) >= self._workers

    def _next_again(self) -> tuple[int, Sequence[Any], Plan] | None:
        """The next chunk of what was read before, and is to be sent, once more or still."""
        while self._later and self._later[0][0] <= monotonic():
            self._flow.hand_back(heappop(self._later)[2])
        while (part := self._flow.take_handed_back()) is not None:
            start, items, alone = part
            if start > self._fails_at:
                continue
            plan = Plan(1) if alone else self._sizes.plan(self._remaining(len(items)))
            if len(items) > plan.size:
                self._flow.hand_back(Part(start + plan.size, items[plan.size :], alone))
            return start, items[: plan.size], plan
        return None

    def _look_up(self, journal: Journal, start: int, items: Sequence[Any]) -> None:
        """Take what the journal has of `items`, and leave the rest to be sent."""
        first = 0
        for offset, reply in journal.known(start, items):
            if first < offset:
                self._flow.hand_back(Part(start + first, items[first:offset]))
            self._flow.hold(start + offset, 1, (start + offset, reply, ()))
            if self._observer is not None:
                self._observer.held(start + offset, reply, {})
            first = offset + 1
        if first < len(items):
            self._flow.hand_back(Part(start + first, items[first:]))

    def _read(self, size: int) -> list[Any]:
        """At most `size` items; fewer if the input is slower than the workers, or at its end."""
        items: list[Any] = []
        started = perf_counter()
        is_patient = self._chunksize is not None
        try:
            self._dispatcher.check_feeding()
            if self._at_hand:
                items.extend(islice(self._input, size))
                self._reads_slowly = False
                self._input_ended = len(items) < size
                return items
            steps = read if is_patient else read_weighing
            for weight in steps(self._input, size, items):
                if is_patient:
                    continue
                seconds = perf_counter() - started
                longest = _READ_AHEAD_SECONDS if self._is_waited_for else self._sizes.target
                self._reads_slowly = seconds > longest
                if self._reads_slowly or (weight or 0) >= HEAVIEST_CHUNK:
                    return items
        except Exception as exc:  # mostly the caller's own iterable's: raised in its place, after what came before
            exc.add_note(f"anypool: while reading the input of map, after {self._flow.items_read + len(items)} items")
            self._input_error = exc
            self._input_ended = True
            return items
        if len(items) < size:
            self._input_ended = True
        return items

    @property
    def _is_waited_for(self) -> bool:
        """Whether a result, or a worker without a chunk, waits for the reading of the input to end."""
        return self._flow.has_ready or not self._arrivals.empty() or len(self._out) < self._workers

    def _send(self, start: int, items: Sequence[Any], plan: Plan) -> None:
        payload: Any
        outbox, weight = None, 0
        began = 0.0 if self._observer is None else perf_counter()
        if self._head is None:
            payload = Envelope(self._job, start, items, len(items), plan.budget, plan.look_every)
        else:
            stores = self._dispatcher.stores
            outbox = Outbox(stores) if stores else None
            store = outbox.store if outbox else None
            payload = _packing.pack(self._job, self._head, start, items, plan, store)
            count, weight = _packing.extent(payload)
            if count < len(items):
                self._flow.hand_back(Part(start + count, items[count:]))
                items = items[:count]
        task = ChunkTask(payload, outbox, start, items, self._arrivals, self._call_timeout)
        task.weight = weight
        self._bytes_out += weight
        self._out.add(task)
        self._flow.sent(start, len(items))
        try:
            self._dispatcher.check_feeding()
            if self._observer is not None:
                self._observer.sent(task, payload, began)
            self._dispatcher.submit(task)
        except ExecutorClosed as exc:  # handed back after the end: an error in its place, after what came before
            task.deliver(None, exc)

    def _absorb(self, arrival: tuple[ChunkTask, Any, Any, float]) -> None:
        task, packed, error, arrived_at = arrival
        if task not in self._out:  # in a child that was forked after its arrival, and before it was taken for settled
            return
        self._out.remove(task)
        began = 0.0 if self._observer is None else perf_counter()
        self._bytes_out -= task.weight
        self._flow.answered(task.start)
        if packed is None and error is None:  # withdrawn
            self._flow.hand_back(Part(task.start, task.items))
            return
        if error is not None:
            if self._observer is not None:
                self._observer.arrived(task, None, None, arrived_at, began)
            self._carry_out(self._attempts.settle_loss(task.start, task.items, error, task.seen))
            return
        if type(packed) is tuple:
            weight, reply = _packing.weigh_reply(packed), _packing.unpack_reply(packed)
        else:
            weight, reply = packed.weight, packed
        if reply.broken is not None:
            reply.values, reply.errors = [None], {0: self._dispatcher.fail_initializer(reply.broken)}
        self._sizes.observe(len(reply.values), reply.seconds, arrived_at - task.sent_at - reply.seconds)
        if reply.values:
            self._sizes.observe_weight(len(reply.values), task.weight + weight)
        self._random_used.update(reply.random_used)
        if self._observer is not None:
            self._observer.arrived(task, packed, reply, arrived_at, began)
        self._carry_out(self._attempts.settle(task.start, task.items, reply), weight)

    def _carry_out(self, outcome: Outcome, weight: int = 0) -> None:
        if self._journal is not None:  # before any of it can be delivered
            self._journal.record(outcome.held)
        for start, reply, items in outcome.held:
            self._flow.hold(start, len(reply.values), (start, reply, items))
            if self._observer is not None:
                self._observer.held(start, reply, outcome.attempts)
        if weight > _WEIGHED_APART and outcome.held:
            weight //= len(outcome.held)
            for start, _, _ in outcome.held:
                self._weights[start] = weight
                self._bytes_held += weight
        self._fails_at = min(self._fails_at, outcome.fails_at)
        for part in outcome.back:
            if part.start <= self._fails_at:
                self._flow.hand_back(part)
        for seconds, part in outcome.later:
            if part.start <= self._fails_at:
                heappush(self._later, (monotonic() + seconds, next(self._later_count), part))

    def _is_returned(self, error: BaseException) -> bool:
        """Whether `error` is delivered as a value. Ctrl-C, `sys.exit` and the like never are."""
        return self._returns_errors and isinstance(error, Exception)

    def _report_random(self) -> None:
        if self._random_used:
            from anypool._seeds_watch import warn_undeclared

            warn_undeclared(self._random_used)
