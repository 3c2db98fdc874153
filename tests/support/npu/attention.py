"""The attention operators of npu:: on CPU tensors, with the checks of kernels and of pages.

The conditions of the kernels' host code (contracts.py) come first, then what only op-plugin's
pages say. Layout BNSD and numbers of 16 bits are modelled.
"""

import math
from typing import Any

import torch
from torch import Tensor

from tests.support.npu.condition import enforce
from tests.support.npu.contracts import ATTENTION
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
    given = Given(
        page,
        query,
        key,
        value,
        input_layout,
        num_heads=num_heads,
        atten_mask=atten_mask,
        lengths=actual_seq_lengths_kv,
        pre_tokens=pre_tokens,
        next_tokens=next_tokens,
        sparse_mode=sparse_mode,
        inner_precise=inner_precise,
    )
    one = given.rows == 1
    given.limit(batch=65536, keys=262144 if one else 20971520)
    if one:  # sparse_mode, pre_tokens and next_tokens are without effect where there is one query
        off = given.masked(atten_mask)
    elif sparse_mode == 3:
        off = given.below_the_lower_right(atten_mask, actual_seq_lengths_kv)
    else:
        off = given.masked(atten_mask)
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
    given = Given(
        page,
        query,
        key,
        value,
        input_layout,
        num_heads=num_heads,
        atten_mask=atten_mask,
        lengths=actual_seq_lengths_kv,
        pre_tokens=pre_tokens,
        next_tokens=next_tokens,
        sparse_mode=sparse_mode,
    )
    given.limit(batch=128 if small else 65536, keys=65535 if small else 20971520)
    if small:
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
    off = given.masked(atten_mask)
    off = off | given.outside(atten_mask, sparse_mode, pre_tokens, next_tokens)
    # 310P adds -10000 to a score that is left out and so reads its key and its value:
    # prompt_flash_attention_s1s2_bns1_x310_base.h:532 at c29bc106.
    return given.attend(off | given.past(actual_seq_lengths_kv), scale_value, reads_all=small)


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
    given = Given(
        page,
        query,
        key,
        value,
        input_layout,
        num_heads=num_heads,
        atten_mask=atten_mask,
        lengths=actual_seq_lengths,
        sparse_mode=0,
        inner_precise=inner_precise,
    )
    need(given.rows == 1, page, f"takes one query a row, found {given.rows}")
    given.limit(batch=256 if small else 65535, keys=65536 if small else 262144)
    return given.attend(given.masked(atten_mask) | given.past(actual_seq_lengths), scale_value)


class Given:
    """Query, key and value in layout BNSD that met all conditions, and what a mask leaves out."""

    def __init__(
        self, page: str, query: Tensor, key: Tensor, value: Tensor, layout: str, **rest: Any
    ) -> None:
        self.page = page
        self.query = query
        self.key = key
        self.value = value
        self.need(layout == "BNSD", f"input_layout {layout!r} is not modelled here, BNSD is")
        enforce(ATTENTION, page, query=query, key=key, value=value, **rest)
        self.need(query.dtype in HALF, f"{query.dtype} is not modelled here, 16 bits are")
        self.need(
            all(t.is_contiguous() for t in (query, key, value)),
            "query, key and value must be contiguous",
        )
        self.batch, found, self.rows, self.width = query.shape
        self.keys = key.shape[2]
        self.need(
            key.shape == value.shape == (self.batch, found, self.keys, self.width),
            f"key {list(key.shape)} does not suit query {list(query.shape)}",
        )

    def need(self, ok: bool, what: str) -> None:
        need(ok, self.page, what)

    def limit(self, batch: int, keys: int) -> None:
        self.need(self.batch <= batch and self.keys <= keys, f"batch <= {batch}, keys <= {keys}")

    def masked(self, mask: Tensor | None) -> Tensor:
        """Keys that the mask leaves out, [batch or 1, 1, rows, keys]: 1 is left out.

        Rows and columns of the mask past the queries and the keys are not looked at.
        """
        if mask is None:
            return torch.zeros(1, 1, self.rows, self.keys, dtype=torch.bool)
        self.need(mask.is_contiguous(), "atten_mask must be contiguous")
        if self.rows == 1:  # read as [batch, keys], whatever lies between
            self.need(mask.numel() == len(mask) * mask.shape[-1], "one row of atten_mask a query")
            mask = mask.view(len(mask), 1, -1)
        mask = mask.view(-1, 1, *mask.shape[-2:])
        return mask.bool()[..., : self.rows, : self.keys]

    def outside(self, mask: Tensor | None, sparse_mode: int, before: int, after: int) -> Tensor:
        """Mask of pre_tokens and next_tokens, counted from the upper left; needs a mask."""
        self.need(sparse_mode in (0, 1), f"sparse_mode {sparse_mode} is not modelled here")
        ahead = torch.arange(self.keys)[None] - torch.arange(self.rows)[:, None]
        return ((ahead > after) | (-ahead > before)) & (mask is not None and sparse_mode == 0)

    def below_the_lower_right(self, mask: Tensor, lengths: list[int] | None) -> Tensor:
        """Mask of sparse_mode 3: the last query sees all keys of its row's length."""
        causal = torch.ones(mask.shape[-2:], dtype=torch.bool).triu(1)
        self.need(
            bool((mask.bool() == causal).all()), "sparse_mode 3 takes ones above the diagonal"
        )
        ends = torch.tensor(lengths or [self.keys])[: self.batch].view(-1, 1, 1, 1)
        ahead = torch.arange(self.keys)[None] - torch.arange(self.rows)[:, None]
        return ahead > ends - self.rows

    def past(self, lengths: list[int] | None) -> Tensor:
        """Keys past each row's length; one length holds for all rows."""
        if lengths is None:
            return torch.zeros(1, dtype=torch.bool)
        return torch.arange(self.keys) >= torch.tensor(lengths[: self.batch]).view(-1, 1, 1, 1)

    def attend(self, off: Tensor, scale: float, reads_all: bool = False) -> Tensor:
        """Softmax attention in float32, rounded as a 16-bit kernel.

        Keys that no query sees are not read, unless the kernel `reads_all`.
        """
        off = off.expand(self.batch, 1, self.rows, self.keys)
        self.need(not off.all(-1).any(), "a row is masked in full, which is not supported")
        unseen = off.all(2)[..., None] & (not reads_all)  # [batch, 1, keys, 1]
        key, value = (t.float().masked_fill(unseen, 0) for t in (self.key, self.value))
        score = self.query.float() @ key.transpose(-1, -2) * scale
        share = score.masked_fill(off, -math.inf).softmax(-1).to(self.query.dtype)
        return (share.float() @ value).to(self.query.dtype)
