"""The target of a plan: a chip of the table, or this machine as it is now, with its sources."""

import os
from dataclasses import dataclass, replace
from functools import cache

import torch

from neoxlib.errors import SettingsError
from neoxlib.machine import chips, devices, limits, npu_smi
from neoxlib.machine.chips import CHIPS, Chip
from neoxlib.machine.runtime import fit_threads
from neoxlib.ranks import placement
from neoxlib.speed import noise
from neoxlib.speed.peaks import (
    LEAST_BYTES,
    MOST_BYTES,
    MachinePeaks,
    cpu_formats,
    product,
    reading,
)
from neoxlib.speed.watch import LoadWatch

MOST_AT_ONCE = 2**30  # bytes that are read for all ranks together
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
    measured: MachinePeaks | None = None

    @property
    def on_cpu(self) -> bool:
        """Whether the ranks share one machine's CPU."""
        return self.chip.name == "cpu"


def find_target(
    chip: str | Chip | None, bandwidth_gb_s: float | None = None, tflops: float | None = None
) -> Target:
    """Return the chip of this name, or this machine for None, with its figures.

    Figures that are given replace those of the table. Those of this machine's CPU are open until
    `measured` is called. Raises SettingsError for an unknown chip and for
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
        limit = f" ({memory.limit})" if memory.limit else ""
        source = f"memory available now, shared by the ranks{limit}"
        return Target("this machine's CPU", CHIPS["cpu"], memory.free, source)
    return _npus_here()


def _npus_here() -> Target:
    answer = npu_smi.query() or npu_smi.Smi()
    free = [card.free_mib * 2**20 for card in answer.cards if card.free_mib is not None]
    chip = devices.chip_for("npu")
    unknown = answer.failure or "npu-smi does not show it"
    source = "npu-smi, the fullest card now" if free else unknown
    return Target(f"this machine's {chip.name}", chip, min(free, default=None), source)


@cache
def of_machine(size: int, ranks: int, threads: int, formats: tuple[str, ...]) -> MachinePeaks:
    """Measure this machine's CPU, once a process, as `ranks` with these threads would use it.

    `size` is the bytes of a rank's weights: smaller ones stay in a cache, in a run, too.
    """
    size = min(max(size, LEAST_BYTES), MOST_BYTES)
    whole = min(size * ranks, max(size, MOST_AT_ONCE))
    before = torch.get_num_threads()
    torch.set_num_threads(ranks * threads)
    try:
        with LoadWatch() as watch:
            gb_s = reading(whole, ranks * threads)
            cpu = torch.device("cpu")
            rates = {name: product(getattr(torch, name), cpu) for name in formats}
    finally:
        torch.set_num_threads(before)
    name = max(rates, key=rates.get)
    figures = (round(gb_s, 1), round(rates[name], 3), f"a product of {name}")
    much = watch.others > noise.LIMITS["others"].value
    beside = f", beside other processes on {watch.others:.1f} cores" if much else ""
    return MachinePeaks(size, ranks, threads, formats, *figures, beside)


def measured(target: Target, size: int, ranks: int, dtype: str, quant: bool) -> Target:
    """This machine's CPU with the figures that were not given, as so many ranks would use it.

    `size` is the bytes of a rank's weights. Measuring takes a fraction of a second, once a process
    for each such request. Any other target stays as it is.
    """
    names = [name for name in ("bandwidth_gb_s", "fp16_tflops") if name not in target.chip.sources]
    if not target.on_cpu or not names:
        return target
    fit_threads()
    threads = int(os.environ.get("OMP_NUM_THREADS") or placement.threads(ranks))
    found = of_machine(size, ranks, threads, cpu_formats(dtype, quant))
    values = {"bandwidth_gb_s": found.gb_s, "fp16_tflops": found.tflops}
    sources = target.chip.sources | dict.fromkeys(names, f"{MEASURED}{found.beside}")
    chip = replace(target.chip, **{name: values[name] for name in names}, sources=sources)
    return replace(target, chip=chip, measured=found)
