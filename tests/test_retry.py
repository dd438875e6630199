"""The policy of retries: which failures run again, after how long. And what becomes of the items of a chunk."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import anypool
from anypool import ConfigError, Retry, WorkerLost
from anypool._attempts import Attempts
from anypool._envelope import Reply, Worker
from anypool._retry import LOST_AGAIN, as_retry
from anypool._tickets import Seen

WORKER = Worker("any", "host", 1, "thread")


def _reply(*values: Any, errors: dict[int, BaseException] | None = None, events: list[Any] | None = None) -> Reply:
    return Reply(list(values), errors or {}, events or [], 0.0, WORKER)


def test_delays_grow_up_to_their_bound() -> None:
    policy = Retry(delay=1.0, backoff=3.0, max_delay=5.0, jitter=0)
    assert [policy.wait(0, attempt) for attempt in (1, 2, 3, 4000)] == [1.0, 3.0, 5.0, 5.0]


@given(st.integers(0, 10**9), st.integers(1, 50), st.floats(0, 1))
def test_jitter_only_shortens_a_delay_and_depends_on_the_place_alone(index: int, attempt: int, jitter: float) -> None:
    policy = Retry(delay=2.0, jitter=jitter, backoff=1.0)
    wait = policy.wait(index, attempt)
    assert 2.0 * (1 - jitter) <= wait <= 2.0
    assert wait == Retry(delay=2.0, jitter=jitter, backoff=1.0).wait(index, attempt)


def test_only_what_the_policy_names_runs_again_and_never_the_pools_own_trouble() -> None:
    policy = Retry(times=2, on=(OSError, "ValueError", "json:JSONDecodeError"))
    assert policy.allows(OSError(), 2)
    assert not policy.allows(OSError(), 3)
    assert policy.allows(ValueError(), 1)
    assert not policy.allows(KeyError(), 1)
    everything = Retry(times=9)
    for error in (
        WorkerLost("x"),
        anypool.SendError("x"),
        anypool.ExecutorClosed("x"),
        KeyboardInterrupt(),
        SystemExit(),
    ):
        assert not everything.allows(error, 1)
    assert everything.allows(anypool.CallTimeout("x"), 1)


@pytest.mark.parametrize(
    "value",
    [
        -1,
        True,
        "often",
        {"time": 3},
        {"times": 1.5},
        {"times": 1, "delay": -1},
        {"jitter": 2},
        {"backoff": 0.5},
        {"on": "NoSuchError"},
        {"on": [int]},
        {"on": [KeyboardInterrupt]},
    ],
)
def test_a_policy_that_cannot_be_is_refused_where_it_is_written(value: Any) -> None:
    with pytest.raises(ConfigError, match="retries"):
        anypool.get_executor("serial", retries=value)


def test_a_number_a_mapping_and_a_policy_mean_the_same() -> None:
    assert as_retry(3) == as_retry({"times": 3}) == Retry(times=3)
    assert as_retry(0) is as_retry(None) is None


def test_what_failed_runs_again_and_what_is_around_it_is_final() -> None:
    attempts = Attempts(Retry(times=1), "raise", lambda _: True)
    items = ["a", "b", "c", "d", "e"]
    outcome = attempts.settle(10, items, _reply(0, None, 2, errors={1: OSError()}))
    assert [(start, reply.values) for start, reply, _ in outcome.held] == [(10, [0]), (12, [2])]
    assert [part for _, part in outcome.later] == [(11, ["b"], False)]
    assert outcome.back == [(13, ["d", "e"], False)]
    again = attempts.settle(11, ["b"], _reply(None, errors={0: OSError("again")}))
    ((start, reply, kept),) = again.held
    assert (start, list(kept)) == (11, ["b"])
    assert reply.errors[0].__notes__ == ["anypool: attempt 2; before it: OSError()"]
    assert again.attempts == {11: 2}


def test_the_output_of_every_attempt_is_kept_in_order() -> None:
    attempts = Attempts(Retry(times=2), "raise")
    for text in ("first", "second"):
        attempts.settle(5, ["x"], _reply(None, errors={0: OSError()}, events=[(0, "stdout", text, False)]))
    outcome = attempts.settle(5, ["x"], _reply(1, events=[(0, "stdout", "third", False)]))
    assert [event[2] for event in outcome.held[0][1].events] == ["first", "second", "third"]


def test_a_budget_is_of_the_whole_map() -> None:
    attempts = Attempts(Retry(times=9, budget=2), "raise", lambda _: True)
    outcome = attempts.settle(0, [0, 1, 2], _reply(None, None, None, errors={at: OSError() for at in range(3)}))
    assert [part.start for _, part in outcome.later] == [0, 1]
    assert [start for start, _, _ in outcome.held] == [2]


def test_of_a_lost_chunk_only_what_was_running_is_lost() -> None:
    from anypool._packing import pack_note

    attempts = Attempts(None, "raise", lambda _: True)
    notes = [pack_note(values, {}, [], WORKER) for values in ([0, 1], [2])]
    log = [(count, note[0]) for count, note in zip((2, 1), notes, strict=True) if note is not None]
    outcome = attempts.settle_loss(0, list("abcdef"), WorkerLost("gone"), Seen(True, 7, 3, 1, log))
    assert [(start, reply.values) for start, reply, _ in outcome.held] == [(0, [0, 1]), (2, [2]), (3, [None])]
    assert outcome.back == [(4, ["e", "f"], False)]


def test_a_chunk_that_had_not_begun_is_sent_again_but_not_for_ever() -> None:
    attempts = Attempts(None, "raise")
    unseen = Seen(False, None, 0, 0, [])
    for _ in range(100):
        outcome = attempts.settle_loss(0, ["a"], WorkerLost("gone"), unseen)
        if outcome.held:
            break
        assert outcome.back == [(0, ["a"], False)]
    assert outcome.held


def test_a_call_that_kills_every_worker_is_given_up_alone() -> None:
    attempts = Attempts(None, "retry", lambda _: True)
    for _ in range(LOST_AGAIN):
        outcome = attempts.settle_loss(0, ["a"], WorkerLost("gone"), Seen(True, 7, 0, 1, []))
        assert outcome.back == [(0, ["a"], True)]
    outcome = attempts.settle_loss(0, ["a"], WorkerLost("gone"), Seen(True, 7, 0, 1, []))
    assert "attempt 4" in outcome.held[0][1].errors[0].__notes__[0]


def test_errors_of_a_lost_chunk_are_one_each() -> None:
    outcome = Attempts(None, "raise", lambda _: True).settle_loss(0, ["a", "b"], WorkerLost("gone", pid=3), None)
    first, second = (outcome.held[at][1].errors[0] for at in (0, 1))
    assert first is not second
    assert second.pid == 3  # type: ignore[attr-defined]
