"""How far two tensors are apart."""

from typing import NamedTuple

import torch
from torch import Tensor

from neoxlib.align.estimates import Estimate

# Where an error of exactly nothing is expected, any error is many spreads.
LEAST = 1e-300


class OwnError(NamedTuple):
    """An error in units of its spread: the greatest, the root mean square, and where it is."""

    greatest: float
    rms: float
    not_finite: int  # values that should be finite and are not
    place: tuple[int, ...]  # indices in the tensor of the greatest


class Distance(NamedTuple):
    """Two tensors as wholes."""

    relative_l2: float
    cosine: float
    max_error: float
    same_bits: bool


class Drift(NamedTuple):
    """How far a joined step is from the reference's own pass over the same tokens."""

    name: str
    pass_: int
    distance: Distance
    kl: float | None  # of logits


def own_error(found: Tensor, expected: Estimate, real: Tensor) -> OwnError:
    """The error of `found` [B, tokens, ...] where `real` [B, tokens] is True.

    Where the expected value is not finite, nothing is judged.
    """
    if found.shape != expected.value.shape:
        return OwnError(torch.inf, torch.inf, 0, ())
    found = found.double()
    judged = expected.value.isfinite() & _wide(real, found)
    lost = judged & ~found.isfinite()
    units = (found - expected.value).abs() / expected.spread.clamp(min=LEAST)
    units = units.masked_fill(~judged, 0).nan_to_num(nan=torch.inf, posinf=torch.inf)
    units = units.masked_fill(lost, torch.inf)
    place = torch.unravel_index(units.argmax(), units.shape)
    count = judged.sum().clamp(min=1)
    rms = (units.square().sum() / count).sqrt().item()
    where = tuple(int(index) for index in place)
    return OwnError(units.max().item(), rms, int(lost.sum()), where)


def distance(found: Tensor, truth: Tensor, real: Tensor) -> Distance:
    """How far `found` is from `truth`, both [B, tokens, ...], where `real` is True."""
    rows, expected = (t[real].double().flatten() for t in (found, truth))
    error = rows - expected
    norm = expected.norm()
    cosine = (rows @ expected / (rows.norm() * norm)).item() if norm else float(not rows.any())
    relative = (error.norm() / norm).item() if norm else float(error.norm())
    largest = error.abs().max().item() if len(error) else 0.0
    return Distance(relative, cosine, largest, same_bits(found[real], truth[real]))


def same_bits(found: Tensor, truth: Tensor) -> bool:
    """Whether all numbers are the same, to the bit: also signs of zeros, and NaN where NaN is."""
    return found.shape == truth.shape and not differing(found, truth).any()


def differing(found: Tensor, truth: Tensor) -> Tensor:
    """[...] bool: which of two tensors' numbers are not the same to the bit, in any dtypes."""
    bits = [each.double().contiguous().view(torch.int64) for each in (found, truth)]
    return bits[0] != bits[1]


def kl(found: Tensor, truth: Tensor, real: Tensor) -> float:
    """The mean Kullback-Leibler divergence of the tokens' distributions; logits [B, tokens, V]."""
    p = truth[real].double().log_softmax(-1)
    q = found[real].double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean().item()


def _wide(real: Tensor, like: Tensor) -> Tensor:
    return real.view(*real.shape, *[1] * (like.ndim - 2))
