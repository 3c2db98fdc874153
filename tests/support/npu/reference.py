"""What the npu:: operators do, as their pages say, on CPU tensors: the maths, and what they may be given.

`install()` makes `torch.ops.npu.*` callable on the CPU. With torch_npu imported the schemas are its own, without it
they come from npu_schemas.txt. Whatever passes here fits the pages as they were read; it says nothing of a device.

Pages are those of op-plugin's docs/zh/custom_APIs/torch_npu, named torch_npu-<operator>.md.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)
EVERY = 2**31 - 1  # pre_tokens or next_tokens that leave nothing out
SCHEMAS = Path(__file__).with_name("schemas.txt")

here = SimpleNamespace(family="A2")  # the chip family whose constraints hold
calls: list[
    tuple[str, dict[str, Any]]
] = []  # every operator that was called, and its keyword arguments
_libraries: list[torch.library.Library] = []  # their registrations end with them


class Contract(ValueError):
    """An operator was given what its page does not allow."""

    def __init__(self, page: str, what: str) -> None:
        super().__init__(f"torch_npu-{page}.md: {what}")


def need(ok: bool, page: str, what: str) -> None:
    if not ok:
        raise Contract(page, what)


@contextmanager
def on_chip(family: str) -> Iterator[None]:
    """Let the constraints of this chip family hold, and forget the calls before."""
    before = here.family
    here.family = family
    calls.clear()
    try:
        yield
    finally:
        here.family = before


def called() -> set[str]:
    """Names of the operators called since the last `on_chip`."""
    return {name for name, _ in calls}


# ---- attention ----


def npu_fused_infer_attention_score(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    atten_mask: Tensor | None = None,
    num_heads: int = 1,
    scale: float = 1.0,
    input_layout: str = "BSH",
    actual_seq_lengths_kv: list[int] | None = None,
    pre_tokens: int = EVERY,
    next_tokens: int = EVERY,
    sparse_mode: int = 0,
    inner_precise: int = 0,
    **other: Any,
) -> tuple[Tensor, Tensor]:
    page = "npu_fused_infer_attention_score"
    need(here.family in ("A2", "A3"), page, f"listed for A2 and A3, not for {here.family}")
    only_defaults(page, other)
    one = query.shape[2] == 1
    need(inner_precise in ((0, 1) if one else (0, 1, 2, 3)), page, f"inner_precise {inner_precise}")
    given = Given(page, query, key, value, num_heads, input_layout)
    given.limit(batch=65536, keys=262144 if one else 20971520)
    shapes = [
        (1, given.rows, given.keys),
        (given.batch, 1, given.rows, given.keys),
        (1, 1, given.rows, given.keys),
    ]
    shapes.append((given.batch, given.keys) if one else (given.rows, given.keys))
    off = given.masked(atten_mask, shapes)
    if not one:  # both are without effect where there is one query
        off = off | given.outside(atten_mask, sparse_mode, pre_tokens, next_tokens)
    return given.attend(off | given.past(actual_seq_lengths_kv), scale), torch.zeros(0)


def npu_prompt_flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    atten_mask: Tensor | None = None,
    num_heads: int = 1,
    scale_value: float = 1.0,
    input_layout: str = "BSH",
    actual_seq_lengths_kv: list[int] | None = None,
    pre_tokens: int = EVERY,
    next_tokens: int = 0,
    sparse_mode: int = 0,
    **other: Any,
) -> Tensor:
    page = "npu_prompt_flash_attention"
    small = here.family == "310P"
    need(here.family in ("A2", "A3", "310P"), page, f"not listed for {here.family}")
    only_defaults(page, other)
    given = Given(page, query, key, value, num_heads, input_layout)
    given.limit(batch=128 if small else 65536, keys=65535 if small else 20971520)
    if small:
        need(query.dtype == torch.float16, page, f"310P takes float16 only, found {query.dtype}")
        need(actual_seq_lengths_kv is None, page, "310P has no actual_seq_lengths_kv")
        need(
            sparse_mode == 0 and pre_tokens == EVERY,
            page,
            "310P takes sparse_mode 0 and pre_tokens 2147483647 only",
        )
        need(
            next_tokens in (0, EVERY),
            page,
            f"310P takes next_tokens 0 and 2147483647 only, found {next_tokens}",
        )
    b = given.batch
    s = given.rows
    t = given.keys
    off = given.masked(atten_mask, [(s, t), (b, s, t), (1, s, t), (b, 1, s, t), (1, 1, s, t)])
    off = (
        off
        | given.outside(atten_mask, sparse_mode, pre_tokens, next_tokens)
        | given.past(actual_seq_lengths_kv)
    )
    return given.attend(off, scale_value)


def npu_incre_flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    atten_mask: Tensor | None = None,
    num_heads: int = 1,
    scale_value: float = 1.0,
    input_layout: str = "BSH",
    actual_seq_lengths: list[int] | None = None,
    inner_precise: int = 1,
    **other: Any,
) -> Tensor:
    page = "npu_incre_flash_attention"
    small = here.family == "310P"
    need(here.family in ("A2", "310P"), page, f"listed for A2 and 310P, not for {here.family}")
    only_defaults(page, other)
    need(inner_precise in (0, 1), page, f"inner_precise {inner_precise}")
    need(
        not small or query.dtype == torch.float16,
        page,
        f"310P takes a float16 query only, found {query.dtype}",
    )
    given = Given(page, query, key, value, num_heads, input_layout)
    need(given.rows == 1, page, f"takes one query a row, found {given.rows}")
    given.limit(batch=256 if small else 65535, keys=65536 if small else 262144)
    b = given.batch
    t = given.keys
    off = given.masked(atten_mask, [(b, t), (b, 1, t), (b, 1, 1, t)])
    return given.attend(off | given.past(actual_seq_lengths), scale_value)


class Given:
    """Query, key and value of an attention operator in layout BNSD, checked for what all three pages ask for."""

    def __init__(
        self, page: str, query: Tensor, key: Tensor, value: Tensor, heads: int, layout: str
    ) -> None:
        self.page = page
        self.query = query
        self.key = key
        self.value = value
        self.need(layout == "BNSD", f"input_layout {layout!r} is not modelled here, BNSD is")
        self.need(all(t.dim() == 4 for t in (query, key, value)), "BNSD has four dimensions")
        self.need(
            query.dtype in HALF and query.dtype == key.dtype == value.dtype,
            f"float16 or bfloat16, all alike; found {query.dtype}, {key.dtype}, {value.dtype}",
        )
        self.need(
            all(t.is_contiguous() for t in (query, key, value)),
            "query, key and value must be contiguous",
        )
        self.need(
            key.shape == value.shape,
            f"shapes of key {list(key.shape)} and value {list(value.shape)} differ",
        )
        self.batch, found, self.rows, self.width = query.shape
        self.keys = key.shape[2]
        self.need(found == heads, f"num_heads {heads}, but query has {found}")
        self.need(
            (key.shape[0], key.shape[1], key.shape[3]) == (self.batch, found, self.width),
            f"key {list(key.shape)} does not suit query {list(query.shape)}",
        )
        self.need(found <= 256, f"{found} heads, at most 256")
        self.need(
            self.width <= 512 and self.width * query.element_size() % 16 == 0,
            f"head size {self.width}: at most 512, a multiple of 16 bytes",
        )

    def need(self, ok: bool, what: str) -> None:
        need(ok, self.page, what)

    def limit(self, batch: int, keys: int) -> None:
        self.need(self.batch <= batch and self.keys <= keys, f"batch <= {batch}, keys <= {keys}")

    def masked(self, mask: Tensor | None, shapes: list[tuple[int, ...]]) -> Tensor:
        """What the mask leaves out, [batch or 1, 1, rows, keys]: 1 is left out."""
        if mask is None:
            return torch.zeros(1, 1, self.rows, self.keys, dtype=torch.bool)
        self.need(
            mask.dtype in (torch.bool, torch.int8, torch.uint8),
            f"atten_mask of {mask.dtype}; bool, int8, uint8",
        )
        self.need(mask.is_contiguous(), "atten_mask must be contiguous")
        self.need(
            tuple(mask.shape) in shapes, f"atten_mask {tuple(mask.shape)} is none of {shapes}"
        )
        return mask.bool().view(-1, 1, self.rows, self.keys)

    def outside(self, mask: Tensor | None, sparse_mode: int, before: int, after: int) -> Tensor:
        """What pre_tokens and next_tokens leave out: counted from the upper left corner, with a mask only."""
        self.need(sparse_mode in (0, 1), f"sparse_mode {sparse_mode} is not modelled here")
        ahead = torch.arange(self.keys)[None] - torch.arange(self.rows)[:, None]
        return ((ahead > after) | (-ahead > before)) & (mask is not None and sparse_mode == 0)

    def past(self, lengths: list[int] | None) -> Tensor:
        """What lies past each row's keys; one length holds for all rows."""
        if lengths is None:
            return torch.zeros(1, dtype=torch.bool)
        self.need(
            len(lengths) == 1 or len(lengths) >= self.batch,
            f"{len(lengths)} lengths for {self.batch} rows",
        )
        self.need(
            all(0 <= n <= self.keys for n in lengths),
            f"lengths {list(lengths)} of {self.keys} keys",
        )
        return torch.arange(self.keys) >= torch.tensor(lengths[: self.batch]).view(-1, 1, 1, 1)

    def attend(self, off: Tensor, scale: float) -> Tensor:
        """Softmax attention in float32, rounded where a 16-bit kernel rounds. Keys that nobody sees are not read."""
        off = off.expand(self.batch, 1, self.rows, self.keys)
        self.need(not off.all(-1).any(), "a row is masked in full, which is not supported")
        unseen = off.all(2)[..., None]  # [batch, 1, keys, 1]
        key, value = (t.float().masked_fill(unseen, 0) for t in (self.key, self.value))
        score = self.query.float() @ key.transpose(-1, -2) * scale
        share = score.masked_fill(off, -math.inf).softmax(-1).to(self.query.dtype)
        return (share.float() @ value).to(self.query.dtype)


# ---- the others ----


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
    """x * sigmoid(1.702 x), as torch_npu-npu_fast_gelu.md has it: neither form of gelu. Here to be found out."""
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
    """A weight as whole numbers [K, N]: int8 as it is; of int32 each word is eight int4 along the axis of stride one.

    The first is in the lowest four bits: op-plugin, ConvertWeightToINT4PackKernelNpuOpApi.cpp, convert_to_int4_pack.
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


def only_defaults(page: str, arguments: dict[str, Any]) -> None:
    """What the reference does not model must be left at its default."""
    given = [name for name, value in arguments.items() if value not in (None, 0, False)]
    need(not given, page, f"not modelled here: {given}")


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
    """The lines of npu_schemas.txt."""
    return [
        line
        for line in SCHEMAS.read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]


def install() -> None:
    """Register the kernels for CPU tensors under torch_npu's schemas, or under the listed ones where it is absent."""
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
