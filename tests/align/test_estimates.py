"""The reference's operators are torch's in float64; their spreads are real roundings' size."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from neoxlib.align import estimates
from neoxlib.align.estimates import Estimate, numerics, observed
from neoxlib.kernels import plain
from neoxlib.model.layers import rotary_tables

HOW = numerics("bfloat16", None, False)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).double()


def expected(name: str) -> tuple[Tensor, Estimate, Tensor]:
    """Torch's float64 value, ours, and torch's in bfloat16, of one operator on the same input."""
    x, w, b = draw(2, 5, 64).bfloat16(), draw(96, 64).bfloat16(), draw(96).bfloat16()
    args = [t.double() for t in (x, w, b)]
    if name == "linear":
        return (
            F.linear(*args),
            estimates.linear(observed(x), args[1], args[2], HOW),
            F.linear(x, w, b),
        )
    if name == "layer norm":
        shape, one, two = (64,), args[1][0], args[1][1]
        low = F.layer_norm(x, shape, w[0], w[1], 1e-5)
        truth = F.layer_norm(args[0], shape, one, two, 1e-5)
        return truth, estimates.layer_norm(observed(x), one, two, 1e-5, HOW), low
    if name == "attention":
        q, k, v = (draw(2, n, 4, 16).bfloat16() for n in (5, 9, 9))
        seen = torch.ones(2, 5, 9).tril(4).bool()
        heads = [t.transpose(1, 2) for t in (q, k, v)]
        truth, low = (
            F.scaled_dot_product_attention(*ts, attn_mask=seen[:, None]).transpose(1, 2).flatten(2)
            for ts in ([t.double() for t in heads], heads)
        )
        return truth, estimates.attention(*map(observed, (q, k, v)), seen, HOW), low
    form = name
    return (
        plain.activate(args[0], form),
        estimates.activation(observed(x), form, HOW),
        (plain.activate(x, form)),
    )


@pytest.mark.parametrize("name", ["linear", "layer norm", "attention", "gelu", "tanh", "relu"])
def test_an_operator_is_torchs_and_its_spread_a_real_rounding(name: str):
    truth, ours, low = expected(name)
    torch.testing.assert_close(ours.value, truth, rtol=1e-9, atol=1e-9)
    units = (low.double() - truth).abs() / ours.spread.clamp(min=1e-300)
    assert units.max() < 3 and (name == "relu" or units.max() > 0.2)


@pytest.mark.parametrize("dim", [6, 7, 16, 0])
def test_a_rotation_is_that_of_the_models_operator(dim: int):
    x = draw(2, 5, 4, 16)
    positions = torch.tensor([[0, 1, 2, 3, 4], [0, 0, 0, 1, 2]])
    ours = estimates.rotary(observed(x), positions, dim, 500.0, HOW)
    cos, sin = (t[positions][:, None].double() for t in rotary_tables(8, dim, 500.0))
    truth = plain.rotate(x.transpose(1, 2), cos, sin).transpose(1, 2)
    torch.testing.assert_close(ours.value, truth, rtol=1e-5, atol=1e-5)


def test_what_is_computed_brings_its_spread_along():
    x = observed(draw(2, 5, 64))
    first = estimates.linear(x, draw(64, 64), None, HOW)
    once = estimates.linear(observed(first.value), draw(96, 64), None, HOW)
    twice = estimates.linear(first, draw(96, 64), None, HOW)
    assert torch.equal(once.value, twice.value) and (twice.spread > once.spread).all()
