"""Will it fit, and how fast can it be: a budget against a chip's figures, before a device is used.

Every time given here is predicted, none is measured.
"""

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from neoxlib.checkpoint.folder import stored_quant
from neoxlib.errors import SettingsError
from neoxlib.kernels.npu import OPS, PLAIN
from neoxlib.languages import said
from neoxlib.machine import devices
from neoxlib.machine.chips import CHIPS, Chip
from neoxlib.machine.hccl_rules import Ranks, broken_rules, refuse_ranks, remark
from neoxlib.model.config import ModelConfig, sequence_window
from neoxlib.model.quant import SCHEMES, scheme_name
from neoxlib.model.world_size import check_world_size, legal_world_sizes
from neoxlib.speed import launches
from neoxlib.speed.bounds import Bounds, ms_text, size_text
from neoxlib.speed.budget import Budget
from neoxlib.speed.target import Target, find_target, measured
from neoxlib.workbook import markup
from neoxlib.workbook.table import Table

if TYPE_CHECKING:
    import pandas as pd

NOTES = (
    "first token: time to first token (TTFT), over a prompt as long as the whole sequence; "
    "next token: time per output token (TPOT)",
    "weights: the fullest rank's share under the layers' own shard rules; embed_in is cut by "
    "vocabulary rows, row biases and norms are whole on every rank",
    "workspace: an estimate with fused attention: one layer's activations while the whole sequence "
    "is read at once, the attention mask, one row of logits; where packed weights are unpacked, "
    "the largest of them",
    "bound: bytes read per step ÷ memory bandwidth, or operations ÷ peak, whichever is longer; "
    "no collectives. likely: the bound ÷ the share of it that published runs of one row reach on "
    "the same family; those are models of billions of parameters in float16, so it stays open for "
    "packed weights, for ranks that read less than 1 GB, and for prompts below 1024 tokens",
)
DEVICE_NOTE = (
    "not in it: what CANN and the driver take for each process on a device, which no source gives; "
    "on an NPU `memory()` of an engine or a session shows it as part of in_use"
)
LAUNCHES_NOTE = (
    "operators launched: by the host for one token, one by one or as one captured graph; host: at "
    f"{launches.LAUNCH_US[0]:g} to {launches.LAUNCH_US[1]:g} µs each, which is assumed and was "
    "measured on no NPU; next token: the longer of the host's time and the bound"
)


class Plan(Bounds):
    """The bounds of a request, as tables in HTML and in plain text."""

    @property
    def memory(self) -> "pd.DataFrame":
        """Table part · size: the memory of a rank, of the host, and the space on the disk."""
        import pandas as pd

        budget = self.budget
        buffers = self.collective_buffers
        rows = {**budget.weights, "KV cache": budget.kv_cache}
        rows |= {"workspace (estimate)": budget.workspace}
        rows |= {"HCCL buffers": buffers} if buffers else {}
        rows |= {"needed per rank": self.needed, "free per rank": self.free}
        rows |= {"host memory while loading, all ranks": self.host_memory}
        rows |= {"disk for the cut, all ranks": budget.disk}
        sizes = [(name, size_text(size)) for name, size in rows.items()]
        return pd.DataFrame(sizes, columns=["part", "size"])

    @property
    def speed(self) -> "pd.DataFrame":
        """Table of predicted milliseconds: bound, likely range, and the figures they rest on."""
        import pandas as pd

        first = (self.first_token_ms, self.likely_first)
        later = (self.next_token_ms, self.likely)
        rows = [
            (token, ms_text(bound), likely, self._figures(token))
            for token, bound, likely in (("first token", *first), ("next token", *later))
        ]
        return pd.DataFrame(rows, columns=["predicted", "bound (ms)", "likely (ms)", "from"])

    def _figures(self, token: str) -> str:
        """Name the figures behind a time, and their sources."""
        chip = self.target.chip
        units = {"fp16_tflops": "TFLOPS"} if token == "first token" else {}
        units["bandwidth_gb_s"] = "GB/s"
        known = [name for name in units if getattr(chip, name) is not None]
        said = [f"{getattr(chip, name):g} {units[name]} ({chip.sources[name]})" for name in known]
        return "; ".join(said) or "bandwidth not known"

    @property
    def launches(self) -> "pd.DataFrame":
        """Table of what the host launches for a next token, eagerly and as a graph; for NPUs."""
        import pandas as pd

        names = ["predicted", "operators launched", "host (ms)", "next token (ms)"]
        return pd.DataFrame(launches.rows(self), columns=names)

    @property
    def sizes(self) -> "pd.DataFrame":
        """The same request at every legal world size."""
        import pandas as pd

        legal = _sizes(self.budget.config, self.budget.quant, self.target.chip)
        plans = (replace(self, budget=replace(self.budget, world_size=size)) for size in legal)
        names = ["world size", "weights per rank", "needed per rank", "fits", "largest batch"]
        return pd.DataFrame([_size_row(found) for found in plans], columns=names)

    @property
    def title(self) -> str:
        """The request and its verdict in one line."""
        ask = self.budget
        verdict = {True: "fits", False: "does not fit", None: "memory not known"}[self.fits]
        most = "" if self.largest_batch is None else f", largest batch {self.largest_batch}"
        ranks = f"{ask.world_size} rank{'s' * (ask.world_size > 1)} on {self.target.name}"
        numbers = f"{ask.dtype}, weights {ask.quant}" if ask.quant else ask.dtype
        return f"{ranks}, batch {ask.batch}, {ask.seq_len} positions, {numbers}: {verdict}{most}"

    @property
    def _tables(self) -> "tuple[pd.DataFrame, ...]":
        counted = self.launches
        return self.memory, self.speed, *([] if counted.empty else [counted]), self.sizes

    @property
    def _notes(self) -> tuple[str, ...]:
        cards = remark(self.target.chip, self.budget.world_size)
        own = () if self.target.on_cpu else (DEVICE_NOTE,)
        counted = () if self.launches.empty else (LAUNCHES_NOTE,)
        return tuple(filter(None, (*NOTES, *own, *counted, cards, f"free: {self.target.source}")))

    def __repr__(self) -> str:
        tables = (
            repr(Table(tuple(frame), frame.itertuples(index=False))) for frame in self._tables
        )
        return "\n\n".join([said(self.title), *tables, "\n".join(map(said, self._notes))])

    def _repr_html_(self) -> str:
        tables = (markup.table(frame, frame.itertuples(index=False)) for frame in self._tables)
        notes = "".join(f"<li>{markup.text(note)}</li>" for note in self._notes)
        title = f"<p><b>{markup.text(self.title)}</b></p>"
        return markup.block(f"{title}{''.join(tables)}<ul>{notes}</ul>")


def _size_row(found: Plan) -> tuple:
    verdict = {True: "yes", False: "no", None: "not known"}[found.fits]
    most = "not known" if found.largest_batch is None else found.largest_batch
    weights = size_text(sum(found.budget.weights.values()))
    return (found.budget.world_size, weights, size_text(found.needed), verdict, most)


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
    """Plan a run of `model` (a folder or its config) over `world_size` ranks.

    Neither weights nor a device are needed. `seq_len` counts prompt and answer and defaults to the
    model's window. `chip` is a name of `chips.CHIPS`; None is this machine. `bandwidth_gb_s` and
    `tflops` replace the chip's figures, for instance by measured ones. `quant` is "int8" or
    "int4"; None takes the weights of a folder as they are stored.
    Raises ShardError for a world size that cuts a head or a scheme's group, SettingsError for a
    bad batch, length, dtype, chip, figure or quant, and for ranks that HCCL does not serve.
    """
    config, quant = _model(model, quant)
    check_world_size(config, world_size, quant)
    if batch < 1:
        raise SettingsError(f"batch is {batch}; it is a number of rows, 1 or more")
    target = find_target(chip, bandwidth_gb_s, tflops)
    refuse_ranks(target.chip, world_size)
    dtype = _dtype(dtype, config, target)
    length = sequence_window(config, seq_len)
    budget = Budget(config, world_size, batch, length, dtype, quant, _packed(target))
    size = sum(budget.weights.values())
    return Plan(budget, measured(target, size, world_size, dtype, bool(quant)))


def _model(
    model: str | os.PathLike[str] | ModelConfig, quant: str | None
) -> tuple[ModelConfig, str | None]:
    """A model's config, and the scheme of its weights."""
    if isinstance(model, ModelConfig):
        return model, scheme_name(quant)
    return ModelConfig.from_dir(model), scheme_name(quant) or stored_quant(model)


def _sizes(config: ModelConfig, quant: str | None, chip: Chip | None) -> list[int]:
    """The world sizes that cut the model whole and that HCCL serves; None is this machine."""
    sizes = legal_world_sizes(config, quant)
    chip = chip or find_target(None).chip
    return [size for size in sizes if not broken_rules(Ranks(chip, size, size))]


def _dtype(dtype: str, config: ModelConfig, target: Target) -> str:
    device = "cpu" if target.on_cpu else "npu"
    return devices.pick_dtype(dtype, device, config.torch_dtype, target.chip)


def _packed(target: Target) -> tuple[str, ...]:
    """Schemes whose weights the target multiplies without unpacking them: on a CPU, all."""
    return tuple(SCHEMES) if target.on_cpu else OPS.get(target.chip.family, PLAIN).packed


def across_chips(
    model: str | os.PathLike[str] | ModelConfig,
    batch: int = 1,
    seq_len: int | None = None,
    quant: str | None = None,
) -> "pd.DataFrame":
    """The smallest world size that fits, and its times: a row per NPU and one for this machine.

    NPUs whose memory is not known are left out.
    """
    import pandas as pd

    config, quant = _model(model, quant)
    known = [chip for chip in CHIPS.values() if chip.usable_gib is not None]
    rows = [_smallest(config, batch, seq_len, quant, chip) for chip in (*known, None)]
    times = [
        f"predicted {token} token, {kind} (ms)"
        for token in ("first", "next")
        for kind in ("bound", "likely")
    ]
    return pd.DataFrame(rows, columns=["chip", "smallest world size", *times])


def _smallest(
    config: ModelConfig, batch: int, seq_len: int | None, quant: str | None, chip: Chip | None
) -> tuple:
    """The smallest world size that fits a chip, or this machine if None, and its times."""
    sizes = _sizes(config, quant, chip)
    plans = (plan(config, size, batch, seq_len, "auto", chip, quant=quant) for size in sizes)
    name = chip.name if chip else "this machine"
    fit = next((found for found in plans if found.fits), None)
    if fit is None:
        return (name, "none", *["not known"] * 4)
    first = (ms_text(fit.first_token_ms), fit.likely_first)
    return (name, fit.budget.world_size, *first, ms_text(fit.next_token_ms), fit.likely)
