"""The cores and the memory that this process may use: the machine's, or less in a control group.

Docker, Kubernetes, Slurm and systemd limit by control groups (cgroups), which the kernel's counts
of cores and of free memory ignore. A group's limit holds for all groups below it, so every group
up to the mount is read. Files of version 2: docs.kernel.org/admin-guide/cgroup-v2.html;
of version 1: cgroup-v1/memory.html there, and docs.kernel.org/scheduler/sched-bwc.html.
"""

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
GIB = 2**30
# µs of CPU time in a period, and the period; "max" or -1: no limit
QUOTAS = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
OLDER = "memory.limit_in_bytes"
SIZES = {  # file of the limit -> file of the usage, line of memory.stat that can be freed
    "memory.max": ("memory.current", "inactive_file"),
    "memory.high": ("memory.current", "inactive_file"),  # beyond it a process is slowed down
    OLDER: ("memory.usage_in_bytes", "total_inactive_file"),
}
# A line of version 1's memory.stat: includes groups that a container hides.
ABOVE = "hierarchical_memory_limit"


@dataclass(frozen=True)
class Cores:
    """`count` threads (1 or more) can run at once; `limit` is the reason (None: the whole host)."""

    count: int
    quota: float | None = None  # cores' worth of time from a cgroup
    limit: str | None = None


@dataclass(frozen=True)
class Memory:
    """Bytes that this process and its children may use; those still free; `limit` as in Cores."""

    total: int
    free: int
    limit: str | None = None


def core_count() -> int:
    """Count the threads that can run at once: this process's cores or a cgroup's quota.

    The quota is rounded down, but to no less than one thread.
    """
    return cores().count


def cores() -> Cores:
    """Return the cores of `cores()`, with the reason for the limit."""
    own = len(os.sched_getaffinity(0))
    host = os.cpu_count() or 1
    quota, file = min(_quotas(), default=(None, ""))
    if quota is not None and quota < own:
        said = f"cgroup {file}: {quota:g} core(s); the host has {host}"
        return Cores(max(1, math.floor(quota)), quota, said)
    if own < host:
        return Cores(own, None, f"affinity or cpuset: {own} core(s); the host has {host}")
    return Cores(own)


def memory() -> Memory:
    """Return the host's memory by psutil, or the share that the tightest cgroup leaves.

    A group's free memory is its limit minus its usage; inactive file pages count as free.
    """
    import psutil  # takes a hundredth of a second

    host = psutil.virtual_memory()
    rooms = list(_rooms())
    free = min((host.available, *(room for _, room, _ in rooms)))
    tightest = min(rooms, key=lambda room: (room[0], room[2] == ABOVE), default=None)
    limit, _, file = tightest or (host.total, 0, "")
    if limit >= host.total:
        return Memory(host.total, max(0, free))
    said = f"cgroup {file}: {limit / GIB:.1f} GiB; the host has {host.total / GIB:.1f}"
    return Memory(limit, max(0, free), said)


def _quotas() -> Iterator[tuple[float, str]]:
    """Yield the cores' worth of time of each group with a quota, and the quota's file."""
    for folder in groups("cpu"):
        for files in QUOTAS:
            found = [word for name in files for word in words(folder / name)]
            if len(found) == 2 and all(word.isdigit() and int(word) for word in found):
                yield int(found[0]) / int(found[1]), files[0]


def _rooms() -> Iterator[tuple[int, int, str]]:
    """Yield the limit, the bytes left and the limit's file of each group with a limit."""
    for folder in groups("memory"):
        found = words(folder / "memory.stat")
        stat = dict(zip(found[::2], found[1::2], strict=False))
        limits = {file: _number(folder / file) for file in SIZES}
        limits |= {ABOVE: int(stat[ABOVE]) if ABOVE in stat else None}
        for file, limit in limits.items():
            if limit is not None:
                usage, cache = SIZES.get(file, SIZES[OLDER])
                used = (_number(folder / usage) or 0) - int(stat.get(cache, 0))
                yield limit, limit - used, file


def groups(controller: str) -> Iterator[Path]:
    """Yield this process's group and its parents, in each hierarchy that may limit `controller`."""
    paths = _paths()
    for names, root, point in _mounts():
        name = "" if "" in names else controller
        if name in names and name in paths:
            folder = _below(paths[name], root, point)
            yield from (one for one in (folder, *folder.parents) if one.is_relative_to(point))


def _paths() -> dict[str, str]:
    """Return the path of this process's group by controller; "" stands for version 2."""
    lines = [line.split(":", 2) for line in _text(ROOT / "proc/self/cgroup").splitlines()]
    known = [line[1:] for line in lines if len(line) == 3]
    return {name: path for names, path in known for name in names.split(",")}


def _mounts() -> Iterator[tuple[set[str], str, Path]]:
    """Yield each mounted hierarchy: controllers ("" is version 2), mounted group, mount point."""
    for line in _text(ROOT / "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        if right.startswith(("cgroup ", "cgroup2 ")):
            root, point = (_unescaped(one) for one in left.split()[3:5])
            names = {""} if right.startswith("cgroup2 ") else set(right.split()[-1].split(","))
            yield names, root, ROOT / point[1:]


def _unescaped(path: str) -> str:
    r"""Decode a path of mountinfo, where a space is written \040."""
    return re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), path)


def _below(path: str, root: str, point: Path) -> Path:
    """Return the folder of group `path` below the mount of `root`; the mount if it is hidden."""
    inside = path.removeprefix(root.rstrip("/"))
    folder = point / inside.lstrip("/")
    known = (path + "/").startswith(root.rstrip("/") + "/") and ".." not in path
    return folder if known and folder.is_dir() else point


def _number(file: Path) -> int | None:
    """Read a number from a file; None for max, -1 and a missing file."""
    found = words(file)
    return int(found[0]) if found and found[0].isdigit() else None


def words(file: Path) -> list[str]:
    """Return the words of a file; none if it cannot be read."""
    return _text(file).split()


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
