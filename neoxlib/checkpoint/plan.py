"""Plan the bytes that each rank of a cut will hold. Reads config.json only."""

import math
import os
import re
from dataclasses import dataclass

import torch

from neoxlib.checkpoint.folder import stored_quant
from neoxlib.checkpoint.match import dtype_of
from neoxlib.model.config import ModelConfig
from neoxlib.model.layers import ParameterSpec
from neoxlib.model.parameters import full_parameters
from neoxlib.model.world_size import check_world_size


@dataclass(frozen=True)
class PlanRow:
    """One class of tensors of a cut.

    Sizes are the largest rank's: other ranks hold one row less of an uneven vocabulary.
    """

    tensor: str  # "gpt_neox.layers.*.mlp.dense_h_to_4h.weight"
    rule: str  # "rows cut", "columns cut" or "whole on every rank"
    count: int
    full_shape: tuple[int, ...]
    rank_shape: tuple[int, ...]
    rank_bytes: int  # all `count` of them on one rank
    total_bytes: int  # all of them on all ranks together


def parameter_plan(
    model: ModelConfig | str | os.PathLike[str],
    world_size: int,
    dtype: str | None = None,
    quant: str | None = None,
) -> list[PlanRow]:
    """Plan what each rank will hold: a row per class of tensors, in the model's order.

    `dtype` defaults to the config's, else float32; `quant` to that of a cut. Raises ShardError for
    a world size that divides a head or a group of the scheme.
    """
    config = model if isinstance(model, ModelConfig) else ModelConfig.from_dir(model)
    quant = quant or (None if isinstance(model, ModelConfig) else stored_quant(model))
    check_world_size(config, world_size, quant)
    own = dtype_of(dtype or config.torch_dtype or "float32")
    classes: dict[str, list[ParameterSpec]] = {}
    for name, full in full_parameters(config, quant).items():
        classes.setdefault(re.sub(r"\.layers\.\d+\.", ".layers.*.", name), []).append(full)
    return [_plan_row(name, len(rows), rows[0], world_size, own) for name, rows in classes.items()]


def _plan_row(
    name: str, count: int, full: ParameterSpec, world_size: int, own: torch.dtype
) -> PlanRow:
    parts = [full.rule.shape(full.shape, rank, world_size) for rank in range(world_size)]
    words = {None: "whole on every rank", 0: "rows cut", 1: "columns cut"}[full.rule.dim]
    nbytes = [count * math.prod(part) * (full.dtype or own).itemsize for part in parts]
    return PlanRow(name, words, count, full.shape, max(parts), max(nbytes), sum(nbytes))
