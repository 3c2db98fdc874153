"""The npu:: operators on CPU tensors, with the checks of their pages and of their host code.

`install()` makes `torch.ops.npu.*` callable on the CPU. With torch_npu imported the schemas are its
own, without it they come from schemas.txt. Whatever passes here fits the pages as they were
read, and the conditions of conditions_*.py; it says nothing of a device.

Pages are those of op-plugin's docs/zh/custom_APIs/torch_npu, named torch_npu-<operator>.md.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.npu.attention import (
    npu_fused_infer_attention_score,
    npu_incre_flash_attention,
    npu_prompt_flash_attention,
)
from tests.support.npu.condition import Refused, enforce
from tests.support.npu.conditions_vectors import CONDITIONS as VECTORS
from tests.support.npu.conditions_writes import CONDITIONS as WRITES
from tests.support.npu.products import (
    AtenRules,
    npu_format_cast,
    npu_weight_quant_batchmatmul,
    slow,
)
from tests.support.npu.rules import (
    EVERY,
    HALF,
    Contract,
    called,
    calls,
    here,
    need,
    on_chip,
    only_defaults,
)

__all__ = [
    "EVERY",
    "AtenRules",
    "Contract",
    "Refused",
    "called",
    "calls",
    "here",
    "install",
    "on_chip",
    "slow",
]

SCHEMAS = Path(__file__).with_name("schemas.txt")
_libraries: list[torch.library.Library] = []  # their registrations end with them


def npu_rotary_mul(
    input: Tensor, r1: Tensor, r2: Tensor, rotary_mode: str = "half", **other: Any
) -> Tensor:
    page = "npu_rotary_mul"
    size = input.shape[-1]
    only_defaults(page, other)
    enforce(VECTORS, page, input=input, r1=r1, r2=r2, rotary_mode=rotary_mode)
    need(
        input.dtype == r1.dtype == r2.dtype and input.dtype in (*HALF, torch.float32),
        page,
        "dtypes must be alike",
    )
    need(input.dim() == 4, page, "four dimensions are modelled here")
    need(
        tuple(r1.shape[:2]) in {(1, 1), (input.shape[0], 1), tuple(input.shape[:2])}
        and r1.shape[2] == input.shape[2],
        page,
        f"tables {list(r1.shape)} for BNSD {list(input.shape)}: 11SD, B1SD or BNSD",
    )
    if here.family in ("A2", "A3"):
        need(size < 896, page, f"D {size}: below 896")
        need(input.shape[0] < 1000 and input.shape[1] < 1000, page, "B and N below 1000")
        need(
            size * input.element_size() % 32 == 0,
            page,
            f"D {size} in BNSD is no multiple of 32 bytes, not advised",
        )
    else:
        need(
            size == 128 and rotary_mode == "half",
            page,
            f"D {size} on {here.family}: 128 and half only",
        )
    x = input.float()
    cos = r1.float()
    sin = r2.float()
    if rotary_mode == "half":
        first, second = x.chunk(2, -1)
        turned = torch.cat((-second, first), -1)
    else:
        turned = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
    return (x * cos + turned * sin).to(input.dtype)


def npu_gelu(input: Tensor, *, approximate: str = "none") -> Tensor:
    page = "npu_gelu"
    enforce(VECTORS, page, input=input, approximate=approximate)
    need(here.family in ("A2", "310P", "910A"), page, f"not listed for {here.family}")
    return F.gelu(input.float(), approximate=approximate).to(input.dtype)


def fast_gelu(input: Tensor) -> Tensor:
    """x * sigmoid(1.702 x) (torch_npu-npu_fast_gelu.md): neither form of gelu."""
    return (input.float() * torch.sigmoid(1.702 * input.float())).to(input.dtype)


def npu_add_layer_norm(
    x1: Tensor,
    x2: Tensor,
    gamma: Tensor,
    beta: Tensor,
    epsilon: float = 1e-05,
    additional_output: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Norm of the sum, its mean and its 1 / deviation, and the sum, which is else not written.

    Outputs are float32 where x1 and x2 differ in dtype (op-plugin 517f2e7d
    op_plugin/ops/opapi/AddLayerNormKernelNpuOpApi.cpp:42); mean and 1 / deviation always are.
    """
    enforce(VECTORS, "npu_add_layer_norm", x1=x1, x2=x2, gamma=gamma, beta=beta)
    dtype = x1.dtype if x1.dtype == x2.dtype else torch.float32
    whole = x1.float() + x2.float()
    mean = whole.mean(-1, keepdim=True)
    scale = (whole.var(-1, correction=0, keepdim=True) + epsilon).rsqrt()
    y = (whole - mean) * scale * gamma.float() + beta.float()
    told = whole if additional_output else torch.full_like(whole, torch.nan)
    return y.to(dtype), mean, scale, told.to(dtype)


def npu_scatter_nd_update_(self: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    enforce(WRITES, "npu_scatter_nd_update_", self=self, indices=indices, updates=updates)
    self[tuple(indices.long().unbind(-1))] = updates
    return self


def scatter_update_(self: Tensor, indices: Tensor, updates: Tensor, axis: int) -> Tensor:
    """Write updates [b] to row b of self, or to the row of the pair, from the index on."""
    page = "scatter_update_"
    enforce(WRITES, page, self=self, indices=indices, updates=updates, axis=axis)
    places = indices.tolist() if indices.dim() == 2 else enumerate(indices.flatten().tolist())
    for update, (row, start) in zip(updates, places, strict=True):
        # The first dimension is gone in a row.
        along = axis % self.dim() - 1
        self[row].narrow(along, start, update.shape[along]).copy_(update)
    return self


KERNELS: tuple[Callable[..., Any], ...] = (
    npu_fused_infer_attention_score,
    npu_prompt_flash_attention,
    npu_incre_flash_attention,
    npu_rotary_mul,
    npu_gelu,
    fast_gelu,
    npu_weight_quant_batchmatmul,
    npu_format_cast,
    npu_add_layer_norm,
    npu_scatter_nd_update_,
    scatter_update_,
)
# Of these no part of neoxlib may call the first; the others it does not call as yet.
NOT_CALLED = {"fast_gelu", "npu_add_layer_norm", "npu_scatter_nd_update_", "scatter_update_"}


def schemas() -> list[str]:
    """The lines of schemas.txt."""
    return [
        line
        for line in SCHEMAS.read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]


def install() -> None:
    """Register the kernels for CPU tensors under torch_npu's schemas, or the listed ones."""
    if _libraries:
        return
    known = {schema.name for schema in torch._C._jit_get_all_schemas()}
    if "npu::npu_rotary_mul" not in known:
        definitions = torch.library.Library("npu", "DEF")
        for line in schemas():
            definitions.define(line.removeprefix("npu::"))
        _libraries.append(definitions)
    kernels = torch.library.Library("npu", "IMPL")
    for kernel in KERNELS:
        kernels.impl(kernel.__name__, _counted(kernel), "CPU")
    _libraries.append(kernels)


def _counted(kernel: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        calls.append((kernel.__name__, kwargs))
        return kernel(*args, **kwargs)

    return run
