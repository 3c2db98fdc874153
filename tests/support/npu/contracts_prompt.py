"""What the host code of PromptFlashAttention asks of npu_prompt_flash_attention in layout BNSD.

Transcribed, not run: the checks before a launch on 910B (A2), 910_93 (A3) and 310P, as far as a
call without quantization, pages and shared prefix can meet them. `lengths` of a call is its
actual_seq_lengths_kv. npu_fused_infer_attention_score is tiled by the same code from two queries
on (contracts_fused.py).
"""

from collections.abc import Callable
from types import SimpleNamespace

import torch

from tests.support.npu.bnsd import (
    batch,
    heads,
    keys,
    lengths_suit,
    lengths_within,
    rows,
    width,
    widths_agree,
)
from tests.support.npu.condition import Condition

ALL = ("A2", "A3", "310P")
LARGE = ("A2", "A3")
SMALL = ("310P",)
FOLDER = "hicann/ops-transformer c29bc106 attention/prompt_flash_attention/op_host/"
TILING = f"{FOLDER}prompt_flash_attention_tiling.cpp:"
ACLNN = f"{FOLDER}op_api/aclnn_prompt_flash_attention_inner.cpp:"
DEFINITION = f"{FOLDER}prompt_flash_attention_def.cpp:"
PAGE = (
    "mirror-cann/ops-transformer 3a280bcc "
    "attention/prompt_flash_attention/docs/aclnnPromptFlashAttentionV3.md:"
)
COMPRESSED = 2048  # rows and columns of the one mask of sparse modes 2, 3 and 4
BYTES = (torch.bool, torch.int8, torch.uint8)


def _ask(
    families: tuple[str, ...], source: str, asks: str, holds: Callable[[SimpleNamespace], bool]
) -> Condition:
    return Condition("npu_prompt_flash_attention", families, source, asks, holds)


def _mask_covers(call: SimpleNamespace) -> bool:
    """Whether a mask of sparse mode 0 or 1 has a number for each query and each key."""
    if call.atten_mask is None or call.sparse_mode not in (0, 1):
        return True
    shape = call.atten_mask.shape
    if len(shape) not in (2, 3, 4) or shape[-2] < rows(call) or shape[-1] < keys(call):
        return False
    return len(shape) == 2 or shape[0] in (1, batch(call))


def _mask_is_compressed(call: SimpleNamespace) -> bool:
    """Whether a mask of sparse mode 2, 3 or 4 has the one shape that these take."""
    if call.atten_mask is None or call.sparse_mode not in (2, 3, 4):
        return True
    shape = tuple(call.atten_mask.shape)
    square = (COMPRESSED, COMPRESSED)
    return shape in (square, (1, *square), (1, 1, *square))


PROMPT = (
    _ask(ALL, f"{TILING}5601", "in BNSD, a query of 4 dimensions", lambda c: c.query.dim() == 4),
    _ask(ALL, f"{TILING}5618", "in BNSD, keys of 4 dimensions", lambda c: c.key.dim() == 4),
    _ask(
        ALL,
        f"{ACLNN}608",
        "query, key and value of one dtype",
        lambda c: c.query.dtype == c.key.dtype == c.value.dtype,
    ),
    _ask(
        LARGE,
        f"{ACLNN}621",
        "float16, bfloat16 or int8",
        lambda c: c.query.dtype in (torch.float16, torch.bfloat16, torch.int8),
    ),
    _ask(SMALL, f"{DEFINITION}119", "float16", lambda c: c.query.dtype == torch.float16),
    _ask(
        LARGE,
        f"{ACLNN}656",
        "atten_mask of float16, bool, int8 or uint8",
        lambda c: c.atten_mask is None or c.atten_mask.dtype in (torch.float16, *BYTES),
    ),
    _ask(
        LARGE,
        f"{TILING}5709",
        "with bfloat16, atten_mask of bool, int8 or uint8",
        lambda c: (
            c.query.dtype != torch.bfloat16 or c.atten_mask is None or c.atten_mask.dtype in BYTES
        ),
    ),
    _ask(
        SMALL,
        f"{TILING}5724",
        "atten_mask of bool",
        lambda c: c.atten_mask is None or c.atten_mask.dtype == torch.bool,
    ),
    _ask(ALL, f"{TILING}5671", "one head size of query, key and value", widths_agree),
    _ask(ALL, f"{TILING}1804", "at most 256 heads", lambda c: c.num_heads <= 256),
    _ask(ALL, f"{TILING}1808", "num_heads of the query", lambda c: heads(c) == c.num_heads),
    _ask(ALL, f"{TILING}1811", "num_heads of the keys", lambda c: c.key.shape[1] == c.num_heads),
    _ask(
        ALL, f"{TILING}1814", "num_heads of the values", lambda c: c.value.shape[1] == c.num_heads
    ),
    _ask(
        SMALL,
        f"{TILING}4288",
        "at most 65536 queries and keys",
        lambda c: max(rows(c), keys(c)) <= 65536,
    ),
    _ask(
        SMALL,
        f"{TILING}4291",
        "with atten_mask, as many queries as keys, and a multiple of 16 of them",
        lambda c: c.atten_mask is None or (rows(c) == keys(c) and rows(c) % 16 == 0),
    ),
    _ask(
        SMALL,
        f"{PAGE}510",
        "with atten_mask, a multiple of 128 queries and keys",
        lambda c: c.atten_mask is None or (rows(c) % 128 == 0 and keys(c) % 128 == 0),
    ),
    _ask(
        SMALL,
        f"{TILING}4294",
        "pre_tokens not below the queries, next_tokens 0 or not below the keys",
        lambda c: c.pre_tokens >= rows(c) and (c.next_tokens == 0 or c.next_tokens >= keys(c)),
    ),
    _ask(ALL, f"{TILING}4475", "one batch", lambda c: c.key.shape[0] == batch(c)),
    _ask(LARGE, f"{TILING}4478", "a batch of at most 65536", lambda c: batch(c) <= 65536),
    _ask(SMALL, f"{TILING}4486", "a batch of at most 128", lambda c: batch(c) <= 128),
    _ask(ALL, f"{TILING}1924", "one length for all rows, or one for each", lengths_suit),
    _ask(ALL, f"{TILING}1932", "lengths from 0 to the number of keys", lengths_within),
    _ask(
        ALL,
        f"{TILING}2492",
        "with sparse_mode 0 or 1, atten_mask of at least the queries and keys, for 1 or all rows",
        _mask_covers,
    ),
    _ask(
        ALL,
        f"{TILING}4537",
        "sparse_mode from 0 to 4",
        lambda c: c.sparse_mode in (0, 1, 2, 3, 4),
    ),
    _ask(
        ALL,
        f"{TILING}4586",
        "with sparse_mode other than 0, atten_mask",
        lambda c: c.sparse_mode == 0 or c.atten_mask is not None,
    ),
    _ask(
        ALL,
        f"{TILING}2497",
        "with sparse_mode 2, 3 or 4, atten_mask (2048, 2048) or with ones before that",
        _mask_is_compressed,
    ),
    _ask(
        LARGE,
        f"{TILING}4615",
        "pre_tokens and next_tokens not both negative",
        lambda c: c.pre_tokens >= 0 or c.next_tokens >= 0,
    ),
    _ask(
        LARGE,
        f"{TILING}4620",
        "next_tokens not before pre_tokens",
        lambda c: -c.next_tokens <= c.pre_tokens,
    ),
    _ask(
        LARGE,
        f"{TILING}4625",
        "with sparse_mode 0, next_tokens above minus the queries",
        lambda c: c.sparse_mode != 0 or c.next_tokens > -rows(c),
    ),
    _ask(ALL, f"{TILING}4759", "a head size of at most 512", lambda c: width(c) <= 512),
)
