"""The target of a plan: a chip of the table, or this machine as it is now, with its sources."""

from dataclasses import dataclass, replace
from functools import cache

import torch

from neoxlib.errors import SettingsError
from neoxlib.machine import chips, devices, limits, npu_smi
from neoxlib.machine.chips import CHIPS, Chip
from neoxlib.machine.runtime import fit_threads
from neoxlib.speed.peaks import MOST_BYTES, product, reading

MEASURED = "measured on this machine's CPU just now"
GIVEN = "as given"


@dataclass(frozen=True)
class Target:
    """A chip of the table or this machine, the bytes that are free there, and their source.

    Ranks have a chip each; on the CPU they share memory, bandwidth and cores of one machine.
    """

    name: str
    chip: Chip
    memory: int | None
    source: str

    @property
    def on_cpu(self) -> bool:
        """Whether the ranks share one machine's CPU."""
        return self.chip.name == "cpu"


def find_target(
    chip: str | Chip | None, bandwidth_gb_s: float | None = None, tflops: float | None = None
) -> Target:
    """Return the chip of this name, or this machine for None, with its figures.

    Figures that are given replace those of the table. On this machine's CPU the others are
    measured, which takes a fraction of a second. Raises SettingsError for an unknown chip and for
    a figure that is not above 0.
    """
    given = {"bandwidth_gb_s": bandwidth_gb_s, "fp16_tflops": tflops}
    for name, value in given.items():
        if value is not None and value <= 0:
            raise SettingsError(
                f"{name} is {value}; it is above 0, or None for the chip's own figure"
            )
    found = _this_machine() if chip is None else _of_table(chip)
    known = {name: value for name, value in given.items() if value is not None}
    if not known:
        return found
    sources = found.chip.sources | dict.fromkeys(known, GIVEN)
    return replace(found, chip=replace(found.chip, **known, sources=sources))


def _of_table(name: str | Chip) -> Target:
    chip = name if isinstance(name, Chip) else chips.chip(name)
    if chip.name == "cpu":
        raise SettingsError("chip 'cpu' is this machine's own: leave chip out")
    memory = None if chip.usable_gib is None else int(chip.usable_gib * 2**30)
    return Target(chip.name, chip, memory, chip.sources.get("usable_gib", "no source"))


def _this_machine() -> Target:
    """This machine as it is now: its fullest NPU, or the host's free memory if it has no NPU."""
    if devices.pick_device("auto") == "cpu":
        memory = limits.memory()
        chip = replace(CHIPS["cpu"], **measured(), sources=dict.fromkeys(measured(), MEASURED))
        limit = f" ({memory.limit})" if memory.limit else ""
        source = f"memory available now, shared by the ranks{limit}"
        return Target("this machine's CPU", chip, memory.free, source)
    return _npus_here()


def _npus_here() -> Target:
    answer = npu_smi.query() or npu_smi.Smi()
    free = [card.free_mib * 2**20 for card in answer.cards if card.free_mib is not None]
    chip = devices.chip_for("npu")
    unknown = answer.failure or "npu-smi does not show it"
    source = "npu-smi, the fullest card now" if free else unknown
    return Target(f"this machine's {chip.name}", chip, min(free, default=None), source)


@cache
def measured() -> dict[str, float]:
    """Measure all usable cores: GB/s read from memory, TFLOPS of float32 products."""
    fit_threads()
    gb_s = reading(MOST_BYTES, limits.core_count())
    tflops = product(torch.float32, torch.device("cpu"))
    return {"bandwidth_gb_s": round(gb_s, 1), "fp16_tflops": round(tflops, 3)}
