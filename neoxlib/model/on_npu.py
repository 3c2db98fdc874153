"""The model on Ascend NPUs: weights in the layout of the chip's operators, few launches a layer.

It computes what gpt_neox.py does, on the operators of kernels/npu.py. Emulated and schema-checked;
never run on an NPU.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from neoxlib.kernels.graph import Recorder
from neoxlib.kernels.npu import NpuOps, Operators, operators_for
from neoxlib.model import npu_taps
from neoxlib.model.cache import KVCache
from neoxlib.model.config import ACTIVATIONS, ModelConfig
from neoxlib.model.decode_graph import DecodeGraphs
from neoxlib.model.gpt_neox import Block, GPTNeoX
from neoxlib.model.group import Group
from neoxlib.model.layers import LayerNorm, Linear
from neoxlib.model.npu_products import FloatProduct, lay_out
from neoxlib.model.npu_steps import NpuStep, NpuSteps


@torch.no_grad()
def attach(model: GPTNeoX, family: str, recorder: Callable[[], Recorder] | None = None) -> None:
    """Run `model`, whose weights are on the device, on this chip family's operators from now on.

    Changes weights in place: the rows of query_key_value become [q | k | v], with those of q and k
    in the order of `halves`, and packed weights are laid out anew. Names, shapes and dtypes of the
    parameters stay. With a `recorder`, which makes a graph, decode is captured (decode_graph.py).
    """
    assert model.executor is None, "the weights are laid out already"
    config = model.config
    heads = config.num_attention_heads // model.group.size
    operators = operators_for(family, heads, config.head_dim, _turning(config))
    for block in model.gpt_neox.layers:
        _reorder(block.attention.query_key_value, heads, _turning(config) * operators.whole_heads)
    model.executor = NpuModel(model, operators, recorder if operators.one else None)


def _turning(config: ModelConfig) -> int:
    """Rotary dimensions of a head, rounded up to an even number as in `rotary_tables`."""
    return 2 * ((config.rotary_dim + 1) // 2)


def halves(rows: Tensor, rotary: int) -> Tensor:
    """Reorder rows [heads, parts, head_dim, ...] to rotate whole heads.

    That pairs a head's first half with its second half, so each half of the leading `rotary` rows
    moves to the front of one. The scores q·k do not change, since q and k are reordered alike.
    """
    middle = rotary + (rows.shape[2] - rotary) // 2
    first, second, still, rest = rows.tensor_split((rotary // 2, rotary, middle), dim=2)
    return torch.cat((first, still, second, rest), dim=2)


def _reorder(layer: Linear, heads: int, rotary: int) -> None:
    """Order the rows of every parameter from q, k, v of each head to all q, all k, all v.

    `halves` is applied to the rows of q and k, not v, if `rotary` is not 0.
    """
    for tensor in layer.parameters(recurse=False):
        per_head = tensor.data.unflatten(0, (heads, 3, -1))  # [heads, q k v, head_dim, ...]
        if rotary:
            per_head[:, :2] = halves(per_head[:, :2], rotary)
        tensor.data.copy_(per_head.transpose(0, 1).flatten(0, 2))


@dataclass(frozen=True)
class Norm:
    """A layer norm's parameters."""

    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def of(cls, norm: LayerNorm) -> "Norm":
        """The parameters of a module."""
        return cls(norm.weight, norm.bias, norm.eps)


class NpuLayer:
    """One layer: its norms and products.

    The biases of `dense` and `dense_4h_to_h` are part of rank 0's product, so that the sum over the
    ranks has them once. With the parallel residual the two branches are one sum, and `dense` adds
    both biases.
    """

    def __init__(
        self, block: Block, operators: Operators, group: Group, dtype: torch.dtype
    ) -> None:
        attention = block.attention
        mlp = block.mlp
        dense, second = _row_biases(block, group.rank, dtype)

        self.before_attention = Norm.of(block.input_layernorm)
        self.before_mlp = Norm.of(block.post_attention_layernorm)
        qkv = attention.query_key_value
        self.query_key_value = lay_out(qkv, operators, qkv.added, dtype)
        self.dense = lay_out(attention.dense, operators, dense, dtype)
        self.dense_h_to_4h = lay_out(mlp.dense_h_to_4h, operators, mlp.dense_h_to_4h.added, dtype)
        self.dense_4h_to_h = lay_out(mlp.dense_4h_to_h, operators, second, dtype)


def _row_biases(block: Block, rank: int, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    """The biases that this rank's `dense` and `dense_4h_to_h` add."""
    dense = getattr(block.attention.dense, "bias", None)
    second = block.mlp.dense_4h_to_h.bias
    if rank:
        return None, None
    if not block.parallel:
        return dense, second
    return second if dense is None else (dense.float() + second.float()).to(dtype), None


class NpuModel:
    """GPTNeoX.states and GPTNeoX.head on a chip's operators."""

    def __init__(
        self, model: GPTNeoX, operators: Operators, recorder: Callable[[], Recorder] | None
    ) -> None:
        self.config = model.config
        self.group = model.group
        self.dtype = model.dtype
        self.ops = NpuOps(operators)
        self.steps = NpuSteps(self.config, self.ops)
        self.form = ACTIVATIONS[self.config.hidden_act]
        self.embed_in = model.gpt_neox.embed_in
        self.layers = [
            NpuLayer(block, operators, self.group, self.dtype) for block in model.gpt_neox.layers
        ]
        self.final = Norm.of(model.gpt_neox.final_layer_norm)
        tied = self.config.tie_word_embeddings
        self.output = (
            FloatProduct(self.embed_in.weight, None)
            if tied
            else lay_out(model.embed_out, operators, None, self.dtype)
        )
        device = self.embed_in.weight.device
        self.graphs = DecodeGraphs(self, device, recorder) if recorder else None

    def states(
        self, input_ids: Tensor, cache: KVCache, mask: Tensor | None, layers: int | None = None
    ) -> Tensor:
        """As GPTNeoX.states."""
        if self.graphs and mask is None and layers is None and input_ids.shape[1] == 1:
            found = self.graphs.states(input_ids, cache)
            if found is not None:
                return found
        step = self.steps.next(input_ids, cache, mask)
        return self.run(input_ids, step, cache, layers).unflatten(0, input_ids.shape)

    def head(self, x: Tensor) -> Tensor:
        """As GPTNeoX.head."""
        rows = self._norm(x.flatten(0, -2), self.final)
        return self.output(rows).unflatten(0, x.shape[:-1])

    def new_cache(self, batch: int, max_seq_len: int) -> KVCache:
        """As GPTNeoX.new_cache; with graphs the cache comes with the one of its size."""
        make = self.graphs.new_cache if self.graphs else self.empty_cache
        return make(batch, max_seq_len)

    def free_idle_caches(self) -> None:
        """As GPTNeoX.free_idle_caches: their graphs end with them."""
        if self.graphs:
            self.graphs.free_idle()

    def empty_cache(self, batch: int, max_seq_len: int) -> KVCache:
        """A cache in memory of its own."""
        device = self.embed_in.weight.device
        return KVCache(self.config, batch, max_seq_len, self.group, self.dtype, device)

    def tapped(self, record: npu_taps.Record) -> AbstractContextManager[None]:
        """Record what each operator gives; see `taps.tapped`."""
        return npu_taps.tapped(self, self._order, record)

    def plain(self) -> AbstractContextManager[None]:
        """Compute by plain operators from what the chip's are given, for the time of a block."""
        return npu_taps.plain(self)

    def operators(self, batch: int, rows: int, end: int) -> dict[str, str]:
        """The operator of each step in a pass of `rows` tokens: see `npu_taps.operators`."""
        return npu_taps.operators(self, batch, rows, end)

    @property
    def _order(self) -> Tensor:
        """The checkpoint's row of a head of q or k at each place, [head_dim]."""
        rows = torch.arange(self.config.head_dim)
        turning = _turning(self.config) * self.ops.operators.whole_heads
        order = halves(rows[None, None], turning)[0, 0] if turning else rows
        return order.to(self.embed_in.weight.device)

    def reload_pointers(self) -> None:
        """Nothing to do: the weights stay where `attach` found them."""

    def run(
        self, input_ids: Tensor, step: NpuStep, cache: KVCache, layers: int | None = None
    ) -> Tensor:
        """Hidden states [B * S, hidden] after `layers` layers, all if None."""
        x = self.embed_in(input_ids, self.dtype).flatten(0, 1)
        partial = None  # the sum over the ranks that the next norm adds to x
        for layer, held in zip(self.layers[:layers], cache.layers[:layers], strict=True):
            inner, x = self._add_norm(x, partial, layer.before_attention)
            attention = self._attend(layer, inner, step, held)
            if self.config.use_parallel_residual:
                inner = self._norm(x, layer.before_mlp)
            else:
                attention = self.group.all_reduce(attention)
                inner, x = self._add_norm(x, attention, layer.before_mlp)
                attention = None
            partial = self.group.all_reduce(self._mlp(layer, inner, attention))
        return x if partial is None else x + partial

    def _attend(self, layer: NpuLayer, x: Tensor, step: NpuStep, held: Tensor) -> Tensor:
        """Write keys and values to `held` [2, B, heads here, slots, head_dim], and attend.

        q, k and v are rotated by one operator, v by an angle of zero. Returns this rank's partial
        sum [B * S, hidden].
        """
        shape = (*step.shape, 3, -1, self.config.head_dim)  # B, S, q k v, heads here, head_dim
        qkv = layer.query_key_value(x).view(shape).permute(2, 0, 3, 1, 4)
        qkv = self.ops.rotate(qkv.reshape(-1, *qkv.shape[2:]), step.cos, step.sin).view(qkv.shape)
        step.write(held, qkv[1:])
        seen = self.ops.attend(qkv[0], held[0], held[1], step.mask, step.end)
        return layer.dense(seen.transpose(1, 2).reshape(len(x), -1))

    def _mlp(self, layer: NpuLayer, x: Tensor, attention: Tensor | None) -> Tensor:
        """This rank's partial sum [B * S, hidden], with that of the attention if it is given."""
        return layer.dense_4h_to_h(self.ops.activate(layer.dense_h_to_4h(x), self.form), attention)

    def _norm(self, x: Tensor, norm: Norm) -> Tensor:
        return self.ops.layer_norm(x, norm.weight, norm.bias, norm.eps)

    def _add_norm(self, x: Tensor, partial: Tensor | None, norm: Norm) -> tuple[Tensor, Tensor]:
        """The norm of x + partial, and that sum."""
        if partial is None:
            return self._norm(x, norm), x
        return self.ops.add_layer_norm(x, partial, norm.weight, norm.bias, norm.eps)
