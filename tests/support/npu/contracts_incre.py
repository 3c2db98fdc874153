"""What the host code of IncreFlashAttention asks of npu_incre_flash_attention in layout BNSD.

Transcribed, not run: the checks before a launch on 910B (A2) and 310P, as far as a call without
quantization, pages and shared prefix can meet them. `lengths` of a call is its
actual_seq_lengths, and its sparse_mode is 0: it has none. npu_fused_infer_attention_score is tiled
by the same code for one query (contracts_fused.py).
"""

from collections.abc import Callable
from types import SimpleNamespace

import torch

from tests.support.npu.bnsd import batch, heads, keys, lengths_suit, lengths_within, width
from tests.support.npu.condition import Condition

ALL = ("A2", "310P")
LARGE = ("A2",)
SMALL = ("310P",)
FOLDER = "hicann/ops-transformer c29bc106 attention/incre_flash_attention/op_host/"
TILING = f"{FOLDER}incre_flash_attention_tiling.cpp:"
CHECK = f"{FOLDER}incre_flash_attention_tiling_check.cpp:"
DEFINITION = f"{FOLDER}incre_flash_attention_def.cpp:"
BYTES = (torch.bool, torch.int8, torch.uint8)


def _ask(
    families: tuple[str, ...], source: str, asks: str, holds: Callable[[SimpleNamespace], bool]
) -> Condition:
    return Condition("npu_incre_flash_attention", families, source, asks, holds)


def _full_mask(call: SimpleNamespace) -> bool:
    """Whether there is a mask, and not the compressed one of sparse modes 3 and 4."""
    return call.atten_mask is not None and call.sparse_mode not in (3, 4)


def _longest(call: SimpleNamespace) -> int:
    """The largest length of a row, or the slots for keys where no length is given."""
    return max(call.lengths[: batch(call)]) if call.lengths else keys(call)


INCRE = (
    _ask(
        ALL,
        f"{CHECK}530",
        "in BNSD, query and keys of 4 dimensions",
        lambda c: c.query.dim() == c.key.dim() == 4,
    ),
    _ask(
        ALL, f"{TILING}252", "keys and values of one dtype", lambda c: c.key.dtype == c.value.dtype
    ),
    _ask(
        LARGE,
        f"{DEFINITION}24",
        "a query of float16 or bfloat16",
        lambda c: c.query.dtype in (torch.float16, torch.bfloat16),
    ),
    _ask(
        ALL,
        f"{CHECK}337",
        "keys of float16, int8 or int4 with a query of float16",
        lambda c: c.query.dtype != torch.float16 or c.key.dtype in (torch.float16, torch.int8),
    ),
    _ask(
        ALL,
        f"{CHECK}341",
        "keys of bfloat16, int8 or int4 with a query of bfloat16",
        lambda c: c.query.dtype != torch.bfloat16 or c.key.dtype in (torch.bfloat16, torch.int8),
    ),
    _ask(SMALL, f"{TILING}744", "float16", lambda c: c.query.dtype == torch.float16),
    _ask(ALL, f"{TILING}368", "num_heads of the query", lambda c: heads(c) == c.num_heads),
    _ask(ALL, f"{TILING}477", "inner_precise 0 or 1", lambda c: c.inner_precise in (0, 1)),
    _ask(ALL, f"{TILING}662", "one batch", lambda c: c.key.shape[0] == batch(c)),
    _ask(
        ALL, f"{TILING}668", "one shape of keys and values", lambda c: c.key.shape == c.value.shape
    ),
    _ask(
        ALL,
        f"{CHECK}533",
        "one head size of query and keys",
        lambda c: c.query.shape[3] == c.key.shape[3],
    ),
    _ask(SMALL, f"{CHECK}387", "a batch of at most 256", lambda c: batch(c) <= 256),
    _ask(SMALL, f"{CHECK}391", "at most 65536 keys", lambda c: keys(c) <= 65536),
    _ask(
        SMALL, f"{CHECK}395", "a head size that is a multiple of 16", lambda c: width(c) % 16 == 0
    ),
    _ask(LARGE, f"{CHECK}405", "a batch of at most 65536", lambda c: batch(c) <= 65536),
    _ask(ALL, f"{CHECK}411", "a head size of at most 512", lambda c: width(c) <= 512),
    _ask(ALL, f"{CHECK}415", "at most 256 heads of the keys", lambda c: c.num_heads <= 256),
    _ask(ALL, f"{TILING}824", "one length for all rows, or one for each", lengths_suit),
    _ask(ALL, f"{TILING}876", "lengths from 0 to the number of keys", lengths_within),
    _ask(
        ALL,
        f"{CHECK}1440",
        "atten_mask of bool, int8 or uint8",
        lambda c: c.atten_mask is None or c.atten_mask.dtype in BYTES,
    ),
    _ask(
        ALL,
        f"{CHECK}1458",
        "atten_mask for every row",
        lambda c: not _full_mask(c) or c.atten_mask.shape[0] == batch(c),
    ),
    _ask(
        ALL,
        f"{CHECK}1467",
        "atten_mask of at least the longest length",
        lambda c: not _full_mask(c) or c.atten_mask.shape[-1] >= _longest(c),
    ),
)
