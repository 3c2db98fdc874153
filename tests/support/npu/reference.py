"""The npu:: operators on CPU tensors, with the checks that their pages state.

`install()` makes `torch.ops.npu.*` callable on the CPU. With torch_npu imported the schemas are its
own, without it they come from schemas.txt. Whatever passes here fits the pages as they were
read; it says nothing of a device.

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

__all__ = ["EVERY", "Contract", "called", "calls", "here", "install", "on_chip"]

SCHEMAS = Path(__file__).with_name("schemas.txt")
_libraries: list[torch.library.Library] = []  # their registrations end with them


def npu_rotary_mul(
    input: Tensor, r1: Tensor, r2: Tensor, rotary_mode: str = "half", **other: Any
) -> Tensor:
    page = "npu_rotary_mul"
    size = input.shape[-1]
    only_defaults(page, other)
    need(rotary_mode in ("half", "interleave"), page, f"rotary_mode {rotary_mode!r}")
    need(
        input.dtype == r1.dtype == r2.dtype and input.dtype in (*HALF, torch.float32),
        page,
        "dtypes must be alike",
    )
    need(
        input.dim() == 4 and r1.shape == r2.shape and r1.shape[-1] == size,
        page,
        "shapes of input and tables differ",
    )
    need(
        tuple(r1.shape[:2]) in {(1, 1), (input.shape[0], 1), tuple(input.shape[:2])}
        and r1.shape[2] == input.shape[2],
        page,
        f"tables {list(r1.shape)} for BNSD {list(input.shape)}: 11SD, B1SD or BNSD",
    )
    if here.family in ("A2", "A3"):
        need(size < 896 and size % 2 == 0, page, f"D {size}: even and below 896")
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
    need(here.family in ("A2", "310P", "910A"), page, f"not listed for {here.family}")
    need(approximate in ("none", "tanh"), page, f"approximate {approximate!r}")
    allowed = (torch.float16, torch.float32, *([torch.bfloat16] if here.family == "A2" else []))
    need(input.dtype in allowed, page, f"{input.dtype} on {here.family}")
    return F.gelu(input.float(), approximate=approximate).to(input.dtype)


def fast_gelu(input: Tensor) -> Tensor:
    """x * sigmoid(1.702 x) (torch_npu-npu_fast_gelu.md): neither form of gelu."""
    return (input.float() * torch.sigmoid(1.702 * input.float())).to(input.dtype)


def npu_weight_quant_batchmatmul(
    x: Tensor,
    weight: Tensor,
    antiquant_scale: Tensor,
    antiquant_offset: Tensor | None = None,
    quant_scale: Tensor | None = None,
    quant_offset: Tensor | None = None,
    bias: Tensor | None = None,
    antiquant_group_size: int = 0,
    inner_precise: int = 0,
    weight_dtype: int | None = None,
) -> Tensor:
    page = "npu_weight_quant_batchmatmul"
    group = antiquant_group_size
    kinds = {
        "A2": (torch.int8, torch.int32),
        "A3": (torch.int8, torch.int32),
        "310P": (torch.int8,),
    }
    only_defaults(
        page,
        {
            "offset": antiquant_offset,
            "quant": quant_scale,
            "quant_offset": quant_offset,
            "inner_precise": inner_precise,
            "weight_dtype": weight_dtype,
        },
    )
    need(here.family in kinds, page, f"not listed for {here.family}")
    need(weight.dtype in kinds[here.family], page, f"weight of {weight.dtype} on {here.family}")
    need(
        x.dtype in (HALF if here.family != "310P" else HALF[:1]),
        page,
        f"x of {x.dtype} on {here.family}",
    )
    need(
        x.dim() == 2 and weight.dim() == 2 and x.numel() > 0,
        page,
        "x (M, K) and weight (K, N), neither empty",
    )
    whole = integers(weight)  # [K, N]
    (rows, k) = x.shape
    n = whole.shape[1]
    need(k == whole.shape[0], page, f"K of x is {k}, of weight {whole.shape[0]}")
    need(k <= 65535 and n <= 65535 and rows < 2**31, page, f"K {k} and N {n}: at most 65535")
    need(
        group == 0 or (group % 32 == 0 and 32 <= group <= k - 1),
        page,
        f"antiquant_group_size {group} with K {k}",
    )
    shapes = {(-(-k // group), n)} if group else {(1,), (1, 1), (n,), (1, n)}
    need(
        tuple(antiquant_scale.shape) in shapes,
        page,
        f"antiquant_scale {tuple(antiquant_scale.shape)}: {shapes}",
    )
    need(
        antiquant_scale.dtype == x.dtype,
        page,
        f"antiquant_scale of {antiquant_scale.dtype} with x of {x.dtype}",
    )
    if bias is not None:
        wanted = torch.float32 if x.dtype == torch.bfloat16 else torch.float16
        need(bias.dtype == wanted, page, f"bias of {bias.dtype} with x of {x.dtype}; {wanted}")
        need(
            tuple(bias.shape) in ((n,), (1, n)) and bias.is_contiguous(),
            page,
            f"bias {tuple(bias.shape)}: ({n},)",
        )
    scale = antiquant_scale.float()
    weights = (whole * (scale.repeat_interleave(group, 0)[:k] if group else scale)).to(x.dtype)
    y = x.float() @ weights.float()
    return (y if bias is None else y + bias.float()).to(x.dtype)


def integers(weight: Tensor) -> Tensor:
    """A weight as integers [K, N]; an int32 word is eight int4 along the axis of stride one.

    The first is in the lowest four bits: op-plugin, ConvertWeightToINT4PackKernelNpuOpApi.cpp,
    convert_to_int4_pack.
    """
    if weight.dtype == torch.int8:
        return weight
    transposed = weight.stride(0) == 1 and weight.stride(1) == weight.shape[0]
    words = weight.t() if transposed else weight
    nibbles = torch.stack([(words >> shift) & 15 for shift in range(0, 32, 4)], -1).flatten(-2)
    whole = torch.where(nibbles > 7, nibbles - 16, nibbles)
    return whole.t() if transposed else whole


def npu_format_cast(input: Tensor, acl_format: int, **other: Any) -> Tensor:
    page = "npu_format_cast"
    only_defaults(page, other)
    need(
        acl_format in (2, 29),
        page,
        f"acl_format {acl_format} is not modelled here; 2 is ND, 29 is FRACTAL_NZ",
    )
    return input.clone()  # a format is not seen from here


KERNELS: tuple[Callable[..., Any], ...] = (
    npu_fused_infer_attention_score,
    npu_prompt_flash_attention,
    npu_incre_flash_attention,
    npu_rotary_mul,
    npu_gelu,
    fast_gelu,
    npu_weight_quant_batchmatmul,
    npu_format_cast,
)


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
