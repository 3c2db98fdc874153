"""What the planted faults do to weights, masks, sums and caches."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from neoxlib.kernels import plain
from neoxlib.model.gpt_neox import Block, GPTNeoX
from neoxlib.model.group import Group
from tests.support import planted
from tests.support.planted import Plant, Spot, attention, here, ops


def thirds(weight: Tensor) -> Tensor:
    """Rows as if all queries came first, then all keys and values."""
    return weight.unflatten(0, (3, -1, 32)).transpose(0, 1).flatten(0, 2).contiguous()


def swapped(weight: Tensor) -> Tensor:
    """Queries and keys of each head change places."""
    heads = weight.unflatten(0, (-1, 3, 32))
    return heads[:, [1, 0, 2]].flatten(0, 2)


def turned(weight: Tensor) -> Tensor:
    """The queries of the rank's first head, by one row."""
    weight[:32] = weight[:32].roll(1, 0)
    return weight


def zero(weight: Tensor) -> Tensor:
    return torch.zeros_like(weight)


def norms_swapped(model: GPTNeoX, spot: Spot) -> None:
    block = planted.block_of(model, spot)
    first, second = block.input_layernorm, block.post_attention_layernorm
    block.input_layernorm, block.post_attention_layernorm = second, first


def layers_swapped(model: GPTNeoX, spot: Spot) -> None:
    layers = model.gpt_neox.layers
    layers[spot.layer], layers[spot.layer + 1] = layers[spot.layer + 1], layers[spot.layer]


def layer_left_out(model: GPTNeoX, spot: Spot) -> None:
    planted.block_of(model, spot).forward = lambda x, *_: x


def vocabulary_offset(model: GPTNeoX, spot: Spot) -> None:
    if here(model, spot):
        model.gpt_neox.embed_in.first += 1


def in_half(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compute a product in bfloat16."""

    def edit(*args: Any) -> Tensor:
        x = args[-1]
        return function(*args[:-1], x.bfloat16().to(x.dtype)).bfloat16().to(x.dtype)

    return edit


def attend_with(
    q: Callable[[Tensor], Tensor] = lambda q: q, mask: Callable[[Tensor], Tensor] = lambda m: m
) -> Plant:
    """Attention on changed queries or a changed mask."""
    return ops(
        "attention",
        attend=lambda query, k, v, seen, end: plain.attend(q(query), k, v, mask(seen), end),
    )


def next_seen(mask: Tensor) -> Tensor:
    return mask | mask.roll(1, -1) if mask.shape[-2] > 1 else mask


def not_itself(mask: Tensor) -> Tensor:
    """The newest token is hidden, where others remain."""
    other = mask.clone()
    index = torch.arange(mask.shape[-2])
    other[..., index, index + mask.shape[-1] - mask.shape[-2]] = False
    return other | (mask & ~other.any(-1, keepdim=True))


def padding_seen(mask: Tensor) -> Tensor:
    index = torch.arange(mask.shape[-1])
    return mask | (index <= index[-mask.shape[-2] :, None])


def window(mask: Tensor) -> Tensor:
    index = torch.arange(mask.shape[-1])
    return mask & (index > index[-mask.shape[-2] :, None] - 4)


def slot_late(k: Tensor, v: Tensor, step: Any, k_cache: Tensor, v_cache: Tensor) -> None:
    by = 1 if step.start else 0
    k_cache[:, :, step.start - by : step.end - by] = k
    v_cache[:, :, step.start - by : step.end - by] = v


def row_stale(k: Tensor, v: Tensor, step: Any, k_cache: Tensor, v_cache: Tensor) -> None:
    rows = slice(0, None if step.start == 0 else 1)
    k_cache[rows, :, step.start : step.end] = k[rows]
    v_cache[rows, :, step.start : step.end] = v[rows]
    if step.start:
        k_cache[1:, :, step.start : step.end] = k_cache[1:, :, step.start - 1 : step.end - 1]
        v_cache[1:, :, step.start : step.end] = v[1:]


def keys_as_values(k: Tensor, v: Tensor, step: Any, k_cache: Tensor, v_cache: Tensor) -> None:
    planted.write(k, k, step, k_cache, v_cache)


def unscaled(q: Tensor) -> Tensor:
    return q * 32**0.5


def biased(layer: Any, forward: Callable, x: Tensor) -> Tensor:
    return forward(x) + layer.bias


def divided(block: Block, x: Tensor, partial: Tensor, *layers: Any) -> Tensor:
    total = x.float() + block.group.all_reduce(partial)
    for layer in layers:
        total = total + layer.bias / 2
    return total.to(x.dtype)


def no_bias(block: Block, x: Tensor, partial: Tensor, *_: Any) -> Tensor:
    return (x.float() + block.group.all_reduce(partial)).to(x.dtype)


def no_stream(block: Block, x: Tensor, partial: Tensor, *layers: Any) -> Tensor:
    return Block._add(block, torch.zeros_like(x), partial, *layers)


def twice(block: Block, x: Tensor, partial: Tensor, *layers: Any) -> Tensor:
    return Block._add(block, x * 2, partial, *layers)


def coarse(block: Block, x: Tensor, partial: Tensor, *layers: Any) -> Tensor:
    return Block._add(block, x, partial, *layers).bfloat16().to(x.dtype)


def never_reduced(block: Block, x: Tensor, partial: Tensor, *layers: Any) -> Tensor:
    total = x.float() + partial
    return (total + sum(layer.bias for layer in layers)).to(x.dtype)


def reduced_in_half(group: Group, x: Tensor) -> Tensor:
    return x.copy_(group.all_reduce(x.half()).to(x.dtype))


def lost(group: Group, x: Tensor) -> Tensor:
    return group.all_reduce(x.zero_())


def doubled(group: Group, x: Tensor) -> Tensor:
    return group.all_reduce(x.mul_(2))


def mean(group: Group, x: Tensor) -> Tensor:
    return group.all_reduce(x).div_(group.size)


def split_as(*order: int) -> Plant:
    """Queries, keys and values are taken in another order."""

    def split(qkv: Tensor, own: Any) -> tuple[Tensor, ...]:
        parts = planted.split(qkv, own)
        return tuple(parts[n] for n in order)

    return attention(split=split)
