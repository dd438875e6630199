"""Writes docs/reliability.md: every fault on every executor, each in a process of its own under a hard limit.

    python tests/faults/reliability.py                     all of it, and the page (make reliability)
    python tests/faults/reliability.py --only exit -e loky  some of it, printed

A hang is a result: of a peer it is written down, of ours it makes this program fail.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from peers import OURS, PEERS

from anypool.testing import FAULTS

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "reliability.md"
MARK = "ANYPOOL_FAULT_RUN"
AT_ONCE = 2
HARD_LIMIT = 60.0
"""Seconds for one fault on one executor, over all its steps, each of which has a limit of its own."""

ENDS_WITHIN = (9.0, 10.0)
"""Seconds for the interpreter to end after the executor was to be closed; after Ctrl-C."""

NOTICED_WITHIN = 5.0
"""Seconds that workers have to go when their caller was killed, and all that was started when it has ended."""

ROWS = (
    "exit", "SIGKILL", "SIGSEGV", "fork and die", "memory", "hang", "hang, GIL held", "unbuildable error",
    "unpicklable error", "unpicklable result", "SystemExit", "KeyboardInterrupt", "closed stdout",
)  # fmt: skip
SCENARIOS = {
    "Ctrl-C": "Ctrl-C (SIGINT to the whole process group) in the middle of calls of a minute",
    "caller killed": "SIGKILL of the caller in the middle of calls of a minute",
    "forked caller": "the executor used in a child that the caller forked",
}
ENDS_ITS_PROCESS = "ends the caller: its calls run in the caller's process"
IN_CALLER = frozenset({"threads"})


@dataclass
class Outcome:
    """What one fault did to one executor."""

    executor: str
    fault: str
    facts: dict[str, Any] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    noise: str = ""
    hung: bool = False

    @property
    def is_ours(self) -> bool:
        return self.executor in OURS


def marked(mark: str) -> dict[int, str]:
    """The processes that were started, by whomever, in the run with this mark in its environment."""
    found = {}
    wanted = f"{MARK}={mark}".encode()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                if wanted in Path("/proc", name, "environ").read_bytes():
                    words = Path("/proc", name, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    state = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[0]
                    if state != "Z":
                        found[int(name)] = words.strip()[:80]
            except (OSError, IndexError):
                continue
    return found


def shared_memory() -> set[str]:
    return set(os.listdir("/dev/shm"))


def run(executor: str, fault: str) -> Outcome:
    """Run one fault on one executor; nothing of it lives afterwards."""
    outcome = Outcome(executor, fault)
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="anypool-fault-") as name:
        directory = Path(name)
        own_tmp = directory / "tmp"
        own_tmp.mkdir()
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("ANYPOOL_", "DASK_"))},
            MARK: mark,
            "ANYPOOL_CONFIG": "none",
            "TMPDIR": str(own_tmp),
        }
        with open(directory / "stderr", "w") as stderr:
            process = subprocess.Popen(
                [sys.executable, str(HERE / "one_fault.py"), executor, fault, name],
                stdout=subprocess.DEVNULL, stderr=stderr, cwd=directory, env=environment, start_new_session=True,
            )  # fmt: skip
            try:
                _watch(process, fault, directory, outcome)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
                _look_for_leftovers(mark, own_tmp, outcome)
        outcome.noise = (directory / "stderr").read_text(errors="replace")
    return outcome


def _steps(directory: Path) -> dict[str, Any]:
    try:
        lines = (directory / "steps").read_text().splitlines()
    except FileNotFoundError:
        return {}
    facts: dict[str, Any] = {}
    for line in lines:
        facts |= json.loads(line)
    return facts


def _watch(process: subprocess.Popen[bytes], fault: str, directory: Path, outcome: Outcome) -> None:
    deadline = time.monotonic() + HARD_LIMIT
    sent = None
    while process.poll() is None and time.monotonic() < deadline:
        outcome.facts = _steps(directory)
        if fault in ("Ctrl-C", "caller killed") and sent is None and outcome.facts.get("ready"):
            sent = time.monotonic()
            if fault == "Ctrl-C":
                os.killpg(process.pid, signal.SIGINT)
                deadline = sent + 10
            else:
                process.kill()
        if "closed" in outcome.facts and outcome.facts["closed"] is None:
            deadline = min(deadline, time.monotonic() + 3)  # it hangs; does its interpreter end?
        time.sleep(0.02)
    outcome.hung = process.poll() is None
    outcome.facts = _steps(directory)
    if sent is not None and fault == "Ctrl-C":
        back = outcome.facts.get("interrupted")
        outcome.facts["after"] = None if back is None else back - sent
        outcome.facts["all_after"] = None if outcome.hung else time.monotonic() - sent


def _look_for_leftovers(mark: str, own_tmp: Path, outcome: Outcome) -> None:
    began = time.monotonic()
    while (left := marked(mark)) and time.monotonic() - began < NOTICED_WITHIN:
        time.sleep(0.05)
    outcome.facts["gone_after"] = None if left else time.monotonic() - began
    # Those of a fault's own making: a child that it forked lives for a while, and nobody knows of it.
    strays = len([pid for pid in left if outcome.fault == "fork and die"])
    if len(left) > (1 if strays else 0):
        outcome.left.append(f"{len(left) - (1 if strays else 0)} processes")
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    files = [path for path in own_tmp.rglob("*") if path.is_file() or path.is_socket()]
    if files:
        outcome.left.append(f"{len(files)} files")


# --- the page ------------------------------------------------------------------------------------------------


def seen(outcome: Outcome) -> str:
    """What the caller sees."""
    facts = outcome.facts
    if outcome.fault == "Ctrl-C":
        if facts.get("after") is None:
            return "**a hang**"
        return "`KeyboardInterrupt`, then **a hang**" if outcome.hung else "`KeyboardInterrupt`"
    if outcome.fault == "caller killed":
        return "-"
    if "sees" not in facts:
        return "**a hang**" if outcome.hung else "**the caller's end**"
    if facts["sees"] == "hang":
        return "**a hang**"
    if facts.get("refused"):
        return f"`{facts['sees']}` at the call of `map`: it cannot be ended"
    return "the value" if facts["sees"] == "value" else f"`{facts['sees']}`"


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.0f}\u00a0ms" if value < 1 else f"{value:.1f}\u00a0s"  # on one line, in a narrow column


def left_behind(outcome: Outcome) -> str:
    words = list(outcome.left)
    if outcome.hung:
        words.append(f"an interpreter that did not end within {ENDS_WITHIN[outcome.fault == 'Ctrl-C']:g} s")
    return ", ".join(words) or "nothing"


def rows(outcomes: list[Outcome]) -> list[list[str]]:
    """One row for each executor that had the fault."""
    table = []
    for each in outcomes:
        name = f"anypool, `{each.executor}`" if each.is_ours else each.executor
        facts = each.facts
        if each.executor in IN_CALLER and "sees" not in facts and not each.hung and each.fault in FAULTS:
            table.append([name, ENDS_ITS_PROCESS, "-", "-", "-", "-", "-"])
            continue
        goes_on = facts.get("goes_on")
        lost = facts.get("lost", "-")
        if facts.get("hung"):
            lost = f"{lost} ({facts['hung']} never answered)"
        table.append(
            [
                name,
                seen(each),
                _seconds(facts.get("after")),
                str(lost),
                str(facts.get("twice", "-")),
                "-" if goes_on is None else ("yes" if goes_on else "**no**"),
                left_behind(each),
            ]
        )
    return table


def failures(outcome: Outcome) -> list[str]:
    """What of an outcome of ours breaks a promise."""
    facts, wrong = outcome.facts, []
    if not outcome.is_ours:
        return []
    ends = (
        outcome.fault == "Ctrl-C"
        or outcome.fault in FAULTS
        and (FAULTS[outcome.fault].ends_worker or FAULTS[outcome.fault].hangs)
    )
    if outcome.executor in IN_CALLER and ends:
        return []
    if outcome.hung or facts.get("sees") == "hang" or facts.get("hung") or facts.get("closed", 0) is None:
        wrong.append("hangs")
    for fact in ("lost", "twice"):
        if facts.get(fact):
            wrong.append(f"{fact}: {facts[fact]}")
    if facts.get("goes_on") is False:
        wrong.append("does not go on")
    if outcome.left:
        wrong.append(f"leaves {', '.join(outcome.left)}")
    return wrong


def table(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


HEAD = ["executor", "what the caller sees", "after", "other calls lost", "calls run twice", "goes on", "left behind"]


def page(outcomes: list[Outcome], seconds: float) -> str:
    """The generated part."""
    parts = [_about_the_run(seconds), summary(outcomes)]
    for fault in (*ROWS, *SCENARIOS):
        about = FAULTS[fault].about if fault in FAULTS else SCENARIOS[fault]
        chosen = [each for each in outcomes if each.fault == fault]
        if fault == "caller killed":
            head = ["executor", "its processes were gone after", "left behind"]
            body = [
                [f"anypool, `{each.executor}`" if each.is_ours else each.executor,
                 _seconds(each.facts.get("gone_after")), left_behind(each)]
                for each in chosen
            ]  # fmt: skip
            parts.append(f"### {_title(about)}\n\n" + table(head, body))
        else:
            parts.append(f"### {_title(about)}\n\n" + table(HEAD, rows(chosen)))
    return "\n".join(parts)


def _title(about: str) -> str:
    first = about.split()[0]
    return f"`{first}`{about[len(first) :]}" if "." in first else about[0].upper() + about[1:]


def summary(outcomes: list[Outcome]) -> str:
    """One line for each executor over all faults."""
    body = []
    for name in (*OURS, *PEERS):
        mine = [each for each in outcomes if each.executor == name]
        mine = [each for each in mine if not (name in IN_CALLER and "sees" not in each.facts and each.fault in FAULTS)]
        hangs = sum("**a hang**" in seen(each) or bool(each.facts.get("hung")) for each in mine)
        body.append(
            [
                f"anypool, `{name}`" if name in OURS else name,
                str(len(mine)),
                str(hangs) if not hangs else f"**{hangs}**",
                str(sum(each.facts.get("lost") or 0 for each in mine)),
                str(sum(each.facts.get("twice") or 0 for each in mine)),
                str(sum(each.facts.get("goes_on") is False for each in mine)),
                str(sum(bool(each.left) or each.hung for each in mine)),
            ]
        )
    head = ["executor", "faults", "hangs", "other calls lost", "calls run twice", "did not go on", "left something"]
    return table(head, body)


def _about_the_run(seconds: float) -> str:
    versions = []
    for name in ("loky", "joblib", "pebble", "distributed"):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"no {name}")
    return (
        f"Measured on {platform.system()}, CPython {platform.python_version()}, {os.cpu_count()} CPUs, with "
        f"{', '.join(versions)}, all in one run of {seconds / 60:.0f} minutes, two faults at a time.\n"
    )


def write(outcomes: list[Outcome], seconds: float) -> None:
    """Put the generated part into the page."""
    text = PAGE.read_text(encoding="utf-8")
    part = re.compile(r"(<!-- measured: faults -->\n).*?(<!-- end -->)", re.DOTALL)
    new = part.sub(lambda found: found[1] + page(outcomes, seconds) + found[2], text)
    PAGE.write_text(new, encoding="utf-8")


def main() -> int:
    """Run what was asked for; 1 if an executor of ours broke a promise."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started by `... &`: what it starts would not hear of Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", metavar="FAULT", help="run this fault, and write no page")
    parser.add_argument("-e", "--executor", action="append", help="run on this executor, and write no page")
    asked = parser.parse_args()
    faults = asked.only or [*ROWS, *SCENARIOS]
    executors = asked.executor or [*OURS, *PEERS]
    began = time.monotonic()
    pairs = [(executor, fault) for fault in faults for executor in executors]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(lambda pair: run(*pair), pairs))
    for each in outcomes:
        print(
            f"{each.fault:20} {each.executor:28}",
            " | ".join(rows([each])[0][1:]),
            f"gone {each.facts.get('gone_after')}",
        )
    if not (asked.only or asked.executor):
        write(outcomes, time.monotonic() - began)
    broken = [f"{each.executor}, {each.fault}: {what}" for each in outcomes for what in failures(each)]
    print("\n".join(["", f"{time.monotonic() - began:.0f} s", *broken]))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
