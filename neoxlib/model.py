"""GPT-NeoX: one class for every world size. Names are the checkpoint's; the group it runs in is an argument.

Black et al., "GPT-NeoX-20B" (arXiv 2204.06745). Knows nothing of files, text or clocks.
"""

import math
from dataclasses import replace
from functools import lru_cache
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor, nn

from neoxlib.comm import SOLO, Group
from neoxlib.config import ACTIVATIONS, ModelConfig
from neoxlib.errors import SettingsError, ShardError
from neoxlib.layers import ColumnParallel, Cut, Full, LayerNorm, RowParallel, Sharded, VocabParallel, rotary_tables
from neoxlib.ops import torch_ops
from neoxlib.ops.npu_ops import NpuOps
from neoxlib.quant import HEAD, SCHEMES, Scheme, scheme_name

Ops = ModuleType | NpuOps  # torch_ops, the form people read, or what stands in for it on an NPU


class KVCache:
    """Keys and values of this rank's heads for `max_seq_len` positions, and which positions hold a real token.

    k, v [layers, B, heads here, max_seq_len, head_dim]; real [B, max_seq_len] bool; `length` positions are filled.
    """

    def __init__(
        self, config: ModelConfig, batch: int, max_seq_len: int, group: Group = SOLO,
        dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu",
    ) -> None:
        heads_here = config.num_attention_heads // group.size
        shape = (config.num_hidden_layers, batch, heads_here, max_seq_len, config.head_dim)
        # On a CPU no slot is read before it is written; another device's operators may take whole blocks of slots.
        make = torch.empty if torch.device(device).type == "cpu" else torch.zeros
        self.k, self.v = (make(shape, dtype=dtype, device=device) for _ in range(2))
        self.real = torch.zeros(batch, max_seq_len, dtype=torch.bool, device=device)
        self.length = 0
        tables = rotary_tables(max_seq_len, config.rotary_dim, config.rotary_emb_base)
        self.cos, self.sin = (table.to(device, dtype) for table in tables)  # [max_seq_len, rotary], cast last

    def append(self, count: int, mask: Tensor | None = None) -> int:
        """Take in `count` tokens a row, real where `mask` [B, count] is True; says in which slot the first belongs."""
        start, self.length = self.length, self.length + count
        assert self.length <= self.real.shape[1], f"{self.length} tokens in a cache of {self.real.shape[1]}"
        self.real[:, start : self.length] = True if mask is None else mask
        return start

    def extend(self, mask: Tensor, ops: Ops = torch_ops) -> "Step":
        """Take in `mask` [B, S], and say how its tokens sit among those already here, in the form that `ops` takes."""
        start = self.append(mask.shape[1], mask)
        end = self.length
        positions = (self.real[:, :end].cumsum(-1) - 1).clamp(min=0)[:, start:]  # [B, S]: padding does not count
        index = torch.arange(end, device=mask.device)
        rows = index[start:, None]
        seen = (index <= rows) & self.real[:, None, None, :end]  # [B, 1, S, end]
        # A padding row sees itself, so that no row is masked in full (NaN, and refused by the NPU's attention).
        angles = ops.angles(self.cos[positions][:, None], self.sin[positions][:, None], self.k.shape[-1])
        return Step(start, end, ops.mask(seen | (index == rows), self.k.shape[-2]), *angles)


class Step:
    """Where S new tokens go: cache slots [start, end), what each sees, and the angles of its position."""

    def __init__(self, start: int, end: int, mask: Tensor, cos: Tensor, sin: Tensor) -> None:
        self.start, self.end = start, end
        self.mask = mask  # [B, 1, S, end], or what `ops.mask` makes of it
        self.cos, self.sin = cos, sin  # [B, 1, S, rotary], or what `ops.angles` makes of them


class Executor(Protocol):
    """What computes the layers in a way of its own, such as compiled kernels: the same as GPTNeoX's own methods."""

    def states(self, input_ids: Tensor, cache: KVCache, mask: Tensor | None) -> Tensor:
        """As GPTNeoX.states."""

    def head(self, x: Tensor) -> Tensor:
        """As GPTNeoX.head."""

    def renew(self) -> None:
        """Take the weights where they are now."""


class Attention(nn.Module):
    """Multi-head attention with partial rotary positions; returns this rank's term of the sum, bias left out."""

    def __init__(self, config: ModelConfig, group: Group, ops: Ops, scheme: Scheme | None) -> None:
        super().__init__()
        hidden, bias = config.hidden_size, config.attention_bias
        self.head_dim, self.ops = config.head_dim, ops
        self.query_key_value = ColumnParallel(hidden, 3 * hidden, bias, group, scheme)  # rows: per head its q, k, v
        self.dense = RowParallel(hidden, hidden, bias, group, scheme)

    def forward(self, x: Tensor, step: Step, k_cache: Tensor, v_cache: Tensor) -> Tensor:
        qkv = self.query_key_value(x)  # [B, S, heads_here * 3 * head_dim]
        q, k, v = qkv.unflatten(-1, (-1, 3 * self.head_dim)).transpose(1, 2).chunk(3, dim=-1)
        q, k = (self.ops.rotate(t, step.cos, step.sin) for t in (q, k))  # [B, heads_here, S, head_dim]
        k_cache[:, :, step.start : step.end] = k
        v_cache[:, :, step.start : step.end] = v
        seen = self.ops.attend(q, k_cache, v_cache, step.mask, step.end)
        return self.dense(seen.transpose(1, 2).flatten(2))  # [B, S, hidden], to be summed over the ranks


class MLP(nn.Module):
    """Two linears around the activation; returns this rank's term of the sum, bias left out."""

    def __init__(self, config: ModelConfig, group: Group, ops: Ops, scheme: Scheme | None) -> None:
        super().__init__()
        self.form, self.ops = ACTIVATIONS[config.hidden_act], ops
        self.dense_h_to_4h = ColumnParallel(config.hidden_size, config.intermediate_size, True, group, scheme)
        self.dense_4h_to_h = RowParallel(config.intermediate_size, config.hidden_size, True, group, scheme)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense_4h_to_h(self.ops.activate(self.dense_h_to_4h(x), self.form))


class Block(nn.Module):
    """One layer. With the parallel residual its two branches are summed before the one all-reduce."""

    def __init__(
        self, config: ModelConfig, group: Group = SOLO, ops: Ops = torch_ops, scheme: Scheme | None = None
    ) -> None:
        super().__init__()
        self.group, self.ops, self.parallel = group, ops, config.use_parallel_residual
        self.input_layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.post_attention_layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.attention = Attention(config, group, ops, scheme)
        self.mlp = MLP(config, group, ops, scheme)

    def forward(self, x: Tensor, step: Step, k_cache: Tensor, v_cache: Tensor) -> Tensor:
        attention = self.attention(self._norm(x, self.input_layernorm), step, k_cache, v_cache)
        if self.parallel:
            mlp = self.mlp(self._norm(x, self.post_attention_layernorm))
            return self._add(x, attention + mlp, self.attention.dense, self.mlp.dense_4h_to_h)
        x = self._add(x, attention, self.attention.dense)
        mlp = self.mlp(self._norm(x, self.post_attention_layernorm))
        return self._add(x, mlp, self.mlp.dense_4h_to_h)

    def _norm(self, x: Tensor, norm: LayerNorm) -> Tensor:
        return self.ops.layer_norm(x, norm.weight, norm.bias, norm.eps)

    def _add(self, x: Tensor, partial: Tensor, *layers: RowParallel) -> Tensor:
        """x plus the sum of the ranks' terms plus each layer's bias: once, whatever the world size.

        Added up in float32 and rounded once, so that half precision loses no more than an unsplit layer does.
        """
        total = x.float() + self.group.all_reduce(partial)
        for layer in layers:
            total = total + layer.bias if hasattr(layer, "bias") else total
        return total.to(x.dtype)


class Trunk(nn.Module):
    """Embedding, layers and final norm: what the checkpoint keeps under `gpt_neox.`."""

    def __init__(self, config: ModelConfig, group: Group, ops: Ops, scheme: Scheme | None) -> None:
        super().__init__()
        self.embed_in = VocabParallel(config.vocab_size, config.hidden_size, group)
        self.layers = nn.ModuleList(Block(config, group, ops, scheme) for _ in range(config.num_hidden_layers))
        self.final_layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)


class GPTNeoX(nn.Module):
    """The language model: ids [B, S] -> logits [B, S, vocab here], the vocabulary's rows cut over the ranks.

    `fast`, where it is set, computes the same in its own way, with all weights in one `block`: see fast.py.
    `quant` names a scheme of quant.py for the four matrices of every block; the head is then int8. Embedding (also
    where it is the head), norms and biases stay in the model's dtype.
    Raises ShardError for a group whose size cuts a head or a scheme's group, SettingsError for a `quant` that is no
    scheme's or does not suit the config.
    """

    fast: Executor | None = None
    block: Tensor | None = None

    def __init__(
        self, config: ModelConfig, group: Group = SOLO, ops: Ops = torch_ops, quant: str | None = None
    ) -> None:
        super().__init__()
        check_world_size(config, group.size, quant)
        self.config, self.group, self.ops, self.quant = config, group, ops, scheme_name(quant)
        scheme, head = (SCHEMES[quant], HEAD) if quant else (None, None)
        self.gpt_neox = Trunk(config, group, ops, scheme)
        if not config.tie_word_embeddings:
            self.embed_out = ColumnParallel(config.hidden_size, config.vocab_size, False, group, head)

    @property
    def dtype(self) -> torch.dtype:
        """Of what passes between the layers. A norm's weight has it: it is never packed, nor 16-bit for a while."""
        return self.gpt_neox.final_layer_norm.weight.dtype

    def forward(
        self, input_ids: Tensor, cache: KVCache, mask: Tensor | None = None, last_only: bool = False
    ) -> Tensor:
        """Logits of `input_ids` [B, S] that follow what `cache` holds; `mask` [B, S] bool is False on padding.

        The mask may pad left or right: positions count real tokens only. `last_only` computes the last column alone.
        """
        x = self.states(input_ids, cache, mask)
        return self.head(x[:, -1:] if last_only else x)

    def states(self, input_ids: Tensor, cache: KVCache, mask: Tensor | None = None) -> Tensor:
        """Hidden states [B, S, hidden] after the last layer, before the final norm."""
        if self.fast:
            return self.fast.states(input_ids, cache, mask)
        mask = torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask
        step = cache.extend(mask, self.ops)
        x = self.gpt_neox.embed_in(input_ids, self.dtype)  # [B, S, hidden]
        for layer, k_cache, v_cache in zip(self.gpt_neox.layers, cache.k, cache.v, strict=True):
            x = layer(x, step, k_cache, v_cache)
        return x

    def head(self, x: Tensor) -> Tensor:
        """Hidden states [..., hidden] -> logits [..., vocab here]."""
        if self.fast:
            return self.fast.head(x)
        norm = self.gpt_neox.final_layer_norm
        x = self.ops.layer_norm(x, norm.weight, norm.bias, norm.eps)
        if self.config.tie_word_embeddings:
            return nn.functional.linear(x, self.gpt_neox.embed_in.weight)
        return self.embed_out(x)


def legal_world_sizes(config: ModelConfig, quant: str | None = None) -> list[int]:
    """Numbers of ranks that get whole heads each (the divisors of `num_attention_heads`), and a scheme's whole groups.

    Raises SettingsError for a `quant` that is no scheme's, or whose groups do not fill the model's columns.
    """
    heads, columns = config.num_attention_heads, _columns(config)
    group = SCHEMES[quant].group if scheme_name(quant) else 0
    if wrong := [f"{name} has {width}" for name, width in columns.items() if group and width % group]:
        raise SettingsError(
            f"quant {quant!r} takes columns in groups of {group}, but {', '.join(wrong)}; use int8, or leave quant out"
        )
    runs = [heads, *(width // group for width in columns.values() if group)]
    return [n for n in range(1, heads + 1) if not any(run % n for run in runs) and n <= config.vocab_size]


def _columns(config: ModelConfig) -> dict[str, int]:
    """Columns of the matrices that a scheme packs in groups; those of `dense` and `dense_4h_to_h` are cut."""
    hidden, inner = config.hidden_size, config.intermediate_size
    return {
        "attention.query_key_value.weight": hidden, "attention.dense.weight": hidden,
        "mlp.dense_h_to_4h.weight": hidden, "mlp.dense_4h_to_h.weight": inner,
    }  # fmt: skip


def check_world_size(config: ModelConfig, world_size: int, quant: str | None = None) -> None:
    """Raises ShardError that names the legal sizes: a head is never cut, nor a scheme's group of columns."""
    legal = legal_world_sizes(config, quant)
    if world_size in legal:
        return
    what = f"{config.num_attention_heads} attention heads"
    if world_size in legal_world_sizes(config):
        widths = f"{config.hidden_size} and {config.intermediate_size} columns"
        what = f"{widths} in the {quant} scheme's groups of {SCHEMES[quant].group}"
    raise ShardError(f"{what} cannot be cut over {world_size} ranks; world_size may be {', '.join(map(str, legal))}")


@lru_cache
def full_parameters(config: ModelConfig, quant: str | None = None) -> dict[str, Full]:
    """Every parameter of the unsplit model by its name: shape, rule, and the dtype where `quant` dictates one."""
    with torch.device("meta"):  # one layer tells what all have
        model = GPTNeoX(replace(config, num_hidden_layers=1), quant=quant)
    parts = [(path, part) for path, part in model.named_modules() if isinstance(part, Sharded)]
    one = {f"{path}.{name}": full for path, part in parts for name, full in part.full.items()}
    block = [name for name in one if ".layers.0." in name]
    found: dict[str, Full] = {}
    for name, full in one.items():
        if name == block[0]:
            numbers = range(config.num_hidden_layers)
            found |= {each.replace(".0.", f".{n}.", 1): one[each] for n in numbers for each in block}
        elif name not in block:
            found[name] = full
    return found


def shard_rules(config: ModelConfig, quant: str | None = None) -> dict[str, tuple[tuple[int, ...], Cut]]:
    """Every parameter of the checkpoint: its full shape and the rule by which its layer cuts it."""
    return {name: (full.shape, full.rule) for name, full in full_parameters(config, quant).items()}


def count_parameters(config: ModelConfig) -> int:
    """Parameters of the whole model, whatever the world size: 20,554,567,680 for GPT-NeoX-20B."""
    return sum(math.prod(shape) for shape, _ in shard_rules(config).values())
