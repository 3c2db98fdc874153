"""Where a model would run: a chip of the table, or this machine as it is now, with its figures and who says so."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import psutil

from neoxlib import chips, smi
from neoxlib.chips import CHIPS, Chip
from neoxlib.errors import SettingsError
from neoxlib.peaks import MOST_BYTES, best, reading

MEASURED = "measured on this machine's CPU just now"
GIVEN = "as given"
SIDE = 1536  # of the square matrices that are multiplied


@dataclass(frozen=True)
class Place:
    """A chip of the table or this machine, the bytes free there and who says so.

    Ranks have a chip each; on the CPU they share the memory, the bandwidth and the cores of one machine.
    """

    name: str
    chip: Chip
    memory: int | None
    source: str

    @property
    def on_cpu(self) -> bool:
        """Whether the ranks share one machine's CPU."""
        return self.chip.name == "cpu"


def place(chip: str | Chip | None, bandwidth_gb_s: float | None = None, tflops: float | None = None) -> Place:
    """The chip with this name, or this machine for None; figures that are given replace those of the table.

    On this machine's CPU the others are measured, which takes a part of a second. Raises SettingsError for an unknown
    chip and for a figure that is not above 0.
    """
    given = {"bandwidth_gb_s": bandwidth_gb_s, "fp16_tflops": tflops}
    for name, value in given.items():
        if value is not None and value <= 0:
            raise SettingsError(f"{name} is {value}; it is above 0, or None for the chip's own figure")
    found = _this_machine() if chip is None else _of_table(chip if isinstance(chip, Chip) else chips.chip(chip))
    known = {name: value for name, value in given.items() if value is not None}
    if not known:
        return found
    sources = found.chip.sources | dict.fromkeys(known, GIVEN)
    return replace(found, chip=replace(found.chip, **known, sources=sources))


def _of_table(chip: Chip) -> Place:
    if chip.name == "cpu":
        raise SettingsError("chip 'cpu' is this machine's own: leave chip out")
    memory = None if chip.usable_gib is None else int(chip.usable_gib * 2**30)
    return Place(chip.name, chip, memory, chip.sources.get("usable_gib", "no source"))


def _this_machine() -> Place:
    """This machine as it is now: the fullest NPU where there are any, else the host's free memory."""
    if chips.pick_device("auto") == "cpu":
        available = psutil.virtual_memory().available
        chip = replace(CHIPS["cpu"], **measured(), sources=dict.fromkeys(measured(), MEASURED))
        return Place("this machine's CPU", chip, available, "host memory available now, shared by the ranks")
    answer = smi.read() or smi.Smi()
    free = min((card.free_mib * 2**20 for card in answer.cards if card.free_mib is not None), default=None)
    row = chips.chip_for("npu")
    return Place(f"this machine's {row.name}", row, free, "npu-smi, the fullest card now")


@cache
def measured() -> dict[str, float]:
    """What this machine's CPU reaches with all its cores: GB/s read from memory, TFLOPS of float32 products."""
    cores = len(psutil.Process().cpu_affinity())
    left = np.ones((SIDE, SIDE), np.float32)
    tflops = 2 * SIDE**3 / best(lambda: left @ left) / 1e12
    return {"bandwidth_gb_s": round(reading(MOST_BYTES, cores), 1), "fp16_tflops": round(tflops, 3)}
