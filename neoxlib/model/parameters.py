"""The parameters of the unsplit model: shape, shard rule and dtype, as its layers state them."""

import math
from dataclasses import replace
from functools import lru_cache

import torch

from neoxlib.model.config import ModelConfig
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.layers import ParameterSpec, Placement, Sharded


@lru_cache
def full_parameters(config: ModelConfig, quant: str | None = None) -> dict[str, ParameterSpec]:
    """The unsplit model's parameters by name, with the dtypes that `quant` dictates."""
    with torch.device("meta"):  # all layers have the parameters of one
        model = GPTNeoX(replace(config, num_hidden_layers=1), quant=quant)
    parts = [(path, part) for path, part in model.named_modules() if isinstance(part, Sharded)]
    one = {f"{path}.{name}": full for path, part in parts for name, full in part.full.items()}
    block = [name for name in one if ".layers.0." in name]
    found: dict[str, ParameterSpec] = {}
    for name, full in one.items():
        if name == block[0]:
            numbers = range(config.num_hidden_layers)
            found |= {
                each.replace(".0.", f".{n}.", 1): one[each] for n in numbers for each in block
            }
        elif name not in block:
            found[name] = full
    return found


def shard_rules(
    config: ModelConfig, quant: str | None = None
) -> dict[str, tuple[tuple[int, ...], Placement]]:
    """The checkpoint's parameters by name: full shape and shard rule."""
    return {name: (full.shape, full.rule) for name, full in full_parameters(config, quant).items()}


def count_parameters(config: ModelConfig) -> int:
    """Number of parameters of the unsplit model: 20,554,567,680 for GPT-NeoX-20B."""
    return sum(math.prod(shape) for shape, _ in shard_rules(config).values())
