"""pack.cpp on tensors: convert or pack weights, on the caller's thread alone.

Without a compiler PyTorch's operators do the same, bit for bit, with threads of their own.
"""

import ctypes
from ctypes import c_int, c_int32, c_int64, c_void_p
from functools import cache

import numpy as np
import torch
from torch import Tensor

from neoxlib.kernels.cpu import abi, build

FORMATS = {d: abi.FORMATS[d] for d in (torch.float32, torch.float16, torch.bfloat16)}


def compiled() -> bool:
    """Return whether this module runs compiled: then several threads may call it at once."""
    return _library() is not None


def copy(source: Tensor, target: Tensor) -> None:
    """Copy `source` [rows, columns] to `target`, rounded to its dtype. Rows may be strided."""
    assert source.shape == target.shape, (source.shape, target.shape)
    here = source.is_cpu and target.is_cpu and source.stride(1) == target.stride(1) == 1
    if here and source.dtype == target.dtype:
        np.copyto(target.view(torch.uint8).numpy(), source.view(torch.uint8).numpy())
    elif here and source.dtype in FORMATS and target.dtype in FORMATS and compiled():
        ends = [(x.data_ptr(), FORMATS[x.dtype], x.stride(0)) for x in (source, target)]
        _library().convert_weight(*ends[0], *ends[1], *source.shape)
    else:
        target.copy_(source)


def pack(bits: int, weight: Tensor, packed: Tensor, scale: Tensor) -> bool | None:
    """Pack weight [rows, columns] into `packed` and `scale` as Int4 or Int8 of quant.py does.

    Returns False if a number or its scale is not finite, and None, with nothing done, if the
    tensors are not supported or nothing is compiled.
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
    return not _library().pack_weight(bits, *ends)


@cache
def _library() -> ctypes.CDLL | None:
    library = build.compiled("pack")
    return None if library is None else _declare(library)


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    library.pack_weight.argtypes = [c_int, c_void_p, c_int32, c_int64, c_int64, c_void_p, c_void_p]
    end = [c_void_p, c_int32, c_int64]
    library.convert_weight.argtypes = [*end, *end, c_int64, c_int64]
    library.convert_weight.restype = None
    return library
