"""The kinds of faults that are planted in the emulating operators of an NPU, and where each must
be found: data.
"""

import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from torch import Tensor

from neoxlib.model.gpt_neox import GPTNeoX
from tests.support.npu.path import Change, first, keywords, plant
from tests.support.npu.rules import EVERY
from tests.support.planted import Edited

HALVES = ("float16",)
BOTH = ("float16", "bfloat16")
ATTENTION = "npu_fused_infer_attention_score"
PROMPTS = "npu_prompt_flash_attention"
TOKENS = "npu_incre_flash_attention"
NORM = "npu_add_layer_norm"
PRODUCT = "npu_weight_quant_batchmatmul"


@dataclass(frozen=True)
class OperatorFault:
    """A kind, the operator that has it, and the step and pass that must be named."""

    kind: str
    operator: str
    change: Change
    step: str
    families: tuple[str, ...]
    layer: int = 0  # the first that the operator runs in
    pass_: int = 0
    dtypes: tuple[str, ...] = HALVES
    quant: str | None = None


def shorter(lengths: list[int] | None) -> list[int] | None:
    return lengths and [lengths[0] - 1]


def later(mask: Tensor) -> Tensor:
    """Each query sees the key after itself, in place of the first."""
    return mask.roll(1, -1)


def norm(**changes: Any) -> Change:
    """Arguments of the norm of a sum, by their names."""
    names = ("x1", "x2", "gamma", "beta", "epsilon", "additional_output")

    def change(*args: Any) -> tuple:
        given = dict(zip(names, args, strict=True))
        return tuple((given | {k: edit(given[k]) for k, edit in changes.items()}).values())

    return first(change)


def backwards(x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x, cos, -sin


FUSED = ("A2", "A3")
ALL = (*FUSED, "310P")
CONTEXT, QUERY, QKV = "attention.context", "attention.rotary.query", "attention.query_key_value"
GELU, IN = "mlp.activation", "input_layernorm"

FAULTS = (
    OperatorFault("scale left out", ATTENTION, keywords(scale=1.0), CONTEXT, FUSED, dtypes=BOTH),
    OperatorFault(
        "newest token hidden",
        ATTENTION,
        keywords(actual_seq_lengths_kv=shorter),
        CONTEXT,
        FUSED,
        dtypes=BOTH,
    ),
    OperatorFault("scale left out", PROMPTS, keywords(scale_value=1.0), CONTEXT, ("310P",)),
    OperatorFault(
        "mask off by one",
        PROMPTS,
        keywords(atten_mask=later, next_tokens=EVERY),
        CONTEXT,
        ("310P",),
    ),
    OperatorFault("scale left out", TOKENS, keywords(scale_value=1.0), CONTEXT, ("310P",), 0, 1),
    OperatorFault(
        "newest token hidden",
        TOKENS,
        keywords(actual_seq_lengths=shorter),
        CONTEXT,
        ("310P",),
        pass_=1,
    ),
    OperatorFault(
        "neighbours rotated",
        "npu_rotary_mul",
        keywords(rotary_mode="interleave"),
        QUERY,
        FUSED,
        dtypes=BOTH,
    ),
    OperatorFault(
        "rotated backwards", "npu_rotary_mul", first(backwards), QUERY, FUSED, dtypes=BOTH
    ),
    OperatorFault(
        "gelu kind",
        "npu_gelu",
        keywords(approximate="none"),
        GELU,
        ("A2", "310P"),
        dtypes=BOTH,
    ),
    OperatorFault("eps greater by one", NORM, norm(epsilon=lambda e: e + 1), IN, ALL, 1),
    OperatorFault(
        "gamma and beta swapped",
        NORM,
        first(lambda a, b, g, h, *c: (a, b, h, g, *c)),
        IN,
        ALL,
        1,
        dtypes=BOTH,
    ),
    OperatorFault(
        "scale of the next row",
        PRODUCT,
        keywords(antiquant_scale=lambda scale: scale.roll(1, -1)),
        QKV,
        ALL,
        quant="int8",
    ),
)


def only_in(layer: int, layers: int, change: Change) -> Change:
    """A change of one layer's call alone, of an operator that each layer calls once a pass."""
    calls: Counter = Counter()

    def counted(args: tuple, given: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        rank = threading.get_ident()
        calls[rank] += 1
        return change(args, given) if (calls[rank] - 1) % layers == layer else (args, given)

    return counted


def break_operator(monkeypatch: pytest.MonkeyPatch, fault: OperatorFault) -> None:
    """Let the operator have the fault wherever it is called."""
    plant(monkeypatch, fault.operator, fault.change)


def sum_left_out(layer: int, layers: int) -> Any:
    """One layer's sum over the ranks is not made."""

    def plant_it(model: GPTNeoX) -> None:
        group = model.executor.group
        calls = Counter()

        def all_reduce(x: Tensor) -> Tensor:
            calls["made"] += 1
            return x if (calls["made"] - 1) % layers == layer else group.all_reduce(x)

        model.executor.group = Edited(group, all_reduce=all_reduce)

    return plant_it
