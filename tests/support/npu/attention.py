"""The attention operators of npu:: on CPU tensors, with the checks that their pages state."""

import math
from typing import Any

import torch
from torch import Tensor

from tests.support.npu.rules import EVERY, HALF, here, need, only_defaults


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
    """Query, key and value in layout BNSD, checked for the rules of all three pages."""

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
        """Keys that the mask leaves out, [batch or 1, 1, rows, keys]: 1 is left out."""
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
        """Mask of pre_tokens and next_tokens, counted from the upper left; needs a mask."""
        self.need(sparse_mode in (0, 1), f"sparse_mode {sparse_mode} is not modelled here")
        ahead = torch.arange(self.keys)[None] - torch.arange(self.rows)[:, None]
        return ((ahead > after) | (-ahead > before)) & (mask is not None and sparse_mode == 0)

    def past(self, lengths: list[int] | None) -> Tensor:
        """Keys past each row's length; one length holds for all rows."""
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
        """Softmax attention in float32, rounded as a 16-bit kernel; unseen keys are not read."""
        off = off.expand(self.batch, 1, self.rows, self.keys)
        self.need(not off.all(-1).any(), "a row is masked in full, which is not supported")
        unseen = off.all(2)[..., None]  # [batch, 1, keys, 1]
        key, value = (t.float().masked_fill(unseen, 0) for t in (self.key, self.value))
        score = self.query.float() @ key.transpose(-1, -2) * scale
        share = score.masked_fill(off, -math.inf).softmax(-1).to(self.query.dtype)
        return (share.float() @ value).to(self.query.dtype)
