"""The products of npu:: on CPU tensors, and the sight of mm and addmm on weights in NZ.

A CPU tensor has no format: what `npu_format_cast` made is remembered by its memory instead.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.npu import conditions_writes
from tests.support.npu.condition import Condition, enforce
from tests.support.npu.conditions_products import CONDITIONS, FRACTAL_NZ, SLOW, transposed
from tests.support.npu.rules import here, need, only_defaults

# What a call lost on its way, one for each call: SLOW's conditions that did not hold.
slow: list[Condition] = []
# What was cast to NZ, by address; it is kept, so that no other tensor comes to lie there.
_in_nz: dict[int, Tensor] = {}


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
    enforce(
        CONDITIONS,
        page,
        x=x,
        weight=weight,
        antiquant_scale=antiquant_scale,
        quant_scale=quant_scale,
        quant_offset=quant_offset,
        bias=bias,
        antiquant_group_size=antiquant_group_size,
    )
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
    need(x.dim() == 2 and weight.dim() == 2, page, "only matrices are modelled here")
    remember_slow(page)
    whole = integers(weight)  # [K, N]
    scale = antiquant_scale.float()
    group = antiquant_group_size
    spread = scale.repeat_interleave(group, 0)[: len(whole)] if group else scale
    weights = (whole * spread).to(x.dtype)
    y = x.float() @ weights.float()
    return (y if bias is None else y + bias.float()).to(x.dtype)


def integers(weight: Tensor) -> Tensor:
    """A weight as integers [K, N]; an int32 word is eight int4 along the axis of stride one.

    The first is in the lowest four bits: op-plugin, ConvertWeightToINT4PackKernelNpuOpApi.cpp,
    convert_to_int4_pack.
    """
    if weight.dtype == torch.int8:
        return weight
    turned = transposed(weight)
    words = weight.t() if turned else weight
    nibbles = torch.stack([(words >> shift) & 15 for shift in range(0, 32, 4)], -1).flatten(-2)
    whole = torch.where(nibbles > 7, nibbles - 16, nibbles)
    return whole.t() if turned else whole


def npu_format_cast(
    input: Tensor,
    acl_format: int,
    *,
    customize_dtype: int | None = None,
    input_dtype: int | None = None,
) -> Tensor:
    page = "npu_format_cast"
    given = {"input": input, "acl_format": acl_format, "customize_dtype": customize_dtype}
    enforce(CONDITIONS, page, **given)
    only_defaults(page, {"customize_dtype": customize_dtype, "input_dtype": input_dtype})
    need(
        acl_format in (2, FRACTAL_NZ),
        page,
        f"acl_format {acl_format} is not modelled here; 2 is ND, {FRACTAL_NZ} is FRACTAL_NZ",
    )
    made = input.clone()
    if acl_format == FRACTAL_NZ:
        _in_nz[made.data_ptr()] = made
    return made


def is_nz(x: Tensor) -> bool:
    """Whether a tensor shares its memory with one that was cast to NZ."""
    return x.data_ptr() in _in_nz


def remember_slow(operator: str) -> None:
    """Note each of SLOW's conditions on the operator and the present chip."""
    slow.extend(
        found for found in SLOW if found.operator == operator and here.family in found.families
    )


class AtenRules(TorchDispatchMode):
    """While it is on, in this thread, aten's products on NZ weights and index_copy_ are checked."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.name().removeprefix("aten::").split(".")[0]
        if name in ("mm", "addmm") and is_nz(args[-1]):
            enforce(CONDITIONS, name, input=args[-2], weight=args[-1])
            remember_slow(name)
        if name == "index_copy_":
            names = ("self", "dim", "index", "source")
            enforce(conditions_writes.CONDITIONS, name, **dict(zip(names, args, strict=True)))
        return func(*args, **(kwargs or {}))
