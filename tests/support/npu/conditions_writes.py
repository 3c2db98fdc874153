"""Conditions of writes to slots of a cache by a device index: index_copy_ and the scatters.

Sources: ops-nn e5c3fa93; op-plugin 517f2e7d. The pages of op-plugin list 310P and 910A for
npu_scatter_nd_update_, and 910A for scatter_update_; CANN's own pages are stricter for the first
and hold here.
"""

from types import SimpleNamespace

import torch

from tests.support.npu.condition import Condition

A2_A3 = ("A2", "A3")
OLDER = ("310P", "910A")
EVERY_CHIP = (*A2_A3, *OLDER)
INDICES = (torch.int32, torch.int64)
_COMMON = (torch.float32, torch.float16, torch.bool)
ND = "ops-nn e5c3fa93 index/scatter_nd_update/"
AXIS = "ops-nn e5c3fa93 index/scatter/"
COPY = "ops-nn e5c3fa93 index/scatter_update/"


def _axis(call: SimpleNamespace) -> int:
    return call.axis % call.self.dim()


def _other_sizes_agree(call: SimpleNamespace) -> bool:
    """Whether updates has the sizes of self, but along the first axis and the one written to."""
    free = (0, _axis(call))
    pairs = enumerate(zip(call.self.shape, call.updates.shape, strict=True))
    return all(a == b for axis, (a, b) in pairs if axis not in free)


def _nd_shape(call: SimpleNamespace) -> tuple[int, ...]:
    """The shape that updates must have: that of the places, then that of what is at each."""
    indexed = call.indices.shape[-1]
    return (*call.indices.shape[:-1], *call.self.shape[indexed:])


def _slices_agree(call: SimpleNamespace) -> bool:
    """Whether source has the sizes of self beside `dim`, and along it one for each index."""
    dim = call.dim % call.self.dim()
    wanted = list(call.self.shape)
    wanted[dim] = call.index.numel()
    return list(call.source.shape) == wanted


ND_CONDITIONS = (
    Condition(
        "npu_scatter_nd_update_",
        OLDER,
        f"{ND}docs/aclnnScatterNdUpdate.md:20",
        "a chip on aclnnScatterNdUpdate's page: A2 or A3",
        lambda call: False,
    ),
    Condition(
        "npu_scatter_nd_update_",
        A2_A3,
        f"{ND}op_api/aclnn_scatter_nd_update.cpp:75",
        "self of float32, float16, bfloat16, bool or a signed integer",
        lambda call: (
            call.self.dtype
            in (*_COMMON, torch.bfloat16, torch.int8, torch.int16, torch.int32, torch.int64)
        ),
    ),
    Condition(
        "npu_scatter_nd_update_",
        A2_A3,
        f"{ND}op_api/aclnn_scatter_nd_update.cpp:77",
        "indices int32 or int64",
        lambda call: call.indices.dtype in INDICES,
    ),
    Condition(
        "npu_scatter_nd_update_",
        A2_A3,
        f"{ND}op_api/aclnn_scatter_nd_update.cpp:79",
        "updates of self's dtype",
        lambda call: call.updates.dtype == call.self.dtype,
    ),
    Condition(
        "npu_scatter_nd_update_",
        A2_A3,
        "op-plugin 517f2e7d docs/zh/custom_APIs/torch_npu/torch_npu-npu_scatter_nd_update_.md:46",
        "indices of two dimensions or more, the last no longer than self has dimensions",
        lambda call: call.indices.dim() >= 2 and call.indices.shape[-1] <= call.self.dim(),
    ),
    Condition(
        "npu_scatter_nd_update_",
        A2_A3,
        "op-plugin 517f2e7d docs/zh/custom_APIs/torch_npu/torch_npu-npu_scatter_nd_update_.md:47",
        "updates of the places' shape and then that of what is at each",
        lambda call: tuple(call.updates.shape) == _nd_shape(call),
    ),
)

AXIS_CONDITIONS = (
    Condition(
        "scatter_update_",
        ("310P",),
        f"{AXIS}docs/aclnnInplaceScatterUpdate.md:20",
        "a chip on aclnnInplaceScatterUpdate's page: A2, A3 or 910A",
        lambda call: False,
    ),
    Condition(
        "scatter_update_",
        EVERY_CHIP,
        f"{AXIS}op_api/aclnn_scatter_update.cpp:78",
        "self int8, int32, float16, float32 or bfloat16",
        lambda call: (
            call.self.dtype
            in (torch.int8, torch.int32, torch.float16, torch.float32, torch.bfloat16)
        ),
    ),
    Condition(
        "scatter_update_",
        ("910A",),
        f"{AXIS}op_api/aclnn_scatter_update.cpp:84",
        "no bfloat16",
        lambda call: call.self.dtype != torch.bfloat16,
    ),
    Condition(
        "scatter_update_",
        EVERY_CHIP,
        f"{AXIS}op_api/aclnn_scatter_update.cpp:79",
        "indices int32 or int64",
        lambda call: call.indices.dtype in INDICES,
    ),
    Condition(
        "scatter_update_",
        EVERY_CHIP,
        f"{AXIS}op_api/aclnn_scatter_update.cpp:81",
        "updates of self's dtype",
        lambda call: call.updates.dtype == call.self.dtype,
    ),
    Condition(
        "scatter_update_",
        EVERY_CHIP,
        f"{AXIS}op_api/aclnn_scatter_update.cpp:94",
        "nothing empty",
        lambda call: min(call.self.numel(), call.indices.numel(), call.updates.numel()) > 0,
    ),
    Condition(
        "scatter_update_",
        EVERY_CHIP,
        f"{AXIS}op_api/aclnn_scatter_update.cpp:99",
        "as many dimensions in updates as in self",
        lambda call: call.updates.dim() == call.self.dim(),
    ),
    Condition(
        "scatter_update_",
        EVERY_CHIP,
        f"{AXIS}op_api/aclnn_scatter_update.cpp:110",
        "indices of at most two dimensions",
        lambda call: call.indices.dim() <= 2,
    ),
    Condition(
        "scatter_update_",
        EVERY_CHIP,
        f"{AXIS}docs/aclnnInplaceScatterUpdate.md:141",
        "an axis other than the first",
        lambda call: _axis(call) != 0,
    ),
    Condition(
        "scatter_update_",
        EVERY_CHIP,
        f"{AXIS}docs/aclnnInplaceScatterUpdate.md:272",
        "sizes of self in updates, but along the first axis and the one written to",
        _other_sizes_agree,
    ),
    Condition(
        "scatter_update_",
        EVERY_CHIP,
        f"{AXIS}docs/aclnnInplaceScatterUpdate.md:273",
        "pairs where indices has two dimensions",
        lambda call: call.indices.dim() < 2 or call.indices.shape[1] == 2,
    ),
)

COPY_CONDITIONS = (
    Condition(
        "index_copy_",
        OLDER,
        f"{COPY}docs/aclnnIndexCopy&aclnnInplaceIndexCopy.md:18",
        "a chip on aclnnInplaceIndexCopy's page: A2 or A3",
        lambda call: False,
    ),
    Condition(
        "index_copy_",
        A2_A3,
        f"{COPY}op_api/aclnn_index_copy.cpp:121",
        "index int32 or int64",
        lambda call: call.index.dtype in INDICES,
    ),
    Condition(
        "index_copy_",
        A2_A3,
        f"{COPY}op_api/aclnn_index_copy.cpp:123",
        "source of self's dtype",
        lambda call: call.source.dtype == call.self.dtype,
    ),
    Condition(
        "index_copy_",
        A2_A3,
        f"{COPY}op_api/aclnn_index_copy.cpp:158",
        "self and source of at most eight dimensions, index of one",
        lambda call: max(call.self.dim(), call.source.dim()) <= 8 and call.index.dim() <= 1,
    ),
    Condition(
        "index_copy_",
        A2_A3,
        f"{COPY}op_api/aclnn_index_copy.cpp:195",
        "slices of source of the shape of self's",
        _slices_agree,
    ),
)
CONDITIONS = ND_CONDITIONS + AXIS_CONDITIONS + COPY_CONDITIONS
