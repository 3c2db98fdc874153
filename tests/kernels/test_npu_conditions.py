"""What the host code of the NPU's operators refuses, transcribed, is refused by the emulation."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.support.npu import (
    conditions_products,
    conditions_vectors,
    conditions_writes,
    products,
    reference,
)
from tests.support.npu.condition import Condition
from tests.support.npu.refused_calls import BRAIN, BROKEN, HALF, called, copied, half, npu

FILES = (conditions_vectors, conditions_products, conditions_writes)
CONDITIONS = [condition for file in FILES for condition in file.CONDITIONS]


def refusal(operator: str, family: str, changes: dict[str, Any]) -> Condition:
    with pytest.raises(reference.Refused) as refused:
        called(operator, family, **changes)
    condition = refused.value.condition
    assert condition.source in str(refused.value) and family in condition.families
    return condition


def test_each_condition_refuses_a_call_that_breaks_it_and_no_other_emulated():
    found = [refusal(*broken) for broken in BROKEN]
    assert [c for c in CONDITIONS if c not in found] == [] and len(found) == len(CONDITIONS)


@pytest.mark.parametrize(
    "operator, families",
    [
        ("npu_rotary_mul", ("A2", "A3", "310P")),
        ("npu_gelu", ("A2", "310P", "910A")),
        ("npu_add_layer_norm", ("A2", "A3", "310P")),
        ("npu_weight_quant_batchmatmul", ("A2", "A3", "310P")),
        ("npu_format_cast", ("310P",)),
        ("mm", ("A2", "A3", "310P")),
        ("addmm", ("A2", "A3", "310P")),
        ("npu_scatter_nd_update_", ("A2", "A3")),
        ("scatter_update_", ("A2", "A3", "910A")),
        ("index_copy_", ("A2", "A3")),
    ],
)
def test_a_call_that_fits_is_taken_emulated(operator: str, families: tuple[str, ...]):
    for family in families:
        called(operator, family)


@pytest.mark.parametrize("kinds", [(HALF, HALF), (torch.float32, HALF), (BRAIN, torch.float32)])
def test_the_sum_and_its_norm_are_those_of_two_operators_emulated(kinds: tuple[torch.dtype, ...]):
    generator = torch.Generator().manual_seed(0)
    x1, x2 = (torch.randn(3, 5, 96, generator=generator).to(kind) for kind in kinds)
    gamma, beta = torch.randn(2, 96, generator=generator)
    with reference.on_chip("A2"):
        y, mean, scale, whole = npu.npu_add_layer_norm(x1, x2, gamma, beta, 1e-3, True)
        *_, unwritten = npu.npu_add_layer_norm(x1, x2, gamma, beta, 1e-3)
    exact = x1.double() + x2.double()
    expected = F.layer_norm(exact, [96], gamma.double(), beta.double(), 1e-3)
    rounding = torch.finfo(y.dtype).eps * 8
    torch.testing.assert_close(y.double(), expected, rtol=rounding, atol=rounding)
    torch.testing.assert_close(whole.double(), exact, rtol=rounding, atol=rounding)
    assert y.dtype == whole.dtype == (HALF if kinds == (HALF, HALF) else torch.float32)
    assert mean.shape == scale.shape == (3, 5, 1) and unwritten.isnan().all()


def test_three_ways_to_write_one_slot_write_the_same_emulated():
    """A row of a cache [B, heads, slots, D], at a slot that a device tensor names."""
    new = torch.arange(3 * 2 * 5, dtype=HALF).view(3, 2, 1, 5)
    expected = torch.zeros(3, 2, 6, 5, dtype=HALF)
    expected[:, :, 4:5] = new
    with reference.on_chip("A2"):
        by_axis = npu.scatter_update_(torch.zeros_like(expected), torch.full((3,), 4), new, axis=-2)
        places = torch.cartesian_prod(torch.arange(3), torch.arange(2), torch.tensor([4]))
        by_place = npu.npu_scatter_nd_update_(torch.zeros_like(expected), places, new.flatten(0, 2))
        by_copy = copied(torch.zeros_like(expected), 2, torch.tensor([4]), new)
    for written in (by_axis, by_place, by_copy):
        assert torch.equal(written, expected)


def test_what_an_addmm_on_a_weight_in_nz_loses_is_noted_on_a_310p_emulated():
    reference.slow.clear()
    for operator, family in (("mm", "310P"), ("addmm", "A2"), ("addmm", "310P")):
        called(operator, family)
    assert [condition.operator for condition in reference.slow] == ["addmm"]
    assert not products.is_nz(half(8, 4))


def test_every_layout_that_the_model_asks_of_the_rotation_is_known():
    """Heads 1, 8 and 64; one row and more; prompts, chunks and single tokens."""
    for heads in (1, 8, 64):
        for batch in (1, 2, 999):
            for rows in (1, 2, 2048):
                x = torch.Size((batch, heads, rows, 96))
                table = torch.Size((batch, 1, rows, 96))
                assert conditions_vectors.rotary_layout(x, table) not in (None, "BNSD")
