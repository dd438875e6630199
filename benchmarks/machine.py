"""What the figures depend on: the machine, its load, the versions. And how a terminal is told of progress."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from subject import Subject

__all__ = ["describe_machine", "describe_versions", "is_quiet", "provisional", "say_on_terminal"]

_QUIET = 0.5
"""Load, in running processes, up to which a machine counts as doing nothing else."""


def describe_machine() -> dict[str, Any]:
    """The CPUs, how many processes ran before, the system, the interpreter; no name of the host."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpus": usable,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "cpu": _cpu_model(),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def describe_versions(subjects: Iterable[Subject]) -> dict[str, str]:
    """The versions of the libraries of all subjects."""
    found: dict[str, str] = {}
    for subject in subjects:
        found.update(subject.versions())
    return dict(sorted(found.items()))


def is_quiet(machine: dict[str, Any]) -> bool:
    """Whether nothing else ran when the figures were taken."""
    return machine["load"] is not None and machine["load"] <= _QUIET


def provisional(record: Mapping[str, Any]) -> str:
    """Why the figures of a record are not to be relied on, as the beginning of a paragraph; empty if they are."""
    reasons = []
    if record["settings"]["quick"]:
        reasons.append("the inputs were small")
    if not is_quiet(record["machine"]):
        reasons.append(f"the machine did other work (load {record['machine']['load']} before the run)")
    return f"**Provisional:** {' and '.join(reasons)}." if reasons else ""


def say_on_terminal(line: str) -> None:
    """Show progress where a person watches, and leave files clean."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()
