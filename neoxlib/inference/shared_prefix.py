"""A prefix that rows share, computed once: keys and values in a cache, copied to each row."""

from collections.abc import Sequence

import torch
from torch import Tensor

from neoxlib.model.cache import KVCache
from neoxlib.model.gpt_neox import GPTNeoX

TokenRow = tuple[int, ...]


def common(one: TokenRow, other: TokenRow) -> int:
    """Count the ids that two rows share from the start."""
    return next(
        (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


def right_pad(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Pad on the right: ids [B, S] that start together, and the mask [B, S], True on tokens."""
    longest = max(map(len, rows))
    lengths = torch.tensor([[len(row)] for row in rows])
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    return ids, torch.arange(longest) < lengths


class SharedPrefix:
    """The cache of a prefix of at most `longest` ids: one row, copied to the rows of each batch."""

    def __init__(self, model: GPTNeoX, longest: int) -> None:
        self.model = model
        self.ids = ()
        self.copies = None
        self.device = model.gpt_neox.final_layer_norm.weight.device.type
        self.cache = self._cache(1, longest) if longest else None

    def states(self, rows: Sequence[TokenRow], shared: int) -> Tensor:
        """Hidden states [B, S - shared, hidden] of the ids after the first `shared`."""
        ids, mask = right_pad([row[shared:] for row in rows])
        cache = self._rows(len(rows), shared, shared + ids.shape[1], rows[0][:shared])
        device = cache.real.device
        return self.model.states(ids.to(device), cache, None if mask.all() else mask.to(device))

    def _rows(self, count: int, shared: int, room: int, prefix: TokenRow) -> KVCache:
        """Return a cache of `count` rows that hold `prefix`; the last batch's if it fits."""
        if not shared:
            return self._cache(count, room)
        old = self.copies
        if prefix != self.ids or old is None or len(old.real) != count or old.real.shape[1] < room:
            self.copies = None  # free it before the next one is made
            self._hold(prefix)
            self.copies = self._cache(count, room)
            for mine, ours in zip(self.copies.layers, self.cache.layers, strict=True):
                # [keys and values, B, heads here, shared, head_dim]
                mine[:, :, :, :shared] = ours[:, :, :, :shared]
            self.copies.real[:, :shared] = True
        self.copies.length = shared
        return self.copies

    def _hold(self, prefix: TokenRow) -> None:
        kept = common(self.ids, prefix)
        self.cache.length = kept
        self.ids = prefix
        if kept < len(prefix):
            ids = torch.tensor([prefix[kept:]], device=self.cache.real.device)
            self.model.states(ids, self.cache, None)

    def _cache(self, rows: int, room: int) -> KVCache:
        weight = self.model.gpt_neox.final_layer_norm.weight
        return KVCache(self.model.config, rows, room, self.model.group, weight.dtype, weight.device)
