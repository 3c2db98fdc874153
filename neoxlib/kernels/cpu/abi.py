"""The structures, number formats and functions of forward.cpp.

Values, and the names and order of fields, are those of abi.h; `declare` checks the sizes that abi.h
asserts.
"""

import ctypes
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p

import torch

# Format of abi.h. uint8 is int4, two numbers to a byte.
FORMATS = {
    torch.float32: 0,
    torch.float16: 1,
    torch.bfloat16: 2,
    torch.int8: 3,
    torch.uint8: 4,
}
ACTIVATIONS = {"gelu": 0, "tanh": 1, "relu": 2}  # Activation of abi.h


class Matrix(Structure):
    """A linear layer or an embedding table."""

    _fields_ = [
        ("weight", c_void_p),
        ("scale", c_void_p),
        ("bias", c_void_p),
        ("out", c_int64),
        ("in", c_int64),
        ("format", c_int32),
    ]


class Norm(Structure):
    """A layer norm."""

    _fields_ = [("weight", c_void_p), ("bias", c_void_p)]


class Layer(Structure):
    """One layer of the model."""

    _fields_ = [
        ("before_attention", Norm),
        ("before_mlp", Norm),
        ("query_key_value", Matrix),
        ("dense", Matrix),
        ("dense_h_to_4h", Matrix),
        ("dense_4h_to_h", Matrix),
    ]


class Model(Structure):
    """The model: sizes, and pointers to this rank's weights."""

    _fields_ = [
        ("layers", POINTER(Layer)),
        ("embedding", Matrix),
        ("final_norm", Norm),
        ("head", Matrix),
        ("depth", c_int64),
        ("hidden", c_int64),
        ("heads", c_int64),
        ("head_dim", c_int64),
        ("rotary", c_int64),
        ("round_from", c_int64),
        ("eps", c_float),
        ("activation", c_int32),
        ("parallel", c_int32),
        ("float32_order", c_int32),
    ]


class Step(Structure):
    """New tokens, the KV cache they go to, and memory for their hidden states."""

    _fields_ = [
        ("ids", c_void_p),
        ("x", c_void_p),
        ("partial", c_void_p),
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


SIZES = {Matrix: 48, Norm: 16, Layer: 224, Model: 184, Step: 104}  # bytes, as abi.h asserts them


def declare(kernels: ctypes.CDLL) -> ctypes.CDLL:
    """Set the argument types of the compiled forward.cpp."""
    for structure, size in SIZES.items():
        assert ctypes.sizeof(structure) == size, (structure, ctypes.sizeof(structure))
    kernels.runner_start.argtypes = [c_int32]
    kernels.runner_start.restype = c_void_p
    kernels.runner_stop.argtypes = [c_void_p]
    kernels.runner_stop.restype = None
    kernels.runner_stages.argtypes = [c_void_p, POINTER(Model), POINTER(Step), c_int64, c_int64]
    kernels.runner_buffers.argtypes = [c_void_p, POINTER(c_void_p)]
    kernels.runner_buffers.restype = None
    kernels.runner_head.argtypes = [c_void_p, POINTER(Model), c_void_p, c_int64, c_void_p]
    return kernels
