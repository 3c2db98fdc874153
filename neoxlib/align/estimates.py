"""What each operator should give, in float64, and how much one rounding can change it.

Written apart from the model, from the paper's formulas (arXiv 2204.06745). Beside each value
stands its spread: the size of one rounding error of the dtype at that place, with those of the
sums in float32 and, where an input was itself computed here and not observed, the spread that it
brings along. An error is judged in units of its spread.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

SUM = 2.0**-24  # one rounding of float32, in which all sums are taken
ROWS = 4096  # of a weight at a time
ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


class Estimate(NamedTuple):
    """A tensor as it should be, and its spread, both float64."""

    value: Tensor
    spread: Tensor


@dataclass(frozen=True)
class Numerics:
    """How a way of running rounds."""

    out: float  # one rounding of what a step gives
    cache: float  # of what the cache holds
    inner: float = 0.0  # of a product's inputs, relative to each
    row: float = 0.0  # of a product's inputs, relative to the greatest of a row
    floor: float = 0.0  # the least rounding, of numbers next to zero
    scores: float = 0.0  # of the attention's scores, of several queries at once
    # As model/npu_taps.py has it: biases in rank 0's products, and norms of sums not yet rounded.
    fused: bool = False

    @property
    def exact(self) -> bool:
        """Whether nothing rounds, so that no spread is asked for."""
        return self.out == 0


def numerics(dtype: str, quant: str | None, compiled: bool) -> Numerics:
    """The roundings of plain layers, or of the compiled kernels (see model/on_cpu.py).

    Those of an NPU's operators are `on_an_npu` of the first.

    The kernels keep float32 between the steps; a bfloat16 model's products may round their inputs
    to bfloat16, those with packed weights to 8 bits of the row's greatest.
    """
    unit = ROUNDING[dtype]
    floor = unit * torch.finfo(getattr(torch, dtype)).tiny
    if not compiled:
        return Numerics(unit, unit, inner=unit if quant else 0.0, floor=floor)
    half = dtype == "bfloat16" or quant
    return Numerics(
        SUM,
        unit,
        inner=ROUNDING["bfloat16"] if half else 0.0,
        row=2.0**-8 if quant else 0.0,
        floor=floor,
    )


def on_an_npu(plain: Numerics, family: str) -> Numerics:
    """The roundings of a chip family's operators, which give the model's dtype as plain layers do.

    Inside they hold float32: rotation (ops-transformer c29bc106, posembedding/
    rotary_position_embedding/op_kernel/rotate_half_bf16.h:140), single queries (attention/
    incre_flash_attention/op_kernel/incre_flash_attention_allvec_new.h:79), norm of a sum (ops-nn
    e5c3fa93, norm/add_layer_norm/op_kernel/add_layer_norm_kernel.h:299). On a 310P the scores of
    prompts are float16 (attention/prompt_flash_attention/op_kernel/
    prompt_flash_attention_s1s2_bns1_x310_base.h:57).
    """
    return replace(plain, fused=True, scores=plain.out if family == "310P" else 0.0)


def exactly(value: Tensor) -> Estimate:
    """A value without spread."""
    return Estimate(value, torch.zeros_like(value))


def observed(value: Tensor) -> Estimate:
    """What was seen: it has no spread."""
    return exactly(value.double())


def _together(*spreads: Tensor) -> Tensor:
    """Independent errors add up by their squares."""
    return sum(spread.square() for spread in spreads).sqrt()


def layer_norm(x: Estimate, weight: Tensor, bias: Tensor, eps: float, how: Numerics) -> Estimate:
    """Over the last dimension of x [..., hidden]."""
    centred = x.value - x.value.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + eps).rsqrt()
    turned = centred * scale * weight
    y = turned + bias
    largest = x.value.abs().amax(-1, keepdim=True)
    sums = SUM * (largest * scale * weight.abs() + turned.abs() + bias.abs())
    # What an error of x does by itself, through the mean, and through the deviation.
    mean = x.spread.square().mean(-1, keepdim=True).sqrt() / x.value.shape[-1] ** 0.5
    deviation = (centred * x.spread).square().mean(-1, keepdim=True).sqrt() * scale.square()
    deviation = deviation * centred / x.value.shape[-1] ** 0.5
    carried = _together(x.spread, mean, deviation) * (scale * weight).abs()
    return Estimate(y, carried + how.out * y.abs() + sums + how.floor)


def _through(spread: Tensor, squares: Tensor) -> Tensor:
    """What independent errors of a product's inputs are in its outputs."""
    if not spread.any():
        return spread.new_zeros(*spread.shape[:-1], squares.shape[-1])
    return (spread.square() @ squares).sqrt()


def linear(x: Estimate, weight: Tensor, bias: Tensor | None, how: Numerics) -> Estimate:
    """y = x Wᵀ + b; weight [out, in].

    By ROWS of the weight, whose squares would else be as large as GPT-NeoX-20B's head again.
    """
    if how.exact:
        y = x.value @ weight.T
        return exactly(y if bias is None else y + bias)
    biases = [None] * len(weight) if bias is None else bias.split(ROWS)
    pairs = zip(weight.split(ROWS), biases, strict=False)
    parts = [_rows_of_linear(x, rows, mine, how) for rows, mine in pairs]
    return Estimate(*(torch.cat(each, dim=-1) for each in zip(*parts, strict=True)))


def _rows_of_linear(x: Estimate, weight: Tensor, bias: Tensor | None, how: Numerics) -> Estimate:
    squares = weight.square().T
    y = x.value @ weight.T
    sums = SUM * (x.value.abs() @ weight.abs().T)
    inner = _through(how.inner * x.value, squares)
    row = how.row * x.value.abs().amax(-1, keepdim=True) * squares.sum(0).sqrt()
    carried = _through(x.spread, squares)
    total = y if bias is None else y + bias
    rounded = how.out * (total.abs() + (0 if bias is None else bias.abs()))
    return Estimate(total, _together(carried, inner, row) + rounded + sums + how.floor)


def rotary(x: Estimate, positions: Tensor, dim: int, base: float, how: Numerics) -> Estimate:
    """Rotate pairs (i, i + half) of each head by position * base^(-2i/dim).

    x [B, T, heads, head_dim]; positions [B, T].
    """
    half = (dim + 1) // 2
    rates = base ** (-2.0 * torch.arange(half, dtype=torch.float64) / max(dim, 1))
    angles = positions[..., None, None].double() * rates  # [B, T, 1, half]
    cos, sin = angles.cos(), angles.sin()
    first, second = x.value[..., :half], x.value[..., half : 2 * half]
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    both = first.abs() + second.abs()
    # The angle itself is a float32 product.
    own = both * (how.out + SUM * (2 + 2 * positions[..., None, None]))
    s1, s2 = x.spread[..., :half], x.spread[..., half : 2 * half]
    carried = torch.cat((_together(s1 * cos, s2 * sin), _together(s2 * cos, s1 * sin)), dim=-1)
    spread = carried + torch.cat((own, own), dim=-1) + how.floor
    still = slice(2 * half, None)
    return Estimate(
        torch.cat((turned, x.value[..., still]), dim=-1),
        torch.cat((spread, x.spread[..., still]), dim=-1),
    )


def attention(q: Estimate, k: Estimate, v: Estimate, seen: Tensor, how: Numerics) -> Estimate:
    """Softmax attention: q [B, S, heads, D], k and v [B, end, heads, D], seen [B, S, end].

    Returns [B, S, heads * D].
    """
    q, k, v = (Estimate(*(t.transpose(1, 2) for t in each)) for each in (q, k, v))
    scale = q.value.shape[-1] ** -0.5
    hidden = ~seen[:, None]
    scores = q.value @ k.value.mT * scale
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    y = weights @ v.value
    if how.exact:
        return exactly(y.transpose(1, 2).flatten(2))
    size = (q.value.abs() @ k.value.abs().mT * scale).masked_fill(hidden, 0)
    scored = (q.spread.square() @ k.value.square().mT + q.value.square() @ k.spread.square().mT) * (
        scale * scale
    )
    if scores.shape[2] > 1:
        scored = scored + (how.scores * scores).square()
    squares = weights.square()
    moved = squares * scored.masked_fill(hidden, 0)
    carried = (
        moved @ v.value.square()
        + y.square() * moved.sum(-1, keepdim=True)
        + squares @ v.spread.square()
    ).sqrt()
    plain = weights @ v.value.abs()
    sums = SUM * ((weights * (2 + size)) @ v.value.abs() + plain * (2 + size.amax(-1, True)))
    spread = carried + how.out * (plain + y.abs()) + sums + how.floor
    return Estimate(*(t.transpose(1, 2).flatten(2) for t in (y, spread)))


def activation(x: Estimate, form: str, how: Numerics) -> Estimate:
    """`gelu` (erf), `tanh` (its approximation) or `relu`."""
    v = x.value
    if form == "relu":
        return Estimate(v.clamp(min=0), x.spread)
    if form == "tanh":
        y = 0.5 * v * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (v + 0.044715 * v**3)))
    else:
        y = 0.5 * v * (1 + torch.erf(v / 2**0.5))
    # The slope of both is 1.13 at most.
    return Estimate(y, 1.13 * x.spread + how.out * y.abs() + 4 * SUM * v.abs() + how.floor)


def total(terms: list[Estimate], rounding: float, floor: float = 0.0) -> Estimate:
    """The sum of tensors of one shape, rounded by `rounding` of each of its terms."""
    y = sum(term.value for term in terms)
    size = sum(term.value.abs() for term in terms)
    many = rounding * size + floor if len(terms) > 1 else 0.0 * size
    return Estimate(y, _together(*(term.spread for term in terms)) + many)


def copied(x: Estimate, rounding: float, floor: float = 0.0) -> Estimate:
    """The same numbers in another dtype."""
    return Estimate(x.value, x.spread + rounding * x.value.abs() + (floor if rounding else 0.0))
