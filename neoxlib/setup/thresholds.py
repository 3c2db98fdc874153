"""The vendor's published thresholds for an operator's answer, per dtype.

Those of msprobe, Ascend/msprobe 8ff00da3, against one reference on the CPU. Two standards are used:

- `bound`: of operators that accumulate, in python/msprobe/pytorch/api_accuracy_checker/
  precision_standard/standard_config.py:90-95 and accumulative_error_compare.py: every value above 1
  has at most this relative error, every other at most this absolute one. It decides.
- the page docs/zh/user_guide/accuracy_checker/pytorch_accuracy_checker_instruct.md:356-385: the
  cosine, and how many values are off by a share of themselves. The cosine decides, too. The shares
  only warn: correctly rounded bfloat16 has 9 % of an attention's values, those near 0, off by 1 %.

Its other standards need the answers of a GPU as well.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

COSINE = 0.99  # an answer with less is an error
MAX_ERROR = 1e-3  # an answer whose largest error is less needs no share
LARGE = 1.0  # a value above has a relative error


@dataclass(frozen=True)
class Threshold:
    """Of one dtype: the bound, and the relative errors that at most as large a share may have.

    A value below `small` counts as small; its error should be `small_error` at most.
    """

    bound: float
    shares: tuple[float, float]
    small: float
    small_error: float


THRESHOLDS = {
    "float16": Threshold(2**-8, (1e-2, 1e-3), 2**-11, 2**-16),
    "bfloat16": Threshold(2**-7, (1e-2, 1e-3), 2**-8, 2**-16),
    "float32": Threshold(2**-11, (1e-3, 1e-4), 2**-14, 2**-30),
}


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right: `value` of `unit` is `limit` at most. `warning` may be empty."""

    passed: bool
    value: float
    limit: float
    unit: str
    warning: str
    figures: dict[str, float]


def judge(found: Tensor, truth: Tensor, dtype: str) -> Verdict:
    """Judge an answer of a device, on the CPU, against a reference of the same shape."""
    limits = THRESHOLDS[dtype]
    answer, due = found.double().flatten(), truth.double().flatten()
    figures = _figures(answer, due, dtype, limits)
    if not answer.isfinite().all():
        return Verdict(False, float("inf"), 0.0, "values that are not finite", "", figures)
    if figures["cosine"] <= COSINE:
        return Verdict(False, 1 - figures["cosine"], 1 - COSINE, "1 - cosine", "", figures)
    error = figures["max_bounded_error"]
    warning = _warning(figures, limits)
    return Verdict(error <= limits.bound, error, limits.bound, "error", warning, figures)


def _warning(figures: dict[str, float], limits: Threshold) -> str:
    """Say which share of the page's is too large, if the largest error does not excuse it."""
    if figures["max_error"] >= MAX_ERROR:
        for limit in limits.shares:
            if (share := figures[f"above_{limit:g}"]) >= limit:
                return f"{share:.1%} of the values are off by {limit:.2%} of themselves or more"
    return ""


def _figures(answer: Tensor, due: Tensor, dtype: str, limits: Threshold) -> dict[str, float]:
    error = (answer - due).abs()
    size = due.abs()
    # msprobe's epsilon is that of the reference's dtype, float32 here
    relative = error / (size + torch.finfo(torch.float32).eps)
    wrong = (error[size <= limits.small] > limits.small_error).double()
    shares = {
        f"above_{limit:g}": _number((~(relative < limit)).double().mean())
        for limit in limits.shares
    }
    return {
        "cosine": _number(torch.nn.functional.cosine_similarity(answer, due, dim=0)),
        "max_error": _number(error.max()),
        "max_bounded_error": _number(torch.where(size > LARGE, relative, error).max()),
        "max_error_in_roundings": _number(_roundings(error, due, dtype)),
        **shares,
        "small_values_wrong": _number(wrong.mean()) if len(wrong) else 0.0,
    }


def _roundings(error: Tensor, due: Tensor, dtype: str) -> Tensor:
    """The largest error in roundings of the dtype of a value plus the root mean square of all."""
    size = due.abs() + due.square().mean().sqrt()
    return (error / size).max() / (torch.finfo(getattr(torch, dtype)).eps / 2)


def _number(x: Tensor) -> float:
    """A number that JSON has: none of the figures is negative where it is not finite."""
    return x.nan_to_num(1e308, 1e308).item()
