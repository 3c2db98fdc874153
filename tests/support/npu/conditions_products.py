"""Conditions of products: npu_weight_quant_batchmatmul, and mm and addmm on a weight in NZ.

Sources: ops-nn e5c3fa93; op-plugin 517f2e7d; torch_npu 9e73e708. SLOW holds what works and costs
whole passes over the weight or further launches at each call.
"""

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor

from tests.support.npu.condition import Condition

A2_A3 = ("A2", "A3")
QUANT_CHIPS = (*A2_A3, "310P")
NZ_CHIPS = (*A2_A3, "310P")
HALF = (torch.float16, torch.bfloat16)
FRACTAL_NZ = 29
LARGEST = 65535  # of K and N
LARGEST_MK = 512_000_000  # of M x K on a 310P with groups

QUANT = "ops-nn e5c3fa93 matmul/weight_quant_batch_matmul_v2/op_host/"
ACLNN = f"{QUANT}op_api/aclnn_weight_quant_batch_matmul_v2.cpp"
TILING = f"{QUANT}op_tiling/weight_quant_batch_matmul_v2_tiling.cpp"
NZ_TILING = f"{QUANT}op_tiling/weight_quant_batch_matmul_v2_weight_nz_tiling.cpp"
PLUGIN = "op-plugin 517f2e7d op_plugin/ops/opapi/WeightQuantBatchMatmulV2KernelNpuOpApi.cpp"
MATMUL = "ops-nn e5c3fa93 matmul/mat_mul_v3/op_host/op_api/aclnn_matmul.cpp"
CAST = "torch_npu 9e73e708 torch_npu/csrc/aten/common/FormatCastKernelNpu.cpp"


def transposed(x: Tensor) -> bool:
    """Whether a matrix is the transposed view of a contiguous one, as the sources ask it."""
    return x.dim() == 2 and x.stride(0) == 1 and x.stride(1) == x.shape[0]


def _sizes(call: SimpleNamespace) -> tuple[int, int]:
    """K and N of the weight; an int32 holds eight int4 along the axis of stride one."""
    k, n = call.weight.shape[-2:]
    if call.weight.dtype != torch.int32:
        return k, n
    return (8 * k, n) if transposed(call.weight) else (k, 8 * n)


def _group_fits(call: SimpleNamespace) -> bool:
    group = call.antiquant_group_size
    return group == 0 or (group % 32 == 0 and 32 <= group <= _sizes(call)[0] - 1)


def _scale_fits(call: SimpleNamespace) -> bool:
    k, n = _sizes(call)
    group = call.antiquant_group_size
    if group:
        return tuple(call.antiquant_scale.shape) == (-(-k // group), n)
    return tuple(call.antiquant_scale.shape) in {(1,), (1, 1), (n,), (1, n)}


def _scale_lies_as_weight(call: SimpleNamespace) -> bool:
    """Whether the memory of the scale is read in the order that it has.

    The scale of a transposed weight is read as transposed, too, whatever its own strides are.
    """
    scale = call.antiquant_scale
    if scale.dim() < 2 or min(scale.shape) == 1:
        return True
    return transposed(scale) if transposed(call.weight) else scale.is_contiguous()


def _bias_dtype(call: SimpleNamespace, *wide: torch.dtype) -> bool:
    if call.bias is None:
        return True
    return call.bias.dtype in (wide if call.x.dtype == torch.bfloat16 else (call.x.dtype,))


def _quant(
    families: tuple[str, ...], source: str, asks: str, holds: Callable[[SimpleNamespace], bool]
) -> Condition:
    return Condition("npu_weight_quant_batchmatmul", families, source, asks, holds)


QUANT_CONDITIONS = (
    _quant(("910A",), f"{ACLNN}:811", "a chip that has it: A2, A3 or 310P", lambda call: False),
    _quant(
        A2_A3,
        f"{ACLNN}:1108",
        "x and weight of two dimensions",
        lambda call: call.x.dim() == call.weight.dim() == 2,
    ),
    _quant(
        ("310P",),
        f"{ACLNN}:1104",
        "x and weight of two to six dimensions",
        lambda call: all(2 <= tensor.dim() <= 6 for tensor in (call.x, call.weight)),
    ),
    _quant(A2_A3, f"{ACLNN}:74", "x float16 or bfloat16", lambda call: call.x.dtype in HALF),
    _quant(("310P",), f"{ACLNN}:76", "x float16", lambda call: call.x.dtype == torch.float16),
    _quant(
        A2_A3,
        f"{ACLNN}:77",
        "weight int8, or int4 as int32",
        lambda call: call.weight.dtype in (torch.int8, torch.int32),
    ),
    _quant(("310P",), f"{ACLNN}:83", "weight int8", lambda call: call.weight.dtype == torch.int8),
    _quant(
        QUANT_CHIPS,
        f"{PLUGIN}:55",
        "one K in x and weight",
        lambda call: call.x.shape[-1] == _sizes(call)[0],
    ),
    _quant(
        QUANT_CHIPS,
        f"{ACLNN}:525",
        "M, K and N of 1 or more",
        lambda call: min(*call.x.shape[-2:], *_sizes(call)) >= 1,
    ),
    _quant(
        A2_A3,
        f"{ACLNN}:465",
        f"K and N at most {LARGEST}",
        lambda call: max(_sizes(call)) <= LARGEST,
    ),
    _quant(
        ("310P",),
        f"{NZ_TILING}:651",
        f"K and N at most {LARGEST}",
        lambda call: max(_sizes(call)) <= LARGEST,
    ),
    _quant(
        QUANT_CHIPS,
        f"{ACLNN}:1217",
        "x contiguous, or a transposed view",
        lambda call: call.x.is_contiguous() or transposed(call.x),
    ),
    _quant(
        QUANT_CHIPS,
        f"{ACLNN}:1222",
        "weight contiguous, or a transposed view",
        lambda call: call.weight.is_contiguous() or transposed(call.weight),
    ),
    _quant(
        QUANT_CHIPS,
        f"{PLUGIN}:86",
        "antiquant_group_size 0, or a multiple of 32 from 32 to K - 1",
        _group_fits,
    ),
    _quant(
        ("310P",),
        f"{ACLNN}:558",
        f"M x K at most {LARGEST_MK} with groups",
        lambda call: not call.antiquant_group_size or call.x.numel() <= LARGEST_MK,
    ),
    _quant(
        QUANT_CHIPS,
        f"{ACLNN}:344",
        "antiquant_scale (1,), (1, 1), (N,) or (1, N); with groups (K / group, N)",
        _scale_fits,
    ),
    _quant(
        A2_A3,
        f"{TILING}:831",
        "antiquant_scale of x's dtype",
        lambda call: call.antiquant_scale.dtype == call.x.dtype,
    ),
    _quant(
        ("310P",),
        f"{NZ_TILING}:379",
        "antiquant_scale of x's dtype",
        lambda call: call.antiquant_scale.dtype == call.x.dtype,
    ),
    _quant(
        QUANT_CHIPS,
        f"{ACLNN}:1603",
        "antiquant_scale transposed as weight is: it is read so in any case, without a word",
        _scale_lies_as_weight,
    ),
    _quant(
        ("A2",),
        f"{TILING}:736",
        "bias of x's dtype, float32 with bfloat16",
        lambda call: _bias_dtype(call, torch.float32),
    ),
    _quant(
        ("A3",),
        f"{TILING}:751",
        "bias of x's dtype, or float32 with bfloat16",
        lambda call: _bias_dtype(call, torch.float32, torch.bfloat16),
    ),
    _quant(("310P",), f"{NZ_TILING}:334", "bias of x's dtype", lambda call: _bias_dtype(call)),
    _quant(
        QUANT_CHIPS,
        f"{ACLNN}:439",
        "bias (N,) or (1, N)",
        lambda call: (
            call.bias is None
            or tuple(call.bias.shape) in {(_sizes(call)[1],), (1, _sizes(call)[1])}
        ),
    ),
    _quant(
        QUANT_CHIPS,
        f"{ACLNN}:1257",
        "bias contiguous",
        lambda call: call.bias is None or call.bias.is_contiguous(),
    ),
    _quant(
        ("310P",),
        f"{ACLNN}:865",
        "no quant_scale and no quant_offset",
        lambda call: call.quant_scale is None and call.quant_offset is None,
    ),
)

FORMAT_CONDITIONS = (
    Condition(
        "npu_format_cast",
        A2_A3,
        "torch_npu 9e73e708 torch_npu/csrc/core/npu/sys_ctrl/npu_sys_ctrl.cpp:285",
        "torch.npu.config.allow_internal_format set to True, which is off by default: without it "
        "the copy stays ND, with a warning",
        lambda call: call.acl_format != FRACTAL_NZ,
    ),
    Condition(
        "npu_format_cast",
        (*NZ_CHIPS, "910A"),
        f"{CAST}:56",
        "two dimensions or more for NZ",
        lambda call: call.acl_format != FRACTAL_NZ or call.input.dim() >= 2,
    ),
    Condition(
        "npu_format_cast",
        ("310P", "910A"),
        f"{CAST}:190",
        "no customize_dtype",
        lambda call: call.customize_dtype is None,
    ),
)

# mm takes `input` and `weight`, addmm a `bias` before them; the weight is in NZ.
NZ_CONDITIONS = tuple(
    Condition(operator, families, source, asks, holds)
    for operator in ("mm", "addmm")
    for families, source, asks, holds in (
        (("910A",), f"{MATMUL}:286", "a chip that has it: A2, A3 or 310P", lambda call: False),
        (
            NZ_CHIPS,
            f"{MATMUL}:313",
            "K and N of the weight above 1",
            lambda call: min(call.weight.shape) > 1,
        ),
        (
            ("310P",),
            f"{MATMUL}:98",
            "no float32",
            lambda call: torch.float32 not in (call.input.dtype, call.weight.dtype),
        ),
        (
            ("310P",),
            f"{MATMUL}:107",
            "no bfloat16",
            lambda call: torch.bfloat16 not in (call.input.dtype, call.weight.dtype),
        ),
        (
            NZ_CHIPS,
            f"{MATMUL}:74",
            "input and weight of one dtype",
            lambda call: call.input.dtype == call.weight.dtype,
        ),
    )
)
CONDITIONS = QUANT_CONDITIONS + FORMAT_CONDITIONS + NZ_CONDITIONS

SLOW = (
    Condition(
        "addmm",
        ("310P", "910A"),
        "op-plugin 517f2e7d op_plugin/ops/aclops/AddmmKernelNpu.cpp:147",
        "mm and an addition in its place: addmm on a weight in NZ is mul, mm and add",
        lambda call: False,
    ),
    _quant(
        ("310P",),
        f"{ACLNN}:1384",
        "a weight in NZ: one in ND is converted at each call",
        lambda call: False,
    ),
)
