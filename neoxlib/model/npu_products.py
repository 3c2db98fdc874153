"""The matrix products of the NPU path, each with its weight in the layout of the chip's operator.

A product takes x [rows, columns here] and gives x Wᵀ plus either its bias or a tensor `add`
[rows, out here], of which one is given at most.
"""

import logging
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from neoxlib.kernels import npu
from neoxlib.kernels.npu import Operators
from neoxlib.model.layers import Linear
from neoxlib.model.quant import Scheme

log = logging.getLogger("neoxlib")

NZ = 29  # torch_npu.Format.FRACTAL_NZ, the layout that a 310P multiplies in


class Product(ABC):
    """x [rows, columns here] -> x Wᵀ + (add or bias) [rows, out here]."""

    operator: str  # its name
    bias: Tensor | None

    @abstractmethod
    def __call__(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        """Multiply; `add` [rows, out here] takes the place of the bias."""

    @abstractmethod
    def plain_weight(self) -> Tensor:
        """W [out here, columns here] as floats, from the memory that the operator reads."""


class FloatProduct(Product):
    """By a weight [out, in]: what is added is part of the one operator."""

    operator = "addmm"

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.columns = weight.t()  # [in, out]
        self.bias = bias

    def __call__(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        add = self.bias if add is None else add
        return torch.mm(x, self.columns) if add is None else torch.addmm(add, x, self.columns)

    def plain_weight(self) -> Tensor:
        return self.columns.t()


class NzProduct(FloatProduct):
    """By a weight in NZ on a 310P: the sum is taken in place afterwards.

    `mm` of two dimensions takes NZ there (op-plugin 517f2e7d, op_api_common.h:654), while `addmm`
    is three operators (AddmmKernelNpuOpApi.cpp:39, aclops/AddmmKernelNpu.cpp:134).
    """

    operator = "mm"

    def __call__(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        add = self.bias if add is None else add
        found = torch.mm(x, self.columns)
        return found if add is None else found.add_(add)


class PackedProduct(Product):
    """By a packed weight, through npu_weight_quant_batchmatmul."""

    operator = "npu_weight_quant_batchmatmul"

    def __init__(
        self, scheme: Scheme, arguments: dict[str, Any], bias: Tensor | None, dtype: torch.dtype
    ) -> None:
        wide = bias is not None and dtype == torch.bfloat16
        self.scheme = scheme
        self.bias = bias
        self.arguments = arguments | {"bias": bias.float() if wide else bias}

    def __call__(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        if add is None:
            return npu.npu.npu_weight_quant_batchmatmul(x, **self.arguments)
        bare = self.arguments | {"bias": None}
        return npu.npu.npu_weight_quant_batchmatmul(x, **bare).add_(add)

    def plain_weight(self) -> Tensor:
        return self.scheme.from_npu(self.arguments)


class UnpackedProduct(Product):
    """By a packed weight that no operator of the chip takes: unpacked at each use."""

    operator = "addmm"

    def __init__(self, layer: Linear, bias: Tensor | None) -> None:
        self.layer = layer
        self.bias = bias

    def __call__(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        return FloatProduct(self.layer.plain_weight(x.dtype), self.bias)(x, add)

    def plain_weight(self) -> Tensor:
        return self.layer.plain_weight(torch.float32)


class PlainProduct(Product):
    """What another product should give: PyTorch's on the CPU, by the memory that it reads."""

    operator = "linear"

    def __init__(self, real: Product) -> None:
        self.real = real
        self.bias = real.bias

    def __call__(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        given = (x, self.plain_weight().to(x.dtype), self.bias if add is None else None)
        y = functional.linear(*(None if t is None else t.cpu() for t in given))
        return y.to(x.device) if add is None else y.to(x.device) + add

    def plain_weight(self) -> Tensor:
        return self.real.plain_weight()


def lay_out(
    layer: Linear, operators: Operators, bias: Tensor | None, dtype: torch.dtype
) -> Product:
    """The product of `layer` on a chip's operators.

    Its parameters keep their names, shapes and dtypes, and are the memory that the product reads;
    the order of an int4 weight's bytes becomes the operator's.
    """
    if layer.scheme is None:
        if not operators.nz:
            return FloatProduct(layer.weight, bias)
        layer.weight = _fixed(npu.npu.npu_format_cast(layer.weight, NZ))
        return NzProduct(layer.weight, bias)
    if layer.scheme.name not in operators.packed or not _taken(layer, layer.scheme):
        return UnpackedProduct(layer, bias)
    packed = {"weight": layer.weight, "weight_scale": layer.weight_scale}
    arguments = layer.scheme.npu_arguments(packed, dtype)
    if layer.scheme.name == "int4":
        layer.weight = _fixed(arguments["weight"].view(torch.uint8).view(layer.weight.shape))
        scale = arguments["antiquant_scale"].t()  # as the layer has it, in the operator's memory
        layer.weight_scale = _fixed(scale if scale.dtype == torch.float16 else scale.half())
    return PackedProduct(layer.scheme, arguments, bias, dtype)


def _taken(layer: Linear, scheme: Scheme) -> bool:
    """Whether npu_weight_quant_batchmatmul takes a weight of this shape."""
    rows, columns = len(layer.weight), layer.weight.shape[1] * 8 // scheme.bits
    fits = scheme.group < columns and max(columns, rows) <= 65535
    if not fits or (scheme.group and rows % 8):
        shape = list(layer.weight.shape)
        log.info("weight %s is unpacked at each use: the NPU's operator does not take it", shape)
        return False
    return True


def _fixed(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)
