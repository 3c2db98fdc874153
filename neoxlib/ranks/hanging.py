"""Whether processes of this machine hang: stopped, frozen, or stuck in the kernel, told by /proc.

A process at work is never taken for one that hangs, however long its call: it uses CPU time, or a
thread of it is switched. A thread of every rank looks for the driver three times a second, and
while it waits for Python's lock it wakes every few milliseconds, whoever holds that.
"""

import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from neoxlib.errors import SettingsError
from neoxlib.ranks import worker

HANG_SECONDS = 30.0
# The kernel calls a task hung after 120 s in this state, and file systems may answer late.
KERNEL_PATIENCE = 4
MOST_SECONDS = 3.0  # between two looks
LEAST_SECONDS = 1  # a busy machine lets a process wait for so long
LOOKS = 10  # in the time-out, at least, if this process can
LEAST_LOOKS = 3  # that must have found a process as it was before
ENDED = "ZX"  # a zombie has ended, too
STOPPED = "Tt"  # by a signal, by a tracer
WORDS = {
    "T": "is stopped (state T: SIGSTOP or Ctrl-Z; `kill -CONT {pid}` would let it go on)",
    "t": "is held by a debugger or tracer (state t)",
    "D": "waits in the kernel for a disk, a network file system or a driver (state D)",
}
STATES = {"T": "stopped", "t": "traced", "D": "stuck in the kernel", "R": "running", "S": "asleep"}
STARTER = "process {}, which starts or connects ranks,"
FROZEN = "is frozen (state {state}, and no thread of it is run; see the freezer of its cgroup)"


class Watched(NamedTuple):
    """A process: its name in messages, and whether a thread of it wakes all the time."""

    name: str
    wakes: bool = True


def name_of(member: Mapping[str, Any]) -> str:
    """Return a rank's name in messages."""
    place = "" if member["host"] == worker.host() else f" on {member['host']}"
    return f"rank {member['rank']} (pid {member['pid']}{place})"


def watched(
    members: Iterable[Mapping[str, Any]], starters: Iterable[int], wakes: bool
) -> dict[int, Watched]:
    """Return the processes of this machine that a call needs, by pid; `starters` are theirs."""
    names = {pid: STARTER.format(pid) for pid in with_children(starters)}
    here = (one for one in members if one["host"] == worker.host() and one["pid"])
    names |= {one["pid"]: name_of(one) for one in here}
    return {pid: Watched(name, wakes) for pid, name in names.items()}


@dataclass(frozen=True)
class Life:
    """What a process had done by one moment; one that is equal later did nothing meanwhile."""

    state: str  # of the first thread
    ticks: int  # of CPU time, all threads
    own_switches: int  # of the first thread
    switches: int  # of all threads


class Watch:
    """Looks at processes while a call runs; see `hanging`.

    `limit` is in seconds, None for never. Only time in which this process itself ran is counted: a
    machine that slept, or a driver that was stopped, makes no rank hang.
    """

    def __init__(self, limit: float | None) -> None:
        self.limit = math.inf if limit is None else limit
        self.every = min(MOST_SECONDS, self.limit / LOOKS)
        self.begin()

    def begin(self) -> None:
        """Forget what was seen: a call begins."""
        self._looked = time.monotonic()
        self._seen: dict[int, Life] = {}
        self._idle: dict[int, float] = {}

    def hanging(self, processes: Callable[[], Mapping[int, Watched]]) -> dict[int, str]:
        """Return the processes that did nothing for `limit` seconds, by pid, and their state.

        It may be called at any rate, and looks every tenth of `limit`.
        """
        since = time.monotonic() - self._looked
        if since < self.every:
            return {}
        self._looked += since
        watched = processes()
        for pid, process in watched.items():
            self._look(pid, process, min(since, self.limit / LEAST_LOOKS))
        return {
            pid: f"{watched[pid].name} {self._words(pid)}"
            for pid in watched
            if pid in self._idle and self._idle[pid] >= self._patience(pid)
        }

    def _look(self, pid: int, process: Watched, seconds: float) -> None:
        before = self._seen.get(pid)
        now = life(pid)
        if now is None:  # it has ended, which others notice
            self._idle.pop(pid, None)
            return
        self._seen[pid] = now
        still = before is not None and did_nothing(before, now, process.wakes)
        self._idle[pid] = self._idle.get(pid, 0.0) + seconds if still else 0.0

    def _patience(self, pid: int) -> float:
        return self.limit * (KERNEL_PATIENCE if self._seen[pid].state == "D" else 1)

    def _words(self, pid: int) -> str:
        state = self._seen[pid].state
        words = WORDS.get(state, FROZEN).format(pid=pid, state=state)
        return f"hangs: its process {words}, and has done nothing for {self._idle[pid]:.0f} s"


def check_timeout(hang_timeout: float | None) -> None:
    """Raise SettingsError for a time-out that is neither None nor LEAST_SECONDS or more."""
    number = isinstance(hang_timeout, int | float) and not isinstance(hang_timeout, bool)
    if hang_timeout is not None and not (number and hang_timeout >= LEAST_SECONDS):
        raise SettingsError(
            f"hang_timeout is {hang_timeout!r}; it is the number of seconds, {LEAST_SECONDS} or "
            "more, after which a rank that does nothing is an error, or None to wait forever"
        )


def did_nothing(before: Life, now: Life, wakes: bool) -> bool:
    """Tell whether a process stood still between two moments.

    One that waits in the kernel stands still if its first thread, which answers calls, was not
    switched; any other if it used no CPU time and is stopped, or if none of its threads was
    switched and one should have been.
    """
    if now.state == "D":
        return before.own_switches == now.own_switches
    if before.ticks != now.ticks:
        return False
    return now.state in STOPPED or (wakes and before.switches == now.switches)


def life(pid: int) -> Life | None:
    """Read what a process has done so far; None if it has ended, or where there is no /proc."""
    folder = Path("/proc", str(pid))
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        tasks = [_switches(task) for task in (folder / "task").iterdir()]
        own = _switches(folder / "task" / str(pid))
    except (OSError, ValueError, IndexError):
        return None
    if fields[0] in ENDED:
        return None
    return Life(fields[0], int(fields[11]) + int(fields[12]), own, sum(tasks))


def state_of(member: Mapping[str, Any]) -> str:
    """Put the state of a rank's process in words, with the letter that ps shows."""
    now = life(member["pid"]) if member["pid"] and member["host"] == worker.host() else None
    return f"{STATES.get(now.state, 'in')} (state {now.state})" if now else "not known here"


def with_children(pids: Iterable[int]) -> list[int]:
    """Return the processes and those that they have started."""
    found = []
    for pid in pids:
        found.append(pid)
        with suppress(psutil.NoSuchProcess):
            found += [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return found


def kill(pids: Iterable[int]) -> None:
    """End processes, stopped ones too."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _switches(task: Path) -> int:
    """Return how often a thread was given a core or left one; 0 for one that has ended."""
    try:
        lines = (task / "status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches:" in line)
