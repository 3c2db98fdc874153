"""One answer of a device, its error and its verdict; a timing; and the site where trials run.

Every answer is compared with a reference that is written out in the trials or in parity.py, in
float32 on the CPU, on the same rounded inputs. Operators have the shapes of GPT-NeoX-20B's heads.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from neoxlib.errors import telling
from neoxlib.kernels.npu import NpuOps, operators_for
from neoxlib.setup.thresholds import Verdict

HEADS = 64
WIDTH = 96
ROTARY = 24


@dataclass(frozen=True)
class Trial:
    """One answer: its error in the units of `unit`, and the largest error that passes.

    `error` is None if the device raised instead of answering, or was not asked. `figures` are
    further ones, which do not decide.
    """

    name: str
    dtype: str
    error: float | None
    tolerance: float
    unit: str
    passed: bool
    detail: str = ""
    asked: bool = True
    figures: dict[str, float] = field(default_factory=dict)

    @classmethod
    def by_thresholds(cls, name: str, dtype: str, verdict: Verdict, detail: str) -> "Trial":
        """Pass as the verdict says; a warning of it is told."""
        error = verdict.value if math.isfinite(verdict.value) else None
        told = f"{detail}; warning: {verdict.warning}" if verdict.warning else detail
        limit, unit, passed = verdict.limit, verdict.unit, verdict.passed
        return cls(name, dtype, error, limit, unit, passed, told, True, verdict.figures)

    @classmethod
    def not_asked(cls, name: str, dtype: str, why: str) -> "Trial":
        """A trial that could not be made; it has not passed."""
        return cls(name, dtype, None, 0.0, "", False, f"not asked: {why}", asked=False)

    @classmethod
    def judged(
        cls, name: str, dtype: str, error: float, tolerance: float, unit: str, detail: str
    ) -> "Trial":
        """Pass if the error is finite and within the tolerance."""
        if not math.isfinite(error):
            return cls(name, dtype, None, tolerance, unit, False, f"the error is {error}; {detail}")
        return cls(name, dtype, error, tolerance, unit, error <= tolerance, detail)

    @classmethod
    def failed(cls, name: str, dtype: str, failure: Exception) -> "Trial":
        """Fail because of an exception."""
        first = (telling(str(failure)) or [""])[0]
        return cls(name, dtype, None, 0.0, "", False, f"{type(failure).__name__}: {first}")


@dataclass(frozen=True)
class Timing:
    """Microseconds that one call takes: the median of some rounds of many calls."""

    name: str
    dtype: str
    us: float
    detail: str = ""


@dataclass(frozen=True)
class Site:
    """The device, the chip family whose operators run there, and the dtype of a trial."""

    device: str
    family: str
    dtype: str

    @property
    def kind(self) -> torch.dtype:
        """The dtype as torch's object."""
        return getattr(torch, self.dtype)

    def ops(self) -> NpuOps:
        """Return the operators for GPT-NeoX-20B's heads."""
        return NpuOps(operators_for(self.family, HEADS, WIDTH, ROTARY))

    def normal(self, *shape: int, seed: int = 0) -> Tensor:
        """Return normal random numbers on the CPU, rounded to the site's dtype."""
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(self.kind)

    def to_device(self, *tensors: Tensor) -> list[Tensor]:
        """Copy tensors to the site's device."""
        return [tensor.to(self.device) for tensor in tensors]


def attempt(
    name: str, dtype: str, tolerance: float, unit: str, work: Callable[[], tuple[float, str]]
) -> Trial:
    """Judge the error and the detail that `work` returns; an exception is a failed trial."""
    try:
        error, detail = work()
    except Exception as failure:  # a missing operator, a refused shape, a lost device
        return Trial.failed(name, dtype, failure)
    return Trial.judged(name, dtype, error, tolerance, unit, detail)
