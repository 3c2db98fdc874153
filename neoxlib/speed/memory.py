"""Memory of the ranks while they work, watched from this process."""

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import psutil

from neoxlib.machine import npu_smi
from neoxlib.machine.host import container
from neoxlib.ranks import worker

if TYPE_CHECKING:
    from neoxlib.inference.contract import Inference

RSS_SECONDS = 0.02  # between two readings
SMI_SECONDS = 1.0  # longer, because npu-smi is a program to be started, and slow
MB = 1e6
MIB = 2**20


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
