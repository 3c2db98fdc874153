"""Do the reference kernels of npu_reference.py give the shapes and dtypes that torch_npu's own
shape kernels give?
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tests.npu_wheel.say import check, note, skip
from tests.support.npu import reference as reference

BATCH = 2
HEADS = 8
KEYS = 13
WIDTH = 96


def cases(dtype: torch.dtype) -> Iterator[tuple[str, str, tuple[Any, ...], dict[str, Any]]]:
    """Chip family, operator, its positional and its keyword arguments."""
    generator = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    k = some(BATCH, HEADS, KEYS, WIDTH)
    v = some(BATCH, HEADS, KEYS, WIDTH)
    for rows in (KEYS, 4, 1):  # prefill, a chunk on the cache, one new token
        q = some(BATCH, HEADS, rows, WIDTH)
        heads = {"num_heads": HEADS, "input_layout": "BNSD"}
        off = torch.ones(rows, KEYS, dtype=torch.bool).triu(1 + KEYS - rows).repeat(BATCH, 1, 1, 1)
        yield (
            "A2",
            "npu_fused_infer_attention_score",
            (q, k, v),
            heads | {"atten_mask": off, "scale": 0.1},
        )
        if rows > 1:
            wide = {"next_tokens": reference.EVERY}
            yield (
                "A2",
                "npu_prompt_flash_attention",
                (q, k, v),
                heads | wide | {"atten_mask": off, "scale_value": 0.1},
            )
        else:
            yield (
                "A2",
                "npu_incre_flash_attention",
                (q, k, v),
                heads | {"atten_mask": off, "inner_precise": 0},
            )
    x = some(BATCH, HEADS, 5, WIDTH)
    table = some(BATCH, 1, 5, WIDTH)
    yield "A2", "npu_rotary_mul", (x, table, table), {}
    for form in ("none", "tanh"):
        yield "A2", "npu_gelu", (some(3, 5, 64),), {"approximate": form}
    yield "A2", "fast_gelu", (some(3, 64),), {}
    yield "A2", "npu_add_layer_norm", (some(3, 64), some(3, 64), some(64), some(64), 1e-5, True), {}
    places = torch.cartesian_prod(*map(torch.arange, (BATCH, HEADS)), torch.tensor([4]))
    written = (k.clone(), places, some(BATCH * HEADS, WIDTH))
    yield "A2", "npu_scatter_nd_update_", written, {}
    each = torch.full((BATCH,), 4)
    yield "A2", "scatter_update_", (k.clone(), each, some(BATCH, HEADS, 1, WIDTH), -2), {}
    yield from _products(some)
    yield "310P", "npu_format_cast", (some(64, 32), 29), {}


def _products(some: Any) -> Iterator[tuple[str, str, tuple[Any, ...], dict[str, Any]]]:
    """int8 with a scale a row, int4 with one for 32 columns; the weight as a transposed view, as
    the model gives it.
    """
    rows = 64
    columns = 96
    x = some(5, columns)
    bias = some(rows)
    bias = bias.float() if bias.dtype == torch.bfloat16 else bias
    whole = torch.randint(-127, 128, (rows, columns), dtype=torch.int8)
    words = torch.randint(-(2**31), 2**31 - 1, (rows, columns // 8), dtype=torch.int32)
    name = "npu_weight_quant_batchmatmul"
    yield "A2", name, (x, whole.t(), some(rows)), {"bias": bias}
    yield "A2", name, (x, words.t(), some(rows, columns // 32).t()), {"antiquant_group_size": 32}


def main() -> None:
    """A line for each case; a skip where the vendor has no shape kernel."""
    import torch_npu  # noqa: F401  registers the schemas and the vendor's shape kernels

    seen = set()
    gaps = set()
    for dtype in (torch.float16, torch.bfloat16):
        for number, (family, name, positional, named) in enumerate(cases(dtype)):
            seen.add(name)
            if not torch._C._dispatch_has_kernel_for_dispatch_key(f"npu::{name}", "Meta"):
                gaps.add(name)
                continue
            with reference.on_chip(family):
                ours = outputs(getattr(reference, name)(*positional, **named))
            without_data = {key: meta(value) for key, value in named.items()}
            theirs = outputs(getattr(torch.ops.npu, name)(*map(meta, positional), **without_data))
            what = f"{name}, case {number}, {str(dtype).removeprefix('torch.')}"
            check(
                what,
                ours == theirs,
                f"{ours}" if ours == theirs else f"{ours}, the vendor's {theirs}",
            )
    for name in sorted(gaps):
        note(name, "the wheel has no shape kernel to compare with")
    missing = {kernel.__name__ for kernel in reference.KERNELS} - seen
    if missing:
        skip("reference kernels without a case", ", ".join(sorted(missing)))


def outputs(given: Any) -> list[tuple[list[int], str]]:
    """Shape and dtype of each output."""
    tensors = list(given) if isinstance(given, (tuple, list)) else [given]
    return [(list(t.shape), str(t.dtype).removeprefix("torch.")) for t in tensors]


def meta(value: Any) -> Any:
    """The same without data."""
    return value.to("meta") if isinstance(value, Tensor) else value


if __name__ == "__main__":
    main()
