"""The vendor's thresholds. Oracle: answers whose errors and shares follow by construction."""

import pytest
import torch

from neoxlib.setup.thresholds import THRESHOLDS, judge

TRUTH = torch.linspace(-4, 4, 10_001)
BOUNDS = {"float16": 2**-8, "bfloat16": 2**-7, "float32": 2**-11}


def off(at: float, by: float) -> torch.Tensor:
    """TRUTH with an error in the value nearest to `at`."""
    found = TRUTH.double()
    found[(found - at).abs().argmin()] += by
    return found


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("at", [-3.0, -0.5, 0.0, 0.25, 2.0])
def test_one_value_decides_by_its_relative_error_above_1_and_its_absolute_one_below(dtype, at):
    limit = BOUNDS[dtype] * max(1, abs(at))
    assert judge(off(at, 0.99 * limit), TRUTH, dtype).passed
    verdict = judge(off(at, 1.01 * limit), TRUTH, dtype)
    assert not verdict.passed and verdict.value > verdict.limit == BOUNDS[dtype]


@pytest.mark.parametrize(
    ("dtype", "share", "warns"),
    [("float16", 0.0011, "0.10%"), ("float16", 0.0008, ""), ("bfloat16", 0.5, "0.10%")],
)
def test_a_share_of_values_that_are_off_warns(dtype, share, warns):
    truth = torch.linspace(1, 2, 10_000)
    found = truth.clone()
    found[: round(share * len(found))] *= 1.003
    verdict = judge(found, truth, dtype)
    assert verdict.passed and bool(verdict.warning) == bool(warns) and warns in verdict.warning


def test_a_small_largest_error_excuses_its_share_of_the_values():
    tiny = torch.linspace(1, 2, 1000) * 1e-5
    verdict = judge(tiny * 1.05, tiny, "float16")
    assert verdict.passed and not verdict.warning and verdict.figures["above_0.01"] == 1


def test_small_values_that_are_off_are_counted():
    small = torch.full((100,), 2.0**-12)
    found = small.clone()
    found[:25] += 2.0**-15
    assert judge(found, small, "float16").figures["small_values_wrong"] == 0.25


def test_another_direction_is_an_error_however_small():
    verdict = judge(-1e-5 * TRUTH, 1e-5 * TRUTH, "float16")
    assert not verdict.passed and verdict.unit == "1 - cosine"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_an_error(value):
    found = TRUTH.clone()
    found[7] = value
    assert not judge(found, TRUTH, "float16").passed


@pytest.mark.parametrize("dtype", THRESHOLDS)
def test_a_right_answer_rounded_to_its_dtype_passes(dtype):
    truth = torch.randn(10_000, generator=torch.Generator().manual_seed(0)) * 30
    assert judge(truth.to(getattr(torch, dtype)), truth, dtype).passed
