"""Weights under the layers' shard rules: plan what each rank holds, and load it."""

import math
import os
import re
from dataclasses import dataclass

from neoxlib.checkpoint import Checkpoint, open_checkpoint
from neoxlib.comm import Group
from neoxlib.config import ModelConfig
from neoxlib.errors import WeightsError
from neoxlib.files import Meter
from neoxlib.layers import Cut
from neoxlib.model import GPTNeoX, check_world_size, shard_rules
from neoxlib.names import dtype_of, match
from neoxlib.pieces import load_whole
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


def plan(model: ModelConfig | str | os.PathLike[str], world_size: int, dtype: str | None = None) -> list[PlanRow]:
    """What each rank will hold: a row per class of tensors, in the model's order. Reads config.json only.

    `dtype` defaults to the config's, else float32. Raises ShardError for a world size that cuts a head.
    """
    config = model if isinstance(model, ModelConfig) else ModelConfig.from_dir(model)
    check_world_size(config, world_size)
    itemsize = dtype_of(dtype or config.torch_dtype or "float32").itemsize
    classes: dict[str, list[tuple[tuple[int, ...], Cut]]] = {}
    for name, item in shard_rules(config).items():
        classes.setdefault(re.sub(r"\.layers\.\d+\.", ".layers.*.", name), []).append(item)
    return [_plan_row(name, len(items), *items[0], world_size, itemsize) for name, items in classes.items()]


def _plan_row(name: str, count: int, shape: tuple[int, ...], rule: Cut, world_size: int, itemsize: int) -> PlanRow:
    parts = [rule.shape(shape, rank, world_size) for rank in range(world_size)]
    words = {None: "whole on every rank", 0: "rows cut", 1: "columns cut"}[rule.dim]
    nbytes = [count * math.prod(part) * itemsize for part in parts]
    return PlanRow(name, words, count, shape, max(parts), max(nbytes), sum(nbytes))


def load_into(model: GPTNeoX, model_dir: str | os.PathLike[str], progress: bool = False) -> None:
    """Fill each parameter of `model` once: its rank's part of the checkpoint in `model_dir`, in the model's dtype.

    Takes an unsplit checkpoint, a folder that `shard` wrote for any world size, or this rank's `part_model/{rank}`.
    A model on the meta device comes to the CPU; `model.to_empty(device=...)` before this puts it elsewhere.
    Raises WeightsError when the tensors are not this model's; nothing is filled then.
    """
    checkpoint = open_checkpoint(model_dir)
    _check_part(checkpoint, model.group)
    found = match(checkpoint, model.config)
    if any(parameter.is_meta for parameter in model.parameters()):
        model.to_empty(device="cpu")
    rules, parameters = shard_rules(model.config), dict(model.named_parameters())
    assert parameters.keys() == found.keys(), "shard_rules and the model's parameters disagree"
    rank, size = (0, 1) if checkpoint.part[1] > 1 else (model.group.rank, model.group.size)  # a part is cut already
    with Meter("load", sum(parameter.nbytes for parameter in parameters.values()), show=progress) as meter:
        for name, (_, stored) in found.items():
            target = parameters[name].data
            stored.read_into(target, rules[name][1].slices(stored.shape, rank, size))
            meter.add(target.nbytes)
    load_whole.cache_clear()


def _check_part(checkpoint: Checkpoint, group: Group) -> None:
    """A `part_model/{rank}` folder serves that rank of that world size only."""
    rank, size = checkpoint.part
    if size > 1 and (rank, size) != (group.rank, group.size):
        raise WeightsError(
            f"{checkpoint.folder} is the part of rank {rank} of {size}, this is rank {group.rank} of {group.size}; "
            f"give {checkpoint.folder.absolute().parent.parent}, which is read at any world size"
        )
