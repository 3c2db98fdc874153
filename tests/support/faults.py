"""The kinds of faults that are planted, and where each must be found: data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neoxlib.kernels import plain
from neoxlib.model.gpt_neox import Block, GPTNeoX
from neoxlib.model.group import Group
from tests.support import planted
from tests.support.planted import Plant, Spot, attention, here, ops, weights

FLOAT32 = ("float32",)
FLOATS = ("float32", "float16")
DTYPES = ("float32", "float16", "bfloat16")
ALL = (*DTYPES, "int8", "int4")
PACKED = ("int8", "int4")
SPLIT = (2, 4)
SIZES = (1, 2, 4)
QKV = "attention.query_key_value"


@dataclass(frozen=True)
class Fault:
    """A kind, how it is planted, and the step, pass and ranks that must be named."""

    kind: str
    plant: Plant
    step: str  # within the layer, or the full name after a slash
    one: bool = False  # one rank's alone; otherwise of all ranks
    pass_: int = 0
    dtypes: tuple[str, ...] = ALL  # where its effect is larger than one rounding
    sizes: tuple[int, ...] = SIZES
    said: str = ""  # in what is told of the sum


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


UP, DOWN, DENSE = "mlp.dense_h_to_4h", "mlp.dense_4h_to_h", "attention.dense"
IN, POST = "input_layernorm", "post_attention_layernorm"
QUERY, KEY, VALUE = "attention.rotary.query", "attention.rotary.key", "attention.cached.value"
CACHED, SEEN, AFTER = "attention.cached.key", "attention.context", "all_reduce.after"
FIRST_QUERY = "/gpt_neox.layers.0.attention.rotary.query"  # positions are of all layers
HEAD, EMBED = "/embed_out", "/gpt_neox.embed_in.all_reduce.before"


def split_as(*order: int) -> Plant:
    """Queries, keys and values are taken in another order."""

    def split(qkv: Tensor, own: Any) -> tuple[Tensor, ...]:
        parts = planted.split(qkv, own)
        return tuple(parts[n] for n in order)

    return attention(split=split)


FAULTS = (
    Fault(
        "thirds of q, k, v cut as blocks",
        weights(f"{QKV}.weight", thirds),
        QKV,
        dtypes=DTYPES,
        sizes=(1, 2),
    ),
    Fault("q and k swapped in the weight", weights(f"{QKV}.weight", swapped), QKV),
    Fault("q and k swapped after the product", split_as(1, 0, 2), QUERY),
    Fault("k and v swapped after the product", split_as(0, 2, 1), KEY),
    Fault("q and v swapped after the product", split_as(2, 1, 0), QUERY),
    Fault("one head turned by a row", weights(f"{QKV}.weight", turned, one=True), QKV, one=True),
    Fault("rotary fraction halved", planted.config(rotary_pct=lambda x: x / 2), FIRST_QUERY),
    Fault("rotary base", planted.config(rotary_emb_base=lambda x: x * 2), FIRST_QUERY),
    Fault("neighbours rotated", ops("attention", rotate=planted.interleaved), QUERY),
    Fault(
        "rotated backwards",
        ops("attention", rotate=lambda x, cos, sin: plain.rotate(x, cos, -sin)),
        QUERY,
    ),
    Fault("not rotated", ops("attention", rotate=lambda x, *_: x), QUERY),
    Fault("tables in half", planted.tables(planted.half_tables), FIRST_QUERY, dtypes=FLOAT32),
    Fault("position off by one", planted.shifted(lambda p, _: p + 1), FIRST_QUERY),
    Fault(
        "padding has positions",
        planted.shifted(lambda p, start: torch.arange(p.shape[1]).add(start).expand_as(p)),
        FIRST_QUERY,
    ),
    Fault(
        "position stands still", planted.shifted(lambda p, s: p - int(s > 0)), FIRST_QUERY, pass_=1
    ),
    Fault("next token seen", attend_with(mask=next_seen), SEEN),
    Fault("newest token hidden", attend_with(mask=not_itself), SEEN),
    Fault("padding seen", attend_with(mask=padding_seen), SEEN),
    Fault("only a window seen", attend_with(mask=window), SEEN),
    Fault("scale missing", attend_with(q=unscaled), SEEN),
    Fault(
        "scores in bfloat16",
        attend_with(q=lambda q: q.bfloat16().to(q.dtype)),
        SEEN,
        dtypes=FLOAT32,
    ),
    Fault(
        "heads joined in another order",
        attention(merge=lambda y: y.permute(0, 2, 3, 1).flatten(2)),
        SEEN,
        sizes=(1, 2),
    ),
    Fault("cache slot off by one from pass 1", attention(write=slot_late), CACHED, pass_=1),
    Fault("one row of the cache is stale", attention(write=row_stale), CACHED, pass_=1),
    Fault("keys kept as values", attention(write=keys_as_values), VALUE),
    Fault("bias of q, k, v left out", weights(f"{QKV}.bias", zero), QKV),
    Fault("bias of h_to_4h left out", weights(f"{UP}.bias", zero), UP),
    Fault("bias of dense left out", weights(f"{DENSE}.bias", zero), ""),
    Fault("both row biases left out", planted.add(no_bias), ""),
    Fault("bias of dense on every rank", planted.forward(DENSE, biased), DENSE),
    Fault("bias of 4h_to_h on every rank", planted.forward(DOWN, biased), DOWN),
    Fault("biases divided", planted.add(divided), ""),
    Fault(
        "tanh for erf or the reverse",
        planted.attribute("mlp", "form", "gelu"),
        "mlp.activation",
        dtypes=FLOAT32,
    ),
    Fault("relu for gelu", planted.attribute("mlp", "form", "relu"), "mlp.activation"),
    Fault("residual one after the other", planted.attribute("", "parallel", False), POST),
    Fault("stream left out", planted.add(no_stream), ""),
    Fault("stream added twice", planted.add(twice), ""),
    Fault("stream in bfloat16", planted.add(coarse), "", dtypes=FLOATS),
    Fault("the two norms swapped", norms_swapped, IN),
    Fault("eps a thousand times", planted.attribute(IN, "eps", 1e-2), IN, dtypes=FLOAT32),
    Fault("eps of one", planted.attribute(POST, "eps", 1e2), POST),
    Fault("bias of a norm left out", weights(f"{IN}.bias", zero), IN),
    Fault("weight of a norm left out", weights(f"{POST}.weight", torch.ones_like), POST),
    Fault(
        "rows of the neighbour, q, k, v", planted.neighbour(f"{QKV}.weight"), QKV, True, sizes=SPLIT
    ),
    Fault(
        "rows of the neighbour, h_to_4h", planted.neighbour(f"{UP}.weight"), UP, True, sizes=SPLIT
    ),
    Fault("bias of the neighbour, h_to_4h", planted.neighbour(f"{UP}.bias"), UP, True, sizes=SPLIT),
    Fault(
        "columns of the neighbour, dense",
        planted.neighbour(f"{DENSE}.weight"),
        DENSE,
        True,
        sizes=SPLIT,
    ),
    Fault(
        "columns of the neighbour, 4h_to_h",
        planted.neighbour(f"{DOWN}.weight"),
        DOWN,
        True,
        sizes=SPLIT,
    ),
    Fault(
        "all-reduce without effect",
        planted.all_reduce(lambda _, x: x),
        AFTER,
        sizes=SPLIT,
        said="rank 0 has only its own term",
    ),
    Fault("all-reduce not made", planted.add(never_reduced), "all_reduce.before", sizes=SPLIT),
    Fault(
        "a rank's term is lost",
        planted.all_reduce(lost, one=True),
        AFTER,
        sizes=SPLIT,
        said="the sum lacks the term of rank {rank}",
    ),
    Fault(
        "a rank's term is in twice",
        planted.all_reduce(doubled, one=True),
        AFTER,
        sizes=SPLIT,
        said="the term of rank {rank} is in the sum twice",
    ),
    Fault(
        "a rank is late by one pass",
        planted.late,
        AFTER,
        sizes=SPLIT,
        pass_=2,
        said="the term of rank {rank} is that of the pass before",
    ),
    Fault("mean in place of the sum", planted.all_reduce(mean), AFTER, sizes=SPLIT),
    Fault(
        "reduced in float16",
        planted.all_reduce(reduced_in_half),
        AFTER,
        sizes=SPLIT,
        dtypes=FLOAT32,
        said="it was rounded too much",
    ),
    Fault("vocabulary off by one", vocabulary_offset, EMBED, True, sizes=SPLIT),
    Fault(
        "embedding of the neighbour",
        planted.neighbour("/gpt_neox.embed_in.weight"),
        EMBED,
        True,
        sizes=SPLIT,
    ),
    Fault("head of another rank", planted.neighbour("/embed_out.weight"), HEAD, True, sizes=SPLIT),
    Fault(
        "final norm's bias left out",
        weights("/gpt_neox.final_layer_norm.bias", zero),
        "/gpt_neox.final_layer_norm",
    ),
    Fault(
        "scales of the next group",
        weights(f"{QKV}.weight_scale", lambda s: s.roll(1, -1)),
        QKV,
        dtypes=("int4",),
    ),
    Fault(
        "scales of the next row",
        weights(f"{UP}.weight_scale", lambda s: s.roll(1, 0)),
        UP,
        dtypes=PACKED,
    ),
    Fault(
        "NaN in one weight",
        weights(f"{DOWN}.weight", planted.one_value(torch.nan), one=True),
        DOWN,
        True,
        dtypes=DTYPES,
    ),
    Fault(
        "infinity in one bias",
        weights(f"{UP}.bias", planted.one_value(torch.inf), one=True),
        UP,
        True,
    ),
    Fault(
        "one flipped exponent bit",
        weights(f"{UP}.weight", planted.flipped, one=True),
        UP,
        True,
        dtypes=DTYPES,
    ),
    Fault(
        "one packed byte flipped",
        weights(f"{DENSE}.weight", planted.byte_flipped, one=True),
        DENSE,
        True,
        dtypes=PACKED,
    ),
    Fault(
        "product in bfloat16",
        planted.forward(QKV, lambda _, own, x: in_half(own)(x)),
        QKV,
        dtypes=FLOATS,
    ),
    Fault("layers in another order", layers_swapped, IN),
    Fault("layer left out", layer_left_out, IN),
)
