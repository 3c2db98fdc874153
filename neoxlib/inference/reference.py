"""Reference logits: the model's own layers on one rank, and a forward pass written apart from it.

Layers are read from the checkpoint one at a time and dropped again, so a model of any size fits.
"""

import math
import os
from collections.abc import Callable, Sequence
from functools import partial

import pandas as pd
import torch
from torch import Tensor, nn

from neoxlib.checkpoint.folder import Checkpoint, StoredTensor, open_checkpoint
from neoxlib.checkpoint.pack import PackedPart, choose_quant, match_packed, scheme_of
from neoxlib.checkpoint.tensor_file import matrix
from neoxlib.model.cache import KVCache
from neoxlib.model.config import ACTIVATIONS, ModelConfig
from neoxlib.model.gpt_neox import Block
from neoxlib.model.parameters import full_parameters
from neoxlib.model.quant import Scheme
from neoxlib.workbook.progress import Progress

Reader = Callable[[], Tensor]
OnLayer = Callable[[int], None]  # called with the number of a layer that is done


def weight_readers(
    checkpoint: Checkpoint, quant: str | None
) -> tuple[ModelConfig, dict[str, Reader]]:
    """Return the config and, per parameter, a function that reads the whole tensor from disk.

    The tensors are quantized by `quant`.
    """
    config = ModelConfig.from_dir(checkpoint.folder)
    found = match_packed(checkpoint, config, quant)
    return config, {name: partial(_read, stored) for name, (_, stored) in found.items()}


def float_readers(
    model_dir: str | os.PathLike[str], quant: str | None
) -> tuple[ModelConfig, dict[str, Reader], frozenset[str]]:
    """As `weight_readers`, but quantized weights are read as the floats that they stand for.

    The names of these are the third value.
    """
    checkpoint = open_checkpoint(model_dir)
    config, readers = weight_readers(checkpoint, quant)
    quant = choose_quant(checkpoint, quant)
    scales = {
        name: readers.pop(f"{name}_scale") for name in list(readers) if f"{name}_scale" in readers
    }
    for name, scale in scales.items():
        readers[name] = partial(_unpacked, scheme_of(name, config, quant), readers[name], scale)
    return config, readers, frozenset(scales)


def _unpacked(scheme: Scheme, weight: Reader, scale: Reader) -> Tensor:
    return scheme.unpack({"weight": weight(), "weight_scale": scale()}, torch.float32)


def _read(stored: StoredTensor | PackedPart) -> Tensor:
    whole = torch.empty(stored.shape, dtype=stored.dtype)
    height, width = matrix(stored.shape)
    stored.read_into(whole.view(height, width), (slice(0, height), slice(0, width)))
    return whole


@torch.inference_mode()
def solo_logits(
    model_dir: str | os.PathLike[str],
    rows: Sequence[list[int]],
    dtype: torch.dtype,
    quant: str | None = None,
    on_layer: OnLayer = bool,
) -> list[Tensor]:
    """Logits [S, vocab] float32 of each row, alone, from the model's own Block on one CPU rank.

    Embedding and head are a plain lookup and a plain product here, so only one layer is in memory
    at a time. With `quant` the weights are the floats that the quantized ones stand for.
    """
    config, weights, _ = float_readers(model_dir, quant)
    embed = weights["gpt_neox.embed_in.weight"]().to(dtype)
    states = [embed[torch.tensor([row])] for row in rows]  # each [1, S, hidden]
    with torch.device("meta"):
        block = Block(config).to(dtype)
    block.to_empty(device="cpu")
    for layer in range(config.num_hidden_layers):
        for name, parameter in block.named_parameters():
            parameter.copy_(weights[f"gpt_neox.layers.{layer}.{name}"]())
        states = [_one_block(block, config, x) for x in states]
        on_layer(layer)
    norm = [weights[f"gpt_neox.final_layer_norm.{part}"]().to(dtype) for part in ("weight", "bias")]
    head = embed if config.tie_word_embeddings else weights["embed_out.weight"]().to(dtype)
    return [_head(x[0], *norm, config.layer_norm_eps, head).float() for x in states]


def _one_block(block: Block, config: ModelConfig, x: Tensor) -> Tensor:
    cache = KVCache(config, 1, x.shape[1], dtype=x.dtype)
    step = cache.extend(x.shape[1])
    return block(x, step, cache.k[0], cache.v[0])


@torch.inference_mode()
def reference_logits(
    model_dir: str | os.PathLike[str],
    rows: Sequence[list[int]],
    quant: str | None = None,
    on_layer: OnLayer = bool,
) -> list[Tensor]:
    """Logits [S, vocab] float32 of each row, straight from the paper's formulas.

    Formulas: arXiv 2204.06745. Only the checkpoint reader is shared with the model: no cache, no
    padding, no sharding, a loop over the heads, rotations as complex numbers. Embedding, head and
    the unpacking of quantized weights are those of `solo_logits`.
    """
    config, weights, _ = float_readers(model_dir, quant)
    embed = weights["gpt_neox.embed_in.weight"]().float()
    states = [embed[torch.tensor(row)] for row in rows]  # each [S, hidden]
    for layer in range(config.num_hidden_layers):
        prefix = f"gpt_neox.layers.{layer}."
        part = {
            name.removeprefix(prefix): read().float()
            for name, read in weights.items()
            if name.startswith(prefix)
        }
        states = [_reference_layer(config, part, x) for x in states]
        on_layer(layer)
    norm = [weights[f"gpt_neox.final_layer_norm.{part}"]().float() for part in ("weight", "bias")]
    head = embed if config.tie_word_embeddings else weights["embed_out.weight"]().float()
    return [_head(x, *norm, config.layer_norm_eps, head) for x in states]


def _reference_layer(config: ModelConfig, part: dict[str, Tensor], x: Tensor) -> Tensor:
    """One layer over x [S, hidden]."""

    def norm(y: Tensor, name: str) -> Tensor:
        centred = y - y.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + config.layer_norm_eps).rsqrt()
        return centred * scale * part[f"{name}.weight"] + part[f"{name}.bias"]

    def linear(y: Tensor, name: str) -> Tensor:
        return y @ part[f"{name}.weight"].T + part.get(f"{name}.bias", torch.zeros(()))

    qkv = linear(norm(x, "input_layernorm"), "attention.query_key_value")
    heads = [
        _reference_head(config, *head.chunk(3, dim=-1))
        for head in qkv.split(3 * config.head_dim, dim=-1)
    ]
    attention = linear(torch.cat(heads, dim=-1), "attention.dense")
    middle = x if config.use_parallel_residual else x + attention
    wide = linear(norm(middle, "post_attention_layernorm"), "mlp.dense_h_to_4h")
    return x + attention + linear(_reference_activation(config, wide), "mlp.dense_4h_to_h")


def _reference_head(config: ModelConfig, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of one head: q, k, v [S, head_dim]."""
    q = _reference_rotate(config, q)
    k = _reference_rotate(config, k)
    later = torch.ones(len(q), len(q), dtype=torch.bool).triu(1)
    scores = (q @ k.T / config.head_dim**0.5).masked_fill(later, -torch.inf)
    return scores.softmax(-1) @ v


def _reference_rotate(config: ModelConfig, x: Tensor) -> Tensor:
    """Rotate pairs (i, i + half) of the leading dimensions by position * base^(-2i/dim)."""
    half = (config.rotary_dim + 1) // 2
    steps = torch.arange(half, dtype=torch.float32)
    frequencies = config.rotary_emb_base ** (-2.0 * steps / max(config.rotary_dim, 1))
    angles = torch.outer(torch.arange(len(x), dtype=torch.float32), frequencies)
    turned = torch.complex(x[:, :half], x[:, half : 2 * half]) * torch.polar(
        torch.ones_like(angles), angles
    )
    return torch.cat((turned.real, turned.imag, x[:, 2 * half :]), dim=-1)


def _reference_activation(config: ModelConfig, x: Tensor) -> Tensor:
    form = ACTIVATIONS[config.hidden_act]
    if form == "relu":
        return x.clamp(min=0)
    if form == "tanh":
        return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


def _head(x: Tensor, weight: Tensor, bias: Tensor, eps: float, head: Tensor) -> Tensor:
    return nn.functional.layer_norm(x, weight.shape, weight, bias, eps) @ head.T


def compared_bits(
    source: Checkpoint, cut: Checkpoint, quant: str | None, cast_to: str | None = None
) -> pd.DataFrame:
    """A row for each tensor of the source: whether the cut's has the same bits."""
    config, left = weight_readers(source, quant)
    _, right = weight_readers(cut, quant)
    rows = []
    full = full_parameters(config, choose_quant(source, quant))
    sizes = {name: math.prod(full[name].shape) for name in left}
    with Progress(sum(sizes.values()), len(sizes), "tensors") as bar:
        for name in left:
            bar.begin(name, sizes[name])
            whole = left[name]()
            if cast_to and full[name].dtype is None:
                whole = whole.to(getattr(torch, cast_to))
            rows.append((name, _same_bits(whole, right[name]())))
            bar.done()
    return pd.DataFrame(rows, columns=["tensor", "equal"])


def _same_bits(left: Tensor, right: Tensor) -> bool:
    as_bytes = [t.contiguous().view(torch.uint8) for t in (left, right)]
    return left.dtype == right.dtype and torch.equal(*as_bytes)
