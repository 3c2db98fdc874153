"""Record what the compiled kernels compute inside a layer.

The kernels leave a stage's results in buffers of their own; between two stages these are read as
they are. So all of this is what the kernels computed, not a second computation. Not seen are the
queries, keys and values before the rotation, the MLP's hidden layer before its activation, with
the parallel residual the two products apart, and the final norm.
"""

import ctypes
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import byref
from typing import Any

import torch
from torch import Tensor

from neoxlib.model import steps
from neoxlib.model.cache import KVCache

# The executor is on_cpu.CompiledModel, which imports this file.
Record = Callable[[str, Tensor], None]


@contextmanager
def tapped(executor: Any, record: Record) -> Iterator[None]:
    """Compute `executor.states` stage by stage, and record every step that can be read."""

    def states(
        ids: Tensor, cache: KVCache, mask: Tensor | None, layers: int | None = None
    ) -> Tensor:
        assert layers is None, "all layers are looked into"
        return _states(executor, record, ids, cache, mask)

    executor.states = states
    try:
        yield
    finally:
        del executor.states


def _states(
    executor: Any, record: Record, input_ids: Tensor, cache: KVCache, mask: Tensor
) -> Tensor:
    """As CompiledModel.states, with a stop after every stage."""
    ids = input_ids.long().contiguous()
    alone = executor.group.size == 1
    hidden = executor.config.hidden_size
    if alone:
        x = torch.empty(*ids.shape, hidden, dtype=torch.float32)
    else:
        x = executor.embed_in(ids, torch.float32)
    partial = torch.empty_like(x)
    step = executor._step(ids, x, partial, cache, cache.append(ids.shape[1], mask))
    for stage in range(executor.stages + 1):
        executor._call("stages", byref(executor.model), byref(step), stage, stage + 1)
        record(_residual(executor, stage), x)
        if stage < executor.stages:
            _record_stage(executor, record, stage, cache, ids.shape)
            name = _sum_name(executor, stage)
            record(f"{name}.before", partial)
            executor.group.all_reduce(partial)
            record(f"{name}.after", partial)
    return x


def _parallel(executor: Any) -> bool:
    return executor.config.use_parallel_residual


def _residual(executor: Any, stage: int) -> str:
    """The name of the residual stream as it is after `stage` has added the sum before it."""
    if stage == 0:
        return "gpt_neox.embed_in"
    if _parallel(executor):
        return steps.full_name(stage - 1, "")
    return steps.full_name((stage - 1) // 2, "attention.residual" if stage % 2 else "")


def _sum_name(executor: Any, stage: int) -> str:
    if _parallel(executor):
        return steps.full_name(stage, "all_reduce")
    return steps.full_name(stage // 2, "mlp.all_reduce" if stage % 2 else "attention.all_reduce")


def _record_stage(
    executor: Any, record: Record, stage: int, cache: KVCache, shape: torch.Size
) -> None:
    """Record the buffers of a stage over ids of `shape` [B, S]."""
    parallel = _parallel(executor)
    layer = stage if parallel else stage // 2

    def say(name: str, value: Tensor) -> None:
        record(steps.full_name(layer, name), value)

    found = (ctypes.c_void_p * 5)()
    executor.kernels.runner_buffers(executor.runner, found)
    if parallel or stage % 2 == 0:
        _record_attention(executor, say, found, layer, cache, shape)
    if parallel or stage % 2:
        width = executor.source().gpt_neox.layers[layer].mlp.dense_h_to_4h.weight.shape[0]
        normed = _rows(found[1], shape, executor.config.hidden_size)
        say("post_attention_layernorm", normed)
        say("mlp.activation", _rows(found[4], shape, width))


def _record_attention(
    executor: Any,
    say: Record,
    found: ctypes.Array,
    layer: int,
    cache: KVCache,
    shape: torch.Size,
) -> None:
    heads, size = cache.k[0].shape[1], cache.k[0].shape[3]
    say("input_layernorm", _rows(found[0], shape, executor.config.hidden_size))
    qkv = _floats(found[2], math.prod(shape) * heads * 3 * size).view(*shape, heads, 3, size)
    say(steps.ROTARY_QUERY, qkv[..., 0, :])
    say(steps.ROTARY_KEY, qkv[..., 1, :])
    end = cache.length
    say(steps.CACHED_KEY, cache.k[layer][:, :, :end].transpose(1, 2))
    say(steps.CACHED_VALUE, cache.v[layer][:, :, :end].transpose(1, 2))
    say(steps.CONTEXT, _rows(found[3], shape, heads * size))


def _rows(address: int, shape: torch.Size, width: int) -> Tensor:
    """A buffer of rows [B, S, width], which are apart by `row_stride` of dot.h."""
    stride = (width + 63) // 64 * 64 + 32
    rows = math.prod(shape)
    return _floats(address, rows * stride).view(rows, stride)[:, :width].unflatten(0, shape)


def _floats(address: int, count: int) -> Tensor:
    array = (ctypes.c_float * count).from_address(address)
    return torch.frombuffer(array, dtype=torch.float32)
