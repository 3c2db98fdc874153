"""What new tokens need on an NPU beside their ids: cache slots, mask and angles.

In decode all of it follows from the slot, which the host knows, and from what was made once for the
batch: two operators a token.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from neoxlib.kernels.npu import NpuOps
from neoxlib.model.cache import KVCache
from neoxlib.model.config import ModelConfig
from neoxlib.model.layers import rotary_tables


@dataclass(frozen=True)
class NpuStep:
    """S new tokens a row."""

    shape: tuple[int, int]  # B, S
    end: int  # one past the last slot
    mask: Tensor  # in the form of `NpuOps.mask`
    cos: Tensor
    sin: Tensor  # cos, sin [3 * B, 1, S, head_dim], of q, k and v
    # (held [2, B, heads, slots, head_dim], new [2, B, heads, S, head_dim]): writes the cache
    write: Callable[[Tensor, Tensor], object]


@dataclass
class Decoding:
    """What stays the same from token to token of a batch, and the slot that is next."""

    offsets: Tensor  # [6 * B] int64: rows of `NpuSteps.table` for slot 0
    mask: Tensor  # for one token, of the whole capacity; `end` leaves out slots not yet in use
    slot: int


class NpuSteps:
    """The steps of a model's caches."""

    def __init__(self, config: ModelConfig, ops: NpuOps) -> None:
        self.config = config
        self.ops = ops
        self.table: Tensor | None = None

    def next(self, input_ids: Tensor, cache: KVCache, mask: Tensor | None) -> NpuStep:
        """Reserve slots for `input_ids` [B, S], real where `mask` [B, S] is True or not given."""
        if mask is None and input_ids.shape[1] == 1:
            return self.one(cache)
        cache.decoding = None
        start = cache.append(input_ids.shape[1], mask)
        positions = cache.positions(start)  # [B, S]
        index = self._parts(cache).view(2, 3, 1, 1) + positions
        # Where the mask is, so that one left on another device fails here.
        seen = cache.seen(start, (cache.real if mask is None else mask).device)
        end = cache.length
        return NpuStep(
            tuple(input_ids.shape),
            end,
            self.ops.mask(seen, cache.capacity, cache.padded),
            *self.angles(cache, index.flatten(), input_ids.shape[1]),
            lambda held, new: held[:, :, :, start:end].copy_(new),
        )

    def one(self, cache: KVCache) -> NpuStep:
        """Reserve a slot for one token a row, all of them real."""
        now = self.decoding(cache)
        slot = cache.reserve(1)
        now.slot = slot + 1
        return NpuStep(
            (len(cache.real), 1),
            slot + 1,
            now.mask,
            *self.angles(cache, now.offsets + slot, 1),
            lambda held, new: held[:, :, :, slot : slot + 1].copy_(new),
        )

    def decoding(self, cache: KVCache) -> Decoding:
        """The batch's tensors, made anew if the cache was used otherwise since the last token."""
        now = cache.decoding
        if now is None or now.slot != cache.length:
            now = cache.decoding = self._begin(cache)
        return now

    def _begin(self, cache: KVCache) -> Decoding:
        """Mark all free slots as real beforehand: nothing reads them before they are in use."""
        cache.real[:, cache.length :] = True
        padding = cache.length - cache.real[:, : cache.length].sum(-1)  # [B]
        offsets = self._parts(cache).view(6, 1) - padding
        seen = cache.real[:, None, None]  # [B, 1, 1, capacity]
        return Decoding(offsets.flatten(), self.ops.mask(seen, cache.capacity), cache.length)

    def angles(self, cache: KVCache, index: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """cos and sin [3 * B, 1, S, head_dim] from rows `index` [2 * 3 * B * S] of the table."""
        found = self._rows(cache).index_select(0, index)
        cos, sin = found.view(2, -1, 1, count, found.shape[-1])
        return cos, sin

    def _parts(self, cache: KVCache) -> Tensor:
        """First rows [6] of the table for cos of q, k, v and sin of q, k, v."""
        first = torch.tensor([0, 0, 1, 2, 2, 3]) * cache.capacity
        return first.to(cache.real.device)

    def _rows(self, cache: KVCache) -> Tensor:
        """The angles of all positions, [4 * capacity, head_dim].

        cos, ones, sin and zeros of as many rows each: v is rotated by an angle of zero.
        """
        like = cache.k[0]
        known = self.table
        if known is None or len(known) != 4 * cache.capacity or known.device != like.device:
            tables = rotary_tables(
                cache.capacity, self.config.rotary_dim, self.config.rotary_emb_base
            )
            cos, sin = self.ops.angles(*tables, self.config.head_dim)
            rows = torch.cat((cos, torch.ones_like(cos), sin, torch.zeros_like(sin)))
            self.table = rows.to(like.device, like.dtype)  # cast last
        return self.table
