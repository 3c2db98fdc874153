"""Mistakes planted in the emulated NPU path.

The contracts of the operators' pages must refuse each, or it must show in the numbers.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from neoxlib.kernels import npu
from neoxlib.kernels.npu import OPS
from neoxlib.model import on_npu
from neoxlib.model.cache import KVCache
from neoxlib.model.npu_steps import Decoding, NpuSteps
from tests.support.npu import reference as reference
from tests.support.npu.path import BRAIN, HALF, LEFT_OUT, ROOM, Change, first, gap, keywords, plant

FUSED = "npu_fused_infer_attention_score"
PROMPT = "npu_prompt_flash_attention"
ONE = "npu_incre_flash_attention"
ROTARY = "npu_rotary_mul"
PRODUCT = "npu_weight_quant_batchmatmul"
MISTAKES: dict[
    str, tuple[str, str, str | None, Change]
] = {  # chip, operator, quant, what is done to its call
    "no scale": ("A2", FUSED, None, keywords(scale=LEFT_OUT)),
    "mask not inverted": ("A2", FUSED, None, keywords(atten_mask=lambda mask: ~mask)),
    "no mask": ("A2", FUSED, None, keywords(atten_mask=LEFT_OUT)),
    "mask of floats": ("A2", FUSED, None, keywords(atten_mask=lambda mask: mask.half())),
    "mask of the keys in use": (
        "A2",
        FUSED,
        None,
        keywords(atten_mask=lambda mask: mask[..., :9].contiguous()),
    ),
    "unused slots in sight": (
        "A2",
        FUSED,
        None,
        keywords(atten_mask=lambda mask: torch.zeros_like(mask), actual_seq_lengths_kv=LEFT_OUT),
    ),
    "one key too few": (
        "A2",
        FUSED,
        None,
        keywords(actual_seq_lengths_kv=lambda lengths: [lengths[0] - 1]),
    ),
    "lengths past the cache": ("A2", FUSED, None, keywords(actual_seq_lengths_kv=[ROOM + 1])),
    "heads of the whole model": ("A2", FUSED, None, keywords(num_heads=8)),
    "layout of another form": ("A2", FUSED, None, keywords(input_layout="BSND")),
    "misspelt keyword": ("A2", FUSED, None, keywords(num_heads=LEFT_OUT, head_num=4)),
    "q not contiguous": ("A2", FUSED, None, first(lambda q, k, v: (q.mT.contiguous().mT, k, v))),
    "k cut from the cache": (
        "A2",
        FUSED,
        None,
        first(lambda q, k, v: (q, k[:, :, :16], v[:, :, :16])),
    ),
    "k and v exchanged": ("A2", FUSED, None, first(lambda q, k, v: (q, v, k))),
    "mask left out of a prompt": ("310P", PROMPT, None, keywords(atten_mask=LEFT_OUT)),
    "mask of int8 on 310P": ("310P", PROMPT, None, keywords(atten_mask=lambda mask: mask.char())),
    "mask of the prompt alone": (
        "310P",
        PROMPT,
        None,
        keywords(atten_mask=lambda mask: mask[..., :6, :6].contiguous()),
    ),
    "some next_tokens": ("310P", PROMPT, None, keywords(next_tokens=5)),
    "prompt not padded": (
        "310P",
        PROMPT,
        None,
        first(lambda *all: tuple(x[:, :, :6].contiguous() for x in all)),
    ),
    "stale slots as padding": (
        "310P",
        PROMPT,
        None,
        first(lambda q, k, v: (q, k, F.pad(v[:, :, :6], (0, 0, 0, 122), value=torch.nan))),
    ),
    "one mask for all rows of decoding": (
        "310P",
        ONE,
        None,
        keywords(atten_mask=lambda mask: mask[:1].contiguous()),
    ),
    "lengths on 310P": ("310P", PROMPT, None, keywords(actual_seq_lengths_kv=[9])),
    "scale taken twice": ("310P", PROMPT, None, keywords(scale_value=96**-0.5)),
    "mask left out of decoding": ("310P", ONE, None, keywords(atten_mask=LEFT_OUT)),
    "lengths left out of decoding": (
        "310P",
        ONE,
        None,
        keywords(actual_seq_lengths=LEFT_OUT, atten_mask=lambda mask: torch.zeros_like(mask)),
    ),
    "interleaved rotation": ("A2", ROTARY, None, keywords(rotary_mode="interleave")),
    "cos and sin exchanged": ("A2", ROTARY, None, first(lambda x, cos, sin: (x, sin, cos))),
    "rotation of 24 in float16": (
        "A2",
        ROTARY,
        None,
        first(lambda *all: tuple(t[..., :24] for t in all)),
    ),
    "scales in float32": (
        "A2",
        PRODUCT,
        "int8",
        keywords(antiquant_scale=lambda scale: scale.float()),
    ),
    "weight not transposed": ("A2", PRODUCT, "int8", keywords(weight=lambda weight: weight.t())),
    "groups not told": ("A2", PRODUCT, "int4", keywords(antiquant_group_size=LEFT_OUT)),
    "groups of the wrong size": ("A2", PRODUCT, "int4", keywords(antiquant_group_size=64)),
    "nibbles the other way": (
        "A2",
        PRODUCT,
        "int4",
        keywords(weight=lambda weight: turned_words(weight)),
    ),
    "int4 on 310P": ("310P", PRODUCT, "int4", keywords()),
    "bias left out": ("A2", PRODUCT, "int8", keywords(bias=None)),
    "bias in float32": (
        "A2",
        PRODUCT,
        "int8",
        keywords(bias=lambda bias: None if bias is None else bias.float()),
    ),
    "x of three dimensions": ("A2", PRODUCT, "int8", first(lambda x: (x[None],))),
}


def turned_words(weight: Tensor) -> Tensor:
    """Each word's four bytes in the other order."""
    turned = weight.view(torch.uint8).unflatten(-1, (-1, 4)).flip(-1).flatten(-2)
    return turned.contiguous().view(torch.int32)


def found_out(
    family: str, dtype: torch.dtype = HALF, quant: str | None = None, size: int = 1
) -> bool:
    """Whether the path is refused, or is far from plain."""
    try:
        return not gap(family, dtype, quant, size, padded=True) < 1.3
    except (reference.Contract, RuntimeError, AssertionError):
        return True


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_in_a_call_is_found_emulated(mistake, monkeypatch):
    family, operator, quant, change = MISTAKES[mistake]
    if mistake == "int4 on 310P":
        monkeypatch.setitem(OPS, family, replace(OPS[family], packed=("int8", "int4")))
    assert not found_out(family, quant=quant) or mistake == "int4 on 310P"
    plant(monkeypatch, operator, change)
    assert found_out(family, quant=quant)


def no_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_npu, "_reorder", lambda *_: None)


def no_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_npu, "halves", lambda rows, rotary: rows)


def order_of_v_too(monkeypatch: pytest.MonkeyPatch) -> None:
    right = on_npu._reorder

    def reorder(layer: Any, heads: int, rotary: int) -> None:
        for tensor in layer.parameters(recurse=False):
            rows = tensor.data.unflatten(0, (heads, 3, -1))
            rows[:, 2:] = on_npu.halves(rows[:, 2:], rotary)
        right(layer, heads, rotary)

    monkeypatch.setattr(on_npu, "_reorder", reorder)


def v_turned_too(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = NpuSteps._parts
    order = torch.tensor([0, 0, 0, 3, 3, 3])
    monkeypatch.setattr(NpuSteps, "_parts", lambda self, cache: parts(self, cache)[order])


def sum_not_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, "npu_add_layer_norm", first(lambda *given: given[:-1]))


def slots_of_the_next_token(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = NpuSteps._begin

    def one_off(self: NpuSteps, cache: KVCache) -> Decoding:
        found = begin(self, cache)
        return replace(found, offsets=found.offsets + 1)

    monkeypatch.setattr(NpuSteps, "_begin", one_off)


def padding_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = NpuSteps._begin

    def begin_without_padding(self: NpuSteps, cache: KVCache) -> Decoding:
        cache.real.fill_(True)
        return begin(self, cache)

    monkeypatch.setattr(NpuSteps, "_begin", begin_without_padding)


def blind_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = npu.NpuOps.mask
    monkeypatch.setattr(
        npu.NpuOps, "mask", lambda ops, keep, *rest: mask(ops, keep & ~own(keep), *rest)
    )


def own(keep: Tensor) -> Tensor:
    """Each row's own column, where nothing else is seen."""
    return (keep.sum(-1, keepdim=True) == 1) & keep


def blind_square(monkeypatch: pytest.MonkeyPatch) -> None:
    square = npu._padded_square

    def blind(left_out: Tensor) -> Tensor:
        found = square(left_out)
        found[..., left_out.shape[-1] :, :] = True
        return found

    monkeypatch.setattr(npu, "_padded_square", blind)


def chunk_as_a_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        npu.NpuOps,
        "_attend",
        lambda ops, batch, rows, end: ops.operators.one if rows == 1 else ops.operators.several,
    )


def blocks_of_16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npu, "BLOCK", 16)


def fast_gelu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npu.NpuOps, "activate", lambda ops, x, form: torch.ops.npu.fast_gelu(x))


def fused_on_310p(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPS, "310P", OPS["A2"])


def bias_in_each_rows_product(monkeypatch: pytest.MonkeyPatch) -> None:
    biases = on_npu._row_biases
    monkeypatch.setattr(on_npu, "_row_biases", lambda block, rank, dtype: biases(block, 0, dtype))


def bias_of_one_branch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        on_npu, "_row_biases", lambda block, rank, dtype: (block.mlp.dense_4h_to_h.bias, None)
    )


def angles_not_widened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npu.NpuOps, "angles", lambda ops, cos, sin, head_dim: (cos, sin))


ELSEWHERE: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str, str | None, int]] = {
    "rows not reordered": (no_order, "A2", None, 1),
    "rows not in halves": (no_halves, "A2", None, 1),
    "rows not in halves, by PyTorch's own": (no_halves, "310P", None, 1),
    "v rotated, too": (v_turned_too, "A2", None, 1),
    "the sum of a norm not given back": (sum_not_given_back, "A2", None, 1),
    "positions of the next token": (slots_of_the_next_token, "A2", None, 1),
    "padding counted in decode": (padding_counted, "A2", None, 1),
    "the bias of one branch alone": (bias_of_one_branch, "A2", None, 1),
    "rows of v reordered": (order_of_v_too, "A2", None, 1),
    "angles not widened": (angles_not_widened, "A2", None, 1),
    "padding that sees nothing": (blind_padding, "A2", None, 1),
    "rows of a prompt's padding that see nothing": (blind_square, "310P", None, 1),
    "a chunk on a cache as a prompt": (chunk_as_a_prompt, "310P", None, 1),
    "prompts in blocks of 16": (blocks_of_16, "310P", None, 1),
    "fast_gelu": (fast_gelu, "A2", None, 1),
    "A2's operators on 310P": (fused_on_310p, "310P", None, 1),
    "row bias added by every rank's product": (bias_in_each_rows_product, "A2", "int8", 2),
}


@pytest.mark.parametrize("mistake", ELSEWHERE)
def test_a_planted_mistake_elsewhere_is_found_emulated(mistake, monkeypatch):
    plant_it, family, quant, size = ELSEWHERE[mistake]
    assert not found_out(family, quant=quant, size=size)
    plant_it(monkeypatch)
    assert found_out(family, quant=quant, size=size)


def test_a_bias_in_bfloat16_is_refused_emulated(monkeypatch):
    plant(
        monkeypatch, PRODUCT, keywords(bias=lambda bias: None if bias is None else bias.bfloat16())
    )
    assert found_out("A2", BRAIN, "int8")


def test_bfloat16_on_310p_is_refused_emulated():
    assert found_out("310P", BRAIN)
