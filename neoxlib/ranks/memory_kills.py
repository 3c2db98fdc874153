"""What the kernel's out-of-memory killer has ended so far, by its own counts.

A process that it ends and one that a user or a scheduler ends look alike: both end by SIGKILL. The
kernel counts its own, for the machine (oom_kill in /proc/vmstat, since Linux 4.13) and for each
control group (memory.events, version 1: memory.oom_control).
"""

from dataclasses import dataclass
from pathlib import Path

from neoxlib.machine import limits

FILES = ("memory.events", "memory.oom_control")
KERNEL = "the kernel's out-of-memory killer"


@dataclass(frozen=True)
class MemoryKills:
    """Processes ended for want of memory; None where the system does not say."""

    machine: int | None
    group: int | None  # in this process's control group


def memory_kills() -> MemoryKills:
    """Read the counts as they are now."""
    files = (folder / name for folder in limits.groups("memory") for name in FILES)
    counts = (_count(file) for file in files)
    own = next((count for count in counts if count is not None), None)  # the innermost comes first
    return MemoryKills(_count(limits.ROOT / "proc/vmstat"), own)


def cause_of_kill(before: MemoryKills) -> str:
    """Say what sent a SIGKILL, as far as the counts since `before` tell it."""
    now = memory_kills()
    since = [
        (_risen(before.group, now.group), "of this control group"),
        (_risen(before.machine, now.machine), "of this machine"),
    ]
    for count, place in since:
        if count:
            many = "1 process" if count == 1 else f"{count} processes"
            sure = "very likely" if place == since[0][1] else "perhaps"
            return f"{sure} by {KERNEL}, which has ended {many} {place} since the ranks started"
    if all(count is None for count, _ in since):
        return f"this system does not say whether by {KERNEL}"
    return f"not by {KERNEL}, whose count has not risen: something else sent it"


def _risen(before: int | None, now: int | None) -> int | None:
    return None if before is None or now is None else now - before


def _count(file: Path) -> int | None:
    """The number behind oom_kill in a file of names and numbers; None without one."""
    words = limits.words(file)
    pairs = dict(zip(words[::2], words[1::2], strict=False))
    found = pairs.get("oom_kill", "")
    return int(found) if found.isdigit() else None
