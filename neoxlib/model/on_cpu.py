"""The model on compiled kernels: forward.cpp runs all layers, or one stage between two all-reduces.

It computes what gpt_neox.py does, on the same weights. Sums are float32, and so is what passes
between them.
"""

import ctypes
import math
import os
import weakref
from contextlib import AbstractContextManager
from ctypes import byref

import torch
from torch import Tensor, nn

from neoxlib.kernels.cpu import abi, build
from neoxlib.model import cpu_taps
from neoxlib.model.cache import KVCache
from neoxlib.model.config import ACTIVATIONS
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.layers import rotary_tables
from neoxlib.process import at_end


def in_one_block(model: GPTNeoX) -> GPTNeoX:
    """Allocate `model`, made on the meta device, as one block in order of use, without values."""
    places = []
    end = 0
    for path, layer in model.named_modules():
        for name, parameter in layer.named_parameters(recurse=False):
            places.append((path, name, parameter, end))
            end += (parameter.nbytes + 63) // 64 * 64
    storage = model.storage = torch.empty(end, dtype=torch.uint8)
    for path, name, like, start in places:
        values = storage[start : start + like.nbytes].view(like.dtype).view(like.shape)
        setattr(model.get_submodule(path), name, nn.Parameter(values, requires_grad=False))
    return model


def attach(model: GPTNeoX) -> bool:
    """Run `model`, whose weights are loaded, on compiled kernels from now on.

    Returns False if they could not be compiled; `build.compile_error` says why.
    """
    kernels = build.compiled("forward")
    if kernels is not None:
        model.executor = CompiledModel(model, kernels)
    return kernels is not None


class CompiledModel:
    """GPTNeoX.states and GPTNeoX.head, compiled, with torch's number of threads."""

    def __init__(self, model: GPTNeoX, kernels: ctypes.CDLL) -> None:
        self.embed_in = model.gpt_neox.embed_in
        self.group = model.group
        self.config = model.config
        self.dtype = model.dtype
        self.kernels = abi.declare(kernels)
        self.source = weakref.ref(model)
        self.reload_pointers()
        self.stages = model.config.num_hidden_layers * (
            1 if model.config.use_parallel_residual else 2
        )
        self.threads = (0, 0)
        self.runner = None
        self.tables = None

    def reload_pointers(self) -> None:
        """Point to the weights where they are now. A call under way continues with the old ones."""
        self.held: list[object] = []  # keeps alive what the pointers point to
        model = self._model(self.source())
        model.held = self.held
        self.model = model

    def states(
        self, input_ids: Tensor, cache: KVCache, mask: Tensor | None, layers: int | None = None
    ) -> Tensor:
        """As GPTNeoX.states, in float32. Raises IndexError for an id without embedding."""
        depth = self.config.num_hidden_layers
        stages = self.stages * (depth if layers is None else layers) // depth
        ids = input_ids.long().contiguous()
        if self.group.size == 1:  # the kernels embed, too
            x = torch.empty(*ids.shape, self.config.hidden_size, dtype=torch.float32)
        else:
            x = self.embed_in(ids, torch.float32)
        partial = torch.empty_like(x)
        step = self._step(ids, x, partial, cache, cache.append(ids.shape[1], mask))
        if self.group.size == 1:
            self._call("stages", byref(self.model), byref(step), 0, stages + 1)
            return x
        for stage in range(stages):
            self._call("stages", byref(self.model), byref(step), stage, stage + 1)
            self.group.all_reduce(partial)
        self._call("stages", byref(self.model), byref(step), stages, stages + 1)
        return x

    def tapped(self, record: cpu_taps.Record) -> AbstractContextManager[None]:
        """Run stage by stage and record what each has computed; see `taps.tapped`."""
        return cpu_taps.tapped(self, record)

    def head(self, x: Tensor) -> Tensor:
        """As GPTNeoX.head, float32."""
        rows = x.float().contiguous()
        shape = x.shape[:-1]
        logits = torch.empty(*shape, self.model.head.out, dtype=torch.float32)
        self._call("head", byref(self.model), rows.data_ptr(), math.prod(shape), logits.data_ptr())
        return logits

    def new_cache(self, batch: int, max_seq_len: int) -> KVCache:
        """As GPTNeoX.new_cache."""
        return KVCache(self.config, batch, max_seq_len, self.group, self.dtype)

    def free_idle_caches(self) -> None:
        """Nothing is kept."""

    def _call(self, name: str, *args: object) -> None:
        threads = (os.getpid(), torch.get_num_threads())  # a forked copy has none of them
        if self.threads != threads:
            self.threads = threads
            self.runner = self.kernels.runner_start(threads[1])
            at_end(self, self.kernels.runner_stop, self.runner)
        failure = getattr(self.kernels, f"runner_{name}")(self.runner, *args)
        if failure == 2:
            raise IndexError(f"an id is not among the model's 0..{self.config.vocab_size - 1}")
        if failure:
            raise MemoryError(
                "no memory for the activations of so many tokens at once; "
                "give fewer or shorter rows"
            )

    def _step(
        self, ids: Tensor, x: Tensor, partial: Tensor, cache: KVCache, start: int
    ) -> abi.Step:
        """Pointers to tensors that the caller keeps alive, and to tables that it keeps itself."""
        capacity = cache.capacity
        tables = self._tables(capacity)
        tensors = (x, partial, cache.k[0], cache.v[0], cache.real, *tables)
        step = abi.Step(
            ids.data_ptr() if self.group.size == 1 else None,
            *(tensor.data_ptr() for tensor in tensors),
            *ids.shape,
            start,
            capacity,
            abi.FORMATS[cache.k[0].dtype],
        )
        step.held = tables  # another call may replace the model's
        return step

    def _tables(self, positions: int) -> tuple[Tensor, Tensor]:
        """cos and sin [positions, rotary] float32."""
        if self.tables is None or len(self.tables[0]) != positions:
            self.tables = rotary_tables(
                positions, self.config.rotary_dim, self.config.rotary_emb_base
            )
        return self.tables

    def _model(self, model: GPTNeoX) -> abi.Model:
        config = model.config
        stack = model.gpt_neox
        layers = (abi.Layer * config.num_hidden_layers)(*map(self._layer, stack.layers))
        self.held.append(layers)
        head = stack.embed_in if config.tie_word_embeddings else model.embed_out
        return abi.Model(
            layers,
            self._matrix(stack.embed_in),
            self._norm(stack.final_layer_norm),
            self._matrix(head),
            len(layers),
            config.hidden_size,
            config.num_attention_heads // model.group.size,
            config.head_dim,
            2 * ((config.rotary_dim + 1) // 2),
            _round_from(model),
            config.layer_norm_eps,
            abi.ACTIVATIONS[ACTIVATIONS[config.hidden_act]],
            config.use_parallel_residual,
            stack.final_layer_norm.weight.dtype == torch.float32,
        )

    def _layer(self, block: nn.Module) -> abi.Layer:
        attention = block.attention
        mlp = block.mlp
        return abi.Layer(
            self._norm(block.input_layernorm),
            self._norm(block.post_attention_layernorm),
            self._matrix(attention.query_key_value),
            self._matrix(attention.dense),
            self._matrix(mlp.dense_h_to_4h),
            self._matrix(mlp.dense_4h_to_h),
        )

    def _norm(self, norm: nn.Module) -> abi.Norm:
        return abi.Norm(self._float(norm.weight), self._float(norm.bias))

    def _matrix(self, layer: nn.Module) -> abi.Matrix:
        weight = self._hold(layer.weight)
        out, columns = weight.shape
        scale = getattr(layer, "weight_scale", None)
        bias = getattr(layer, "bias", None)
        return abi.Matrix(
            weight.data_ptr(),
            None if scale is None else self._hold(scale).data_ptr(),
            self._float(torch.zeros(out) if bias is None else bias),
            out,
            columns * 2 if weight.dtype == torch.uint8 else columns,
            abi.FORMATS[weight.dtype],
        )

    def _float(self, values: Tensor) -> int:
        return self._hold(values.float()).data_ptr()

    def _hold(self, values: Tensor) -> Tensor:
        self.held.append(values.detach().contiguous())
        return self.held[-1]


def _round_from(model: GPTNeoX) -> int:
    """Rows from which a product may round its activations, on CPUs with the instructions for it.

    A bfloat16 model's activations are bfloat16 anyway. Products of many rows are bound by
    arithmetic, not by memory: with packed weights their activations become int8 in groups of
    columns, or bfloat16 (int4 with AVX-512).
    """
    weight = model.gpt_neox.layers[0].attention.dense.weight.dtype
    own = model.gpt_neox.final_layer_norm.weight.dtype
    if weight in (torch.int8, torch.uint8):
        return 5 if own == torch.bfloat16 else 64
    return 1 if own == torch.bfloat16 else 2**62
