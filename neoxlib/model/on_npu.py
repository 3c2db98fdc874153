"""The model on Ascend NPUs: its weights put into the form that the chip's operators take, once, after loading.

The sums are those of model.py; what differs is who does them: see ops/npu_ops.py.
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
    """Let `model`, whose weights are loaded and on the device, run on the operators of this chip family from now on.

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
    """Dimensions of a head that turn; an odd number is one more, as in `rotary_tables`."""
    return 2 * ((config.rotary_dim + 1) // 2)


def halves(rows: Tensor, rotary: int) -> Tensor:
    """Reorder rows [heads, parts, head_dim, ...] so that a turn of whole heads turns the leading `rotary` as before.

    A turn pairs a head's first half with its second; the scores q·k stay what they are, as q and k move alike.
    """
    middle = rotary + (rows.shape[2] - rotary) // 2
    first, second, still, rest = rows.tensor_split((rotary // 2, rotary, middle), dim=2)
    return torch.cat((first, still, second, rest), dim=2)


def _reorder(layer: Linear, heads: int, rotary: int) -> None:
    """`halves` for the rows of q and k in all that the layer has a row of; those of v stay."""
    for tensor in layer.parameters(recurse=False):
        per_head = tensor.data.unflatten(0, (heads, 3, -1))  # [heads, q k v, head_dim, ...]
        per_head[:, :2] = halves(per_head[:, :2], rotary)


def _lay_out(layer: Linear, operators: Operators, dtype: torch.dtype) -> None:
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
    del (
        layer.weight,
        layer.weight_scale,
    )  # what the operator takes is laid out anew, or shares their memory


class PackedProduct:
    """x [..., K] times a packed weight, plus the bias: all that npu_weight_quant_batchmatmul takes beside x."""

    def __init__(self, arguments: dict[str, Any], bias: Tensor | None, dtype: torch.dtype) -> None:
        wide = bias is not None and dtype == torch.bfloat16
        self.arguments = arguments | {"bias": bias.float() if wide else bias}

    def __call__(self, x: Tensor) -> Tensor:
        rows = npu.npu.npu_weight_quant_batchmatmul(x.flatten(0, -2), **self.arguments)
        return rows.unflatten(0, x.shape[:-1])
