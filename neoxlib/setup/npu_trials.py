"""One answer of a device, its error and its verdict; and the site where trials run.

Every answer is compared with a reference that is written out in the trials or in parity.py, in
float32 on the CPU, on the same rounded inputs. Operators have the shapes of GPT-NeoX-20B's heads.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from neoxlib.errors import telling
from neoxlib.kernels.npu import NpuOps, operators_for

HEADS = 64
WIDTH = 96
ROTARY = 24


@dataclass(frozen=True)
class Trial:
    """One answer: its error in the units of `unit`, and the largest error that passes.

    `error` is None if the device raised instead of answering.
    """

    name: str
    dtype: str
    error: float | None
    tolerance: float
    unit: str
    passed: bool
    detail: str = ""

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
