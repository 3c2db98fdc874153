"""The model on Ascend NPUs: weights in the layout of the chip's operators.

The computation is that of gpt_neox.py, on the operators of kernels/npu.py.
"""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from neoxlib.kernels import npu
from neoxlib.kernels.npu import NpuOps, Operators, operators_for
from neoxlib.model.config import ModelConfig
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.layers import Linear

log = logging.getLogger("neoxlib")

NZ = 29  # torch_npu.Format.FRACTAL_NZ, the layout that a 310P multiplies in


@torch.no_grad()
def attach(model: GPTNeoX, family: str) -> None:
    """Run `model`, whose weights are on the device, on this chip family's operators from now on.

    Changes the weights in place: rows of q and k may be reordered, packed weights laid out anew.
    """
    assert not isinstance(model.ops, NpuOps), "the weights are laid out already"
    config = model.config
    heads = model.config.num_attention_heads // model.group.size
    operators = operators_for(family, heads, config.head_dim, _turning(config))
    if operators.rotary_mul:
        for block in model.gpt_neox.layers:
            _reorder(block.attention.query_key_value, heads, _turning(config))
    for layer in model.modules():
        if isinstance(layer, Linear):
            _lay_out(layer, operators, model.gpt_neox.final_layer_norm.weight.dtype)
        if hasattr(layer, "ops"):
            layer.ops = NpuOps(operators)


def _turning(config: ModelConfig) -> int:
    """Rotary dimensions of a head, rounded up to an even number as in `rotary_tables`."""
    return 2 * ((config.rotary_dim + 1) // 2)


def halves(rows: Tensor, rotary: int) -> Tensor:
    """Reorder rows [heads, parts, head_dim, ...] for an operator that rotates whole heads.

    It pairs a head's first half with its second half, so each half of the leading `rotary` rows
    moves to the front of one. The scores q·k do not change, since q and k are reordered alike.
    """
    middle = rotary + (rows.shape[2] - rotary) // 2
    first, second, still, rest = rows.tensor_split((rotary // 2, rotary, middle), dim=2)
    return torch.cat((first, still, second, rest), dim=2)


def _reorder(layer: Linear, heads: int, rotary: int) -> None:
    """Apply `halves` to the rows of q and k, not v, of every parameter of the layer."""
    for tensor in layer.parameters(recurse=False):
        per_head = tensor.data.unflatten(0, (heads, 3, -1))  # [heads, q k v, head_dim, ...]
        per_head[:, :2] = halves(per_head[:, :2], rotary)


def _lay_out(layer: Linear, operators: Operators, dtype: torch.dtype) -> None:
    """Convert a plain weight to NZ, or replace the product by the one on packed weights."""
    if layer.scheme is None and operators.nz:
        layer.weight = nn.Parameter(npu.npu.npu_format_cast(layer.weight, NZ), requires_grad=False)
    if layer.scheme is None or layer.scheme.name not in operators.packed:
        return
    columns = layer.weight.shape[1] * 8 // layer.scheme.bits
    if layer.scheme.group >= columns or max(columns, len(layer.weight)) > 65535:
        log.info(
            "weight %s is unpacked at each use: the NPU's operator does not take it",
            list(layer.weight.shape),
        )
        return
    packed = {"weight": layer.weight, "weight_scale": layer.weight_scale}
    layer.product = PackedProduct(layer.scheme.npu_arguments(packed, dtype), layer.added, dtype)
    # What the operator takes is a new layout, or shares their memory.
    del layer.weight, layer.weight_scale


class PackedProduct:
    """Product of x [..., K] and a packed weight, plus bias, by npu_weight_quant_batchmatmul."""

    def __init__(self, arguments: dict[str, Any], bias: Tensor | None, dtype: torch.dtype) -> None:
        wide = bias is not None and dtype == torch.bfloat16
        self.arguments = arguments | {"bias": bias.float() if wide else bias}

    def __call__(self, x: Tensor) -> Tensor:
        rows = npu.npu.npu_weight_quant_batchmatmul(x.flatten(0, -2), **self.arguments)
        return rows.unflatten(0, x.shape[:-1])
