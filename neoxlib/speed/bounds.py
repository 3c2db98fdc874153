"""Whether a request fits a target, and the shortest times that the target's figures allow.

Every time given here is predicted, none is measured.
"""

import os
from dataclasses import dataclass, replace

from neoxlib.machine.recipe import RECIPE
from neoxlib.speed.budget import Budget
from neoxlib.speed.target import Target

FROM_TOKENS = 1024  # length of the published prompts that `likely_peak` rests on
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
