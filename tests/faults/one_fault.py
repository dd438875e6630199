"""One fault on one executor, in a process of its own: what the caller sees, as lines of JSON, step by step.

    python one_fault.py EXECUTOR FAULT DIRECTORY

Step by step, since a fault may hang the executor, the interpreter or both: what was written stays.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from peers import open_peer

from anypool.testing import FAULTS, Faults

ITEMS = range(12)
FATAL = 5
ANSWER_WITHIN = 8.0
"""Seconds; whoever has not answered by then hangs: each call takes 20 ms."""

GOES_ON_WITHIN = 6.0
CLOSES_WITHIN = 6.0


def main(name: str, fault: str, directory: Path) -> None:
    """Run the scenario that `fault` names."""
    with open(directory / "steps", "a") as steps:

        def tell(**facts: Any) -> None:
            steps.write(json.dumps(facts) + "\n")
            steps.flush()

        if fault in FAULTS:
            fail_a_call(name, fault, directory, tell)
        else:
            SCENARIOS[fault](name, directory, tell)


def fail_a_call(name: str, fault: str, directory: Path, tell: Any) -> None:
    """Twelve calls, one of which has the fault; then four more; then the end."""
    peer = open_peer(name, limited=FAULTS[fault].hangs)
    peer.run(_quick, list(range(4)), 30.0)
    faults = Faults(directory / "calls", {FATAL: [fault]}, fn=_slow)
    tell(ready=True)
    answers = peer.run(faults, list(ITEMS), ANSWER_WITHIN)
    record = faults.record()
    began = next((each.began for each in record if each.item == str(FATAL)), None)
    kind, value, at = answers[FATAL]
    refused = kind == "ended"
    if refused:  # the map itself was, before its first call
        kind, value, at = answers[0]
    others = [answer for item, answer in enumerate(answers) if item != FATAL]
    lost = [answer for item, answer in enumerate(answers) if item != FATAL and answer[:2] != ("value", item)]
    tell(
        sees=f"{type(value).__name__}" if kind == "error" else kind,
        says=str(value)[:300] if kind == "error" else "",
        after=None if began is None or kind == "hang" else at - began,
        refused=refused,
        lost=0 if refused else len([answer for answer in lost if answer[0] != "ended"]),
        hung=len([answer for answer in others if answer[0] == "hang"]),
        twice=sum(count - 1 for count in faults.counts().values()),
    )
    again = peer.run(_quick, list(range(4)), GOES_ON_WITHIN)
    tell(goes_on=[answer[:2] for answer in again] == [("value", item) for item in range(4)])
    _close(peer, tell)


def _close(peer: Any, tell: Any) -> None:
    began = time.monotonic()
    thread = threading.Thread(target=peer.close, daemon=True)
    thread.start()
    thread.join(CLOSES_WITHIN)
    tell(closed=None if thread.is_alive() else time.monotonic() - began)


def _quick(item: int) -> int:
    return item


def _slow(item: int) -> int:
    time.sleep(0.02)
    return item


def _sleep_long(item: int) -> int:
    time.sleep(60)
    return item


def interrupted(name: str, directory: Path, tell: Any) -> None:
    """Whoever started this process sends Ctrl-C to all of it in the middle of calls of a minute."""
    peer, faults = _at_work(name, directory, tell)
    try:
        peer.work(faults, list(ITEMS))
    except KeyboardInterrupt as error:
        tell(interrupted=time.monotonic())
        peer.leave(error)
    tell(ended=time.monotonic())


def killed(name: str, directory: Path, tell: Any) -> None:
    """Whoever started this process kills it, and it alone, in the middle of calls of a minute."""
    peer, faults = _at_work(name, directory, tell)
    peer.work(faults, list(ITEMS))


def _at_work(name: str, directory: Path, tell: Any) -> tuple[Any, Faults]:
    """An executor with warm workers, calls for it that take a minute, and a thread that says when two have begun."""
    peer = open_peer(name, limited=False)
    peer.run(_quick, list(range(4)), 30.0)
    faults = Faults(directory / "calls", fn=_sleep_long)

    def say_when_begun() -> None:
        while len(faults.record()) < 2:
            time.sleep(0.01)
        tell(ready=True)

    threading.Thread(target=say_when_begun, daemon=True).start()
    return peer, faults


def inherited(name: str, directory: Path, tell: Any) -> None:
    """A child forked by the caller uses the executor that it inherited."""
    peer = open_peer(name, limited=False)
    peer.run(_quick, list(range(4)), 30.0)
    tell(ready=True)
    child = os.fork()
    if child == 0:
        began = time.monotonic()
        try:
            kind, value, _ = peer.run(_quick, [1], ANSWER_WITHIN)[0]
        except BaseException as exc:
            kind, value = "error", exc
        after = time.monotonic() - began
        tell(sees=type(value).__name__ if kind == "error" else kind, after=after, says=str(value)[:300])
        os._exit(0)
    os.waitpid(child, 0)
    again = peer.run(_quick, list(range(4)), GOES_ON_WITHIN)
    tell(goes_on=[answer[:2] for answer in again] == [("value", item) for item in range(4)])
    _close(peer, tell)


SCENARIOS = {"Ctrl-C": interrupted, "caller killed": killed, "forked caller": inherited}

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
