"""packing.cpp on tensors: numbers copied into another dtype, or packed, on the caller's thread and no other.

Without a compiler PyTorch's operators do the same, bit for bit, with threads of their own.
"""

import ctypes
from ctypes import c_int, c_int32, c_int64, c_void_p
from functools import cache

import numpy as np
import torch
from torch import Tensor

from neoxlib.kernels.cpu import build

FORMATS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


def compiled() -> bool:
    """Do the functions of this file leave PyTorch's threads alone? Then several of them may run at once."""
    return _library() is not None


def copy(source: Tensor, target: Tensor) -> None:
    """Fill `target` [rows, columns] with `source`, rounded to its dtype as PyTorch rounds. Rows may lie apart."""
    assert source.shape == target.shape, (source.shape, target.shape)
    here = source.is_cpu and target.is_cpu and source.stride(1) == target.stride(1) == 1
    if here and source.dtype == target.dtype:
        np.copyto(target.view(torch.uint8).numpy(), source.view(torch.uint8).numpy())
    elif here and source.dtype in FORMATS and target.dtype in FORMATS and compiled():
        ends = [(x.data_ptr(), FORMATS[x.dtype], x.stride(0)) for x in (source, target)]
        _library().packing_convert(*ends[0], *ends[1], *source.shape)
    else:
        target.copy_(source)


def pack(bits: int, weight: Tensor, packed: Tensor, scale: Tensor) -> bool | None:
    """Fill `packed` and `scale` with weight [rows, columns] as quant.py's scheme of 4 or 8 bits packs it.

    False where a number or its scale is not finite; None, with nothing done, where this is none of its cases.
    """
    fits = (
        all(x.is_cpu and x.is_contiguous() for x in (weight, packed, scale))
        and weight.dtype in FORMATS
    )
    if not fits or not compiled():
        return None
    ends = (
        weight.data_ptr(),
        FORMATS[weight.dtype],
        *weight.shape,
        packed.data_ptr(),
        scale.data_ptr(),
    )
    return not _library().packing_pack(bits, *ends)


@cache
def _library() -> ctypes.CDLL | None:
    library = build.library("pack")
    return None if library is None else _declare(library)


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    library.packing_pack.argtypes = [c_int, c_void_p, c_int32, c_int64, c_int64, c_void_p, c_void_p]
    end = [c_void_p, c_int32, c_int64]
    library.packing_convert.argtypes = [*end, *end, c_int64, c_int64]
    library.packing_convert.restype = None
    return library
