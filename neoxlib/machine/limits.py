"""The cores and the memory that this process may use: the machine's, or less in a control group.

Docker, Kubernetes, Slurm and systemd limit by control groups (cgroups), of which the kernel's
counts of cores and of free memory know nothing. A group's limit holds for all groups below it, so
each group up to the mount is asked. Files of version 2: docs.kernel.org/admin-guide/cgroup-v2.html;
of version 1: cgroup-v1/memory.html there, and docs.kernel.org/scheduler/sched-bwc.html.
"""

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path("/")
GIB = 2**30
QUOTAS = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))  # µs of a period; max, -1: none
OLDER = "memory.limit_in_bytes"
SIZES = {  # file of a limit -> of what is used, and the line of memory.stat with what can be freed
    "memory.max": ("memory.current", "inactive_file"),
    "memory.high": ("memory.current", "inactive_file"),  # beyond it a process is slowed down
    OLDER: ("memory.usage_in_bytes", "total_inactive_file"),
}
ABOVE = (
    "hierarchical_memory_limit"  # of version 1's memory.stat: counts groups that a container hides
)


@dataclass(frozen=True)
class Cores:
    """`count` threads can run at once, 1 or more; `limit` says why no more (None: a whole host)."""

    count: int
    quota: float | None = None  # cores' worth of time that a cgroup grants
    limit: str | None = None


@dataclass(frozen=True)
class Memory:
    """Bytes that this process and its children may use, and may still take; `limit` as in Cores."""

    total: int
    free: int
    limit: str | None = None


def cores() -> int:
    """The threads that can run at once: this process's cores, or a cgroup's quota, rounded down.

    A quota below one core is one thread.
    """
    return read_cores().count


def read_cores() -> Cores:
    """The same, with what limits it."""
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
    """Memory as psutil counts it for the host, or what the tightest cgroup leaves of it.

    A group's free memory is its limit less what it uses; idle pages of files count as free.
    """
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
    """Cores' worth of time of each group that has a quota, and the file that says so."""
    for folder in _groups("cpu"):
        for files in QUOTAS:
            words = [word for name in files for word in _words(folder / name)]
            if len(words) == 2 and all(word.isdigit() and int(word) for word in words):
                yield int(words[0]) / int(words[1]), files[0]


def _rooms() -> Iterator[tuple[int, int, str]]:
    """Limit, what is left of it, and the file that says so, of each group with a limit."""
    for folder in _groups("memory"):
        words = _words(folder / "memory.stat")
        stat = dict(zip(words[::2], words[1::2], strict=False))
        limits = {file: _number(folder / file) for file in SIZES}
        limits |= {ABOVE: int(stat[ABOVE]) if ABOVE in stat else None}
        for file, limit in limits.items():
            if limit is not None:
                usage, cache = SIZES.get(file, SIZES[OLDER])
                used = (_number(folder / usage) or 0) - int(stat.get(cache, 0))
                yield limit, limit - used, file


def _groups(controller: str) -> Iterator[Path]:
    """This process's group and those above it, in each hierarchy that may limit `controller`."""
    paths = _paths()
    for names, root, point in _mounts():
        name = "" if "" in names else controller
        if name in names and name in paths:
            folder = _below(paths[name], root, point)
            yield from (one for one in (folder, *folder.parents) if one.is_relative_to(point))


def _paths() -> dict[str, str]:
    """The path of this process's group by controller; "" is the one of version 2."""
    lines = [line.split(":", 2) for line in _text(ROOT / "proc/self/cgroup").splitlines()]
    known = [line[1:] for line in lines if len(line) == 3]
    return {name: path for names, path in known for name in names.split(",")}


def _mounts() -> Iterator[tuple[set[str], str, Path]]:
    """Of each mounted hierarchy the controllers ("" is version 2), the group mounted, and where."""
    for line in _text(ROOT / "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        if right.startswith(("cgroup ", "cgroup2 ")):
            root, point = (_unescaped(one) for one in left.split()[3:5])
            names = {""} if right.startswith("cgroup2 ") else set(right.split()[-1].split(","))
            yield names, root, ROOT / point[1:]


def _unescaped(path: str) -> str:
    r"""A path of mountinfo, where a blank is written \040."""
    return re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), path)


def _below(path: str, root: str, point: Path) -> Path:
    """Where the group `path` is below the mount of `root`; the mount where namespaces hide it."""
    inside = path.removeprefix(root.rstrip("/"))
    folder = point / inside.lstrip("/")
    known = (path + "/").startswith(root.rstrip("/") + "/") and ".." not in path
    return folder if known and folder.is_dir() else point


def _number(file: Path) -> int | None:
    """A number in a file; None for max, -1 and what is not there."""
    words = _words(file)
    return int(words[0]) if words and words[0].isdigit() else None


def _words(file: Path) -> list[str]:
    return _text(file).split()


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
