"""Will it fit, and how fast can it be: a budget against a chip's figures, before any device is touched.

Every time given here is predicted, none is measured.
"""

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from neoxlib.checkpoint.folder import stored_quant
from neoxlib.errors import SettingsError
from neoxlib.kernels.npu import OPS, PLAIN
from neoxlib.machine import devices
from neoxlib.machine.chips import CHIPS, Chip
from neoxlib.machine.launch_env import RECIPE
from neoxlib.model.config import ModelConfig, sequence_window
from neoxlib.model.quant import SCHEMES, scheme_name
from neoxlib.model.world_size import check_world_size, legal_world_sizes
from neoxlib.speed.budget import Budget
from neoxlib.speed.target import Place, place
from neoxlib.workbook import markup

if TYPE_CHECKING:
    import pandas as pd

NOTES = (
    "weights: the fullest rank's share under the layers' own shard rules; embed_in is cut by vocabulary rows, "
    "row biases and norms are whole on every rank",
    "workspace: an estimate with fused attention: one layer's activations while the whole sequence is read at once, "
    "the attention mask, one row of logits; where packed weights are unpacked, the largest of them",
    "bound: bytes read per step ÷ memory bandwidth, or operations ÷ peak, whichever is longer; no collectives. "
    "likely: the bound ÷ the share of it that published runs of one row reach on the same family; those are models of "
    "billions of parameters in float16, so it stays open for packed weights, for ranks that read less than 1 GB, and "
    "for prompts below 1024 tokens",
)
FROM_TOKENS = 1024  # of the published prompts that `likely_peak` rests on


@dataclass(frozen=True)
class Plan:
    """A budget at a place: the verdict and the predicted times. Shows itself as tables, in HTML and in plain text."""

    budget: Budget
    place: Place

    @property
    def free(self) -> int | None:
        """Bytes that one rank may fill; None where the place's memory is not known."""
        return None if self.place.memory is None else self.place.memory // self._sharing

    @property
    def needed(self) -> int:
        """Bytes that the fullest rank fills."""
        budget = self.budget
        return (
            sum(budget.weights.values())
            + budget.kv_cache
            + budget.workspace
            + self.collective_buffers
        )

    @property
    def collective_buffers(self) -> int:
        """HCCL keeps a buffer of HCCL_BUFFSIZE for sending and one for receiving."""
        megabytes = next(int(row.value) for row in RECIPE if row.name == "HCCL_BUFFSIZE")
        return 0 if self.place.on_cpu or self.budget.world_size == 1 else 2 * megabytes * 10**6

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
        room = self.free - sum(row.weights.values()) - self.collective_buffers - row.unpacking
        return max(0, room // (row.kv_cache + row.workspace - row.unpacking))

    @property
    def host_memory(self) -> int:
        """Bytes of host memory for loading on all ranks; on the CPU the weights stay there."""
        return self.budget.staging + (self.budget.disk if self.place.on_cpu else 0)

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
        return self._likely(self.next_token_ms, self.place.chip.likely)

    @property
    def likely_first(self) -> str:
        """The same of a first token, after prompts as long as the published ones."""
        long = self.budget.batch * self.budget.seq_len >= FROM_TOKENS
        return self._likely(self.first_token_ms, self.place.chip.likely_peak if long else None)

    def _likely(self, bound: float | None, share: tuple[float, float] | None) -> str:
        if bound is None or share is None or self.budget.quant or self.budget.weights_read < 1e9:
            return "not known"
        return f"{_ms(bound / share[1])} to {_ms(bound / share[0])}"

    @property
    def bandwidth_gb_s(self) -> float | None:
        """What a rank reads at: its chip's figure, or its part of the machine's memory."""
        whole = self.place.chip.bandwidth_gb_s
        return whole if whole is None else whole / self._sharing

    @property
    def memory(self) -> "pd.DataFrame":
        """Table part · size: what a rank holds, what is free, what the host and the disk need."""
        import pandas as pd

        budget = self.budget
        buffers = self.collective_buffers
        rows = {
            **budget.weights,
            "KV cache": budget.kv_cache,
            "workspace (estimate)": budget.workspace,
        }
        rows |= {"HCCL buffers": buffers} if buffers else {}
        rows |= {"needed per rank": self.needed, "free per rank": self.free}
        rows |= {
            "host memory while loading, all ranks": self.host_memory,
            "disk for the cut, all ranks": budget.disk,
        }
        return pd.DataFrame(
            [(name, size_text(size)) for name, size in rows.items()], columns=["part", "size"]
        )

    @property
    def speed(self) -> "pd.DataFrame":
        """Table of predicted milliseconds: bound, likely range, and the figures they rest on."""
        import pandas as pd

        first = (self.first_token_ms, self.likely_first)
        later = (self.next_token_ms, self.likely)
        steps = (("first token", *first), ("next token", *later))
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
            tables = [
                frame.to_html(index=False, border=0)
                for frame in (self.memory, self.speed, self.sizes)
            ]
        notes = "".join(f"<li>{markup.text(note)}</li>" for note in self._notes)
        title = f"<p><b>{markup.text(self.title)}</b></p>"
        return markup.block(f"{title}{''.join(tables)}<ul>{notes}</ul>")

    @property
    def _notes(self) -> tuple[str, ...]:
        return (*NOTES, f"free: {self.place.source}")

    @property
    def _sharing(self) -> int:
        """Ranks that share the place: all on a CPU, one on a chip."""
        return self.budget.world_size if self.place.on_cpu else 1

    def _computing(self, tokens: int) -> float | None:
        """Seconds at the chip's peak; None where no source gives it."""
        peak = self.place.chip.fp16_tflops
        return (
            None if peak is None else self.budget.operations(tokens) * self._sharing / (peak * 1e12)
        )

    def _figures(self, step: str) -> str:
        """The figures behind a time, and whose they are."""
        chip = self.place.chip
        units = {"fp16_tflops": "TFLOPS"} if step == "first token" else {}
        units["bandwidth_gb_s"] = "GB/s"
        known = [name for name in units if getattr(chip, name) is not None]
        said = [f"{getattr(chip, name):g} {units[name]} ({chip.sources[name]})" for name in known]
        return "; ".join(said) or "bandwidth not known"


def plan(
    model: str | os.PathLike[str] | ModelConfig,
    world_size: int,
    batch: int = 1,
    seq_len: int | None = None,
    dtype: str = "float16",
    chip: str | Chip | None = None,
    bandwidth_gb_s: float | None = None,
    quant: str | None = None,
    tflops: float | None = None,
) -> Plan:
    """Plan a run of `model` (a folder or its config) over `world_size` ranks; needs no weights and no device.

    `seq_len` counts prompt and answer and defaults to the model's window. `chip` is a name of `chips.CHIPS`; None is
    this machine. `bandwidth_gb_s` and `tflops` replace the chip's figures, with measured ones for instance. `quant` is
    "int8" or "int4"; None takes the weights of a folder as they are stored.
    Raises ShardError for a world size that cuts a head or a scheme's group, SettingsError for a bad batch, length,
    dtype, chip, figure or quant.
    """
    config, quant = _model(model, quant)
    check_world_size(config, world_size, quant)
    if batch < 1:
        raise SettingsError(f"batch is {batch}; it is a number of rows, 1 or more")
    where = place(chip, bandwidth_gb_s, tflops)
    dtype = devices.pick_dtype(
        dtype, "cpu" if where.on_cpu else "npu", config.torch_dtype, where.chip
    )
    packed = (
        tuple(SCHEMES) if where.on_cpu else OPS.get(where.chip.family, PLAIN).packed
    )  # a CPU's are compiled
    return Plan(
        Budget(config, world_size, batch, sequence_window(config, seq_len), dtype, quant, packed),
        where,
    )


def _model(
    model: str | os.PathLike[str] | ModelConfig, quant: str | None
) -> tuple[ModelConfig, str | None]:
    """A model's config, and the scheme of its weights."""
    if isinstance(model, ModelConfig):
        return model, scheme_name(quant)
    return ModelConfig.from_dir(model), scheme_name(quant) or stored_quant(model)


def across_chips(
    model: str | os.PathLike[str] | ModelConfig,
    batch: int = 1,
    seq_len: int | None = None,
    quant: str | None = None,
) -> "pd.DataFrame":
    """For every NPU whose memory is known, and this machine: the smallest world size that fits, and its times."""
    import pandas as pd

    config, quant = _model(model, quant)
    places = [chip for chip in CHIPS.values() if chip.usable_gib is not None]
    rows = [_smallest(config, batch, seq_len, quant, chip) for chip in (*places, None)]
    times = [
        f"predicted {step} token, {what} (ms)"
        for step in ("first", "next")
        for what in ("bound", "likely")
    ]
    return pd.DataFrame(rows, columns=["chip", "smallest world size", *times])


def _smallest(
    config: ModelConfig, batch: int, seq_len: int | None, quant: str | None, chip: Chip | None
) -> tuple:
    """The smallest world size that fits on a chip, or on this machine, and its times."""
    sizes = legal_world_sizes(config, quant)
    plans = (plan(config, size, batch, seq_len, "auto", chip, quant=quant) for size in sizes)
    name = chip.name if chip else "this machine"
    fit = next((found for found in plans if found.fits), None)
    if fit is None:
        return (name, "none", *["not known"] * 4)
    return (
        name,
        fit.budget.world_size,
        _ms(fit.first_token_ms),
        fit.likely_first,
        _ms(fit.next_token_ms),
        fit.likely,
    )


def size_text(size: int | None) -> str:
    """Bytes for people: GiB from a tenth of one upwards, MiB below."""
    if size is None:
        return "not known"
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:,.2f} MiB"


def _size_row(found: Plan) -> tuple:
    verdict = {True: "yes", False: "no", None: "not known"}[found.fits]
    most = "not known" if found.largest_batch is None else found.largest_batch
    weights = size_text(sum(found.budget.weights.values()))
    return (found.budget.world_size, weights, size_text(found.needed), verdict, most)


def _ms(time: float | None) -> str:
    return "not known" if time is None else f"{time:.3g}" if time < 100 else f"{time:.0f}"
