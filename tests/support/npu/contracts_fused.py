"""What the host code of FusedInferAttentionScore asks in layout BNSD, on A2 and A3.

Transcribed, not run. Two versions are read together, since the toolkit decides which one is met.
In c29bc106 one query a row is tiled as IncreFlashAttention and more as PromptFlashAttention
(fused_infer_attention_score_tiling.cpp:727); in 3a280bcc both have checks of their own. `lengths`
of a call is its actual_seq_lengths_kv.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from types import SimpleNamespace

from tests.support.npu.bnsd import batch, keys, rows, width
from tests.support.npu.condition import Condition
from tests.support.npu.contracts_incre import BYTES, INCRE
from tests.support.npu.contracts_prompt import COMPRESSED, PROMPT

OPERATOR = "npu_fused_infer_attention_score"
FAMILIES = ("A2", "A3")
OLD = (
    "hicann/ops-transformer c29bc106 "
    "attention/fused_infer_attention_score/op_host/fused_infer_attention_score_tiling.cpp:"
)
NEW = (
    "mirror-cann/ops-transformer 3a280bcc "
    "attention/fused_infer_attention_score/op_host/arch22/fused_infer_attention_score_tiling_check_"
)
INCRE_CHECK = (
    "hicann/ops-transformer c29bc106 "
    "attention/incre_flash_attention/op_host/incre_flash_attention_tiling_check.cpp:"
)


def one(call: SimpleNamespace) -> bool:
    """Whether each sequence has one query."""
    return rows(call) == 1


def several(call: SimpleNamespace) -> bool:
    """Whether each sequence has more than one query."""
    return rows(call) > 1


def _ask(source: str, asks: str, holds: Callable[[SimpleNamespace], bool]) -> Condition:
    return Condition(OPERATOR, FAMILIES, source, asks, holds)


def _routed(
    conditions: Iterable[Condition], when: Callable[[SimpleNamespace], bool]
) -> tuple[Condition, ...]:
    """The conditions of another operator on A2, where `when` sends the call to its code."""

    def taken_over(condition: Condition) -> Condition:
        return replace(
            condition,
            operator=OPERATOR,
            families=FAMILIES,
            holds=lambda call: not when(call) or condition.holds(call),
        )

    return tuple(taken_over(condition) for condition in conditions if "A2" in condition.families)


def _mask_compares(call: SimpleNamespace) -> bool:
    """Whether the mask has a layout of 3a280bcc: [rows or 1 of the batch, 1, queries, keys]."""
    if call.atten_mask is None:
        return True
    shape = tuple(call.atten_mask.shape)
    if len(shape) not in (2, 3, 4) or (len(shape) == 4 and shape[1] != 1):
        return False
    if call.sparse_mode in (2, 3, 4):
        return shape[-2:] == (COMPRESSED, COMPRESSED) and set(shape[:-2]) <= {1}
    if len(shape) == 2 and one(call):
        return shape[0] == batch(call) and shape[1] >= keys(call)
    covered = shape[-2] >= rows(call) and shape[-1] >= keys(call)
    return covered and (len(shape) == 2 or shape[0] in (1, batch(call)))


def _compressed_for_one(call: SimpleNamespace) -> bool:
    """Whether the mask of sparse mode 3 or 4 for one query a row is the compressed one."""
    if not one(call) or call.atten_mask is None or call.sparse_mode not in (3, 4):
        return True
    return tuple(call.atten_mask.shape) == (COMPRESSED, COMPRESSED)


FUSED = (
    _ask(f"{OLD}1211", "in BNSD, a query of 4 dimensions", lambda c: c.query.dim() == 4),
    _ask(f"{OLD}1272", "a head size of at most 512", lambda c: width(c) <= 512),
    _ask(
        f"{OLD}672",
        "with more than one query a row, a head size that is a multiple of 16",
        lambda c: one(c) or width(c) % 16 == 0,
    ),
    _ask(
        f"{OLD}385",
        "atten_mask of bool, int8 or uint8",
        lambda c: c.atten_mask is None or c.atten_mask.dtype in BYTES,
    ),
    _ask(
        f"{NEW}single_para.cpp:567",
        "inner_precise from 0 to 3",
        lambda c: c.inner_precise in (0, 1, 2, 3),
    ),
    _ask(
        f"{NEW}feature.cpp:236",
        "with sparse_mode other than 0, atten_mask",
        lambda c: c.sparse_mode == 0 or c.atten_mask is not None,
    ),
    _ask(
        f"{INCRE_CHECK}1448",
        "with one query a row and sparse_mode 3 or 4, atten_mask (2048, 2048)",
        _compressed_for_one,
    ),
    *_routed(INCRE, one),
    *_routed(PROMPT, several),
    _ask(
        f"{NEW}consistency.cpp:644",
        "atten_mask of at least the queries and keys, with 1 for the heads",
        _mask_compares,
    ),
)
