"""Weight-only quantization: a linear's weight [rows, columns] as small whole numbers and scales, one class per scheme.

`weight` and `weight_scale` are what files and layers hold. Each row is packed by itself, and each group of a row too:
the bits are the same however the matrix is cut into blocks or over ranks.
"""

import difflib
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from neoxlib.errors import SettingsError, WeightsError
from neoxlib.kernels.cpu import pack as kernels_pack

Packed = dict[str, Tensor]  # weight and weight_scale
NOT_FINITE = (
    "a weight holds NaN, infinity or numbers past its scale's range; it cannot be quantized"
)
CHUNK = 1 << 17  # weights packed at a time: a processor's cache takes what they need
NPU_OP = (
    "npu_weight_quant_batchmatmul"  # x [M, K], weight [K, N]; its schema was read, it was not run
)


class Scheme(ABC):
    """How one weight matrix is packed: `bits` a number, a scale for every `group` columns (0: for the whole row)."""

    name: ClassVar[str]
    bits: ClassVar[int]
    group: ClassVar[int]

    @abstractmethod
    def tensors(self, rows: int, columns: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of each packed tensor of a weight [rows, columns]."""

    def pack(self, weight: Tensor, out: Packed | None = None) -> Packed:
        """weight [rows, columns] of any float dtype -> the packed tensors, on its device; `out` is filled if given.

        Compiled where it can be (ops/packing.py), on this thread alone; the bits are those of `pack_plain`.
        Raises WeightsError where a number or its scale is not finite, or the columns are no whole groups.
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
        """The same by PyTorch's operators: what `pack` means."""
        packed = self._empty(weight)
        (rows, columns) = weight.shape
        step = max(1, min(rows, CHUNK // columns))
        space = torch.empty(
            3, step, columns, device=weight.device
        )  # once: memory got anew costs more than sums
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
        """The same of a few rows in float32, with two more matrices of their shape to work in."""

    @abstractmethod
    def unpack(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        """The packed tensors -> weight [rows, columns], multiplied out in float32 and rounded once to `dtype`."""

    @abstractmethod
    def npu_arguments(self, packed: Packed, dtype: torch.dtype) -> dict[str, Any]:
        """What NPU_OP takes beside x [M, columns] in `dtype` (float16 or bfloat16): its shapes are checked, no more."""


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


class Int4(Scheme):
    """w = (n - 8) * scale with n from 0 to 15, one scale per 32 columns.

    Byte i of a group's 16 holds n of its column i in the low half, of column i + 16 in the high half.
    """

    name = "int4"
    bits = 4
    group = 32
    # What the group's largest magnitude, with its sign, is tried as: around -8, the end that has one step more. These
    # three come within 1 % of the error of two dozen, on normal numbers and on trained weights.
    peaks = (-7.25, -8.0, -8.45)

    def tensors(self, rows: int, columns: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        if columns % self.group:
            raise WeightsError(
                f"a weight of {columns} columns cannot be {self.name}: it takes groups of {self.group}"
            )
        scales = (rows, columns // self.group)
        return {
            "weight": ((rows, columns // 2), torch.uint8),
            "weight_scale": (scales, torch.float16),
        }

    def _pack(self, weight: Tensor, codes: Tensor, spare: Tensor) -> Packed:
        groups, codes, spare = (
            t.unflatten(-1, (-1, self.group)) for t in (weight, codes, spare)
        )  # [rows, groups, 32]
        scale = self._best_scale(groups, codes, spare).half()  # [rows, groups]
        low, high = (
            _codes(groups, 1 / _or_one(scale.float()), codes).add_(8).chunk(2, dim=-1)
        )  # [rows, groups, 16]
        return {
            "weight": low.add_(high, alpha=16).to(torch.uint8).flatten(-2),
            "weight_scale": scale,
        }

    def unpack(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        return (
            (self._integers(packed["weight"]) * packed["weight_scale"].float()[..., None])
            .flatten(-2)
            .to(dtype)
        )

    def npu_arguments(self, packed: Packed, dtype: torch.dtype) -> dict[str, Any]:
        """weight int32 [columns / 8, rows], a word holding eight columns of a row, the first in its lowest four bits;
        antiquant_scale [columns / 32, rows]. (aclnnConvertWeightToINT4Pack gives the words.)"""
        halves = (
            self._integers(packed["weight"]).flatten(-2).unflatten(-1, (-1, 8)).int() & 15
        )  # [rows, words, 8]
        words = (halves << torch.arange(0, 32, 4, dtype=torch.int32, device=halves.device)).sum(
            -1, dtype=torch.int32
        )
        scale = packed["weight_scale"].to(dtype).t()
        return {"weight": words.t(), "antiquant_scale": scale, "antiquant_group_size": self.group}

    def _best_scale(self, groups: Tensor, codes: Tensor, spare: Tensor) -> Tensor:
        """The scale [rows, groups] of the least squared error: for each peak the codes, for the codes the best scale.

        With the codes q given, that is (w·q) / (q·q), and it lessens the squared error by (w·q)² / (q·q).
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
        """Bytes [rows, columns / 2] -> whole numbers -8 to 7 [rows, groups, 32]."""
        groups = packed.unflatten(-1, (-1, self.group // 2))
        return torch.cat((groups & 15, groups >> 4), dim=-1).to(torch.int8) - 8


SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in (Int8(), Int4())}
HEAD = SCHEMES[
    "int8"
]  # of embed_out under every scheme: its errors go straight into the choice of the token


def scheme_name(quant: str | None) -> str | None:
    """A scheme's name, or None for "" and None. Raises SettingsError for a name that is no scheme's."""
    if quant in (None, ""):
        return None
    if quant not in SCHEMES:
        near = difflib.get_close_matches(str(quant).lower(), SCHEMES, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise SettingsError(
            f"quant is {quant!r}; {hint}the schemes are {', '.join(SCHEMES)}, and None keeps weights"
        )
    return quant


def _codes(groups: Tensor, inverse: Tensor, out: Tensor) -> Tensor:
    """Fill `out` [rows, groups, 32] with whole numbers -8 to 7."""
    return torch.mul(groups, inverse[..., None], out=out).round_().clamp_(-8, 7)


def _fold(x: Tensor) -> Tensor:
    """Sums over the last dimension, which is used up; halves are added, an order that no processor changes."""
    while x.shape[-1] > 1:
        low, high = x.chunk(2, dim=-1)
        x = low.add_(high)
    return x[..., 0]


def _or_one(scale: Tensor) -> Tensor:
    """Zeros stay zeros when they are divided by 1; so do numbers whose inverse is past float32's range."""
    return torch.where(scale.abs() < 1e-30, 1, scale)
