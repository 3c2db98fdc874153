"""Models on compiled kernels, and how far they are from the plain form."""

import torch
from torch import Tensor

from neoxlib.model import on_cpu
from neoxlib.model.cache import KVCache
from neoxlib.model.config import ModelConfig
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.group import SOLO, Group
from neoxlib.model.parameters import shard_rules

# Widths that no vector divides, heads of 18, and none of them whole fours.
ODD = {"hidden_size": 72, "num_attention_heads": 4, "intermediate_size": 101, "vocab_size": 203}


WIDE = {
    "hidden_size": 256,
    "num_attention_heads": 4,
    "intermediate_size": 640,
}  # longer than a step of each kind


def model_of(
    oracle: torch.nn.Module,
    group: Group = SOLO,
    dtype: torch.dtype = torch.float32,
    quant: str | None = None,
    compiled: bool = True,
) -> GPTNeoX:
    """Our model with this rank's part of the oracle's weights, packed by their schemes before they
    are cut.
    """
    config = ModelConfig.from_dict(oracle.config.to_dict())
    model = GPTNeoX(config, group, quant=quant).to(dtype)
    weights = {name.replace("lm_head", "embed_out"): w for name, w in oracle.state_dict().items()}
    for path, layer in model.named_modules():
        if getattr(layer, "scheme", None):
            packed = layer.scheme.pack(weights[f"{path}.weight"])
            weights |= {f"{path}.{name}": part for name, part in packed.items()}
    for name, (shape, rule) in shard_rules(config, quant).items():
        model.get_parameter(name).data.copy_(
            weights[name][rule.slices(shape, group.rank, group.size)]
        )
    assert not compiled or on_cpu.attach(model)
    return model


def run(
    model: GPTNeoX, ids: Tensor, mask: Tensor | None = None, parts: tuple[int, ...] = ()
) -> Tensor | None:
    """Logits of ids [B, S], in one pass or in parts of that many tokens; None off rank 0."""
    dtype = model.gpt_neox.final_layer_norm.weight.dtype
    cache = KVCache(model.config, *ids.shape, model.group, dtype)
    masks = torch.ones_like(ids).bool() if mask is None else mask
    sizes = list(parts) or [ids.shape[1]]
    passes = zip(ids.split(sizes, 1), masks.split(sizes, 1), strict=True)
    return model.group.gather(torch.cat([model(i, cache, m).float() for i, m in passes], dim=1))


def error(found: Tensor, truth: Tensor) -> float:
    return (found - truth).square().mean().sqrt().item()
