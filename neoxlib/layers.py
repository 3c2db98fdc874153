"""Linear and embedding layers that hold one rank's share. Each states its own shard rule: which axis is cut."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neoxlib.comm import SOLO, Group


def bounds(length: int, rank: int, size: int) -> tuple[int, int]:
    """First and one-past-last index of `rank`'s share of `length`; shares differ by one at most."""
    return length * rank // size, length * (rank + 1) // size


@dataclass(frozen=True)
class Cut:
    """Rank r holds the r-th run of indices along `dim`; `dim` None means that every rank holds the whole."""

    dim: int | None

    def slices(self, shape: tuple[int, ...], rank: int, size: int) -> tuple[slice, ...]:
        """The part of a full tensor of `shape` that belongs to `rank`."""
        whole = [slice(0, n) for n in shape]
        if self.dim is not None:
            whole[self.dim] = slice(*bounds(shape[self.dim], rank, size))
        return tuple(whole)

    def shape(self, shape: tuple[int, ...], rank: int, size: int) -> tuple[int, ...]:
        """Shape of that part."""
        return tuple(s.stop - s.start for s in self.slices(shape, rank, size))


WHOLE = Cut(None)


class Sharded(nn.Module):
    """A layer whose parameters are this rank's part of `full` shapes under `rule`."""

    rule: ClassVar[dict[str, Cut]] = {}

    def __init__(self, full: dict[str, tuple[int, ...]], group: Group) -> None:
        super().__init__()
        self.full = full
        for name, shape in full.items():
            part = torch.empty(self.rule[name].shape(shape, group.rank, group.size))
            self.register_parameter(name, nn.Parameter(part, requires_grad=False))


class ColumnParallel(Sharded):
    """y = x Wᵀ + b with the output cut over the ranks: [..., in_features] -> [..., out_features here]."""

    rule: ClassVar = {"weight": Cut(0), "bias": Cut(0)}

    def __init__(self, in_features: int, out_features: int, bias: bool = True, group: Group = SOLO) -> None:
        super().__init__({"weight": (out_features, in_features)} | ({"bias": (out_features,)} if bias else {}), group)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, getattr(self, "bias", None))


class RowParallel(Sharded):
    """This rank's term of y = x Wᵀ, the input cut over the ranks: [..., in_features here] -> [..., out_features].

    The bias is whole on every rank and is not added here: the caller sums the terms over the ranks first.
    """

    rule: ClassVar = {"weight": Cut(1), "bias": WHOLE}

    def __init__(self, in_features: int, out_features: int, bias: bool = True, group: Group = SOLO) -> None:
        super().__init__({"weight": (out_features, in_features)} | ({"bias": (out_features,)} if bias else {}), group)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class VocabParallel(Sharded):
    """Embedding with its rows cut over the ranks: ids [B, S] -> hidden states [B, S, hidden], summed over the ranks."""

    rule: ClassVar = {"weight": Cut(0)}

    def __init__(self, vocab_size: int, hidden_size: int, group: Group = SOLO) -> None:
        super().__init__({"weight": (vocab_size, hidden_size)}, group)
        self.group = group
        self.first, _ = bounds(vocab_size, group.rank, group.size)

    def forward(self, ids: Tensor) -> Tensor:
        if self.group.size == 1:
            return F.embedding(ids, self.weight)
        row = ids - self.first
        here = (row >= 0) & (row < self.weight.shape[0])
        found = F.embedding(row.where(here, 0), self.weight) * here[..., None]
        return self.group.all_reduce(found)  # a row is on one rank only; the others add zeros


class LayerNorm(Sharded):
    """Scale and shift of a layer norm over [..., hidden], whole on every rank."""

    rule: ClassVar = {"weight": WHOLE, "bias": WHOLE}

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__({"weight": (hidden_size,), "bias": (hidden_size,)}, SOLO)
        self.eps = eps


def rotary_tables(positions: int, dim: int, base: float) -> tuple[Tensor, Tensor]:
    """cos and sin of every position's angles, [positions, rotary] float32, each half holding the same angles.

    Always built in float32: in float16 the error reaches 0.78 near position 1857 (EleutherAI/gpt-neox issue 1003).
    An odd `dim` rotates one dimension more, as transformers does.
    """
    inverse = 1.0 / base ** (torch.arange(0, dim, 2, dtype=torch.float32) / max(dim, 1))
    angles = torch.arange(positions, dtype=torch.float32)[:, None] * inverse  # [positions, rotary / 2]
    both = torch.cat((angles, angles), dim=-1)
    return both.cos(), both.sin()
