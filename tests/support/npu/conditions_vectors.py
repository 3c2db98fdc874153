"""Conditions of npu_rotary_mul, npu_gelu and npu_add_layer_norm, as their host code checks them.

Sources: op-plugin 517f2e7d; ops-transformer 3a280bcc; ops-nn e5c3fa93. A call on npu_rotary_mul
reaches CANN's RotaryPositionEmbedding on A2 and A3, the older RotaryMul on 310P and 910A.
"""

from types import SimpleNamespace

import torch

from tests.support.npu.condition import Condition

A2_A3 = ("A2", "A3")
OLDER = ("310P", "910A")
EVERY_CHIP = (*A2_A3, *OLDER)
WIDEST = 896  # of a head that is rotated
UNALIGNED_BELOW = 80  # heads narrower than this and not aligned are refused in layout BNSD

ROTARY = "ops-transformer 3a280bcc posembedding/rotary_position_embedding/op_host/"
ROTARY += "rope_rotate_half_tiling.cpp"
OLD_ROTARY = "op-plugin 517f2e7d op_plugin/ops/aclops/RotaryMulKernelNpu.cpp"
NEW_ROTARY = "op-plugin 517f2e7d op_plugin/ops/opapi/RotaryMulKernelNpuOpApi.cpp"
GELU = "ops-nn e5c3fa93 activation/gelu_v2/op_api/aclnn_gelu_v2.cpp"
NORM = "ops-nn e5c3fa93 norm/add_layer_norm/op_host/"
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def rotary_layout(x: torch.Size, table: torch.Size) -> str | None:
    """The layout that CANN reads out of the first three sizes, None where it knows none.

    The order of the questions is the source's: the first that fits decides.
    """
    same = [a == b for a, b in zip(x[:3], table[:3], strict=True)]
    one = [n == 1 for n in table[:3]]
    answers = (
        (all(same), "NO_BROADCAST"),
        (all(one), "BND"),
        (not same[0] and not same[1], "BNSD"),
        (not same[0] and not same[2], "BSND"),
        (not same[1] and not same[2], "SBND"),
        (not same[0] and (one[1] or one[2]), "BSND"),
        (not same[1] and one[2], "SBND"),
        (not same[2] and same[0] and same[1], "SBND"),
        (not same[1] and same[0] and same[2], "R_B1SD"),
    )
    return next((layout for fits, layout in answers if fits), None)


def _not_skipped(call: SimpleNamespace) -> bool:
    """Whether a BNSD call is not turned away as slower than small operators.

    How many heads an unaligned one may have depends on the cores; the least is asked for.
    """
    if rotary_layout(call.input.shape, call.r1.shape) != "BNSD":
        return True
    batch, heads, rows, width = call.input.shape
    aligned = width // 2 * call.input.element_size() % 32 == 0
    return batch * heads <= 8 * rows if aligned else width >= UNALIGNED_BELOW


ROTARY_CONDITIONS = (
    Condition(
        "npu_rotary_mul",
        EVERY_CHIP,
        f"{NEW_ROTARY}:42",
        "rotary_mode half or interleave",
        lambda call: call.rotary_mode in ("half", "interleave"),
    ),
    Condition(
        "npu_rotary_mul",
        OLDER,
        f"{OLD_ROTARY}:117",
        "rotary_mode half",
        lambda call: call.rotary_mode == "half",
    ),
    Condition(
        "npu_rotary_mul",
        A2_A3,
        f"{ROTARY}:587",
        "input, r1 and r2 of four dimensions, or all of three",
        lambda call: call.input.dim() == call.r1.dim() == call.r2.dim() and call.r1.dim() in (3, 4),
    ),
    Condition(
        "npu_rotary_mul",
        A2_A3,
        f"{ROTARY}:596",
        f"D at most {WIDEST}",
        lambda call: call.input.shape[-1] <= WIDEST,
    ),
    Condition(
        "npu_rotary_mul",
        A2_A3,
        f"{ROTARY}:604",
        "D even",
        lambda call: call.input.shape[-1] % 2 == 0,
    ),
    Condition(
        "npu_rotary_mul",
        A2_A3,
        f"{ROTARY}:610",
        "r1 and r2 of one shape",
        lambda call: call.r1.shape == call.r2.shape,
    ),
    Condition(
        "npu_rotary_mul",
        A2_A3,
        f"{ROTARY}:620",
        "D of the tables the input's",
        lambda call: call.r1.shape[-1] == call.input.shape[-1],
    ),
    Condition(
        "npu_rotary_mul",
        A2_A3,
        f"{ROTARY}:732",
        "input float32, float16 or bfloat16",
        lambda call: call.input.dtype in FLOATS,
    ),
    Condition(
        "npu_rotary_mul",
        A2_A3,
        f"{ROTARY}:750",
        "tables that differ from the input in sizes of 1, in an order that has a layout",
        lambda call: (
            call.input.dim() == 3 or rotary_layout(call.input.shape, call.r1.shape) is not None
        ),
    ),
    Condition(
        "npu_rotary_mul",
        A2_A3,
        f"{ROTARY}:754",
        "in BNSD with tables for all rows B x N at most 8 S, and narrow heads aligned to 32 bytes",
        lambda call: call.input.dim() == 3 or _not_skipped(call),
    ),
)

GELU_CONDITIONS = (
    Condition(
        "npu_gelu",
        EVERY_CHIP,
        "op-plugin 517f2e7d op_plugin/utils/KernelNpuNewParams.cpp:20",
        "approximate none or tanh",
        lambda call: call.approximate in ("none", "tanh"),
    ),
    Condition(
        "npu_gelu",
        OLDER,
        f"{GELU}:55",
        "no bfloat16",
        lambda call: call.input.dtype != torch.bfloat16,
    ),
    Condition(
        "npu_gelu",
        EVERY_CHIP,
        f"{GELU}:61",
        "float32, float16 or bfloat16",
        lambda call: call.input.dtype in FLOATS,
    ),
)

F32 = torch.float32
# Dtypes of x1, x2 and both of gamma and beta.
_A2_KINDS = {
    *((half, half, weight) for half in FLOATS[1:] for weight in (F32, half)),
    *((F32, half, F32) for half in FLOATS),
    *((half, F32, F32) for half in FLOATS),
}
_310P_KINDS = {(kind, kind, kind) for kind in (torch.float16, F32)}


def _kinds(call: SimpleNamespace) -> tuple[torch.dtype, ...] | None:
    """The dtypes of x1, x2 and of gamma and beta; None where those two differ."""
    if call.gamma.dtype != call.beta.dtype:
        return None
    return call.x1.dtype, call.x2.dtype, call.gamma.dtype


WITH_NORM = (*A2_A3, "310P")
NORM_CONDITIONS = (
    Condition(
        "npu_add_layer_norm",
        ("910A",),
        f"{NORM}add_layer_norm_def.cpp:93",
        "a chip that has the kernel: A2, A3 and 310P",
        lambda call: False,
    ),
    Condition(
        "npu_add_layer_norm",
        A2_A3,
        f"{NORM}add_layer_norm_def.cpp:34",
        "x1 and x2 of one dtype with gamma of it or float32, or one of them float32 with gamma "
        "float32; beta as gamma",
        lambda call: _kinds(call) in _A2_KINDS,
    ),
    Condition(
        "npu_add_layer_norm",
        ("310P",),
        f"{NORM}add_layer_norm_def.cpp:99",
        "all four float16, or all float32",
        lambda call: _kinds(call) in _310P_KINDS,
    ),
    Condition(
        "npu_add_layer_norm",
        WITH_NORM,
        f"{NORM}add_layer_norm_tiling.cpp:351",
        "x1 of one to eight dimensions",
        lambda call: 1 <= call.x1.dim() <= 8,
    ),
    Condition(
        "npu_add_layer_norm",
        WITH_NORM,
        f"{NORM}add_layer_norm_tiling.cpp:461",
        # op-plugin makes the mean with a single 1 in place of all dimensions of gamma.
        "gamma of one dimension, since mean, which torch_npu makes, must have as many as x1",
        lambda call: call.gamma.dim() == 1,
    ),
    Condition(
        "npu_add_layer_norm",
        WITH_NORM,
        f"{NORM}add_layer_norm_tiling.cpp:487",
        "x1 and x2 of one shape",
        lambda call: call.x1.shape == call.x2.shape,
    ),
    Condition(
        "npu_add_layer_norm",
        WITH_NORM,
        f"{NORM}add_layer_norm_tiling.cpp:496",
        "gamma and beta of one shape",
        lambda call: call.gamma.shape == call.beta.shape,
    ),
    Condition(
        "npu_add_layer_norm",
        WITH_NORM,
        f"{NORM}add_layer_norm_tiling.cpp:401",
        "gamma as long as the last dimension of x1",
        lambda call: call.gamma.shape[-1] == call.x1.shape[-1],
    ),
    Condition(
        "npu_add_layer_norm",
        WITH_NORM,
        f"{NORM}add_layer_norm_tiling.cpp:523",
        "x1 not empty",
        lambda call: call.x1.numel() > 0,
    ),
    Condition(
        "npu_add_layer_norm",
        ("310P",),
        "ops-nn e5c3fa93 norm/add_layer_norm/docs/aclnnAddLayerNorm.md:357",
        "a last dimension of 32 bytes or more",
        lambda call: call.x1.shape[-1] * call.x1.element_size() >= 32,
    ),
)
CONDITIONS = ROTARY_CONDITIONS + GELU_CONDITIONS + NORM_CONDITIONS
