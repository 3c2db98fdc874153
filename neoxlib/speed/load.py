"""What else used the machine's cores while a case was timed, seen from this process."""

import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

import psutil

BUSY = ("user", "nice", "system", "irq", "softirq")  # of psutil; user includes guests' time


class LoadWatch:
    """The cores that others kept busy between entering and leaving, and the time that was stolen.

    Busy time is that of the cores which this process may use, less what this process, its
    children and `pids` with theirs used. After leaving: `others` and `stolen` in cores, on average
    (1.0: one core all the time), `cores` their number, `seconds` the time between. Stolen time is
    what a hypervisor gave to other guests (proc(5), /proc/stat). Processes of other machines are
    not seen.
    """

    def __init__(self, pids: Iterable[int | None] = ()) -> None:
        self.pids = {os.getpid(), *(pid for pid in pids if pid is not None)}
        self.places = places()
        self.cores = len(self.places)
        self.others = self.stolen = self.seconds = 0.0

    def __enter__(self) -> "LoadWatch":
        self.start = self._look()
        return self

    def __exit__(self, *_: object) -> None:
        now, busy, stolen, own = self._look()
        self.seconds = max(now - self.start[0], 1e-9)
        used = sum(max(0.0, time - self.start[3].get(pid, 0.0)) for pid, time in own.items())
        self.others = max(0.0, busy - self.start[1] - used) / self.seconds
        self.stolen = max(0.0, stolen - self.start[2]) / self.seconds

    def _look(self) -> tuple[float, float, float, dict[int, float]]:
        """The time, the busy and the stolen seconds so far, and those of each own process."""
        times = psutil.cpu_times(percpu=True)
        mine = [times[place] for place in self.places if place < len(times)]
        busy = sum(getattr(core, name, 0.0) for core in mine for name in BUSY)
        stolen = sum(getattr(core, "steal", 0.0) for core in mine)
        return time.perf_counter(), busy, stolen, used(self.pids)

    def row(self) -> dict[str, float]:
        """The columns of a timed case."""
        return {"others_cores": self.others, "stolen_cores": self.stolen, "cores": self.cores}


def places() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def used(pids: Iterable[int]) -> dict[int, float]:
    """CPU seconds of each process of `pids` and of their children, with children that ended."""
    found: dict[int, float] = {}
    for pid in pids:
        try:
            process = psutil.Process(pid)
            for one in (process, *process.children(recursive=True)):
                found[one.pid] = _seconds(one)
        except psutil.Error:
            continue
    return found


def _seconds(process: psutil.Process) -> float:
    try:
        return sum(process.cpu_times()[:4])  # user, system, and those of children waited for
    except psutil.Error:
        return 0.0


def machine() -> dict[str, Any]:
    """The CPU's clock in MHz, None if the system does not tell, and the last minute's load."""
    try:
        frequency = psutil.cpu_freq()
    except (OSError, NotImplementedError):
        frequency = None
    return {
        "frequency_mhz": frequency.current if frequency else None,
        "load_average": os.getloadavg()[0],
    }


def usual_threads(about: Mapping[str, Any]) -> int:
    """Threads that the ranks of a described model keep busy on this machine's cores."""
    on_cpu = str(about.get("device", "cpu")).startswith("cpu")
    each = (about.get("threads") or 1) if on_cpu else 1  # one starts an NPU's operators
    return int(about.get("world_size") or 1) * int(each)
