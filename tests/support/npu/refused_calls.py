"""One call of each operator that the NPU's host code takes, and one for each way to be refused."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.support.npu import products, reference

reference.install()
npu = torch.ops.npu
HALF = torch.float16
BRAIN = torch.bfloat16


def half(*shape: int, dtype: torch.dtype = HALF) -> Tensor:
    return torch.ones(*shape, dtype=dtype)


def whole(*shape: int, dtype: torch.dtype = torch.int8) -> Tensor:
    return torch.ones(*shape, dtype=dtype)


def turned(x: Tensor) -> Tensor:
    """The same matrix as the transposed view of a contiguous one."""
    return x.t().contiguous().t()


def apart(x: Tensor) -> Tensor:
    """The same tensor with gaps between its values."""
    return x.repeat_interleave(2, -1)[..., ::2]


def on_nz(operator: str) -> Callable[..., Tensor]:
    """A call of aten's operator on a weight cast to NZ, the way that a 310P casts it."""

    def call(input: Tensor, weight: Tensor) -> Tensor:
        family = reference.here.family
        with reference.on_chip("310P"):
            cast = npu.npu_format_cast(weight, 29)
        with reference.on_chip(family), reference.AtenRules():
            if operator == "mm":
                return torch.mm(input, cast)
            return torch.addmm(half(cast.shape[1], dtype=input.dtype), input, cast)

    return call


def copied(self: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    with reference.AtenRules():
        return self.index_copy_(dim, index, source)


def weighed(**given: Any) -> Tensor:
    """The call through the dispatcher; on a tensor without memory the kernel's own function."""
    if given["x"].is_meta:
        return products.npu_weight_quant_batchmatmul(**given)
    return npu.npu_weight_quant_batchmatmul(**given)


CALLS: dict[str, Callable[..., Any]] = {
    "npu_weight_quant_batchmatmul": weighed,
    "mm": on_nz("mm"),
    "addmm": on_nz("addmm"),
    "index_copy_": copied,
}
FIT: dict[str, dict[str, Any]] = {
    "npu_rotary_mul": {
        "input": half(2, 3, 5, 128),
        "r1": half(2, 1, 5, 128),
        "r2": half(2, 1, 5, 128),
    },
    "npu_gelu": {"input": half(2, 3)},
    "npu_add_layer_norm": {
        "x1": half(2, 3, 32),
        "x2": half(2, 3, 32),
        "gamma": half(32),
        "beta": half(32),
    },
    "npu_weight_quant_batchmatmul": {
        "x": half(2, 64),
        "weight": turned(whole(64, 8)),
        "antiquant_scale": half(8),
        "bias": half(8),
    },
    "npu_format_cast": {"input": half(4, 4), "acl_format": 29},
    "mm": {"input": half(2, 8), "weight": half(8, 4)},
    "addmm": {"input": half(2, 8), "weight": half(8, 4)},
    "npu_scatter_nd_update_": {
        "self": half(3, 4, 5),
        "indices": torch.tensor([[1, 2], [0, 3]]),
        "updates": half(2, 5),
    },
    "scatter_update_": {
        "self": half(3, 2, 6, 5),
        "indices": torch.tensor([4, 4, 4]),
        "updates": half(3, 2, 1, 5),
        "axis": 2,
    },
    "index_copy_": {
        "self": half(3, 2, 6, 5),
        "dim": 2,
        "index": torch.tensor([4]),
        "source": half(3, 2, 1, 5),
    },
}
ROTARY_OFF = {"input": half(40, 2, 5, 128), "r1": half(1, 1, 5, 128), "r2": half(1, 1, 5, 128)}
GROUPS = {"antiquant_group_size": 32, "antiquant_scale": turned(half(2, 8))}
WIDE_NZ = {"input": half(2, 8, dtype=torch.float32), "weight": half(8, 4, dtype=torch.float32)}
# (operator, chip family, what makes the call one that is refused)
BROKEN: list[tuple[str, str, dict[str, Any]]] = [
    ("npu_rotary_mul", "A2", {"rotary_mode": "quarter"}),
    ("npu_rotary_mul", "310P", {"rotary_mode": "interleave"}),
    ("npu_rotary_mul", "A2", {"input": half(3, 5, 128)}),
    ("npu_rotary_mul", "A3", dict.fromkeys(("input", "r1", "r2"), half(1, 1, 5, 898))),
    ("npu_rotary_mul", "A2", dict.fromkeys(("input", "r1", "r2"), half(1, 1, 5, 33))),
    ("npu_rotary_mul", "A2", {"r2": half(1, 1, 5, 128)}),
    ("npu_rotary_mul", "A2", {"input": half(2, 3, 5, 64)}),
    ("npu_rotary_mul", "A2", {"input": half(2, 3, 5, 128, dtype=torch.float64)}),
    ("npu_rotary_mul", "A2", dict.fromkeys(("r1", "r2"), half(1, 3, 5, 128))),
    ("npu_rotary_mul", "A2", ROTARY_OFF),
    ("npu_gelu", "A2", {"approximate": "sigmoid"}),
    ("npu_gelu", "310P", {"input": half(2, dtype=BRAIN)}),
    ("npu_gelu", "A2", {"input": half(2, dtype=torch.float64)}),
    ("npu_add_layer_norm", "910A", {}),
    ("npu_add_layer_norm", "A2", {"x2": half(2, 3, 32, dtype=BRAIN)}),
    ("npu_add_layer_norm", "310P", dict.fromkeys(("gamma", "beta"), torch.ones(32))),
    ("npu_add_layer_norm", "A2", dict.fromkeys(("x1", "x2"), half(*[1] * 8, 32))),
    ("npu_add_layer_norm", "A2", dict.fromkeys(("gamma", "beta"), half(3, 32))),
    ("npu_add_layer_norm", "A3", {"x2": half(3, 32)}),
    ("npu_add_layer_norm", "A2", {"beta": half(1)}),
    ("npu_add_layer_norm", "A2", dict.fromkeys(("gamma", "beta"), half(1))),
    ("npu_add_layer_norm", "A2", dict.fromkeys(("x1", "x2"), half(0, 32))),
    (
        "npu_add_layer_norm",
        "310P",
        dict.fromkeys(("x1", "x2"), half(2, 8)) | dict.fromkeys(("gamma", "beta"), half(8)),
    ),
    ("npu_weight_quant_batchmatmul", "910A", {}),
    ("npu_weight_quant_batchmatmul", "A2", {"x": half(1, 2, 64)}),
    ("npu_weight_quant_batchmatmul", "310P", {"x": half(64)}),
    ("npu_weight_quant_batchmatmul", "A2", {"x": half(2, 64, dtype=torch.float32)}),
    ("npu_weight_quant_batchmatmul", "310P", {"x": half(2, 64, dtype=BRAIN)}),
    ("npu_weight_quant_batchmatmul", "A2", {"weight": half(64, 8)}),
    ("npu_weight_quant_batchmatmul", "310P", {"weight": turned(whole(8, 8, dtype=torch.int32))}),
    ("npu_weight_quant_batchmatmul", "A2", {"x": half(2, 32)}),
    ("npu_weight_quant_batchmatmul", "A2", {"x": half(0, 64)}),
    ("npu_weight_quant_batchmatmul", "A2", {"weight": turned(whole(64, 65536))}),
    ("npu_weight_quant_batchmatmul", "310P", {"weight": turned(whole(64, 65536))}),
    ("npu_weight_quant_batchmatmul", "A2", {"x": apart(half(2, 64))}),
    ("npu_weight_quant_batchmatmul", "A2", {"weight": apart(whole(64, 8))}),
    ("npu_weight_quant_batchmatmul", "A2", {"antiquant_group_size": 64}),
    (
        "npu_weight_quant_batchmatmul",
        "310P",
        GROUPS | {"x": torch.empty(8_000_001, 64, dtype=HALF, device="meta")},
    ),
    ("npu_weight_quant_batchmatmul", "A2", {"antiquant_scale": half(4)}),
    ("npu_weight_quant_batchmatmul", "A2", {"antiquant_scale": torch.ones(8)}),
    ("npu_weight_quant_batchmatmul", "310P", {"antiquant_scale": torch.ones(8)}),
    ("npu_weight_quant_batchmatmul", "A2", GROUPS | {"antiquant_scale": half(2, 8)}),
    ("npu_weight_quant_batchmatmul", "A2", {"bias": torch.ones(8)}),
    ("npu_weight_quant_batchmatmul", "A3", {"bias": half(8, dtype=BRAIN)}),
    ("npu_weight_quant_batchmatmul", "310P", {"bias": torch.ones(8)}),
    ("npu_weight_quant_batchmatmul", "A2", {"bias": half(4)}),
    ("npu_weight_quant_batchmatmul", "A2", {"bias": apart(half(8))}),
    ("npu_weight_quant_batchmatmul", "310P", {"quant_scale": torch.ones(8)}),
    ("npu_format_cast", "A2", {}),
    ("npu_format_cast", "310P", {"input": half(4)}),
    ("npu_format_cast", "310P", {"customize_dtype": 1}),
    *(
        broken
        for operator in ("mm", "addmm")
        for broken in (
            (operator, "910A", {}),
            (operator, "310P", {"weight": half(8, 1)}),
            (operator, "310P", WIDE_NZ),
            (operator, "310P", {name: tensor.bfloat16() for name, tensor in WIDE_NZ.items()}),
            (operator, "A2", {"input": half(2, 8, dtype=BRAIN)}),
        )
    ),
    ("npu_scatter_nd_update_", "310P", {}),
    (
        "npu_scatter_nd_update_",
        "A2",
        {"self": half(3, 4, 5, dtype=torch.float64), "updates": half(2, 5, dtype=torch.float64)},
    ),
    ("npu_scatter_nd_update_", "A2", {"indices": whole(2, 2)}),
    ("npu_scatter_nd_update_", "A2", {"updates": half(2, 5, dtype=BRAIN)}),
    ("npu_scatter_nd_update_", "A2", {"indices": torch.tensor([1, 2])}),
    ("npu_scatter_nd_update_", "A2", {"updates": half(2, 4)}),
    ("scatter_update_", "310P", {}),
    (
        "scatter_update_",
        "A2",
        {name: FIT["scatter_update_"][name].double() for name in ("self", "updates")},
    ),
    (
        "scatter_update_",
        "910A",
        {name: FIT["scatter_update_"][name].bfloat16() for name in ("self", "updates")},
    ),
    ("scatter_update_", "A2", {"indices": whole(3)}),
    ("scatter_update_", "A2", {"updates": half(3, 2, 1, 5, dtype=BRAIN)}),
    ("scatter_update_", "A2", {"updates": half(3, 2, 0, 5)}),
    ("scatter_update_", "A2", {"updates": half(3, 2, 5)}),
    ("scatter_update_", "A2", {"indices": whole(1, 1, 3, dtype=torch.int64)}),
    ("scatter_update_", "A2", {"axis": 0}),
    ("scatter_update_", "A2", {"updates": half(3, 2, 1, 4)}),
    ("scatter_update_", "A2", {"indices": whole(3, 3, dtype=torch.int64)}),
    ("index_copy_", "310P", {}),
    ("index_copy_", "A2", {"index": whole(1)}),
    ("index_copy_", "A2", {"source": half(3, 2, 1, 5, dtype=BRAIN)}),
    ("index_copy_", "A2", {"self": half(*[1] * 9), "source": half(*[1] * 9)}),
    ("index_copy_", "A2", {"source": half(3, 2, 1, 4)}),
]


def called(operator: str, family: str, **changes: Any) -> Any:
    call = CALLS.get(operator) or getattr(npu, operator)
    given = {
        name: value.clone() if name == "self" else value for name, value in FIT[operator].items()
    }
    if operator in ("npu_scatter_nd_update_", "scatter_update_", "index_copy_"):
        changes = {**given, **changes}
        with reference.on_chip(family):
            return call(*changes.values())
    with reference.on_chip(family):
        return call(**given | changes)
