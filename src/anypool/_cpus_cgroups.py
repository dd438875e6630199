"""What the container grants: the CPU limits of the cgroups that this process is in, version 1 and 2."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from anypool._cpus_limit import CpuLimit, read_file

__all__ = ["cgroup_limits"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Hierarchy:
    """A mounted tree of cgroups that has a say about CPUs, and where in it this process is."""

    version: int
    controllers: frozenset[str]
    mount: str
    inside: str


def cgroup_limits(root: str) -> Iterator[CpuLimit]:
    for hierarchy in _hierarchies(root):
        # A limit set on a parent binds all below it: a pod's quota is often not on the leaf
        # that the process is in, and a leaf inside a container often has none (loky#634).
        for directory in _upwards(hierarchy.mount, hierarchy.inside):
            if hierarchy.version == 2:
                yield from _v2_limits(root + directory)
            else:
                yield from _v1_limits(root + directory, hierarchy.controllers)


def _hierarchies(root: str) -> Iterator[_Hierarchy]:
    """Yield the cgroup trees of this process. Formats: cgroups(7), proc_pid_mountinfo(5)."""
    own: dict[str, str] = {}
    for line in read_file(f"{root}/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))  # v2 has "" for controllers
    if not own:
        return
    for line in read_file(f"{root}/proc/self/mountinfo").splitlines():
        if " - cgroup" not in line:
            continue
        before, _, after = line.partition(" - ")
        mount_root, mount = (_unescape(field) for field in before.split()[3:5])
        kind, *_, options = after.split()
        if kind == "cgroup2" and "" in own:
            inside = _inside(own[""], mount_root)
            yield _Hierarchy(version=2, controllers=frozenset(), mount=mount, inside=inside)
        elif kind == "cgroup":
            controllers_here = {"cpu", "cpuset"} & set(options.split(",")) & own.keys()
            for controller in controllers_here:
                inside = _inside(own[controller], mount_root)
                one = frozenset((controller,))
                yield _Hierarchy(version=1, controllers=one, mount=mount, inside=inside)


def _inside(path: str, mount_root: str) -> str:
    """Return where below its mount the cgroup `path` is seen; "" is the mount point itself.

    A container without a cgroup namespace sees its host's path in /proc, and a mount whose root
    is that very path; one with a namespace sees "/" for both. Where neither fits, the mount point
    is the nearest that this process can see.
    """
    if mount_root == "/":
        return path.strip("/")
    if path == mount_root or path.startswith(mount_root + "/"):
        return path[len(mount_root) :].strip("/")
    return ""


def _upwards(mount: str, inside: str) -> Iterator[str]:
    """Yield the directory of a cgroup, then each parent, up to the mount point."""
    parts = [part for part in inside.split("/") if part]
    if ".." in parts:  # outside of the namespace's root: nothing of it can be seen
        parts = []
    for count in range(len(parts), -1, -1):
        yield "/".join((mount.rstrip("/"), *parts[:count]))


def _v2_limits(directory: str) -> Iterator[CpuLimit]:
    quota = read_file(f"{directory}/cpu.max").split()
    if len(quota) == 2:
        yield from _quota("cgroup v2 quota", quota[0], quota[1], f"{directory}/cpu.max")
    yield from _cpuset("cgroup v2 cpuset", f"{directory}/cpuset.cpus.effective")


def _v1_limits(directory: str, controllers: frozenset[str]) -> Iterator[CpuLimit]:
    if "cpu" in controllers:
        quota = read_file(f"{directory}/cpu.cfs_quota_us").strip()
        period = read_file(f"{directory}/cpu.cfs_period_us").strip()
        yield from _quota("cgroup v1 quota", quota, period, f"{directory}/cpu.cfs_quota_us")
    if "cpuset" in controllers:
        yield from _cpuset("cgroup v1 cpuset", f"{directory}/cpuset.cpus")


def _quota(source: str, quota: str, period: str, path: str) -> Iterator[CpuLimit]:
    # "max" (v2), "-1" (v1) and a missing file all mean: no limit here.
    if quota.isdecimal() and period.isdecimal() and int(period) > 0:
        # Rounded up: with half a CPU's time to spare, one more worker still gets work done.
        cpus = max(1, -(-int(quota) // int(period)))
        yield CpuLimit(source=source, cpus=cpus, detail=f"{path}: {quota} of {period} us")


def _cpuset(source: str, path: str) -> Iterator[CpuLimit]:
    text = read_file(path).strip()  # empty: as in the parent, which is asked too
    if re.fullmatch(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*", text):
        spans = (span.partition("-") for span in text.split(","))
        cpus = sum(int(last or first) - int(first) + 1 for first, _, last in spans)
        yield CpuLimit(source=source, cpus=max(1, cpus), detail=f"{path}: {text}")


def _unescape(field: str) -> str:
    """Undo the kernel's escapes of blanks, tabs and backslashes in mountinfo: "\\040" is a blank."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
