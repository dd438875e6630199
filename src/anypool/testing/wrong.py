"""Backends that are wrong on purpose. Each breaks one promise, and names the test of the suite that must catch it.

A suite that passes a wrong backend promises nothing. So each guarantee of the contract brings one of these.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from anypool import _at_exit, _context_process, _packing, _worker
from anypool._envelope import Envelope, Reply
from anypool._share import Content, Shared
from anypool.backend import Traits
from anypool.backends.processes import Processes
from anypool.backends.threads import Threads
from anypool.testing._effects import LIMIT

__all__ = ["WRONG", "Right"]

Call = Callable[[Any], Any]


@dataclass(kw_only=True)
class Right:
    """What the wrong ones are made from: the threads of `anypool.backends.threads`, unchanged.

    Where it is about calls that are stopped, the processes of `anypool.backends.processes`, likewise.

    Attributes
    ----------
    caught_by : str
        Name of the test that a wrong backend must fail, and that this one passes.
    still_passes : str
        Name of a test that it passes, so that it is wrong, and not just broken.
    """

    name: ClassVar[str] = "right"
    caught_by: ClassVar[str] = ""
    still_passes: ClassVar[str] = "test_a_call_returns_its_value"
    is_strict: ClassVar[bool] = False
    is_of_processes: ClassVar[bool] = False

    max_workers: int | None = 2
    _right: Threads | Processes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.is_of_processes:
            self._right = Processes(max_workers=self.max_workers)
        else:
            self._right = Threads(max_workers=self.max_workers, strict=self.is_strict)

    def start(self) -> tuple[int, Traits]:
        """Start the workers."""
        return self._right.start()

    def submit(self, call: Call, payload: Any, /) -> Future[Any]:
        """Run the call, with its payload and its reply as the wrong one changes them."""
        if self.is_of_processes:
            return self._right.submit(call, payload)
        return self._right.submit(self._run, (call, payload))

    def _run(self, both: tuple[Call, Any]) -> Any:
        call, payload = both
        return self.change_reply(call(self.change_payload(payload)))

    def change_payload(self, payload: Any) -> Any:
        """What the call gets; here unchanged."""
        return payload

    def change_reply(self, reply: Any) -> Any:
        """What the caller gets; here unchanged."""
        return reply

    def stop(self, *, cancel: bool) -> None:
        """Stop the workers."""
        self._right.stop(cancel=cancel)


class ReversesResults(Right):
    """The results of a chunk come back in the wrong order."""

    name = "reverses results"
    caught_by = "test_each_item_runs_once_in_chunks[3]"

    def change_reply(self, reply: Reply) -> Reply:
        reply.values.reverse()
        return reply


class DropsTheLastResult(Right):
    """The last result of a chunk is lost, so that its call is made again."""

    name = "drops the last result"
    caught_by = "test_each_item_runs_once_in_chunks[3]"

    def change_reply(self, reply: Reply) -> Reply:
        if len(reply.values) > 1 and not reply.errors:
            reply.values.pop()
        return reply


class ConcatenatesResults(Right):
    """Results that are sequences are joined and cut again, as if they were one array."""

    name = "concatenates results"
    caught_by = "test_arrays_are_not_concatenated"

    def change_reply(self, reply: Reply) -> Reply:
        reply.values[:] = [each[:1] if hasattr(each, "__len__") else each for each in reply.values]
        return reply


class RunsTwice(Right):
    """Every call is made twice."""

    name = "runs twice"
    caught_by = "test_each_item_of_a_map_runs_once"

    def _run(self, both: tuple[Call, Any]) -> Any:
        call, payload = both
        call(dataclasses.replace(payload, items=list(payload.items)))
        return call(payload)


class RunsAgainAfterErrors(Right):
    """A call that failed is tried once more."""

    name = "runs again after errors"
    caught_by = "test_nothing_is_run_again_after_an_error"

    def _run(self, both: tuple[Call, Any]) -> Any:
        call, payload = both
        reply = call(payload)
        return call(payload) if reply.errors else reply


class MergesEqualCalls(Right):
    """Equal calls share one run."""

    name = "merges equal calls"
    caught_by = "test_equal_submits_are_not_merged"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._futures: dict[str, Future[Any]] = {}

    def submit(self, call: Call, payload: Envelope, /) -> Future[Any]:
        key = f"{payload.job.fn!r} {payload.items!r}"
        if key not in self._futures:
            self._futures[key] = super().submit(call, payload)
        return self._futures[key]


class SwallowsErrors(Right):
    """A call that failed returns None."""

    name = "swallows errors"
    caught_by = "test_type_and_arguments_arrive"

    def change_reply(self, reply: Reply) -> Reply:
        reply.errors.clear()
        return reply


class SwallowsStopIteration(Right):
    """A call that raised StopIteration returns None, as in a pool of `multiprocessing`."""

    name = "swallows StopIteration"
    caught_by = "test_stop_iteration_of_a_map_read_by_list_is_an_error"

    def change_reply(self, reply: Reply) -> Reply:
        for offset in [each for each, exc in reply.errors.items() if isinstance(exc, StopIteration)]:
            del reply.errors[offset]
        return reply


class ChangesTheErrorsType(Right):
    """What a call raised comes back as text."""

    name = "changes the error's type"
    caught_by = "test_type_and_arguments_arrive"

    def change_reply(self, reply: Reply) -> Reply:
        for offset, exc in reply.errors.items():
            reply.errors[offset] = Exception(repr(exc))
        return reply


class LosesTheCause(Right):
    """An error arrives without what led to it."""

    name = "loses the cause"
    caught_by = "test_cause_and_context_arrive[from]"

    def change_reply(self, reply: Reply) -> Reply:
        for exc in reply.errors.values():
            exc.__cause__ = exc.__context__ = None
        return reply


class LosesTheTraceback(Right):
    """An error arrives without the lines that raised it."""

    name = "loses the traceback"
    caught_by = "test_the_traceback_shows_the_users_lines_and_not_ours[submit]"

    def change_reply(self, reply: Reply) -> Reply:
        for exc in reply.errors.values():
            exc.__traceback__ = None
        return reply


class RaisesTheFastestError(Right):
    """Once a call has failed, whatever fails fails with that error."""

    name = "raises the fastest error"
    caught_by = "test_the_lowest_failing_item_wins_though_another_fails_first"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._first: list[BaseException] = []

    def change_reply(self, reply: Reply) -> Reply:
        self._first += reply.errors.values()
        for offset in reply.errors:
            reply.errors[offset] = self._first[0]
        return reply


class AnswersTooLate(Right):
    """Its answers come when nobody waits for them any more."""

    name = "answers too late"
    caught_by = "test_a_call_returns_its_value"
    still_passes = "test_empty_input_gives_nothing"

    delay: ClassVar[float] = 2.2
    """Seconds. Longer than the limit of the tests that use it; bounded, so that they end."""

    def change_reply(self, reply: Reply) -> Reply:
        threading.Event().wait(self.delay)
        return reply


class _Stubborn(Future[Any]):
    """Says that it was cancelled."""

    def __init__(self, native: Future[Any]) -> None:
        super().__init__()
        native.add_done_callback(self._finish)

    def _finish(self, native: Future[Any]) -> None:
        if not self.cancelled():
            self.set_result(native.result())


class LosesCancel(Right):
    """A call that was cancelled runs all the same."""

    name = "loses cancel"
    caught_by = "test_a_cancelled_call_never_runs"

    def submit(self, call: Call, payload: Any, /) -> Future[Any]:
        return _Stubborn(super().submit(call, payload))


class CancelsWhatRuns(Right):
    """A call that runs is said to be cancelled."""

    name = "cancels what runs"
    caught_by = "test_a_call_that_has_begun_is_not_cancelled"

    def submit(self, call: Call, payload: Any, /) -> Future[Any]:
        return _Stubborn(super().submit(call, payload))


class BlocksInSubmit(Right):
    """`submit` makes the call itself, and says that it does not."""

    name = "blocks in submit"
    caught_by = "test_submit_returns_at_once"

    def submit(self, call: Call, payload: Any, /) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(call(payload))
        return future


class UsesOneWorker(Right):
    """It says two workers and has one."""

    name = "uses one worker"
    caught_by = "test_as_many_calls_run_at_once_as_there_are_workers"

    def start(self) -> tuple[int, Traits]:
        self._right.max_workers = 1
        return 2, self._right.start()[1]


class LeaksAThread(Right):
    """A thread stays when the backend has stopped."""

    name = "leaks a thread"
    caught_by = "test_leaving_with_leaves_nothing_behind"

    def start(self) -> tuple[int, Traits]:
        threading.Thread(target=threading.Event().wait, name="leaked", daemon=True).start()
        return super().start()


class LeaksAProcess(Right):
    """A process stays when the backend has stopped, until the interpreter ends."""

    name = "leaks a process"
    caught_by = "test_leaving_with_leaves_nothing_behind"

    leaked: ClassVar[list[Any]] = []  # held, so that the process stays

    def start(self) -> tuple[int, Traits]:
        wait_for_the_end = [sys.executable, "-c", "import sys; sys.stdin.read()"]
        self.leaked.append(subprocess.Popen(wait_for_the_end, stdin=subprocess.PIPE))
        return super().start()


class LeaksAFile(Right):
    """A file stays open when the backend has stopped."""

    name = "leaks a file"
    caught_by = "test_leaving_with_leaves_nothing_behind"

    def start(self) -> tuple[int, Traits]:
        os.open(os.devnull, os.O_RDONLY)
        return super().start()


class SharesArguments(Right):
    """It promises copies, and gives equal items of a chunk one copy between them."""

    name = "shares arguments"
    caught_by = "test_a_changed_argument_is_changed_for_its_own_call_only[6]"
    is_strict = True

    def _run(self, both: tuple[Call, Any]) -> Any:
        _, payload = both
        head = _packing.head_of(payload)
        envelope = _packing.unpack(payload, head)
        copies: dict[str, Any] = {}
        items = [copies.setdefault(repr(item), item) for item in envelope.items]
        reply = _worker._run(dataclasses.replace(envelope, items=items))
        return _packing.pack_reply(reply, head)


class LosesOutput(Right):
    """What calls print goes nowhere."""

    name = "loses output"
    caught_by = "test_prints_arrive_once_in_input_order[4]"

    def change_reply(self, reply: Reply) -> Reply:
        reply.events.clear()
        return reply


class RepeatsOutput(Right):
    """What calls print arrives twice."""

    name = "repeats output"
    caught_by = "test_prints_arrive_once_in_input_order[4]"

    def change_reply(self, reply: Reply) -> Reply:
        reply.events += list(reply.events)
        return reply


class DelaysOutput(Right):
    """What calls print arrives at the end of their chunk."""

    name = "delays output"
    caught_by = "test_prints_arrive_right_before_their_result[4]"

    def change_reply(self, reply: Reply) -> Reply:
        last = len(reply.values) - 1
        reply.events[:] = [(last, *event[1:]) for event in reply.events]
        return reply


class LosesTheContext(Right):
    """Calls do not see the caller's context variables."""

    name = "loses the context"
    caught_by = "test_context_variables_reach_the_call[1]"

    def change_payload(self, payload: Envelope) -> Envelope:
        return _with_surroundings(payload, context=None)


def _with_surroundings(payload: Envelope, **changes: Any) -> Envelope:
    job = payload.job
    around = dataclasses.replace(job.around, **changes)
    return dataclasses.replace(payload, job=dataclasses.replace(job, around=around))


class SeedsEachChunk(Right):
    """Each chunk starts with the stream of item 0."""

    name = "seeds each chunk"
    caught_by = "test_item_i_has_the_stream_that_numpy_would_spawn[3]"

    def change_payload(self, payload: Envelope) -> Envelope:
        return dataclasses.replace(payload, start=0)


class CountsInChunks(Right):
    """It takes the first item of a chunk for that many times the first chunk's size, as if all had that size."""

    name = "counts in chunks"
    caught_by = "test_item_i_of_an_asynchronous_map_has_the_stream_of_a_map[3]"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._lock = threading.Lock()
        self._chunks: dict[str, list[int]] = {}  # of each job: its sizes

    def submit(self, call: Call, payload: Envelope, /) -> Future[Any]:
        with self._lock:
            sizes = self._chunks.setdefault(payload.job.key, [])
            payload = dataclasses.replace(payload, start=len(sizes) * sizes[0] if sizes else payload.start)
            sizes.append(len(list(payload.items)))
            return super().submit(call, payload)


class BlocksTheLoop(Right):
    """`submit` waits until the call before has ended, and with it whoever is in the same event loop."""

    name = "blocks the loop"
    caught_by = "test_the_event_loop_goes_on_while_calls_run"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._before: Future[Any] | None = None

    def submit(self, call: Call, payload: Any, /) -> Future[Any]:
        if self._before is not None:
            wait([self._before], LIMIT)
        self._before = super().submit(call, payload)
        return self._before


class HidesReports(Right):
    """What calls report is not seen."""

    name = "hides reports"
    caught_by = "test_what_a_call_reports_is_seen_while_it_runs"

    def change_payload(self, payload: Envelope) -> Envelope:
        return dataclasses.replace(payload, job=dataclasses.replace(payload.job, observed=None))


class LosesReceipts(Right):
    """What calls cost is not told."""

    name = "loses receipts"
    caught_by = "test_each_call_has_a_receipt[4]"

    def change_reply(self, reply: Reply) -> Reply:
        reply.receipts = None
        return reply


class DrawsAnewInARetry(Right):
    """A call that is run again gets other random numbers."""

    name = "draws anew in a retry"
    caught_by = "test_a_retry_draws_the_same_numbers"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._runs: dict[tuple[str, int], int] = {}

    def change_payload(self, payload: Envelope) -> Envelope:
        run = self._runs[payload.job.key, payload.start] = self._runs.get((payload.job.key, payload.start), -1) + 1
        return dataclasses.replace(payload, start=payload.start + 1000 * run)


class ForgetsThatItNests(Right):
    """A call that opens an executor gets what the main program would get."""

    name = "forgets that it nests"
    caught_by = "test_the_plan_for_the_levels_below_is_followed"

    def change_payload(self, payload: Envelope) -> Envelope:
        return _with_surroundings(payload, nested=())


class UnpacksHandles(Right):
    """A call that was given a handle on a shared object gets the object."""

    name = "unpacks handles"
    caught_by = "test_a_handle_arrives_as_a_handle"

    def change_payload(self, payload: Envelope) -> Envelope:
        def unpack(part: Any) -> Any:
            if isinstance(part, tuple):
                return tuple(map(unpack, part))
            return part.get() if isinstance(part, Shared) else part

        return dataclasses.replace(payload, items=[unpack(item) for item in payload.items])


class CopiesWhatIsShared(Right):
    """Each call has a copy of what is shared, which it can write to."""

    name = "copies what is shared"
    caught_by = "test_what_is_shared_cannot_be_written_to"

    def change_payload(self, payload: Envelope) -> Envelope:
        def copied(part: Any) -> Any:
            return Shared(Content("", lambda: copy.deepcopy(part.get()))) if isinstance(part, Shared) else part

        return dataclasses.replace(payload, items=[copied(item) for item in payload.items])


class StopsTooLate(Right):
    """A call that is to be stopped runs on for a while."""

    name = "stops too late"
    caught_by = "test_the_limit_is_kept_to_the_second"
    is_of_processes = True

    def stop_call(self, future: Future[Any], /) -> bool:
        """Promise that it ends, and end it when nobody waits for it any more."""
        assert isinstance(self._right, Processes)
        later = threading.Timer(3.0, self._right.stop_call, (future,))
        later.daemon = True
        later.start()
        return True


class StopsTheNeighbour(Right):
    """With a call that is to be stopped goes what the other workers run."""

    name = "stops the neighbour"
    caught_by = "test_a_running_call_can_be_cancelled_and_its_neighbours_go_on"
    is_of_processes = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._sent: list[Future[Any]] = []

    def submit(self, call: Call, payload: Any, /) -> Future[Any]:
        """Run the call, and keep it in mind."""
        self._sent.append(super().submit(call, payload))
        return self._sent[-1]

    def stop_call(self, future: Future[Any], /) -> bool:
        """End all that runs."""
        assert isinstance(self._right, Processes)
        for each in self._sent:
            if each is not future and each.running():
                self._right.stop_call(each)
        return self._right.stop_call(future)


class LeavesPrograms(Right):
    """A call that is stopped leaves the programs behind that it has started."""

    name = "leaves programs"
    caught_by = "test_a_call_that_is_stopped_takes_along_the_programs_that_it_has_started[cancel]"
    still_passes = "test_a_running_call_can_be_cancelled_and_its_neighbours_go_on"
    is_of_processes = True

    def stop_call(self, future: Future[Any], /) -> bool:
        """End the worker alone."""
        os.kill(future.slot.process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        return True


class WaitsForForkedChildren(Right):
    """A worker counts as lost when nobody has its files open any more, not even what its call has forked."""

    name = "waits for forked children"
    caught_by = "test_a_child_that_a_lost_call_had_forked_holds_up_neither_caller_nor_end"
    still_passes = "test_the_call_of_a_lost_worker_fails_and_the_executor_goes_on[signal]"
    is_of_processes = True

    def submit(self, call: Call, payload: Any, /) -> Future[Any]:
        """Run the call in a worker that has a file open, and settle its future when that is closed."""
        place = tempfile.TemporaryDirectory()
        native = super().submit(_with_an_open_file, (place.name, call, payload))
        future: Future[Any] = Future()

        def settle() -> None:
            error = native.exception()
            if error is None:
                future.set_result(native.result())
            else:
                _wait_until_closed(place.name)
                future.set_exception(error)
            place.cleanup()

        native.add_done_callback(lambda _: threading.Thread(target=settle, daemon=True).start())
        return future


class EndsAfterForkedChildren(Right):
    """Its end waits until nobody has the files of its workers open any more, not even what a call has forked."""

    name = "ends after forked children"
    caught_by = "test_a_child_that_a_lost_call_had_forked_holds_up_neither_caller_nor_end"
    still_passes = "test_the_call_of_a_lost_worker_fails_and_the_executor_goes_on[signal]"
    is_of_processes = True

    def start(self) -> tuple[int, Traits]:
        self._place = tempfile.TemporaryDirectory()
        return super().start()

    def submit(self, call: Call, payload: Any, /) -> Future[Any]:
        """Run the call in a worker that has a file open."""
        return super().submit(_with_an_open_file, (self._place.name, call, payload))

    def stop(self, *, cancel: bool) -> None:
        """Stop the workers, and wait until their files are closed."""
        super().stop(cancel=cancel)
        _wait_until_closed(self._place.name)
        self._place.cleanup()


def _with_an_open_file(task: tuple[str, Call, Any]) -> Any:
    import fcntl

    place, call, payload = task
    with open(Path(place, str(os.getpid())), "a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # until the last process that has inherited it has closed it
        return call(payload)


def _wait_until_closed(place: str) -> None:
    import fcntl

    for path in Path(place).iterdir():
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX)


class ForgetsForkedCallers(Right):
    """In a child that the caller forks nobody is told that the answers come to its parent."""

    name = "forgets forked callers"
    caught_by = "test_a_child_that_the_caller_forks_has_an_answer_for_each_call"

    def submit(self, call: Call, payload: Any, /) -> Future[Any]:
        for each in list(_at_exit._running):
            if getattr(each, "backend", None) is self:
                _at_exit.forget(each)
        return super().submit(call, payload)


class LeavesLevels(Right):
    """What a call did to logging levels is left for the calls after it on that worker."""

    name = "leaves levels"
    caught_by = "test_a_level_that_a_call_sets_does_not_reach_the_next_call"
    is_of_processes = True

    def submit(self, call: Call, payload: Any, /) -> Future[Any]:
        """Run the call in a worker that does not look what the call before has changed."""
        return super().submit(_without_looking, (call, payload))


def _without_looking(both: tuple[Call, Any]) -> Any:
    setattr(_context_process.process, "_still_holds", lambda: True)  # noqa: B010 (mypy refuses the assignment)
    call, payload = both
    return call(payload)


WRONG: tuple[type[Right], ...] = (
    LeavesLevels,
    ReversesResults,
    DropsTheLastResult,
    ConcatenatesResults,
    RunsTwice,
    RunsAgainAfterErrors,
    MergesEqualCalls,
    SwallowsErrors,
    SwallowsStopIteration,
    ChangesTheErrorsType,
    LosesTheCause,
    LosesTheTraceback,
    RaisesTheFastestError,
    AnswersTooLate,
    LosesCancel,
    CancelsWhatRuns,
    BlocksInSubmit,
    UsesOneWorker,
    LeaksAThread,
    LeaksAProcess,
    LeaksAFile,
    SharesArguments,
    LosesOutput,
    RepeatsOutput,
    DelaysOutput,
    LosesTheContext,
    SeedsEachChunk,
    DrawsAnewInARetry,
    CountsInChunks,
    BlocksTheLoop,
    HidesReports,
    LosesReceipts,
    ForgetsThatItNests,
    UnpacksHandles,
    CopiesWhatIsShared,
    StopsTooLate,
    StopsTheNeighbour,
    LeavesPrograms,
    WaitsForForkedChildren,
    EndsAfterForkedChildren,
    ForgetsForkedCallers,
)
"""Every wrong backend."""
