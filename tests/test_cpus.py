"""The CPU budget is the least that anybody grants."""

from __future__ import annotations

import os
import socket
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anypool import _cpus_cgroups
from anypool._cpus import available_cpus, cpu_limits
from anypool._cpus_limit import CpuLimit

MACHINE = 64


@pytest.fixture(autouse=True)
def _large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: MACHINE)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(MACHINE)), raising=False)
    monkeypatch.setattr(os, "process_cpu_count", lambda: MACHINE, raising=False)
    monkeypatch.setattr(sys, "_xoptions", {})


def tree(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def sources(root: Path, environ: Mapping[str, str] | None = None) -> dict[str, int]:
    """Return the limits by source, the least of each; those of the machine itself left out."""
    limits: dict[str, int] = {}
    for limit in cpu_limits(root=root, environ=environ or {}):
        if limit.source not in ("system", "affinity", "process", "windows"):
            limits[limit.source] = min(limit.cpus, limits.get(limit.source, limit.cpus))
    return limits


# --- the system -----------------------------------------------------------------------------------


def test_without_limits_it_is_the_machine(tmp_path: Path) -> None:
    assert available_cpus(root=tmp_path, environ={}) == (61 if sys.platform == "win32" else MACHINE)


def test_it_is_at_least_one_where_the_platform_cannot_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    monkeypatch.setattr(os, "process_cpu_count", lambda: None)
    monkeypatch.delattr(os, "sched_getaffinity")
    assert available_cpus(root=tmp_path, environ={}) == 1


@pytest.mark.parametrize("name", ["sched_getaffinity", "process_cpu_count"])
def test_the_schedulers_affinity_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(os, name, (lambda _: {3, 5}) if name == "sched_getaffinity" else lambda: 2)
    assert available_cpus(root=tmp_path, environ={}) == 2


def test_windows_can_wait_for_61_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert available_cpus(root=tmp_path, environ={}) == 61


def test_the_real_system_is_read_without_trouble() -> None:
    limits = cpu_limits()
    assert limits[0] == CpuLimit(source="system", cpus=MACHINE, detail="os.cpu_count()")
    assert available_cpus() == min(limit.cpus for limit in limits) >= 1
    assert all(limit.detail for limit in limits)


# --- containers -----------------------------------------------------------------------------------

V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNTS = (
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 master:3 - cgroup cgroup rw,cpu,cpuacct\n"
    "34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
)
V1_OWN = "5:memory:/job\n4:cpuset:/job\n3:cpu,cpuacct:/job\n1:name=systemd:/job\n"


def v2(root: Path, files: Mapping[str, str], *, own: str = "/", mount: str = V2_MOUNT) -> Path:
    inside = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    return tree(root, {"proc/self/cgroup": f"0::{own}\n", "proc/self/mountinfo": mount, **inside})


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("max 100000\n", None), ("200000 100000\n", 2), ("150000 100000\n", 2), ("50000 100000\n", 1),
        ("1000 100000\n", 1), ("400000 50000\n", 8), ("100000 0\n", None), ("", None), ("strange\n", None),
    ],
)  # fmt: skip
def test_a_v2_quota_counts_rounded_up(tmp_path: Path, text: str, cpus: int | None) -> None:
    expected = {} if cpus is None else {"cgroup v2 quota": cpus}
    assert sources(v2(tmp_path, {"cpu.max": text})) == expected


def test_a_quota_at_the_processs_own_path_counts(tmp_path: Path) -> None:
    root = v2(tmp_path, {"a.slice/b.scope/cpu.max": "300000 100000\n"}, own="/a.slice/b.scope")
    assert sources(root) == {"cgroup v2 quota": 3}


def test_a_quota_of_any_parent_counts(tmp_path: Path) -> None:
    files = {"a/b/c/cpu.max": "900000 100000", "a/b/cpu.max": "max 100000", "a/cpu.max": "500000 100000"}
    assert sources(v2(tmp_path, files, own="/a/b/c")) == {"cgroup v2 quota": 5}


def test_a_quota_of_a_sibling_does_not_count(tmp_path: Path) -> None:
    files = {"a/cpu.max": "max 100000", "b/cpu.max": "100000 100000", "a/b/cpu.max": "100000 100000"}
    assert sources(v2(tmp_path, files, own="/a")) == {}


def test_a_v2_cpuset_counts(tmp_path: Path) -> None:
    root = v2(tmp_path, {"a/cpuset.cpus.effective": "0-3,8,10-11\n", "cpuset.cpus.effective": ""}, own="/a")
    assert sources(root) == {"cgroup v2 cpuset": 7}


def test_a_path_that_the_container_cannot_see_falls_back_to_its_mount(tmp_path: Path) -> None:
    # The host's path without the host's mount, as under `--cgroupns=host` with v2.
    root = v2(tmp_path, {"cpu.max": "200000 100000\n"}, own="/system.slice/docker-abc.scope")
    assert sources(root) == {"cgroup v2 quota": 2}


def test_a_path_above_the_namespace_falls_back_to_the_mount(tmp_path: Path) -> None:
    (tmp_path / "sys/fs").mkdir(parents=True)
    tree(tmp_path, {"sys/fs/other/cpu.max": "100000 100000"})
    assert sources(v2(tmp_path, {"cpu.max": "200000 100000\n"}, own="/../other")) == {"cgroup v2 quota": 2}


@pytest.mark.parametrize("own", ["/docker/abc", "/docker/abc/inner"])
def test_a_mount_of_a_part_of_the_tree_is_followed(tmp_path: Path, own: str) -> None:
    mount = V2_MOUNT.replace(" / /sys", " /docker/abc /sys")
    files = {"cpu.max": "400000 100000\n", "inner/cpu.max": "200000 100000\n"}
    expected = 2 if own.endswith("inner") else 4
    assert sources(v2(tmp_path, files, own=own, mount=mount)) == {"cgroup v2 quota": expected}


def test_a_mount_point_with_a_blank_in_its_name_is_found(tmp_path: Path) -> None:
    mount = V2_MOUNT.replace("/sys/fs/cgroup", "/my\\040groups")
    files = {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": mount, "my groups/cpu.max": "100000 100000"}
    assert sources(tree(tmp_path, files)) == {"cgroup v2 quota": 1}


@pytest.mark.parametrize(("quota", "expected"), [("-1", {}), ("250000", {"cgroup v1 quota": 3})])
@pytest.mark.parametrize("level", ["", "job/"])
def test_a_v1_quota_counts_at_every_level(tmp_path: Path, quota: str, expected: dict[str, int], level: str) -> None:
    cpu = f"sys/fs/cgroup/cpu,cpuacct/{level}cpu"
    files = {f"{cpu}.cfs_quota_us": quota + "\n", f"{cpu}.cfs_period_us": "100000\n"}
    root = tree(tmp_path, {"proc/self/cgroup": V1_OWN, "proc/self/mountinfo": V1_MOUNTS, **files})
    assert sources(root) == expected


def test_a_v1_cpuset_counts(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/cpuset/job/cpuset.cpus": "2-5\n", "sys/fs/cgroup/cpuset/cpuset.cpus": "0-63\n"}
    root = tree(tmp_path, {"proc/self/cgroup": V1_OWN, "proc/self/mountinfo": V1_MOUNTS, **files})
    assert sources(root) == {"cgroup v1 cpuset": 4}


@given(quota=st.integers(1, 10**8), period=st.integers(1000, 10**6))
def test_a_quota_never_grants_less_than_its_share_nor_a_whole_cpu_more(quota: int, period: int) -> None:
    (limit,) = _cpus_cgroups._quota("quota", str(quota), str(period), "file")
    assert limit.cpus >= 1
    assert (limit.cpus - 1) * period < quota <= limit.cpus * period


# --- batch queues and the user --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"SLURM_CPUS_PER_TASK": "3", "SLURM_CPUS_ON_NODE": "12"}, 3),
        ({"SLURM_CPUS_ON_NODE": "12", "SLURM_JOB_CPUS_PER_NODE": "4(x2),12", "SLURM_NODEID": "2"}, 12),
        ({"SLURM_JOB_CPUS_PER_NODE": "4(x2),8"}, 4),
        ({"SLURM_JOB_CPUS_PER_NODE": "4(x2),8", "SLURM_NODEID": "1"}, 4),
        ({"SLURM_JOB_CPUS_PER_NODE": "4(x2),8", "SLURM_NODEID": "2"}, 8),
        ({"SLURM_JOB_CPUS_PER_NODE": "4(x2),8", "SLURM_NODEID": "3"}, 4),
        ({"SLURM_JOB_CPUS_PER_NODE": "16"}, 16),
        ({"PBS_NUM_PPN": "6", "PBS_NP": "2"}, 6),
        ({"NCPUS": "5", "PBS_JOBID": "1.host"}, 5),
        ({"NCPUS": "5"}, MACHINE),
        ({"NSLOTS": "7"}, 7),
        ({"LSB_DJOB_NUMPROC": "9", "LSB_MAX_NUM_PROCESSORS": "4"}, 9),
        ({"LSB_MAX_NUM_PROCESSORS": "4"}, 4),
        ({"PJM_VNODE_CORE": "8", "PJM_PROC_BY_NODE": "2"}, 8),
        ({"PJM_PROC_BY_NODE": "2"}, 2),
        ({"PYTHON_CPU_COUNT": "2"}, 2),
        ({"PYTHON_CPU_COUNT": "default"}, MACHINE),
        ({"ANYPOOL_MAX_WORKERS": " 3 "}, 3),
        ({"ANYPOOL_MAX_WORKERS": "1000"}, MACHINE),
        ({"ANYPOOL_MAX_WORKERS": ""}, MACHINE),
        ({"ANYPOOL_MAX_WORKERS": "5", "NSLOTS": "4", "SLURM_CPUS_PER_TASK": "6"}, 4),
    ],
    ids=str,
)
def test_batch_queues_and_the_user_are_respected(tmp_path: Path, environ: dict[str, str], expected: int) -> None:
    assert available_cpus(root=tmp_path, environ=environ) == expected


def test_on_several_hosts_grid_engine_counts_this_hosts_slots(tmp_path: Path) -> None:
    here = socket.gethostname().partition(".")[0]
    tree(tmp_path, {"hosts": f"other 30 all.q@other UNDEFINED\n{here}.example.org 10 all.q@here UNDEFINED\n"})
    environ = {"NSLOTS": "40", "NHOSTS": "2", "PE_HOSTFILE": "/hosts"}
    assert sources(tmp_path, environ) == {"PE_HOSTFILE": 10}
    assert sources(tmp_path, {**environ, "PE_HOSTFILE": "/none"}) == {"NSLOTS": 40}
    assert sources(tmp_path, {**environ, "NHOSTS": "1"}) == {"NSLOTS": 40}


def test_pythons_option_wins_over_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"PYTHON_CPU_COUNT": "2"}
    monkeypatch.setattr(sys, "_xoptions", {"cpu_count": "3"})
    assert sources(tmp_path, environ) == {"-X cpu_count": 3}
    monkeypatch.setattr(sys, "_xoptions", {"cpu_count": "default"})
    assert sources(tmp_path, environ) == {}


def test_pythons_variable_is_ignored_where_python_ignores_its_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "flags", SimpleNamespace(ignore_environment=1))
    assert sources(tmp_path, {"PYTHON_CPU_COUNT": "2"}) == {}


@pytest.mark.parametrize("name", ["SLURM_CPUS_PER_TASK", "SLURM_JOB_CPUS_PER_NODE", "ANYPOOL_MAX_WORKERS"])
@pytest.mark.parametrize("text", ["many", "0", "-4", "2.5", "4(x", "1e3", "٣", "9" * 5000])
def test_a_variable_that_is_no_number_is_skipped_with_one_warning(tmp_path: Path, name: str, text: str) -> None:
    with pytest.warns(RuntimeWarning) as caught:
        assert available_cpus(root=tmp_path, environ={name: text}) == MACHINE
    assert [name in str(warning.message) for warning in caught] == [True]


def test_readable_limits_are_silent(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cpu_limits(root=tmp_path, environ={"SLURM_CPUS_PER_TASK": "2", "NSLOTS": ""})
