"""Memory of the ranks while they work, and what else used the cores, seen from this process."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import psutil

from neoxlib.machine import npu_smi
from neoxlib.machine.host import container
from neoxlib.ranks import worker
from neoxlib.speed import noise

if TYPE_CHECKING:
    from neoxlib.inference.contract import Inference
    from neoxlib.workbook.run import Run

RSS_SECONDS = 0.02  # between two readings
SMI_SECONDS = 1.0  # longer, because npu-smi is a program to be started, and slow
MB = 1e6
MIB = 2**20
BUSY = ("user", "nice", "system", "irq", "softirq")  # of psutil; user includes guests' time


class MemoryMonitor:
    """Peaks of the processes' memory between entering and leaving, by rank.

    `rss` is resident memory, `device` the memory on its chips by npu-smi, both in MB. None if a
    process cannot be seen: it is on another machine, or npu-smi has no row for it (as may happen
    in a container).
    """

    def __init__(self, pids: list[int | None], npu: bool = False) -> None:
        self.pids = pids
        self.over = threading.Event()
        self.rss: list[float | None] = [None] * len(pids)
        self.device: list[float | None] = [None] * len(pids)
        looks = [
            (self._look_rss, RSS_SECONDS),
            *([(self._look_device, SMI_SECONDS)] if npu else []),
        ]
        self.threads = [
            threading.Thread(target=self._loop, args=look, name="memory monitor", daemon=True)
            for look in looks
        ]

    def __enter__(self) -> "MemoryMonitor":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def _loop(self, look: Callable[[], None], every: float) -> None:
        look()
        while not self.over.wait(every):
            look()
        look()

    def _look_rss(self) -> None:
        for place, pid in enumerate(self.pids):
            try:
                seen = None if pid is None else psutil.Process(pid).memory_info().rss / MB
            except psutil.Error:
                seen = None
            self.rss[place] = _larger(self.rss[place], seen)

    def _look_device(self) -> None:
        found = npu_smi.query()
        inside = container() is not None
        holders = found.holders if found else ()
        for place, pid in enumerate(self.pids):
            held = [holder.mib for holder in holders if holder.seen(inside) == pid]
            self.device[place] = _larger(self.device[place], sum(held) * MIB / MB if held else None)


def _larger(before: float | None, now: float | None) -> float | None:
    return max((value for value in (before, now) if value is not None), default=None)


def pids(engine: "Inference") -> list[int | None]:
    """The process of each rank; None for a rank on another machine. An Engine is this process."""
    ranks = getattr(engine, "ranks", None)
    if ranks is None:
        return [os.getpid()]
    return [
        pid if host == worker.host() else None
        for pid, host in zip(ranks["pid"], ranks["host"], strict=True)
    ]


class LoadWatch:
    """The cores that others kept busy between entering and leaving, and the time that was stolen.

    Busy time is that of the cores which this process may use, less what this process, its
    children and `pids` with theirs used. After leaving: `others` and `stolen` in cores, on average
    (1.0: one core all the time), `cores` their number, `seconds` the time between; all of them over
    every span, if entered more than once. Stolen time is what a hypervisor gave to other guests
    (proc(5), /proc/stat). Processes of other machines are not seen.
    """

    def __init__(self, pids: Iterable[int | None] = ()) -> None:
        self.pids = {os.getpid(), *(pid for pid in pids if pid is not None)}
        self.places = places()
        self.cores = len(self.places)
        self.others = self.stolen = self.seconds = 0.0
        self._others_s = self._stolen_s = 0.0

    def __enter__(self) -> "LoadWatch":
        self.start = self._look()
        return self

    def __exit__(self, *_: object) -> None:
        now, busy, stolen, own = self._look()
        self.seconds += max(now - self.start[0], 1e-9)
        used = sum(max(0.0, end - self.start[3].get(pid, 0.0)) for pid, end in own.items())
        self._others_s += busy - self.start[1] - used
        self._stolen_s += stolen - self.start[2]
        self.others = max(0.0, self._others_s) / self.seconds
        self.stolen = max(0.0, self._stolen_s) / self.seconds

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


def record_load(run: "Run", load: LoadWatch, about: Mapping[str, Any]) -> None:
    """Call `run` noisy if others used the cores while the described model's answers were timed."""
    if told := noise.load_sentence(load.row(), usual_threads(about), load.cores):
        run.noisy(told)


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
