"""One upper bound on the CPUs of this process, and the small files that such bounds are read from."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CpuLimit", "read_file"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CpuLimit:
    """One upper bound on the CPUs of this process.

    Parameters
    ----------
    source : str
        Who sets it: ``"affinity"``, ``"cgroup v2 quota"``, ``"SLURM_CPUS_PER_TASK"``, ...
    cpus : int
        The bound, at least 1.
    detail : str
        What it was read from, for people: the file or the variable with its text.
    """

    source: str
    cpus: int
    detail: str


def read_file(path: str) -> str:
    """Return the text of a small system file, "" if there is none: no file, no limit."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
