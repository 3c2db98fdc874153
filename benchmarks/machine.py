"""The conditions of the figures: processor, speed of its memory, and its other users."""

import os
import platform
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from neoxlib.machine.environment import describe
from neoxlib.speed.peaks import reading

BUFFER = 1 << 30


def machine() -> dict[str, Any]:
    """Processor, memory, versions; and when."""
    about = describe("cpu")
    keys = ("cpu", "cores", "memory_gb", "platform", "python", "torch", "transformers", "git")
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return {key: about[key] for key in keys} | {
        "cpu": f"{about['cpu']} ({vectors()})",
        "date": when,
    }


def vectors() -> str:
    """Return the widest instruction set of this CPU that neoxlib has kernels for."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    known = {
        "avx512_bf16": "AVX-512 with bfloat16",
        "avx512_vnni": "AVX-512 with VNNI",
        "avx512f": "AVX-512",
        "avx2": "AVX2",
        "asimd": "NEON",
    }
    return next(
        (name for flag, name in known.items() if re.search(rf"\b{flag}\b", text)),
        platform.machine(),
    )


def read_bandwidth(threads: int) -> float:
    """GB/s at which `threads` together read a gigabyte, which fits no cache."""
    return reading(BUFFER, threads)


class Others:
    """How busy other processes keep the machine, seen while the contenders wait."""

    def __init__(self) -> None:
        self.load_before = os.getloadavg()[0]
        self.busy = []

    def wait(self, seconds: float = 0.5) -> None:
        """Let threads that spin after their work go to sleep, then look."""
        time.sleep(seconds)
        self.busy.append(psutil.cpu_percent(0.1) / 100 * os.cpu_count())

    def about(self) -> dict[str, float]:
        """Load average before and after, and the busy cores in the pauses (mean and largest)."""
        seen = self.busy
        load = {"load_before": self.load_before, "load_after": os.getloadavg()[0]}
        return load | (
            {"busy_cores_mean": sum(seen) / len(seen), "busy_cores_max": max(seen)} if seen else {}
        )


def load_average(others: dict[str, float]) -> str:
    """The same in words; the load after is the measured work's own in part."""
    words = f"Load average {others['load_before']:.1f} before and {others['load_after']:.1f} after"
    if "busy_cores_mean" in others:
        mean = others["busy_cores_mean"]
        most = others["busy_cores_max"]
        words += f"; between turns other processes kept {mean:.1f} cores busy (at most {most:.1f})"
    return f"{words}."
