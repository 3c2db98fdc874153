"""Whether a request fits a target, the shortest times that its figures allow, and a time's bound.

Times of `Bounds` are predicted, none is measured; `Pass` holds a measured one against the peaks.
"""

import os
from dataclasses import dataclass, replace

from neoxlib.machine.recipe import RECIPE
from neoxlib.speed.budget import Budget
from neoxlib.speed.cells import percent, si
from neoxlib.speed.target import Target

FROM_TOKENS = 1024  # length of the published prompts that `likely_peak` rests on
AT_LIMIT = 0.4  # share of a peak from which a step is bound by it; published runs reach 0.46–0.66
LEAST_READ = 1e9  # bytes that a rank reads per step; published runs say nothing of smaller models


@dataclass(frozen=True)
class Bounds:
    """A budget held against a target: memory needed and free, and lower bounds of the times."""

    budget: Budget
    target: Target

    @property
    def free(self) -> int | None:
        """Bytes that one rank may fill; None if the target's memory is not known."""
        return None if self.target.memory is None else self.target.memory // self._sharing

    @property
    def needed(self) -> int:
        """Bytes that the fullest rank fills."""
        held = sum(self.budget.weights.values()) + self.budget.kv_cache
        return held + self.budget.workspace + self.collective_buffers

    @property
    def collective_buffers(self) -> int:
        """HCCL keeps a buffer of HCCL_BUFFSIZE for sending and one for receiving.

        Its size is the user's, if exported, else the recipe's.
        """
        recipes = next(row.value for row in RECIPE if row.name == "HCCL_BUFFSIZE")
        given = os.environ.get("HCCL_BUFFSIZE", "")
        megabytes = int(given if given.isdigit() else recipes)
        return 0 if self.target.on_cpu or self.budget.world_size == 1 else 2 * megabytes * 10**6

    @property
    def fits(self) -> bool | None:
        """Whether the request fits; None if the target's memory is not known."""
        return None if self.free is None else self.needed <= self.free

    @property
    def largest_batch(self) -> int | None:
        """Rows of `seq_len` that fit beside the weights: 0 if not even one does.

        None if the target's memory is not known.
        """
        if self.free is None:
            return None
        row = replace(self.budget, batch=1)
        room = self.free - sum(row.weights.values()) - self.collective_buffers - row.unpacking
        return max(0, room // (row.kv_cache + row.workspace - row.unpacking))

    @property
    def host_memory(self) -> int:
        """Bytes of host memory for loading on all ranks; on the CPU the weights stay there."""
        return self.budget.staging + (self.budget.disk if self.target.on_cpu else 0)

    @property
    def next_token_ms(self) -> float | None:
        """Bound of one decoding step: the weights except embed_in, and the cache, are read once."""
        if self.bandwidth_gb_s is None:
            return None
        reading = (self.budget.weights_read + self.budget.kv_cache) / (self.bandwidth_gb_s * 1e9)
        return 1e3 * max(reading, self._computing(self.budget.batch) or 0)

    @property
    def first_token_ms(self) -> float | None:
        """Bound of reading `seq_len` tokens of each row."""
        computing = self._computing(self.budget.batch * self.budget.seq_len)
        if computing is None or self.bandwidth_gb_s is None:
            return None
        return 1e3 * max(computing, self.budget.weights_read / (self.bandwidth_gb_s * 1e9))

    @property
    def likely(self) -> str:
        """The range of milliseconds of a next token that published runs make likely."""
        return self._likely(self.next_token_ms, self.target.chip.likely)

    @property
    def likely_first(self) -> str:
        """The same range of a first token, for prompts as long as the published ones."""
        long = self.budget.batch * self.budget.seq_len >= FROM_TOKENS
        return self._likely(self.first_token_ms, self.target.chip.likely_peak if long else None)

    def _likely(self, bound: float | None, share: tuple[float, float] | None) -> str:
        small = self.budget.weights_read < LEAST_READ
        if bound is None or share is None or self.budget.quant or small:
            return "not known"
        return f"{ms_text(bound / share[1])} to {ms_text(bound / share[0])}"

    @property
    def bandwidth_gb_s(self) -> float | None:
        """Memory bandwidth of one rank: its chip's figure, or its part of the machine's memory."""
        whole = self.target.chip.bandwidth_gb_s
        return whole if whole is None else whole / self._sharing

    @property
    def _sharing(self) -> int:
        """Number of ranks that share the target: all on a CPU, one on a chip."""
        return self.budget.world_size if self.target.on_cpu else 1

    def _computing(self, tokens: int) -> float | None:
        """Seconds at the chip's peak; None if no source gives it."""
        peak = self.target.chip.fp16_tflops
        if peak is None:
            return None
        return self.budget.operations(tokens) * self._sharing / (peak * 1e12)


def size_text(size: int | None) -> str:
    """Bytes for people: GiB from a tenth of one upwards, MiB below."""
    if size is None:
        return "not known"
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:,.2f} MiB"


def ms_text(time: float | None) -> str:
    """Milliseconds for people, with three figures below 100."""
    if time is None:
        return "not known"
    return f"{time:.3g}" if time < 100 else f"{time:.0f}"


@dataclass(frozen=True)
class Pass:
    """A forward pass of all ranks: its work and its time.

    `beside_ms` is the time before and after the forward pass itself. `overhead_ms` is an upper
    limit of the overhead if another measurement gives one; None allows all unexplained time.
    """

    size: float  # bytes
    operations: float
    wall_ms: float
    reading_ms: float  # at the peak
    computing_ms: float  # at the peak
    communication_ms: float | None = 0.0  # None: not measured by itself
    beside_ms: float = 0.0
    overhead_ms: float | None = None

    @property
    def roof_ms(self) -> float:
        """The shortest time that the peaks allow."""
        return max(self.reading_ms, self.computing_ms)

    @property
    def unexplained_ms(self) -> float:
        """Time that neither the peaks nor the all-reduce explain."""
        return max(0.0, self.wall_ms - self.roof_ms - (self.communication_ms or 0))

    @property
    def shares(self) -> dict[str, float]:
        """Shares of the wall time; bandwidth and compute overlap.

        `kernels` is the time that kernels below the peak take beyond it.
        """
        unexplained = self.unexplained_ms
        launch = unexplained if self.overhead_ms is None else min(unexplained, self.overhead_ms)
        times = {
            "bandwidth": self.reading_ms,
            "compute": self.computing_ms,
            "communication": self.communication_ms or 0,
            "launch": launch,
            "kernels": unexplained - launch,
        }
        return {name: ms / self.wall_ms for name, ms in times.items()}

    @property
    def bound(self) -> str:
        """The bound: a peak from AT_LIMIT of it upwards, else the largest share of the time."""
        shares = self.shares
        roof = max("bandwidth", "compute", key=shares.get)
        if shares[roof] >= max(AT_LIMIT, shares["communication"]):
            return roof
        shares[roof] += shares["kernels"]
        return max(roof, "communication", "launch", key=shares.get)

    def figures(self, *more: str) -> tuple[float | str, ...]:
        """Bytes, operations, MBU, MFU, the shares named in `more`, the bound, and its time."""
        shares = self.shares
        names = ("bandwidth", "compute", *more)
        return (
            self.size,
            self.operations,
            *(shares[name] for name in names),
            self.bound,
            self.roof_ms,
        )

    def words(self) -> str:
        """Name the bound with its figures, then the other shares of the time or of a peak."""
        shares = self.shares
        share = {name: percent(value) for name, value in shares.items()}
        sums = " and the sums between ranks" if self.communication_ms is None else ""
        parts = {
            "bandwidth": f"reading at {share['bandwidth']} of its peak",
            "compute": f"computing at {share['compute']}",
            "communication": f"sums between ranks {share['communication']}",
            "launch": f"overhead {share['launch']}",
            "kernels": f"kernels below the peak{sums} {share['kernels']}",
        }
        told = [
            text for name, text in parts.items() if shares[name] >= 0.001 and name != self.bound
        ]
        return f"{self.bound}-bound: {'; '.join([self._figures(parts[self.bound]), *told])}"

    def _figures(self, otherwise: str) -> str:
        """The work and rate if a peak is the bound; for other bounds their share of the time."""
        beside = self.beside_ms / self.wall_ms
        work = {"bandwidth": (self.size, "B", "B/s"), "compute": (self.operations, "FLOP", "FLOPS")}
        if self.bound not in work:
            outside = f", {percent(beside)} before and after the forward pass"
            return f"{otherwise} of the time" + (self.bound == "launch" and beside > 0) * outside
        amount, unit, per_second = work[self.bound]
        rate = si(amount * 1e3 / self.wall_ms)
        share = percent(self.shares[self.bound])
        return f"{si(amount)}{unit} at {rate}{per_second} are {share} of the peak"
