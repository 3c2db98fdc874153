"""Peaks of this machine: bytes read and operations per second, measured on the ranks.

All ranks are measured at once, each with the device and the threads that the model has there.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ctypes import c_int64, c_void_p
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from neoxlib.errors import SettingsError
from neoxlib.kernels.cpu import build
from neoxlib.machine.devices import chip_for

if TYPE_CHECKING:
    import pandas as pd

    from neoxlib.inference.engine import Engine
    from neoxlib.ranks.session import Session

MOST_BYTES = 256 * 2**20  # fits no cache of a CPU
LEAST_BYTES = 2**20
ACCELERATOR_BYTES = 2 * 2**30  # an L2 of 192 MiB (910B) would keep a good part of less
FREE_SHARE = 0.5  # of the free memory that a measurement takes at most
SIDE = {"cpu": 1536, "npu": 8192}  # of the square matrices that are multiplied
GIVEN = "as given"


@dataclass(frozen=True)
class Peaks:
    """Peaks of the devices of all ranks together.

    `shared`: the ranks are on one machine's CPU, so more of them add nothing. `own` is the chip's
    own GB/s and TFLOPS for all ranks and its name, from the table of chips; None for a CPU.
    """

    gb_s: float
    tflops: float
    source_gb_s: str
    source_tflops: str
    shared: bool
    own: tuple[float | None, float | None, str] | None = None

    def seconds(
        self, size: float, operations: float, times_devices: float = 1
    ) -> tuple[float, float]:
        """Shortest seconds to read `size` bytes, and to compute `operations`.

        On `times_devices` times as many chips.
        """
        more = 1 if self.shared else times_devices
        return size / (self.gb_s * 1e9 * more), operations / (self.tflops * 1e12 * more)

    @property
    def table(self) -> "pd.DataFrame":
        """Table peak · value · unit · source, of all ranks together."""
        import pandas as pd

        rows = [("reading memory", self.gb_s, "GB/s", self.source_gb_s)]
        rows += [("products of matrices", self.tflops, "TFLOPS", self.source_tflops)]
        if self.own:
            gb_s, tflops, name = self.own
            said = f"predicted: {name}'s own figure, not measured"
            known = [("reading memory", gb_s, "GB/s"), ("products of matrices", tflops, "TFLOPS")]
            rows += [(what, value, unit, said) for what, value, unit in known if value]
        return pd.DataFrame(rows, columns=["peak", "value", "unit", "source"])


class MachinePeaks(NamedTuple):
    """Rates of this machine's CPU with the threads that so many ranks have there."""

    size: int  # bytes that each rank's threads read
    ranks: int
    threads: int  # of each rank
    formats: tuple[str, ...]  # that were multiplied
    gb_s: float
    tflops: float
    product: str  # what was multiplied fastest
    beside: str  # the load that other processes were, for the sources; empty if it was small

    def fits(self, session: "Session", quant: bool, dtype: str) -> bool:
        """Whether this is what the ranks of `session` have: their number, threads and formats."""
        about = session.describe()
        ranks = (about["world_size"], about["device"], about.get("threads"))
        return ranks == (self.ranks, "cpu", self.threads) and self.formats == cpu_formats(
            dtype, quant
        )


class RankPeaks(NamedTuple):
    """Rates that were measured on all ranks at once, and added up."""

    size: int  # bytes that each rank read
    gb_s: float
    tflops: float
    product: str  # what was multiplied
    by: str  # by which operations it was read, for the table; empty on a CPU


def cpu_formats(dtype: str, quant: bool) -> tuple[str, ...]:
    """Names of the dtypes that a run computes in on a CPU: float32, its own, int8 if quantized.

    A CPU's kernels convert float16 to float32.
    """
    own = (dtype,) if dtype not in ("float16", "float32") else ()
    return ("float32", *own, *(("int8",) if quant else ()))


def find_peaks(
    session: "Session",
    gb_s: float | None = None,
    tflops: float | None = None,
    machine: MachinePeaks | None = None,
) -> Peaks:
    """Measure the peaks of `session`'s devices, or take those given for one NPU or machine.

    What a plan has measured for such ranks on this machine, `machine`, is taken over. On a CPU
    reading is measured over as many bytes as a rank's weights have, 256 MiB at most: weights that
    stay in its cache are read from there in a run, too. On an NPU it is the better of a sum and
    the product that a decode step makes, over 2 GiB. Operations are those of one large matrix
    product in a dtype that the run computes in.
    Raises SettingsError for a figure that is not above 0.
    """
    refuse({"peak_gb_s": gb_s, "peak_tflops": tflops})
    about = session.describe()
    if machine and machine.fits(session, bool(about["quant"]), about["dtype"]):
        return _as_planned(machine, gb_s, tflops)
    found: RankPeaks = session.apply(rank_peaks)
    ranks = session.describe()["world_size"]
    shared = session.describe()["device"] == "cpu"
    devices = 1 if shared else ranks
    where = f"measured now, {ranks} rank{'s' * (ranks > 1)} at once"
    return Peaks(
        devices * gb_s if gb_s else found.gb_s,
        devices * tflops if tflops else found.tflops,
        GIVEN if gb_s else f"{where}, over {found.size / 2**20:,.1f} MiB each{found.by}",
        GIVEN if tflops else f"{where}, {found.product}",
        shared,
        None if shared else _own_figures(ranks),
    )


def _as_planned(found: MachinePeaks, gb_s: float | None, tflops: float | None) -> Peaks:
    """The peaks that the plan of this run rests on, or those given."""
    where = f"measured before the ranks started, {found.ranks} × {found.threads} threads"
    read = f"{where}, over {found.size / 2**20:,.1f} MiB each{found.beside}"
    return Peaks(
        gb_s or found.gb_s,
        tflops or found.tflops,
        GIVEN if gb_s else read,
        GIVEN if tflops else f"{where}, {found.product}{found.beside}",
        shared=True,
    )


def refuse(figures: dict[str, float | None]) -> None:
    """Raise SettingsError with every figure that is given and not above 0."""
    bad = [
        f"{name} is {value}"
        for name, value in figures.items()
        if value is not None and not value > 0
    ]
    if bad:
        raise SettingsError(f"{'; '.join(bad)}: a peak is above 0, or left out to have it measured")


def _own_figures(ranks: int) -> tuple[float | None, float | None, str]:
    chip = chip_for("npu")
    gb_s, tflops = (value and value * ranks for value in (chip.bandwidth_gb_s, chip.fp16_tflops))
    return gb_s, tflops, chip.name


def rank_peaks(engine: "Engine") -> RankPeaks | None:
    """Measure on every rank at once; None except on rank 0."""
    engine.wait_until_resident()  # weights may still be being copied into memory
    device = engine.weight.device
    engine.group.barrier()
    size, gb_s, by = _read(engine)
    engine.group.barrier()
    rates = {name: product(dtype, device) for name, dtype in _formats(engine).items()}
    name = max(rates, key=rates.get)
    mine = torch.tensor([[gb_s, rates[name]]], device=device)
    everyone = engine.group.gather(mine, dim=0)  # [ranks, figures]
    if everyone is None:
        return None
    return RankPeaks(size, *everyone.sum(dim=0).tolist(), f"a product of {name}", by)


def _read(engine: "Engine") -> tuple[int, float, str]:
    """Bytes that this rank read, GB/s, and by what, for the table."""
    if engine.weight.device.type == "cpu":
        weights = sum(weight.nbytes for weight in engine.model.parameters())
        size = min(max(weights, LEAST_BYTES), MOST_BYTES)
        return size, reading(size, torch.get_num_threads()), ""
    shape = largest_matrix(engine)
    size, rates = reading_on_device(shape, engine.weight.dtype, engine.weight.device)
    told = ", ".join(f"{name} {gb_s:,.0f} GB/s" for name, gb_s in rates.items())
    few = "" if size >= ACCELERATOR_BYTES else "; no more is free, a cache may hold a part"
    return size, max(rates.values()), f" (rank 0: {told}{few})"


def largest_matrix(engine: "Engine") -> tuple[int, int]:
    """Rows and columns of the largest weight that a rank multiplies by in each layer."""
    config = engine.model.config
    return config.intermediate_size // engine.group.size, config.hidden_size


def _formats(engine: "Engine") -> dict[str, torch.dtype]:
    """Dtypes that the run may compute in: an accelerator's own, or those of `cpu_formats`."""
    own = engine.weight.dtype
    name = str(own).removeprefix("torch.")
    if engine.weight.device.type != "cpu":
        return {name: own}
    names = cpu_formats(name, bool(engine.describe()["quant"]))
    return {name: getattr(torch, name) for name in names}


def reading(size: int, threads: int) -> float:
    """GB/s at which `threads` together read `size` bytes again and again on a CPU: best of some.

    The compiled kernel reads at four addresses at once, as the product kernels read a matrix;
    without it numpy reads sequentially, which is slower.
    """
    length = max(1, size // 1024 // threads) * 128  # whole kilobytes of int64
    parts = [np.ones(length, np.int64) for _ in range(threads)]
    total = sum(part.nbytes for part in parts)
    again = max(1, MOST_BYTES // size // 4)  # short passes would time how long threads take to wake
    library = build.compiled("bandwidth")

    def read(part: np.ndarray) -> None:
        for _ in range(again):
            if library is None:
                np.bitwise_or.reduce(part)
            else:
                library.reading_through(c_void_p(part.ctypes.data), c_int64(part.nbytes))

    with ThreadPoolExecutor(threads) as pool:
        return total * again / best(lambda: list(pool.map(read, parts))) / 1e9


def reading_on_device(
    shape: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> tuple[int, dict[str, float]]:
    """Bytes of many matrices of `shape`, and the GB/s at which an accelerator reads them.

    By a sum, and by the product with one vector, which is what a decode step of one row does.
    """
    rows, columns = shape
    one = rows * columns * dtype.itemsize
    count = max(1, -(-int(min(ACCELERATOR_BYTES, _free(device))) // one))
    weights = torch.zeros(count, rows, columns, dtype=dtype, device=device)
    x = torch.ones(1, columns, dtype=dtype, device=device)
    wait = torch.get_device_module(device).synchronize

    def multiply() -> None:
        for weight in weights:
            torch.nn.functional.linear(x, weight)

    works = {"a sum": weights.sum, f"a product with [{rows}, {columns}]": multiply}
    size = count * one
    seconds = {name: best(lambda work=work: (work(), wait())) for name, work in works.items()}
    return size, {name: size / taken / 1e9 for name, taken in seconds.items()}


def _free(device: torch.device) -> float:
    """Bytes that a measurement may take; without a figure of the device no limit."""
    module = torch.get_device_module(device)
    ask = getattr(module, "mem_get_info", None)
    return ask(device)[0] * FREE_SHARE if ask else float("inf")


def product(dtype: torch.dtype, device: torch.device) -> float:
    """TFLOPS of a product of two square matrices with this process's threads: best of some."""
    side = SIDE[device.type]
    left = torch.ones(side, side, device=device).to(dtype)
    wait = torch.get_device_module(device).synchronize
    return 2 * side**3 / best(lambda: (_multiply(left), wait())) / 1e12


def _multiply(left: Tensor) -> Tensor:
    return torch._int_mm(left, left) if left.dtype == torch.int8 else left @ left


def best(work: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of the shortest of `repeats` runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
