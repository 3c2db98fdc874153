"""The model's compiled form on a CPU: ops/kernels.cpp does all layers in one call, or one stage between two sums.

It computes what model.py says, with the same weights in place. Sums are float32, and so is what passes between them.
"""

import ctypes
import math
import os
import weakref
from ctypes import POINTER, Structure, byref, c_float, c_int32, c_int64, c_void_p

import torch
from torch import Tensor, nn

from neoxlib.kernels.cpu import build
from neoxlib.model.cache import KVCache
from neoxlib.model.config import ACTIVATIONS
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.layers import rotary_tables
from neoxlib.process import at_end

FORMATS = {
    torch.float32: 0,
    torch.float16: 1,
    torch.bfloat16: 2,
    torch.int8: 3,
    torch.uint8: 4,
}  # uint8: int4 in twos
FORMS = {"gelu": 0, "tanh": 1, "relu": 2}


class Matrix(Structure):
    _fields_ = [
        ("weight", c_void_p),
        ("scale", c_void_p),
        ("bias", c_void_p),
        ("out", c_int64),
        ("in", c_int64),
        ("format", c_int32),
    ]


class Norm(Structure):
    _fields_ = [("weight", c_void_p), ("bias", c_void_p)]


class Layer(Structure):
    _fields_ = [
        ("before_attention", Norm),
        ("before_mlp", Norm),
        ("query_key_value", Matrix),
        ("dense", Matrix),
        ("dense_h_to_4h", Matrix),
        ("dense_4h_to_h", Matrix),
    ]


class Model(Structure):
    _fields_ = [
        ("layers", POINTER(Layer)),
        ("embedding", Matrix),
        ("last", Norm),
        ("head", Matrix),
        ("depth", c_int64),
        ("hidden", c_int64),
        ("heads", c_int64),
        ("head_dim", c_int64),
        ("rotary", c_int64),
        ("coarse_from", c_int64),
        ("eps", c_float),
        ("activation", c_int32),
        ("parallel", c_int32),
        ("wide", c_int32),
    ]


class Step(Structure):
    _fields_ = [
        ("ids", c_void_p),
        ("x", c_void_p),
        ("term", c_void_p),
        ("k", c_void_p),
        ("v", c_void_p),
        ("real", c_void_p),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("batch", c_int64),
        ("length", c_int64),
        ("start", c_int64),
        ("capacity", c_int64),
        ("cache", c_int32),
    ]


def in_one_block(model: GPTNeoX) -> GPTNeoX:
    """Give `model`, made on the meta device, its memory: one block in the order of use. Values are not set."""
    places = []
    end = 0
    for path, layer in model.named_modules():
        for name, parameter in layer.named_parameters(recurse=False):
            places.append((path, name, parameter, end))
            end += (parameter.nbytes + 63) // 64 * 64
    block = model.block = torch.empty(end, dtype=torch.uint8)
    for path, name, like, start in places:
        values = block[start : start + like.nbytes].view(like.dtype).view(like.shape)
        setattr(model.get_submodule(path), name, nn.Parameter(values, requires_grad=False))
    return model


def attach(model: GPTNeoX) -> bool:
    """Let `model`, whose weights are loaded, run compiled from now on; False where that cannot be: native.why_not."""
    kernels = build.library("forward")
    if kernels is not None:
        model.fast = FastPath(model, kernels)
    return kernels is not None


class FastPath:
    """What GPTNeoX.states and GPTNeoX.head do, compiled. Threads are torch's number when it is first called."""

    def __init__(self, model: GPTNeoX, kernels: ctypes.CDLL) -> None:
        self.embed_in = model.gpt_neox.embed_in
        self.group = model.group
        self.config = model.config
        self.kernels = _declare(kernels)
        self.source = weakref.ref(model)
        self.renew()
        self.stages = model.config.num_hidden_layers * (
            1 if model.config.use_parallel_residual else 2
        )
        self.threads = (0, 0)
        self.runner = None
        self.tables = None

    def renew(self) -> None:
        """Point to the weights where they are now; a call that is under way goes on with those it began with."""
        self.held: list[object] = []  # what the pointers point to, kept for as long as they are
        model = self._model(self.source())
        model.held = self.held
        self.model = model

    def states(self, input_ids: Tensor, cache: KVCache, mask: Tensor | None) -> Tensor:
        """As GPTNeoX.states, [B, S, hidden] float32. Raises IndexError for an id that has no embedding."""
        alone = self.group.size == 1
        ids = input_ids.long().contiguous()  # alone: the kernels embed, too
        x = (
            torch.empty(*ids.shape, self.config.hidden_size)
            if alone
            else self.embed_in(ids, torch.float32)
        )
        start = cache.append(ids.shape[1], mask)
        term = torch.empty_like(x)
        capacity = cache.k.shape[3]
        tables = self._tables(cache.k.shape[3])
        step = Step(
            ids.data_ptr() if alone else None,
            *(t.data_ptr() for t in (x, term, cache.k, cache.v, cache.real, *tables)),
            *ids.shape,
            start,
            capacity,
            FORMATS[cache.k.dtype],
        )
        if alone:
            self._call("stages", byref(self.model), byref(step), 0, self.stages + 1)
            return x
        for stage in range(self.stages):
            self._call("stages", byref(self.model), byref(step), stage, stage + 1)
            self.group.all_reduce(term)
        self._call("stages", byref(self.model), byref(step), self.stages, self.stages + 1)
        return x

    def head(self, x: Tensor) -> Tensor:
        """As GPTNeoX.head, float32."""
        rows, *shape = x.float().contiguous(), *x.shape[:-1]
        logits = torch.empty(*shape, self.model.head.out)
        self._call("head", byref(self.model), rows.data_ptr(), math.prod(shape), logits.data_ptr())
        return logits

    def _call(self, name: str, *args: object) -> None:
        threads = (os.getpid(), torch.get_num_threads())  # a forked copy has none of them
        if self.threads != threads:
            self.threads, self.runner = threads, self.kernels.runner_start(threads[1])
            at_end(self, self.kernels.runner_stop, self.runner)
        failure = getattr(self.kernels, f"runner_{name}")(self.runner, *args)
        if failure == 2:
            raise IndexError(f"an id is not among the model's 0..{self.config.vocab_size - 1}")
        if failure:
            raise MemoryError(
                "no memory for the activations of so many tokens at once; give fewer or shorter rows"
            )

    def _tables(self, positions: int) -> tuple[Tensor, Tensor]:
        """cos and sin [positions, rotary] float32."""
        if self.tables is None or len(self.tables[0]) != positions:
            self.tables = rotary_tables(
                positions, self.config.rotary_dim, self.config.rotary_emb_base
            )
        return self.tables

    def _model(self, model: GPTNeoX) -> Model:
        config = model.config
        trunk = model.gpt_neox
        layers = (Layer * config.num_hidden_layers)(*map(self._layer, trunk.layers))
        self.held.append(layers)
        head = trunk.embed_in if config.tie_word_embeddings else model.embed_out
        return Model(
            layers,
            self._matrix(trunk.embed_in),
            self._norm(trunk.final_layer_norm),
            self._matrix(head),
            len(layers),
            config.hidden_size,
            config.num_attention_heads // model.group.size,
            config.head_dim,
            2 * ((config.rotary_dim + 1) // 2),
            _coarse_from(model),
            config.layer_norm_eps,
            FORMS[ACTIVATIONS[config.hidden_act]],
            config.use_parallel_residual,
            trunk.final_layer_norm.weight.dtype == torch.float32,
        )

    def _layer(self, block: nn.Module) -> Layer:
        attention = block.attention
        mlp = block.mlp
        return Layer(
            self._norm(block.input_layernorm),
            self._norm(block.post_attention_layernorm),
            self._matrix(attention.query_key_value),
            self._matrix(attention.dense),
            self._matrix(mlp.dense_h_to_4h),
            self._matrix(mlp.dense_4h_to_h),
        )

    def _norm(self, norm: nn.Module) -> Norm:
        return Norm(self._float(norm.weight), self._float(norm.bias))

    def _matrix(self, layer: nn.Module) -> Matrix:
        weight = self._hold(layer.weight)
        out, columns = weight.shape
        scale = getattr(layer, "weight_scale", None)
        bias = getattr(layer, "bias", None)
        return Matrix(
            weight.data_ptr(),
            None if scale is None else self._hold(scale).data_ptr(),
            self._float(torch.zeros(out) if bias is None else bias),
            out,
            columns * 2 if weight.dtype == torch.uint8 else columns,
            FORMATS[weight.dtype],
        )

    def _float(self, values: Tensor) -> int:
        return self._hold(values.float()).data_ptr()

    def _hold(self, values: Tensor) -> Tensor:
        self.held.append(values.detach().contiguous())
        return self.held[-1]


def _coarse_from(model: GPTNeoX) -> int:
    """Rows from which activations may be rounded when they enter a product, on CPUs with the instructions for it.

    A bfloat16 model's are bfloat16 anyway. From many rows on a product is bound by arithmetic, not by memory: then
    those that meet packed weights become whole numbers of 8 bits, in groups of columns, or bfloat16 (int4 with
    AVX-512).
    """
    weight = model.gpt_neox.layers[0].attention.dense.weight.dtype
    own = model.gpt_neox.final_layer_norm.weight.dtype
    if weight in (torch.int8, torch.uint8):
        return 5 if own == torch.bfloat16 else 64
    return 1 if own == torch.bfloat16 else 2**62


def _declare(kernels: ctypes.CDLL) -> ctypes.CDLL:
    kernels.runner_start.argtypes = [c_int32]
    kernels.runner_start.restype = c_void_p
    kernels.runner_stop.argtypes = [c_void_p]
    kernels.runner_stop.restype = None
    kernels.runner_stages.argtypes = [c_void_p, POINTER(Model), POINTER(Step), c_int64, c_int64]
    kernels.runner_head.argtypes = [c_void_p, POINTER(Model), c_void_p, c_int64, c_void_p]
    return kernels
