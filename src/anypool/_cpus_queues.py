"""What batch queues and the user grant: the CPU limits that environment variables tell of."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator, Mapping

from anypool._cpus_limit import CpuLimit, read_file

__all__ = ["environment_limits"]


def environment_limits(root: str, environ: Mapping[str, str]) -> Iterator[CpuLimit]:
    yield from _python_limits(environ)
    yield from _slurm_limits(environ)
    yield from _sge_limits(root, environ)
    # Torque, then PBS Pro. PBS_NP is not read: it counts the CPUs of all the job's nodes. NCPUS
    # is too common a name to be believed outside of a PBS job.
    yield from _variable(environ, "PBS_NUM_PPN")
    if "PBS_JOBID" in environ:
        yield from _variable(environ, "NCPUS")
    # LSF. The second is the job's maximum, the first what it got.
    yield from _first_variable(environ, "LSB_DJOB_NUMPROC", "LSB_MAX_NUM_PROCESSORS")
    # Fujitsu's queue (Fugaku). The first is set on virtual nodes only.
    yield from _first_variable(environ, "PJM_VNODE_CORE", "PJM_PROC_BY_NODE")
    yield from _variable(environ, "ANYPOOL_MAX_WORKERS")


def _python_limits(environ: Mapping[str, str]) -> Iterator[CpuLimit]:
    """Yield what `-X cpu_count` and PYTHON_CPU_COUNT say. Python itself knows them from 3.13 on."""
    name = "PYTHON_CPU_COUNT"
    option = sys._xoptions.get("cpu_count")
    if isinstance(option, str) and option != "default":
        yield from _variable({"-X cpu_count": option}, "-X cpu_count")
    # Python ignores its variables under -E and -I; `-X cpu_count`, even as "default", wins.
    elif option is None and not sys.flags.ignore_environment and environ.get(name) != "default":
        yield from _variable(environ, name)


def _slurm_limits(environ: Mapping[str, str]) -> Iterator[CpuLimit]:
    """Yield what Slurm granted on this node (sbatch(1), section "OUTPUT ENVIRONMENT VARIABLES").

    SLURM_CPUS_PER_TASK is set only if the user asked for it. On a job of several nodes
    SLURM_CPUS_ON_NODE may be rounded up (parallelly, `availableCoresSlurm`), which is why it never
    stands against the former: the minimum is taken.
    """
    yield from _variable(environ, "SLURM_CPUS_PER_TASK")
    if "SLURM_CPUS_ON_NODE" in environ:
        yield from _variable(environ, "SLURM_CPUS_ON_NODE")
        return
    name = "SLURM_JOB_CPUS_PER_NODE"
    text = environ.get(name, "").strip()
    if not text:
        return
    nodes = _slurm_nodes(text)
    if not nodes:
        _warn_unreadable(name, text)
        return
    node = environ.get("SLURM_NODEID", "")
    known = node.isdecimal() and int(node) < len(nodes)
    # Which entry is this node's is unknown outside of a step: then the smallest is safe.
    cpus = nodes[int(node)] if known else min(nodes)
    yield CpuLimit(source=name, cpus=cpus, detail=f"{name}={text}")


def _slurm_nodes(text: str) -> list[int]:
    """Return the CPUs of each node from Slurm's "4(x2),8"; empty if that is not its form."""
    nodes: list[int] = []
    for entry in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,6})(?:\(x([0-9]{1,6})\))?\s*", entry)
        if match is None or int(match[1]) < 1:
            return []
        nodes += [int(match[1])] * int(match[2] or 1)
    return nodes


def _sge_limits(root: str, environ: Mapping[str, str]) -> Iterator[CpuLimit]:
    """Yield the slots that Grid Engine granted here: NSLOTS counts those of all hosts of the job."""
    if environ.get("NHOSTS", "1") != "1":
        from socket import gethostname  # loaded by few, and slow to load

        path = environ.get("PE_HOSTFILE", "")  # a line for each host: name, slots, queue, CPUs
        here = gethostname().partition(".")[0]
        for line in read_file(f"{root}{path}").splitlines():
            host, slots, *_ = [*line.split(), "", ""]
            if host.partition(".")[0] == here and slots.isdecimal() and int(slots) > 0:
                yield CpuLimit(source="PE_HOSTFILE", cpus=int(slots), detail=f"{path}: {line}")
                return
    yield from _variable(environ, "NSLOTS")


def _first_variable(environ: Mapping[str, str], *names: str) -> Iterator[CpuLimit]:
    """Yield the limit of the first of these variables that is set."""
    yield from _variable(environ, next((name for name in names if environ.get(name)), names[0]))


def _variable(environ: Mapping[str, str], name: str) -> Iterator[CpuLimit]:
    text = environ.get(name, "").strip()
    if not text:
        return
    if re.fullmatch(r"[0-9]{1,9}", text) and int(text) >= 1:
        yield CpuLimit(source=name, cpus=int(text), detail=f"{name}={text}")
    else:
        _warn_unreadable(name, text)


def _warn_unreadable(name: str, text: str) -> None:
    message = f"{name}={text!r} is not a number of CPUs (a whole number from 1 on); it is ignored"
    warnings.warn(message, RuntimeWarning, stacklevel=2)
