"""Weight-only quantization: weights as small integers and scales, one class per scheme.

Files and layers hold `weight` and `weight_scale`. Each row, and each group of a row, is quantized
by itself: the bits do not depend on how the matrix is cut into blocks or over ranks.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from neoxlib.errors import SettingsError, WeightsError, did_you_mean
from neoxlib.kernels.cpu import pack as kernels_pack

Packed = dict[str, Tensor]  # weight and weight_scale
NOT_FINITE = (
    "a weight holds NaN, infinity or numbers past its scale's range; it cannot be quantized"
)
CHUNK = 1 << 17  # weights packed at a time: their working set fits a cache
# x [M, K], weight [K, N]; checked against its schema, never run
NPU_OP = "npu_weight_quant_batchmatmul"


class Scheme(ABC):
    """A packing of weight matrices: `bits` per weight, a scale per `group` columns (0: per row)."""

    name: ClassVar[str]
    bits: ClassVar[int]
    group: ClassVar[int]

    @abstractmethod
    def tensors(self, rows: int, columns: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of each packed tensor of a weight [rows, columns]."""

    def pack(self, weight: Tensor, out: Packed | None = None) -> Packed:
        """Pack a weight [rows, columns] of any float dtype, into `out` if given.

        Uses compiled code if possible (kernels/cpu/pack.py), on this thread alone; the bits are
        those of `pack_plain`. Raises WeightsError if a number or its scale is not finite, or the
        columns do not fill whole groups.
        """
        packed = self._empty(weight) if out is None else out
        done = kernels_pack.pack(self.bits, weight, packed["weight"], packed["weight_scale"])
        if done is None:
            for name, tensor in self.pack_plain(weight).items():
                packed[name].copy_(tensor)
        if done is False:
            raise WeightsError(NOT_FINITE)
        return packed

    def pack_plain(self, weight: Tensor) -> Packed:
        """As `pack`, with PyTorch's operators: the reference."""
        packed = self._empty(weight)
        (rows, columns) = weight.shape
        step = max(1, min(rows, CHUNK // columns))
        # Allocated once: allocating for each chunk costs more than the arithmetic.
        space = torch.empty(3, step, columns, dtype=torch.float32, device=weight.device)
        for start in range(0, rows, step):
            chunk = weight[start : start + step]
            block, *spare = space[:, : len(chunk)]
            for name, part in self._pack(block.copy_(chunk), *spare).items():
                packed[name][start : start + step] = part
        if not packed["weight_scale"].isfinite().all():
            raise WeightsError(NOT_FINITE)
        return packed

    def _empty(self, weight: Tensor) -> Packed:
        tensors = self.tensors(*weight.shape).items()
        return {
            name: torch.empty(shape, dtype=dtype, device=weight.device)
            for name, (shape, dtype) in tensors
        }

    @abstractmethod
    def _pack(self, weight: Tensor, codes: Tensor, spare: Tensor) -> Packed:
        """Pack a few rows in float32. `codes` and `spare` are scratch tensors of the same shape."""

    @abstractmethod
    def unpack(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        """Return the weight [rows, columns], computed in float32 and rounded once to `dtype`."""

    @abstractmethod
    def npu_arguments(self, packed: Packed, dtype: torch.dtype) -> dict[str, Any]:
        """Arguments of NPU_OP beside x [M, columns] of `dtype` (float16 or bfloat16)."""

    @abstractmethod
    def from_npu(self, arguments: dict[str, Any]) -> Tensor:
        """The weight [rows, columns] float32 that `npu_arguments` stand for."""


class Int8(Scheme):
    """w = q * scale, one scale per row: the row's largest magnitude / 127."""

    name = "int8"
    bits = 8
    group = 0

    def tensors(self, rows: int, columns: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        return {"weight": ((rows, columns), torch.int8), "weight_scale": ((rows,), torch.float32)}

    def _pack(self, weight: Tensor, codes: Tensor, spare: Tensor) -> Packed:
        scale = torch.abs(weight, out=spare).amax(-1) / 127  # [rows]
        torch.div(weight, _or_one(scale)[:, None], out=codes).round_().clamp_(-127, 127)
        return {"weight": codes, "weight_scale": scale}

    def unpack(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        return (packed["weight"] * packed["weight_scale"][:, None]).to(dtype)

    def npu_arguments(self, packed: Packed, dtype: torch.dtype) -> dict[str, Any]:
        """weight int8 [columns, rows], antiquant_scale [rows]."""
        return {"weight": packed["weight"].t(), "antiquant_scale": packed["weight_scale"].to(dtype)}

    def from_npu(self, arguments: dict[str, Any]) -> Tensor:
        return (arguments["weight"] * arguments["antiquant_scale"].float()).t()


class Int4(Scheme):
    """w = (n - 8) * scale with n from 0 to 15, one scale per 32 columns.

    Byte i of a group's 16 holds n of its column i in the low half, of column i + 16 in the high
    half.
    """

    name = "int4"
    bits = 4
    group = 32
    # Values that the group's largest magnitude is tried as, with its sign: around -8, the longer
    # end. These three come within 1 % of the error of two dozen, on normal numbers and on trained
    # weights.
    peaks = (-7.25, -8.0, -8.45)

    def tensors(self, rows: int, columns: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        if columns % self.group:
            raise WeightsError(
                f"a weight of {columns} columns cannot be {self.name}: "
                f"it takes groups of {self.group}"
            )
        scales = (rows, columns // self.group)
        return {
            "weight": ((rows, columns // 2), torch.uint8),
            "weight_scale": (scales, torch.float16),
        }

    def _pack(self, weight: Tensor, codes: Tensor, spare: Tensor) -> Packed:
        by_group = (-1, self.group)
        groups, codes, spare = (t.unflatten(-1, by_group) for t in (weight, codes, spare))
        scale = self._best_scale(groups, codes, spare).half()  # [rows, groups]
        nibbles = _codes(groups, 1 / _or_one(scale.float()), codes).add_(8)  # [rows, groups, 32]
        low, high = nibbles.chunk(2, dim=-1)
        return {
            "weight": low.add_(high, alpha=16).to(torch.uint8).flatten(-2),
            "weight_scale": scale,
        }

    def unpack(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        scale = packed["weight_scale"].float()[..., None]
        return (self._integers(packed["weight"]) * scale).flatten(-2).to(dtype)

    def npu_arguments(self, packed: Packed, dtype: torch.dtype) -> dict[str, Any]:
        """weight int32 [columns, rows / 8], antiquant_scale [columns / 32, rows], both contiguous.

        A word holds eight rows of a column, the first in its lowest four bits, as
        aclnnConvertWeightToINT4Pack lays them out. For scales by group the operator is faster with
        a weight that is not transposed (ops-nn e5c3fa93, aclnnWeightQuantBatchMatmulV2.md:390).
        """
        codes = self._integers(packed["weight"]).flatten(-2).t()  # [columns, rows]
        nibbles = codes.unflatten(-1, (-1, 8)).int() & 15  # [columns, words, 8]
        shifts = torch.arange(0, 32, 4, dtype=torch.int32, device=nibbles.device)
        words = (nibbles << shifts).sum(-1, dtype=torch.int32)
        scale = packed["weight_scale"].to(dtype).t().contiguous()
        return {"weight": words, "antiquant_scale": scale, "antiquant_group_size": self.group}

    def from_npu(self, arguments: dict[str, Any]) -> Tensor:
        words = arguments["weight"][..., None]
        shifts = torch.arange(0, 32, 4, dtype=torch.int32, device=words.device)
        codes = (words >> shifts & 15).flatten(-2)  # [columns, rows], 8 to 15 stand for -8 to -1
        scale = arguments["antiquant_scale"].float().repeat_interleave(self.group, 0)
        return ((codes - 16 * (codes > 7)) * scale).t()

    def _best_scale(self, groups: Tensor, codes: Tensor, spare: Tensor) -> Tensor:
        """The scale [rows, groups] with the least squared error among those of `peaks`.

        Each peak gives codes q. For given q the best scale is (w·q) / (q·q), and it reduces the
        squared error by (w·q)² / (q·q).
        """
        high = groups.amax(-1)
        low = groups.amin(-1)
        largest = _or_one(torch.where(high > -low, high, low))
        best_gain = best = torch.zeros_like(largest)
        for peak in self.peaks:
            _codes(groups, peak / largest, codes)
            product = _fold(torch.mul(codes, groups, out=spare))  # [rows, groups]
            norm = codes.square_().sum(-1).clamp_(min=1)  # of zeros 0
            scale = product / norm
            gain = scale * product
            best = torch.where(gain > best_gain, scale, best)
            best_gain = torch.maximum(gain, best_gain)
        return torch.where(best_gain.isnan(), torch.nan, best)

    def _integers(self, packed: Tensor) -> Tensor:
        """Bytes [rows, columns / 2] -> integers -8 to 7 [rows, groups, 32]."""
        groups = packed.unflatten(-1, (-1, self.group // 2))
        return torch.cat((groups & 15, groups >> 4), dim=-1).to(torch.int8) - 8


SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in (Int8(), Int4())}
# Of embed_out under every scheme: its errors directly change the choice of the token.
HEAD_SCHEME = SCHEMES["int8"]


def scheme_name(quant: str | None) -> str | None:
    """The name of a scheme, or None for "" and None. Raises SettingsError for an unknown name."""
    if quant in (None, ""):
        return None
    if quant not in SCHEMES:
        hint = did_you_mean(str(quant).lower(), SCHEMES, cutoff=0.5) or ";"
        raise SettingsError(
            f"quant is {quant!r}{hint} the schemes are {', '.join(SCHEMES)}, and None keeps weights"
        )
    return quant


def _codes(groups: Tensor, inverse: Tensor, out: Tensor) -> Tensor:
    """Fill `out` [rows, groups, 32] with integers -8 to 7."""
    return torch.mul(groups, inverse[..., None], out=out).round_().clamp_(-8, 7)


def _fold(x: Tensor) -> Tensor:
    """Sum over the last dimension of `x`, which is overwritten. Halves are added: a fixed order."""
    while x.shape[-1] > 1:
        low, high = x.chunk(2, dim=-1)
        x = low.add_(high)
    return x[..., 0]


def _or_one(scale: Tensor) -> Tensor:
    """Replace scales by 1 if they are 0, or so small that 1 / scale overflows float32."""
    return torch.where(scale.abs() < 1e-30, 1, scale)
