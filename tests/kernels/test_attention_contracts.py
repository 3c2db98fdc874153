"""The transcribed conditions of the attention kernels: each refuses a call, and says its source.

Transcribed from the vendor's sources; shapes only, no number is computed and no NPU is asked.
"""

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.npu.condition import Condition, Refused, enforce
from tests.support.npu.contracts import ATTENTION
from tests.support.npu.rules import EVERY, on_chip

FUSED = "npu_fused_infer_attention_score"
PROMPT = "npu_prompt_flash_attention"
ONE = "npu_incre_flash_attention"
HALF = torch.float16
BRAIN = torch.bfloat16
BOOL = torch.bool

Call = dict[str, Any]


def meta(*shape: int, dtype: torch.dtype = HALF) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def call_of(
    rows: int, keys: int, batch: int = 2, heads: int = 4, width: int = 96, **more: Any
) -> Call:
    """A call in BNSD with a mask of all queries and keys."""
    return {
        "query": meta(batch, heads, rows, width),
        "key": meta(batch, heads, keys, width),
        "value": meta(batch, heads, keys, width),
        "num_heads": heads,
        "atten_mask": meta(batch, 1, rows, keys, dtype=BOOL),
        "lengths": None,
        "pre_tokens": EVERY,
        "next_tokens": EVERY,
        "sparse_mode": 0,
        "inner_precise": 0,
    } | more


COMPRESSED = {"sparse_mode": 3, "atten_mask": meta(2048, 2048, dtype=BOOL)}
GOOD: dict[str, tuple[str, tuple[str, ...], Call]] = {
    "several on A2": (FUSED, ("A2", "A3"), call_of(5, 64, lengths=[9])),
    "one on A2": (FUSED, ("A2", "A3"), call_of(1, 64, lengths=[9])),
    "several, causal": (FUSED, ("A2", "A3"), call_of(5, 64, lengths=[9], **COMPRESSED)),
    "one, no mask": (FUSED, ("A2", "A3"), call_of(1, 64, lengths=[9], atten_mask=None)),
    "prompt on A2": (PROMPT, ("A2", "A3"), call_of(5, 9, lengths=[9, 8])),
    "prompt on 310P": (PROMPT, ("310P",), call_of(128, 128, next_tokens=0)),
    "one on 310P": (ONE, ("A2", "310P"), call_of(1, 64, lengths=[9])),
    "one on 310P, no mask": (ONE, ("A2", "310P"), call_of(1, 64, atten_mask=None)),
}


def others(**changes: Any) -> Callable[[Call], Call]:
    """Arguments given otherwise; a function is given the value that is there."""
    return lambda call: (
        call | {name: to(call[name]) if callable(to) else to for name, to in changes.items()}
    )


def sizes(**changes: int) -> Callable[[Call], Call]:
    """The call in other sizes, with a mask that suits."""

    def change(call: Call) -> Call:
        batch, heads, rows, width = call["query"].shape
        was = {"batch": batch, "heads": heads, "rows": rows, "width": width}
        was |= {"keys": call["key"].shape[2]}
        new = call_of(**(was | changes))
        return (
            call
            | {name: new[name] for name in ("query", "key", "value", "num_heads")}
            | masked(call, new["atten_mask"])
        )

    return change


def masked(call: Call, mask: Tensor) -> Call:
    return {"atten_mask": None if call["atten_mask"] is None else mask}


def as_dtype(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor.to(dtype)


def mask_of(*shape: int, dtype: torch.dtype = BOOL) -> Callable[[Call], Call]:
    return others(atten_mask=meta(*shape, dtype=dtype))


def cut(x: Tensor) -> Tensor:
    return x[..., :80]


WRONG: dict[str, Callable[[Call], Call]] = {
    "query of 3 dimensions": others(query=lambda q: q[:, :, 0]),
    "keys of 3 dimensions": others(key=lambda k: k[:, :, 0]),
    "float32": others(**dict.fromkeys(("query", "key", "value"), as_dtype(torch.float32))),
    "bfloat16": others(**dict.fromkeys(("query", "key", "value"), as_dtype(BRAIN))),
    "keys of bfloat16": others(key=as_dtype(BRAIN), value=as_dtype(BRAIN)),
    "keys alone of bfloat16": others(key=as_dtype(BRAIN)),
    "query of bfloat16": others(query=as_dtype(BRAIN)),
    "mask of float32": mask_of(2, 1, 128, 128, dtype=torch.float32),
    "mask of float16": mask_of(2, 1, 128, 128, dtype=HALF),
    "mask of uint8": mask_of(2, 1, 128, 128, dtype=torch.uint8),
    "bfloat16 with a mask of float16": lambda call: WRONG["bfloat16"](
        WRONG["mask of float16"](call)
    ),
    "head size of the query": others(query=cut),
    "head size of the values": others(value=cut),
    "heads of the whole model": others(num_heads=8),
    "heads of the keys": others(key=lambda k: k[:, :2], value=lambda v: v[:, :2]),
    "heads of the values": others(value=lambda v: v[:, :2]),
    "300 heads": sizes(heads=300),
    "head size 40": sizes(width=40),
    "head size 528": sizes(width=528),
    "chunk on a cache": sizes(rows=128, keys=256),
    "39 tokens": sizes(rows=39, keys=39),
    "48 tokens": sizes(rows=48, keys=48),
    "65664 tokens": sizes(rows=65664, keys=65664),
    "65664 keys": sizes(keys=65664),
    "batch of the keys": others(key=lambda k: k[:1], value=lambda v: v[:1]),
    "shape of the values": others(value=lambda v: v[:, :, :-1]),
    "batch of 257": sizes(batch=257),
    "batch of 65537": sizes(batch=65537),
    "few pre_tokens": others(pre_tokens=64),
    "few next_tokens": others(next_tokens=64),
    "tokens before and after negative": others(pre_tokens=-1, next_tokens=-1),
    "next_tokens before pre_tokens": others(pre_tokens=2, next_tokens=-3),
    "next_tokens past the queries": others(next_tokens=-128),
    "two lengths for three rows": lambda call: sizes(batch=3)(call) | {"lengths": [5, 5]},
    "a negative length": others(lengths=[-1]),
    "a length past the cache": others(lengths=[129]),
    "mask of one row of the batch": mask_of(1, 1, 128, 128),
    "mask of 3 rows of the batch": mask_of(3, 1, 128, 128),
    "mask of few keys": mask_of(2, 1, 128, 7),
    "mask for each head": mask_of(2, 4, 128, 128),
    "sparse_mode 7": others(sparse_mode=7),
    "sparse_mode 3 with a full mask": others(sparse_mode=3),
    "sparse_mode 3 without a mask": others(sparse_mode=3, atten_mask=None),
    "inner_precise 2": others(inner_precise=2),
    "inner_precise 4": others(inner_precise=4),
}


def named(condition: Condition) -> str:
    place = condition.source.rpartition("/")[2]
    return f"{condition.operator}-{place}-{','.join(condition.families)}"


def breaks(condition: Condition, call: Call) -> bool:
    """Whether a call that can be asked for its sizes breaks the condition."""
    try:
        return not condition.holds(SimpleNamespace(**call))
    except IndexError:  # too few dimensions, which is another condition
        return False


@pytest.mark.parametrize("good", GOOD)
def test_a_good_call_meets_every_condition(good):
    operator, families, call = GOOD[good]
    for family in families:
        with on_chip(family):
            enforce(ATTENTION, operator, **call)


@pytest.mark.parametrize("condition", ATTENTION, ids=named)
def test_each_condition_refuses_a_wrong_call_on_each_of_its_families(condition):
    """A condition that nothing breaks would be dead data."""
    calls = [
        (wrong, call)
        for operator, families, call in GOOD.values()
        if operator == condition.operator and set(families) & set(condition.families)
        for wrong in WRONG.values()
    ]
    broken = [wrong(call) for wrong, call in calls if breaks(condition, wrong(call))]
    assert broken, f"no call breaks {condition}"
    for family in condition.families:
        with on_chip(family), pytest.raises(Refused):
            enforce(ATTENTION, condition.operator, **broken[0])


@pytest.mark.parametrize("wrong", WRONG)
def test_each_wrong_call_is_refused_somewhere(wrong):
    def refused(operator: str, family: str, call: Call) -> bool:
        try:
            with on_chip(family):
                enforce(ATTENTION, operator, **WRONG[wrong](call))
        except Refused:
            return True
        return False

    assert any(
        refused(operator, family, call)
        for operator, families, call in GOOD.values()
        for family in families
    )


def test_a_refusal_says_what_is_asked_where_and_what_was_found():
    with on_chip("310P"), pytest.raises(Refused) as refusal:
        enforce(ATTENTION, PROMPT, **WRONG["chunk on a cache"](GOOD["prompt on 310P"][2]))
    said = str(refusal.value)
    assert (
        "npu_prompt_flash_attention on 310P asks: with atten_mask, as many queries as keys" in said
    )
    assert (
        "c29bc106 attention/prompt_flash_attention/op_host/" in said and "tiling.cpp:4291" in said
    )
    assert "query float16 [2, 4, 128, 96], key float16 [2, 4, 256, 96]" in said


@pytest.mark.parametrize("condition", ATTENTION, ids=named)
def test_a_source_is_a_repository_a_commit_a_path_and_a_line(condition):
    form = r"[\w-]+/[\w-]+ [0-9a-f]{8} (\w+/)+\w+\.(cpp|md):\d+"
    assert re.fullmatch(form, condition.source)
