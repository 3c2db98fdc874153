"""Weights under the layers' shard rules: plan what each rank holds, and load it."""

import itertools
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from neoxlib.checkpoint import Checkpoint, Stored, open_checkpoint, stored_quant
from neoxlib.comm import Group
from neoxlib.config import ModelConfig
from neoxlib.errors import SettingsError, WeightsError
from neoxlib.files import Meter
from neoxlib.layers import Full
from neoxlib.model import GPTNeoX, check_world_size, full_parameters
from neoxlib.names import dtype_of, match
from neoxlib.packing import choose_quant, pack_into, runs, scheme_of
from neoxlib.pieces import at_once, load_whole, without_collection
from neoxlib.quant import Packed, Scheme
from neoxlib.settle import Settling
from neoxlib.shards import merge, shard, verify

__all__ = ["PlanRow", "load_into", "merge", "plan", "shard", "verify"]


@dataclass(frozen=True)
class PlanRow:
    """One class of tensors of a cut. Sizes are the largest rank's: of an uneven vocabulary others hold a row less."""

    tensor: str  # "gpt_neox.layers.*.mlp.dense_h_to_4h.weight"
    rule: str  # "rows cut", "columns cut" or "whole on every rank"
    count: int
    full_shape: tuple[int, ...]
    rank_shape: tuple[int, ...]
    rank_bytes: int  # all `count` of them on one rank
    total_bytes: int  # and on all ranks together


def plan(
    model: ModelConfig | str | os.PathLike[str], world_size: int, dtype: str | None = None, quant: str | None = None
) -> list[PlanRow]:
    """What each rank will hold: a row per class of tensors, in the model's order. Reads config.json only.

    `dtype` defaults to the config's, else float32; `quant` to how a cut is stored. Raises ShardError for a world size
    that cuts a head or a group of the scheme.
    """
    config = model if isinstance(model, ModelConfig) else ModelConfig.from_dir(model)
    quant = quant or (None if isinstance(model, ModelConfig) else stored_quant(model))
    check_world_size(config, world_size, quant)
    own = dtype_of(dtype or config.torch_dtype or "float32")
    classes: dict[str, list[Full]] = {}
    for name, full in full_parameters(config, quant).items():
        classes.setdefault(re.sub(r"\.layers\.\d+\.", ".layers.*.", name), []).append(full)
    return [_plan_row(name, len(rows), rows[0], world_size, own) for name, rows in classes.items()]


def _plan_row(name: str, count: int, full: Full, world_size: int, own: torch.dtype) -> PlanRow:
    parts = [full.rule.shape(full.shape, rank, world_size) for rank in range(world_size)]
    words = {None: "whole on every rank", 0: "rows cut", 1: "columns cut"}[full.rule.dim]
    nbytes = [count * math.prod(part) * (full.dtype or own).itemsize for part in parts]
    return PlanRow(name, words, count, full.shape, max(parts), max(nbytes), sum(nbytes))


def load_into(
    model: GPTNeoX, model_dir: str | os.PathLike[str], progress: bool = False, lend: bool = False, narrow: bool = False
) -> Settling:
    """Fill each parameter of `model` once: its rank's part of the checkpoint in `model_dir`, in the model's dtype.

    Takes an unsplit checkpoint, a folder that `shard` wrote for any world size, or this rank's `part_model/{rank}`.
    A model with `quant` packs plain weights as they come, a few rows at a time.
    A model on the meta device comes to the CPU; `model.to_empty(device=...)` before this puts it elsewhere.
    With `lend` what a file holds just as the model wants it is only mapped: start the Settling that is returned. With
    `narrow`, for a float32 model that runs compiled, so are matrices of float16 or bfloat16: the same numbers.
    Raises WeightsError when the tensors are not this model's, SettingsError when they are packed otherwise than it is;
    nothing is filled then.
    """
    checkpoint = open_checkpoint(model_dir)
    _check_part(checkpoint, model.group)
    found = match(checkpoint, model.config)
    if choose_quant(checkpoint, model.quant) != model.quant:
        raise SettingsError(f"{model_dir} holds weights packed as {checkpoint.quant!r}; the model is not made for them")
    if any(parameter.is_meta for parameter in model.parameters()):
        model.to_empty(device="cpu")
    parameters = {name: parameter.data for name, parameter in model.named_parameters()}
    shares = {name: _Share(model, checkpoint, name, stored) for name, (_, stored) in found.items()}
    mapped = {name: share.mapped(parameters[name], narrow) for name, share in shares.items()} if lend else {}
    mapped = {name: tensor for name, tensor in mapped.items() if tensor is not None}
    tasks = {name: share.tasks(parameters) for name, share in shares.items()}
    lent = [tasks.pop(name) for name in mapped]
    settling = Settling(model, mapped, itertools.chain.from_iterable(lent))
    with without_collection():
        _read(itertools.chain.from_iterable(tasks.values()), parameters, mapped, progress)
    return settling


def _read(
    tasks: Iterator[Callable[[], int]], parameters: dict[str, Tensor], mapped: dict[str, Tensor], progress: bool
) -> None:
    """Fill the parameters that are not mapped."""
    here = all(parameter.is_cpu for parameter in parameters.values())
    with Meter("load", sum(parameter.nbytes for parameter in parameters.values()), show=progress) as meter:
        meter.add(sum(parameters[name].nbytes for name in mapped))
        for count in at_once(tasks) if here else (task() for task in tasks):
            meter.add(count)
        assert meter.done == meter.total, "a parameter was filled twice or not at all"
    load_whole.cache_clear()


class _Share:
    """This rank's part of one tensor."""

    def __init__(self, model: GPTNeoX, checkpoint: Checkpoint, name: str, stored: Stored) -> None:
        self.name, self.stored = name, stored
        rank, size = (0, 1) if checkpoint.part[1] > 1 else (model.group.rank, model.group.size)  # a part is cut already
        self.index = full_parameters(model.config, model.quant)[name].rule.slices(stored.shape, rank, size)
        self.scheme = scheme_of(name, model.config, model.quant) if checkpoint.quant is None else None

    def mapped(self, parameter: Tensor, narrow: bool) -> Tensor | None:
        """The pages of a file that hold its numbers, in its dtype or perhaps a narrow one; None without such pages."""
        here, wide = self.stored.dtype, parameter.dtype == torch.float32 and parameter.ndim == 2
        fits = here == parameter.dtype or (narrow and wide and here in (torch.float16, torch.bfloat16))
        return self.stored.mapped(self.index) if fits and self.scheme is None and parameter.is_cpu else None

    def tasks(self, parameters: dict[str, Tensor]) -> Iterator[Callable[[], int]]:
        """Runs of rows: each task reads one, and packs it where the model wants that."""
        rows, *columns = self.index
        names = {"weight": self.name} | ({"weight_scale": f"{self.name}_scale"} if self.scheme else {})
        for run in runs(rows, self.stored):
            here = slice(run.start - rows.start, run.stop - rows.start)
            out = {part: parameters[name][here] for part, name in names.items()}
            yield partial(_fill, out, self.stored, self.scheme, (run, *columns))


def _fill(out: Packed, stored: Stored, scheme: Scheme | None, index: tuple[slice, ...]) -> int:
    """Returns the bytes filled."""
    if scheme is None:
        stored.read_into(out["weight"], index)
    else:
        pack_into(out, stored, scheme, index)
    return sum(tensor.nbytes for tensor in out.values())


def _check_part(checkpoint: Checkpoint, group: Group) -> None:
    """A `part_model/{rank}` folder serves that rank of that world size only."""
    rank, size = checkpoint.part
    if size > 1 and (rank, size) != (group.rank, group.size):
        raise WeightsError(
            f"{checkpoint.folder} is the part of rank {rank} of {size}, this is rank {group.rank} of {group.size}; "
            f"give {checkpoint.folder.absolute().parent.parent}, which is read at any world size"
        )
