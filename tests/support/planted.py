"""Ways to break a running model, one function each: the model of one rank, where, and how."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from neoxlib.kernels import plain
from neoxlib.model.cache import KVCache, StepContext
from neoxlib.model.gpt_neox import Attention, Block, GPTNeoX
from neoxlib.model.group import Group
from neoxlib.model.layers import rotary_tables


@dataclass(frozen=True)
class Spot:
    """Where a fault is planted: the layer, and the rank if it is one rank's."""

    layer: int
    rank: int


Plant = Callable[[GPTNeoX, Spot], None]


def block_of(model: GPTNeoX, spot: Spot) -> Block:
    return model.gpt_neox.layers[spot.layer]


def submodule(model: GPTNeoX, spot: Spot, path: str) -> torch.nn.Module:
    """`path` within the layer, or within the model if it begins with a slash."""
    whole = path.startswith("/")
    return (model if whole else block_of(model, spot)).get_submodule(path.lstrip("/"))


class Edited:
    """An object with some methods replaced."""

    def __init__(self, real: Any, **edits: Any) -> None:
        self.real = real
        self.edits = edits

    def __getattr__(self, name: str) -> Any:
        return self.edits[name] if name in self.edits else getattr(self.real, name)


def here(model: GPTNeoX, spot: Spot) -> bool:
    return model.group.rank == spot.rank


def weights(path: str, edit: Callable[[Tensor], Tensor], one: bool = False) -> Plant:
    """Replace a parameter by `edit` of it, on all ranks or on one."""

    def plant(model: GPTNeoX, spot: Spot) -> None:
        module, name = path.rsplit(".", 1)
        parameter = submodule(model, spot, module).get_parameter(name)
        if not one or here(model, spot):
            parameter.data.copy_(edit(parameter.data.clone()))

    return plant


def both(*plants: Plant) -> Plant:
    return lambda model, spot: [plant(model, spot) for plant in plants] and None


def ops(place: str, **edits: Callable[..., Any]) -> Plant:
    """Replace operators of a part of the layer ("" is the layer itself)."""

    def plant(model: GPTNeoX, spot: Spot) -> None:
        owner = submodule(model, spot, place)
        owner.ops = Edited(owner.ops, **edits)

    return plant


def all_reduce(edit: Callable[[Group, Tensor], Tensor], one: bool = False) -> Plant:
    """Replace the all-reduce of the layer on all ranks or on one."""

    def plant(model: GPTNeoX, spot: Spot) -> None:
        block = block_of(model, spot)
        group = block.group
        if not one or here(model, spot):
            block.group = Edited(group, all_reduce=lambda x: edit(group, x))

    return plant


def add(edit: Callable[..., Tensor]) -> Plant:
    """Replace `Block._add`: edit(block, x, partial, *layers)."""

    def plant(model: GPTNeoX, spot: Spot) -> None:
        block = block_of(model, spot)
        block._add = lambda *args: edit(block, *args)

    return plant


@dataclass
class AttentionEdits:
    """Parts of the attention's forward pass that a fault replaces."""

    split: Callable[[Tensor, Attention], tuple[Tensor, Tensor, Tensor]] | None = None
    write: Callable[..., None] | None = None
    merge: Callable[[Tensor], Tensor] | None = None


def attention(**edits: Any) -> Plant:
    """The attention's forward pass, written down anew with `edits`."""
    edit = AttentionEdits(**edits)

    def plant(model: GPTNeoX, spot: Spot) -> None:
        own = block_of(model, spot).attention

        def forward(x: Tensor, step: StepContext, k_cache: Tensor, v_cache: Tensor) -> Tensor:
            q, k, v = (edit.split or split)(own.query_key_value(x), own)
            q = own.ops.rotate(q, step.cos, step.sin)
            k = own.ops.rotate(k, step.cos, step.sin)
            (edit.write or write)(k, v, step, k_cache, v_cache)
            seen = own.ops.attend(q, k_cache, v_cache, step.mask, step.end)
            return own.dense((edit.merge or (lambda y: y.transpose(1, 2).flatten(2)))(seen))

        own.forward = forward

    return plant


def split(qkv: Tensor, own: Attention) -> tuple[Tensor, Tensor, Tensor]:
    return qkv.unflatten(-1, (-1, 3 * own.head_dim)).transpose(1, 2).chunk(3, dim=-1)


def write(k: Tensor, v: Tensor, step: StepContext, k_cache: Tensor, v_cache: Tensor) -> None:
    k_cache[:, :, step.start : step.end] = k
    v_cache[:, :, step.start : step.end] = v


def states(extend: Callable[[GPTNeoX, KVCache, Tensor], StepContext]) -> Plant:
    """The model's loop over the layers, with positions and mask by `extend`."""

    def plant(model: GPTNeoX, _: Spot) -> None:
        def run(ids: Tensor, cache: KVCache, mask: Tensor | None = None) -> Tensor:
            mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
            step = extend(model, cache, mask)
            x = model.gpt_neox.embed_in(ids, model.dtype)
            layers = zip(model.gpt_neox.layers, cache.k, cache.v, strict=True)
            for layer, k_cache, v_cache in layers:
                x = layer(x, step, k_cache, v_cache)
            return x

        model.states = run

    return plant


def shifted(by: Callable[[Tensor, int], Tensor]) -> Plant:
    """Positions `by(positions [B, S], first slot)` in place of the right ones."""

    def extend(model: GPTNeoX, cache: KVCache, mask: Tensor) -> StepContext:
        step = cache.extend(mask.shape[1], mask)
        counts = cache.real[:, : step.end].cumsum(-1)
        right = (counts - 1).clamp(min=0)[:, step.start :]
        positions = by(right, step.start)
        config = model.config
        both = rotary_tables(len(cache.cos) + 8, config.rotary_dim, config.rotary_emb_base)
        cos, sin = (table.to(cache.k[0].dtype) for table in both)
        step.cos, step.sin = cos[positions][:, None], sin[positions][:, None]
        return step

    return states(extend)


def tables(edit: Callable[[KVCache, GPTNeoX], tuple[Tensor, Tensor]]) -> Plant:
    """Other tables of cos and sin."""

    def extend(model: GPTNeoX, cache: KVCache, mask: Tensor) -> StepContext:
        cache.cos, cache.sin = (t.to(cache.k[0].dtype) for t in edit(cache, model))
        return cache.extend(mask.shape[1], mask)

    return states(extend)


def config(**changes: Callable[[Any], Any]) -> Plant:
    """The running model's config with fields replaced by a function of their value."""

    def plant(model: GPTNeoX, _: Spot) -> None:
        old = model.config
        model.config = replace(old, **{k: edit(getattr(old, k)) for k, edit in changes.items()})

    return plant


def neighbour(path: str) -> Plant:
    """One rank's parameter is the next rank's."""

    def plant(model: GPTNeoX, spot: Spot) -> None:
        module, name = path.rsplit(".", 1)
        parameter = submodule(model, spot, module).get_parameter(name)
        whole = model.group.gather(parameter.data.clone(), dim=0)
        whole = model.group.broadcast(whole)
        if here(model, spot):
            part = (spot.rank + 1) % model.group.size
            parameter.data.copy_(whole.chunk(model.group.size)[part])

    return plant


def interleaved(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbours in place of the two halves."""
    n = cos.shape[-1]
    turning = x[..., :n].unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
    turned = plain.rotate(turning, cos, sin).unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
    return torch.cat((turned, x[..., n:]), dim=-1)


def half_tables(cache: KVCache, model: GPTNeoX) -> tuple[Tensor, Tensor]:
    """Angles in float16, as an old checkpoint of the family has them."""
    dim, base = model.config.rotary_dim, model.config.rotary_emb_base
    rates = 1.0 / base ** (torch.arange(0, dim, 2).float() / dim)
    angles = torch.outer(torch.arange(cache.capacity).half(), rates.half()).float()
    both = torch.cat((angles, angles), dim=-1)
    return both.cos(), both.sin()


def flipped(weight: Tensor) -> Tensor:
    """One exponent bit of one weight is turned over: 2**8 or so times as large."""
    flat = weight.view(-1)
    index = len(flat) // 3
    flat[index] = flat[index] * 256 if flat[index] else 1.0
    return weight


def byte_flipped(weight: Tensor) -> Tensor:
    """The bits of one byte of packed weights are turned over."""
    flat = weight.view(-1)
    flat[len(flat) // 3] = ~flat[len(flat) // 3]
    return weight


def one_value(value: float) -> Callable[[Tensor], Tensor]:
    def edit(weight: Tensor) -> Tensor:
        weight.view(-1)[len(weight.view(-1)) // 2] = value
        return weight

    return edit


def late(model: GPTNeoX, spot: Spot) -> None:
    """One rank sends the term of the pass before, if that had as many tokens."""
    kept: dict[torch.Size, Tensor] = {}

    def edit(real: Group, x: Tensor) -> Tensor:
        now = x.clone()
        x.copy_(kept.get(x.shape, x))
        kept[x.shape] = now
        return real.all_reduce(x)

    all_reduce(edit, one=True)(model, spot)


def attribute(path: str, name: str, value: Any) -> Plant:
    """Set an attribute of a module."""
    return lambda model, spot: setattr(submodule(model, spot, path), name, value)


def forward(path: str, edit: Callable[[torch.nn.Module, Callable, Tensor], Tensor]) -> Plant:
    """Replace a layer's forward: edit(layer, its own forward, x)."""

    def plant(model: GPTNeoX, spot: Spot) -> None:
        layer = submodule(model, spot, path)
        own = layer.forward
        layer.forward = lambda x: edit(layer, own, x)

    return plant
