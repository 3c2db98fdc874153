"""The most likely tokens of each row of logits, in one pass over memory on the caller's thread.

PyTorch's threads would keep spinning on the cores that compute the next step. Without a compiler,
numpy does the same in several passes.
"""

import ctypes
from ctypes import c_int64, c_void_p
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from neoxlib.kernels.cpu import build


class TopTokens(NamedTuple):
    """The largest logits of each row, ties by lower id, and the row's logsumexp."""

    ids: Tensor  # [B, count] int64, best first
    logits: Tensor  # [B, count] float32
    total: Tensor  # [B] float32: logsumexp; not finite if a logit is NaN or +infinity


def top_tokens(logits: Tensor, count: int) -> TopTokens:
    """Top `count` (1 to V) of each row of `logits` [B, V] float32, which may be strided."""
    assert logits.dtype == torch.float32 and logits.stride(1) == 1, (logits.dtype, logits.stride())
    assert 1 <= count <= logits.shape[1], (count, logits.shape)
    if _library() is None:
        return _plain(logits, count)
    rows = len(logits)
    found = TopTokens(
        torch.empty(rows, count, dtype=torch.int64),
        torch.empty(rows, count, dtype=torch.float32),
        torch.empty(rows, dtype=torch.float32),
    )
    pointers = (found.logits.data_ptr(), found.ids.data_ptr(), found.total.data_ptr())
    _library().top_tokens_of(
        logits.data_ptr(), rows, logits.stride(0), logits.shape[1], count, *pointers
    )
    return found


def _plain(logits: Tensor, count: int) -> TopTokens:
    values = logits.numpy()
    ids = values.argmax(-1)[:, None]
    if count > 1:
        ids = np.argsort(-values, axis=-1, kind="stable")[:, :count]
    top = values.max(-1)
    with np.errstate(all="ignore"):
        total = top + np.log(
            [np.exp(row - most).sum() for row, most in zip(values, top, strict=True)]
        )
    return TopTokens(*map(torch.from_numpy, (ids, np.take_along_axis(values, ids, -1), total)))


@cache
def _library() -> ctypes.CDLL | None:
    library = build.compiled("forward")
    if library is not None:
        library.top_tokens_of.argtypes = [c_void_p, *[c_int64] * 4, *[c_void_p] * 3]
        library.top_tokens_of.restype = None
    return library
