"""Cores and memory in control groups: made-up folders in the kernel's layout, of both versions."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from neoxlib import demo
from neoxlib.checkpoint.tensor_file import run_in_threads
from neoxlib.errors import SettingsError
from neoxlib.inference.load import load
from neoxlib.machine import limits
from neoxlib.machine.limits import GIB, Memory
from neoxlib.machine.runtime import fit_threads
from neoxlib.ranks import placement, surroundings

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 {root} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
)
UNLIMITED = "9223372036854771712\n"  # what version 1 prints for no limit


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A host of 8 cores and 23 GiB, 20 of them free; give it groups, mounts and files."""
    monkeypatch.setattr(limits, "ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    host = SimpleNamespace(total=23 * GIB, available=20 * GIB)
    monkeypatch.setattr("psutil.virtual_memory", lambda: host)

    def make(groups: str, mounts: str, files: dict[str, str]) -> None:
        write(tmp_path / "proc/self/cgroup", groups)
        write(tmp_path / "proc/self/mountinfo", mounts)
        for name, text in files.items():
            write(tmp_path / "sys/fs/cgroup" / name, text)

    return make


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_groups_the_machine_is_what_the_kernel_counts(machine):
    machine("", "", {})
    assert limits.cores() == limits.Cores(8) and limits.memory() == Memory(23 * GIB, 20 * GIB)


@pytest.mark.parametrize(
    ("quota", "count"),
    [
        ("50000 100000", 1),
        ("100000 100000", 1),
        ("150000 100000", 1),
        ("250000 100000", 2),
        ("20000 10000", 2),
        ("800000 100000", 8),
        ("3200000 100000", 8),
        ("max 100000", 8),
        ("max", 8),
        ("", 8),
        ("0 100000", 8),
    ],
)
def test_a_quota_of_version_2_is_rounded_down_to_one_thread_at_least(machine, quota, count):
    machine("0::/\n", V2, {"cpu.max": f"{quota}\n"})
    assert limits.core_count() == count


@pytest.mark.parametrize(
    ("quota", "period", "count"),
    [("-1", "100000", 8), ("50000", "100000", 1), ("75000", "25000", 3), ("50000", "", 8)],
)
def test_a_quota_of_version_1_is_read_from_its_two_files(machine, quota, period, count):
    files = {"cpu,cpuacct/job/cpu.cfs_quota_us": quota, "cpu,cpuacct/job/cpu.cfs_period_us": period}
    machine("4:cpu,cpuacct:/job\n", V1.format(root="/"), files)
    assert limits.core_count() == count
    assert (limits.cores().limit is None) == (count == 8)


def test_a_limit_says_where_it_comes_from_and_what_the_host_has(machine):
    half = 3 * GIB // 2
    files = {"cpu.max": "150000 100000", "memory.max": str(half), "memory.current": "0"}
    machine("0::/\n", V2, files)
    assert limits.cores().limit == "cgroup cpu.max: 1.5 core(s); the host has 8"
    said = "cgroup memory.max: 1.5 GiB; the host has 23.0"
    assert limits.memory() == Memory(half, half, said)


def test_fewer_cores_by_affinity_are_named_too(machine, monkeypatch):
    machine("0::/\n", V2, {"cpu.max": "500000 100000"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 5, 6})
    found = limits.cores()
    assert found.count == 3 and found.limit == "affinity or cpuset: 3 core(s); the host has 8"


def test_what_a_group_uses_is_taken_off_but_for_pages_of_files(machine):
    stat = f"anon 123\nfile 9\ninactive_file {GIB}\nactive_file 77\n"
    files = {"max": f"{4 * GIB}\n", "current": f"{3 * GIB}\n", "stat": stat}
    machine("0::/job\n", V2, {f"job/memory.{name}": text for name, text in files.items()})
    assert limits.memory().free == 2 * GIB


def test_version_1_counts_the_groups_below_too(machine):
    stat = f"cache 1\ninactive_file 5\nhierarchical_memory_limit {2 * GIB}\n"
    stat += f"total_inactive_file {GIB}\n"
    files = {"limit_in_bytes": str(2 * GIB), "usage_in_bytes": str(3 * GIB // 2), "stat": stat}
    files = {f"memory/a/memory.{name}": text for name, text in files.items()}
    machine("9:memory:/a\n", V1.format(root="/"), files)
    said = "cgroup memory.limit_in_bytes: 2.0 GiB; the host has 23.0"
    assert limits.memory() == Memory(2 * GIB, 3 * GIB // 2, said)


def test_a_limit_of_a_group_that_a_container_hides_is_known_from_version_1s_statistics(machine):
    stat = f"cache 1\nhierarchical_memory_limit {GIB}\ntotal_inactive_file 0\n"
    files = {"limit_in_bytes": UNLIMITED, "usage_in_bytes": str(GIB // 4), "stat": stat}
    files = {f"memory/memory.{name}": text for name, text in files.items()}
    machine("9:memory:/pod/a\n", V1.format(root="/pod/a"), files)
    said = "cgroup hierarchical_memory_limit: 1.0 GiB; the host has 23.0"
    assert limits.memory() == Memory(GIB, 3 * GIB // 4, said)


@pytest.mark.parametrize("level", ["", "pod/", "pod/job/"])
def test_the_tightest_group_of_the_chain_counts(machine, level):
    """A job's own group is often without a limit, which a group above it has."""
    files = {f"{folder}memory.max": "max\n" for folder in ("", "pod/", "pod/job/")}
    files |= {"pod/job/cpu.max": "max 100000", f"{level}cpu.max": "200000 100000"}
    files |= {f"{level}memory.max": str(GIB), f"{level}memory.current": str(GIB // 4)}
    machine("0::/pod/job\n", V2, files)
    assert limits.core_count() == 2
    assert (limits.memory().total, limits.memory().free) == (GIB, 3 * GIB // 4)


def test_room_is_that_of_the_fullest_group_even_where_another_has_the_lower_limit(machine):
    sizes = {"memory.max": 8, "memory.current": 7, "job/memory.max": 4, "job/memory.current": 1}
    machine("0::/job\n", V2, {name: str(size * GIB) for name, size in sizes.items()})
    assert (limits.memory().total, limits.memory().free) == (4 * GIB, GIB)


def test_memory_high_is_a_limit(machine):
    sizes = {"memory.max": 4, "memory.high": 3, "memory.current": 1}
    machine("0::/\n", V2, {name: str(size * GIB) for name, size in sizes.items()})
    said = "cgroup memory.high: 3.0 GiB; the host has 23.0"
    assert limits.memory() == Memory(3 * GIB, 2 * GIB, said)


def test_a_full_group_has_nothing_free_and_never_less(machine):
    machine("0::/\n", V2, {"memory.max": str(GIB), "memory.current": str(2 * GIB)})
    assert limits.memory().free == 0


@pytest.mark.parametrize(
    "files",
    [
        {"memory.max": "max"},
        {"memory.max": str(100 * GIB), "memory.current": "5"},
        {"memory/memory.limit_in_bytes": UNLIMITED},
        {"memory.max": "junk"},
    ],
)
def test_limits_that_are_none_leave_the_hosts_memory(machine, files):
    machine("0::/\n9:memory:/\n", f"{V2}\n{V1.format(root='/')}", files)
    assert limits.memory() == Memory(23 * GIB, 20 * GIB)


def test_the_hosts_own_free_memory_bounds_what_a_group_leaves(machine):
    machine("0::/\n", V2, {"memory.max": str(22 * GIB), "memory.current": "0"})
    assert limits.memory().free == 20 * GIB


def test_both_versions_at_once_are_asked(machine):
    """As in systemd's hybrid set-up: here memory is limited in version 1, cores in version 2."""
    unified = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
    mounts = f"{V1.format(root='/')}\n{unified}"
    files = {"memory/x/memory.limit_in_bytes": str(GIB), "unified/y/cpu.max": "100000 50000"}
    machine("9:memory:/x\n1:name=systemd:/z\n0::/y\n", mounts, files)
    assert limits.memory().total == GIB and limits.core_count() == 2


def test_a_container_sees_its_own_group_as_the_mount_whatever_its_path_says(machine):
    """Docker without a cgroup namespace: the path is the host's, and the mount is that group."""
    path = "/docker/0123abc"
    files = {"cpu,cpuacct/cpu.cfs_quota_us": "300000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}
    files |= {"memory/memory.limit_in_bytes": str(GIB)}
    machine(f"9:memory:{path}\n4:cpuacct,cpu:{path}\n", V1.format(root=path), files)
    assert limits.memory().total == GIB and limits.core_count() == 3


@pytest.mark.parametrize("path", ["/../../elsewhere", "/gone (deleted)", "/docker/other"])
def test_a_group_outside_of_the_mount_is_asked_for_at_the_mount(machine, path):
    machine(f"0::{path}\n", V2, {"memory.max": str(GIB), "cpu.max": "200000 100000"})
    assert limits.memory().total == GIB and limits.core_count() == 2


def test_only_the_part_of_a_path_below_the_mounted_group_is_followed(machine):
    files = {"memory/inner/memory.limit_in_bytes": str(GIB)}
    machine("9:memory:/outer/inner\n", V1.format(root="/outer"), files)
    assert limits.memory().total == GIB


def test_a_mount_with_a_blank_in_its_name_is_found(machine):
    mounts = r"30 23 0:26 / /sys/fs/cgroup/a\040b rw - cgroup2 cgroup2 rw"
    machine("0::/\n", mounts, {"a b/cpu.max": "100000 100000"})
    assert limits.core_count() == 1


def test_this_machine_answers_whatever_its_set_up():
    found = limits.cores()
    memory = limits.memory()
    assert 1 <= found.count <= len(os.sched_getaffinity(0)) and 0 <= memory.free <= memory.total


def quota_of(count: float) -> limits.Cores:
    return limits.Cores(max(1, int(count)), count, f"cgroup cpu.max: {count:g} core(s)")


def test_torch_has_no_more_threads_than_the_quota_has_cores(monkeypatch):
    """Left alone it counts cores, and its threads stand still for most of each period."""
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    try:
        torch.set_num_threads(3)
        fit_threads()
        assert torch.get_num_threads() == 3  # no quota: as it was
        monkeypatch.setattr(limits, "cores", lambda: quota_of(0.5))
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        fit_threads()
        assert torch.get_num_threads() == 3  # asked for
        monkeypatch.delenv("OMP_NUM_THREADS")
        fit_threads()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("begin", ["load", "read"])
def test_a_model_that_is_loaded_or_cut_keeps_to_the_quota(begin, monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(limits, "cores", lambda: quota_of(1))
    try:
        torch.set_num_threads(2)
        if begin == "load":
            assert load(demo.MODEL_DIR).describe()["threads"] == 1
        else:
            assert list(run_in_threads([lambda: torch.get_num_threads()])) == [1]
    finally:
        torch.set_num_threads(before)


def test_ranks_share_the_quota(monkeypatch):
    monkeypatch.setattr(limits, "cores", lambda: quota_of(4))
    assert [placement.threads(ranks) for ranks in (1, 2, 3, 8)] == [4, 2, 1, 1]
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert surroundings.rank_environment(2, "cpu", False).added["OMP_NUM_THREADS"] == "2"
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    with pytest.raises(SettingsError, match=r"need 6 cores.*there are 4"):
        placement.part(0, 2, 3, "cpu", None)
