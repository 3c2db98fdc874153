"""GPT-NeoX: one class for every world size. Names are the checkpoint's; the group is an argument.

Black et al., "GPT-NeoX-20B" (arXiv 2204.06745). Knows nothing of files, text or clocks.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from neoxlib.kernels import plain
from neoxlib.model.cache import KVCache, StepContext
from neoxlib.model.config import ACTIVATIONS, ModelConfig
from neoxlib.model.group import SOLO, Group
from neoxlib.model.layers import ColumnParallel, LayerNorm, RowParallel, VocabParallel
from neoxlib.model.quant import HEAD_SCHEME, SCHEMES, Scheme, scheme_name
from neoxlib.model.world_size import check_world_size


class Executor(Protocol):
    """How the layers run: compiled kernels on a CPU, a chip's operators on an NPU.

    One that can be looked into has a method `tapped(record)` besides: see `taps.tapped`. An NPU's
    also names its `operators`, and computes by `plain()` ones: see npu_taps.py.
    """

    def states(
        self, input_ids: Tensor, cache: KVCache, mask: Tensor | None, layers: int | None = None
    ) -> Tensor:
        """As GPTNeoX.states."""

    def head(self, x: Tensor) -> Tensor:
        """As GPTNeoX.head."""

    def new_cache(self, batch: int, max_seq_len: int) -> KVCache:
        """As GPTNeoX.new_cache."""

    def free_idle_caches(self) -> None:
        """As GPTNeoX.free_idle_caches."""

    def reload_pointers(self) -> None:
        """Use the weights where they are now in memory."""


class Attention(nn.Module):
    """Multi-head attention with partial rotary positions; returns a partial sum, no bias."""

    ops = plain  # looked up here, so that taps can stand in

    def __init__(self, config: ModelConfig, group: Group, scheme: Scheme | None) -> None:
        super().__init__()
        hidden = config.hidden_size
        bias = config.attention_bias
        self.head_dim = config.head_dim
        # Rows: q, k, v of head 0, then of head 1, ...
        self.query_key_value = ColumnParallel(hidden, 3 * hidden, bias, group, scheme)
        self.dense = RowParallel(hidden, hidden, bias, group, scheme)

    def forward(self, x: Tensor, step: StepContext, k_cache: Tensor, v_cache: Tensor) -> Tensor:
        qkv = self.query_key_value(x)  # [B, S, heads_here * 3 * head_dim]
        q, k, v = qkv.unflatten(-1, (-1, 3 * self.head_dim)).transpose(1, 2).chunk(3, dim=-1)
        q = self.ops.rotate(q, step.cos, step.sin)  # [B, heads_here, S, head_dim]
        k = self.ops.rotate(k, step.cos, step.sin)
        k_cache[:, :, step.start : step.end] = k
        v_cache[:, :, step.start : step.end] = v
        seen = self.ops.attend(q, k_cache, v_cache, step.mask, step.end)
        return self.dense(seen.transpose(1, 2).flatten(2))  # [B, S, hidden], partial


class MLP(nn.Module):
    """Two linears around the activation; returns a partial sum, no bias."""

    ops = plain  # looked up here, so that taps can stand in

    def __init__(self, config: ModelConfig, group: Group, scheme: Scheme | None) -> None:
        super().__init__()
        self.form = ACTIVATIONS[config.hidden_act]
        self.dense_h_to_4h = ColumnParallel(
            config.hidden_size, config.intermediate_size, True, group, scheme
        )
        self.dense_4h_to_h = RowParallel(
            config.intermediate_size, config.hidden_size, True, group, scheme
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.dense_4h_to_h(self.ops.activate(self.dense_h_to_4h(x), self.form))


class Block(nn.Module):
    """One layer. With the parallel residual both branches are added before the one all-reduce."""

    ops = plain  # looked up here, so that taps can stand in

    def __init__(
        self, config: ModelConfig, group: Group = SOLO, scheme: Scheme | None = None
    ) -> None:
        super().__init__()
        self.group = group
        self.parallel = config.use_parallel_residual
        self.input_layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.post_attention_layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.attention = Attention(config, group, scheme)
        self.mlp = MLP(config, group, scheme)

    def forward(self, x: Tensor, step: StepContext, k_cache: Tensor, v_cache: Tensor) -> Tensor:
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
        """Return x + the all-reduced partial sums + each layer's bias, which is added once.

        Summed in float32 and rounded once, so that half precision loses no more than in an unsplit
        layer.
        """
        total = x.float() + self.group.all_reduce(partial)
        for layer in layers:
            total = total + layer.bias if hasattr(layer, "bias") else total
        return total.to(x.dtype)


class GPTNeoXModel(nn.Module):
    """The decoder stack: embedding, layers and final norm, under `gpt_neox.` in the checkpoint."""

    def __init__(self, config: ModelConfig, group: Group, scheme: Scheme | None) -> None:
        super().__init__()
        self.embed_in = VocabParallel(config.vocab_size, config.hidden_size, group)
        self.layers = nn.ModuleList(
            Block(config, group, scheme) for _ in range(config.num_hidden_layers)
        )
        self.final_layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)


class GPTNeoX(nn.Module):
    """The language model: ids [B, S] -> logits [B, S, vocab here]; vocabulary cut over the ranks.

    The layers are the readable form, in plain PyTorch. `executor`, if set, runs them in another
    way: on_cpu.py, with all weights in one `storage`, or on_npu.py. `quant` names a scheme of
    quant.py for the four matrices of every block; the head is then int8. The embedding (also where
    it is the head), norms and biases stay in the model's dtype.
    Raises ShardError if the group's size cuts a head or a scheme's group, SettingsError for an
    unknown `quant` or one that does not suit the config.
    """

    ops = plain  # as in the layers
    executor: Executor | None = None
    storage: Tensor | None = None

    def __init__(self, config: ModelConfig, group: Group = SOLO, quant: str | None = None) -> None:
        super().__init__()
        check_world_size(config, group.size, quant)
        self.config = config
        self.group = group
        self.quant = scheme_name(quant)
        scheme, head = (SCHEMES[quant], HEAD_SCHEME) if quant else (None, None)
        self.gpt_neox = GPTNeoXModel(config, group, scheme)
        if not config.tie_word_embeddings:
            self.embed_out = ColumnParallel(
                config.hidden_size, config.vocab_size, False, group, head
            )

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the residual stream: a norm's, since its weight is never packed or narrowed."""
        return self.gpt_neox.final_layer_norm.weight.dtype

    def forward(
        self, input_ids: Tensor, cache: KVCache, mask: Tensor | None = None, last_only: bool = False
    ) -> Tensor:
        """Logits of `input_ids` [B, S] after what `cache` holds; `mask` [B, S] is False on padding.

        The mask may pad left or right: positions count real tokens only. Without a mask all are
        real, which is cheaper on an NPU. `last_only` computes the last column alone.
        """
        x = self.states(input_ids, cache, mask)
        return self.head(x[:, -1:] if last_only else x)

    def states(
        self,
        input_ids: Tensor,
        cache: KVCache,
        mask: Tensor | None = None,
        layers: int | None = None,
    ) -> Tensor:
        """Hidden states [B, S, hidden] after the last layer, before the final norm.

        With `layers` after so many of them: 0 gives the embedding.
        """
        if self.executor:
            return self.executor.states(input_ids, cache, mask, layers)
        step = cache.extend(input_ids.shape[1], mask)
        x = self.gpt_neox.embed_in(input_ids, self.dtype)  # [B, S, hidden]
        parts = (part[:layers] for part in (self.gpt_neox.layers, cache.k, cache.v))
        for layer, k_cache, v_cache in zip(*parts, strict=True):
            x = layer(x, step, k_cache, v_cache)
        return x

    def new_cache(self, batch: int, max_seq_len: int) -> KVCache:
        """An empty cache for single tokens of `batch` rows in up to `max_seq_len` slots.

        It may be the memory of an earlier one that nobody holds any more.
        """
        if self.executor:
            return self.executor.new_cache(batch, max_seq_len)
        device = self.gpt_neox.final_layer_norm.weight.device
        return KVCache(self.config, batch, max_seq_len, self.group, self.dtype, device)

    def free_idle_caches(self) -> None:
        """Free what `new_cache` keeps for a later batch: call it before other caches are made."""
        if self.executor:
            self.executor.free_idle_caches()

    def head(self, x: Tensor) -> Tensor:
        """Hidden states [..., hidden] -> logits [..., vocab here]."""
        if self.executor:
            return self.executor.head(x)
        norm = self.gpt_neox.final_layer_norm
        x = self.ops.layer_norm(x, norm.weight, norm.bias, norm.eps)
        if self.config.tie_word_embeddings:
            return nn.functional.linear(x, self.gpt_neox.embed_in.weight)
        return self.embed_out(x)
