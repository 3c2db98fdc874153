"""Will it fit, and how fast can it be: a budget against a chip's figures, before any device is touched.

Every time given here is predicted, none is measured.
"""

import os
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING

import psutil

from neoxlib import chips, smi
from neoxlib.budget import Budget
from neoxlib.checkpoint import stored_quant
from neoxlib.chips import CHIPS, RECIPE, Chip
from neoxlib.config import ModelConfig, sequence_window
from neoxlib.errors import SettingsError
from neoxlib.model import check_world_size, legal_world_sizes
from neoxlib.quant import scheme_name

if TYPE_CHECKING:
    import pandas as pd

NOTES = (
    "weights: the fullest rank's share under the layers' own shard rules; embed_in is cut by vocabulary rows, "
    "row biases and norms are whole on every rank",
    "workspace: an estimate with fused attention: one layer's activations while the whole sequence is read at once, "
    "the attention mask, one row of logits",
    "bound: bytes read per step ÷ memory bandwidth, or operations ÷ peak, whichever is longer; no collectives. "
    "likely: the bound ÷ the share of it that published runs of one row reach on the same family; those are models of "
    "billions of parameters, so it stays open for ranks that read less than 1 GB",
)


@dataclass(frozen=True)
class Place:
    """Where the model would run: a chip of the table or this machine, the bytes free there and who says so.

    Ranks have a chip each; on the CPU they share the memory of one machine.
    """

    name: str
    chip: Chip
    memory: int | None
    source: str


@dataclass(frozen=True)
class Plan:
    """A budget at a place: the verdict and the predicted times. Shows itself as tables, in HTML and in plain text."""

    budget: Budget
    place: Place
    bandwidth_gb_s: float | None

    @property
    def free(self) -> int | None:
        """Bytes that one rank may fill; None where the place's memory is not known."""
        ranks = self.budget.world_size if self._on_cpu else 1
        return None if self.place.memory is None else self.place.memory // ranks

    @property
    def needed(self) -> int:
        """Bytes that the fullest rank fills."""
        budget = self.budget
        return sum(budget.weights.values()) + budget.kv_cache + budget.workspace + self.collective_buffers

    @property
    def collective_buffers(self) -> int:
        """HCCL keeps a buffer of HCCL_BUFFSIZE for sending and one for receiving."""
        megabytes = next(int(row.value) for row in RECIPE if row.name == "HCCL_BUFFSIZE")
        return 0 if self._on_cpu or self.budget.world_size == 1 else 2 * megabytes * 10**6

    @property
    def fits(self) -> bool | None:
        """Whether it fits; None where the memory is not known."""
        return None if self.free is None else self.needed <= self.free

    @property
    def largest_batch(self) -> int | None:
        """Rows of `seq_len` that fit beside the weights; 0 where not even one does, None where memory is not known."""
        if self.free is None:
            return None
        row = replace(self.budget, batch=1)
        room = self.free - sum(row.weights.values()) - self.collective_buffers
        return max(0, room // (row.kv_cache + row.workspace))

    @property
    def host_memory(self) -> int:
        """Bytes of host memory for loading on all ranks; on the CPU the weights stay there."""
        return self.budget.staging + (self.budget.disk if self._on_cpu else 0)

    @property
    def next_token_ms(self) -> float | None:
        """Bound of one decoding step: the weights but for embed_in, and the cache, are read once."""
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
        """The range of milliseconds that published runs let expect of a next token."""
        bound, share = self.next_token_ms, self.place.chip.likely
        if bound is None or share is None or self.budget.weights_read < 1e9:
            return "not known"
        return f"{_ms(bound / share[1])} to {_ms(bound / share[0])}"

    @property
    def memory(self) -> "pd.DataFrame":
        """Table part · size: what a rank holds, what is free, what the host and the disk need."""
        import pandas as pd

        budget, buffers = self.budget, self.collective_buffers
        rows = {**budget.weights, "KV cache": budget.kv_cache, "workspace (estimate)": budget.workspace}
        rows |= {"HCCL buffers": buffers} if buffers else {}
        rows |= {"needed per rank": self.needed, "free per rank": self.free}
        rows |= {"host memory while loading, all ranks": self.host_memory, "disk for the cut, all ranks": budget.disk}
        return pd.DataFrame([(name, size_text(size)) for name, size in rows.items()], columns=["part", "size"])

    @property
    def speed(self) -> "pd.DataFrame":
        """Table of predicted milliseconds: bound, likely range, and the figures they rest on."""
        import pandas as pd

        steps = [("first token", self.first_token_ms, "not known"), ("next token", self.next_token_ms, self.likely)]
        rows = [(step, _ms(bound), likely, self._figures(step)) for step, bound, likely in steps]
        return pd.DataFrame(rows, columns=["predicted", "bound (ms)", "likely (ms)", "from"])

    @property
    def sizes(self) -> "pd.DataFrame":
        """The same request at every legal world size."""
        import pandas as pd

        legal = legal_world_sizes(self.budget.config, self.budget.quant)
        plans = (replace(self, budget=replace(self.budget, world_size=size)) for size in legal)
        names = ["world size", "weights per rank", "needed per rank", "fits", "largest batch"]
        return pd.DataFrame([_size_row(found) for found in plans], columns=names)

    @property
    def title(self) -> str:
        """The request and its verdict in one line."""
        ask = self.budget
        verdict = {True: "fits", False: "does not fit", None: "memory not known"}[self.fits]
        most = "" if self.largest_batch is None else f", largest batch {self.largest_batch}"
        ranks = f"{ask.world_size} rank{'s' * (ask.world_size > 1)} on {self.place.name}"
        numbers = f"{ask.dtype}, weights {ask.quant}" if ask.quant else ask.dtype
        return f"{ranks}, batch {ask.batch}, {ask.seq_len} positions, {numbers}: {verdict}{most}"

    def __repr__(self) -> str:
        tables = (frame.to_string(index=False) for frame in (self.memory, self.speed, self.sizes))
        return "\n\n".join([self.title, *tables, "\n".join(self._notes)])

    def _repr_html_(self) -> str:
        import pandas as pd

        with pd.option_context("display.max_colwidth", None):
            tables = [frame.to_html(index=False, border=0) for frame in (self.memory, self.speed, self.sizes)]
        notes = "".join(f"<li>{escape(note)}</li>" for note in self._notes)
        return f"<p><b>{escape(self.title)}</b></p>{''.join(tables)}<ul>{notes}</ul>"

    @property
    def _notes(self) -> tuple[str, ...]:
        return (*NOTES, f"free: {self.place.source}")

    @property
    def _on_cpu(self) -> bool:
        return self.place.chip.name == "cpu"

    def _computing(self, tokens: int) -> float | None:
        """Seconds at the chip's peak; None where no source gives it."""
        peak = self.place.chip.fp16_tflops
        return None if peak is None else self.budget.operations(tokens) / (peak * 1e12)

    def _figures(self, step: str) -> str:
        """The figures behind a time, and whose they are."""
        chip, bandwidth = self.place.chip, self.bandwidth_gb_s
        if bandwidth is None:
            return "bandwidth not known"
        whose = chip.sources["bandwidth_gb_s"] if bandwidth == chip.bandwidth_gb_s else "bandwidth as given"
        peak = f"{chip.fp16_tflops} TFLOPS, " if chip.fp16_tflops and step == "first token" else ""
        return f"{peak}{bandwidth} GB/s ({whose})"


def plan(
    model: str | os.PathLike[str] | ModelConfig,
    world_size: int,
    batch: int = 1,
    seq_len: int | None = None,
    dtype: str = "float16",
    chip: str | Chip | None = None,
    bandwidth_gb_s: float | None = None,
    quant: str | None = None,
) -> Plan:
    """Plan a run of `model` (a folder or its config) over `world_size` ranks; needs no weights and no device.

    `seq_len` counts prompt and answer and defaults to the model's window. `chip` is a name of `chips.CHIPS`; None is
    this machine. `bandwidth_gb_s` replaces the chip's figure, with a measured one for instance. `quant` is "int8" or
    "int4"; None takes the weights of a folder as they are stored.
    Raises ShardError for a world size that cuts a head or a scheme's group, SettingsError for a bad batch, length,
    dtype, chip or quant.
    """
    config, quant = _model(model, quant)
    check_world_size(config, world_size, quant)
    if batch < 1:
        raise SettingsError(f"batch is {batch}; it is a number of rows, 1 or more")
    if bandwidth_gb_s is not None and bandwidth_gb_s <= 0:
        raise SettingsError(f"bandwidth_gb_s is {bandwidth_gb_s}; it is above 0, or None for the chip's own figure")
    place = _this_machine() if chip is None else _on_chip(chip if isinstance(chip, Chip) else chips.chip(chip))
    device = "cpu" if place.chip.name == "cpu" else "npu"
    dtype = chips.pick_dtype(dtype, device, config.torch_dtype, place.chip)
    budget = Budget(config, world_size, batch, sequence_window(config, seq_len), dtype, quant)
    return Plan(budget, place, bandwidth_gb_s or place.chip.bandwidth_gb_s)


def _model(model: str | os.PathLike[str] | ModelConfig, quant: str | None) -> tuple[ModelConfig, str | None]:
    """A model's config, and the scheme of its weights."""
    if isinstance(model, ModelConfig):
        return model, scheme_name(quant)
    return ModelConfig.from_dir(model), scheme_name(quant) or stored_quant(model)


def across_chips(
    model: str | os.PathLike[str] | ModelConfig, batch: int = 1, seq_len: int | None = None, quant: str | None = None
) -> "pd.DataFrame":
    """For every NPU whose memory is known: the smallest world size that fits, and its predicted next token."""
    import pandas as pd

    config, quant = _model(model, quant)
    rows = []
    for chip in (chip for chip in CHIPS.values() if chip.usable_gib is not None):
        sizes = legal_world_sizes(config, quant)
        plans = (plan(config, size, batch, seq_len, "auto", chip, quant=quant) for size in sizes)
        fit = next((found for found in plans if found.fits), None)
        times = (_ms(fit.next_token_ms), fit.likely) if fit else ("not known", "not known")
        rows.append((chip.name, fit.budget.world_size if fit else "none", *times))
    names = ["chip", "smallest world size", "predicted next token, bound (ms)", "likely (ms)"]
    return pd.DataFrame(rows, columns=names)


def size_text(size: int | None) -> str:
    """Bytes for people: GiB from a tenth of one upwards, MiB below."""
    if size is None:
        return "not known"
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:,.2f} MiB"


def _on_chip(chip: Chip) -> Place:
    if chip.name == "cpu":
        raise SettingsError("chip 'cpu' is this machine's own: leave chip out")
    memory = None if chip.usable_gib is None else int(chip.usable_gib * 2**30)
    return Place(chip.name, chip, memory, chip.sources.get("usable_gib", "no source"))


def _this_machine() -> Place:
    """This machine as it is now: the fullest NPU where there are any, else the host's free memory."""
    if chips.pick_device("auto") == "cpu":
        available = psutil.virtual_memory().available
        return Place("this machine's CPU", CHIPS["cpu"], available, "host memory available now, shared by the ranks")
    answer = smi.read() or smi.Smi()
    free = min((card.free_mib * 2**20 for card in answer.cards if card.free_mib is not None), default=None)
    row = chips.chip_for("npu")
    return Place(f"this machine's {row.name}", row, free, "npu-smi, the fullest card now")


def _size_row(found: Plan) -> tuple:
    verdict = {True: "yes", False: "no", None: "not known"}[found.fits]
    most = "not known" if found.largest_batch is None else found.largest_batch
    weights = size_text(sum(found.budget.weights.values()))
    return (found.budget.world_size, weights, size_text(found.needed), verdict, most)


def _ms(time: float | None) -> str:
    return "not known" if time is None else f"{time:.3g}" if time < 100 else f"{time:.0f}"
