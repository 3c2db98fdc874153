"""The emulating kernels against the formulas by which the vendor's own tests judge the operators.

Second oracle: op-plugin 517f2e7d, test/test_custom_ops/<file>.py:<line>, read for their formulas
and written here in float64. The vendor runs them on devices; nothing here does.
"""

import math

import pytest
import torch
from torch import Tensor

from tests.support.npu import reference

reference.install()
npu = torch.ops.npu
HALF = torch.float16


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (values * scale).to(HALF)


def near(found: Tensor, golden: Tensor) -> bool:
    """As assertRtolEqual judges float16: 1e-3 of the value, or of the unit for small ones."""
    error = (found.double() - golden).abs()
    return bool((error <= 1e-3 * golden.abs().clamp(min=1)).all())


@pytest.mark.parametrize("family", ["A2", "A3"])
def test_rotary_mul_is_the_vendors_formula_emulated(family: str):
    """test_npu_rotary_mul.py:10: the halves swapped, the second negated."""
    x = normal(2, 4, 5, 96)
    angle = torch.arange(5.0)[:, None] / 7 ** torch.arange(48)
    cos, sin = (
        torch.cat((f(angle), f(angle)), -1).to(HALF)[None, None] for f in (torch.cos, torch.sin)
    )
    swap = torch.zeros(96, 96, dtype=torch.float64)
    swap[torch.arange(48) + 48, torch.arange(48)] = -1
    swap[torch.arange(48), torch.arange(48) + 48] = 1
    golden = cos.double() * x.double() + sin.double() * (x.double() @ swap)
    with reference.on_chip(family):
        assert near(npu.npu_rotary_mul(x, cos, sin), golden)


@pytest.mark.parametrize("family", ["A2", "A3", "310P"])
def test_add_layer_norm_is_the_vendors_formula_emulated(family: str):
    """test_npu_add_layer_norm.py:29-37: population variance, the sum given back."""
    x, partial = normal(6, 768), normal(6, 768, seed=1)
    gamma, beta = normal(768, seed=2), normal(768, seed=3)
    total = x.double() + partial.double()
    middle = total - total.mean(-1, keepdim=True)
    golden = middle / (middle.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    golden = golden * gamma.double() + beta.double()
    with reference.on_chip(family):
        normed, _, _, given_back = npu.npu_add_layer_norm(x, partial, gamma, beta, 1e-5, True)
    assert near(normed, golden) and near(given_back, total)


@pytest.mark.parametrize("family", ["A2", "310P"])
def test_a_product_with_int8_weights_is_the_vendors_formula_emulated(family: str):
    """test_npu_weight_quant_batchmatmul.py:13-17: x times (the weight times its scale)."""
    x = normal(3, 256)
    weight = torch.randint(-127, 128, (256, 64), generator=torch.Generator().manual_seed(1)).to(
        torch.int8
    )
    scale = normal(1, 64, seed=2, scale=1e-3).abs() + torch.tensor(1e-3, dtype=HALF)
    golden = x.double() @ (weight * scale).double()  # int8 times float16 is rounded to float16
    with reference.on_chip(family):
        found = npu.npu_weight_quant_batchmatmul(x, weight, scale)
    assert near(found, golden)


def test_attention_is_the_vendors_softmax_over_the_keys_in_use_emulated():
    """test_npu_fused_infer_attention_score.py:24 and :33: exp(x - max) over its sum, times v."""
    batch, heads, size, capacity, end = 2, 4, 64, 64, 41
    q = normal(batch, heads, 1, size)
    k, v = (normal(batch, heads, capacity, size, seed=n) for n in (1, 2))
    scores = torch.einsum("bhqd,bhkd->bhqk", q.double(), k[:, :, :end].double()) / math.sqrt(size)
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    golden = (weights / weights.sum(-1, keepdim=True)) @ v[:, :, :end].double()
    left_out = torch.zeros(batch, 1, 1, capacity, dtype=torch.bool)
    with reference.on_chip("A2"):
        found = npu.npu_fused_infer_attention_score(
            q,
            k,
            v,
            atten_mask=left_out,
            num_heads=heads,
            scale=size**-0.5,
            input_layout="BNSD",
            actual_seq_lengths_kv=[end],
        )[0]
    assert near(found, golden)
