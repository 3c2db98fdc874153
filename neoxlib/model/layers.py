"""Linear and embedding layers that hold one rank's share. Each states its own shard rule: which axis is cut."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neoxlib.model.group import SOLO, Group
from neoxlib.model.quant import Scheme


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


class Full(NamedTuple):
    """A parameter of the unsplit model; `dtype` None is the model's own."""

    shape: tuple[int, ...]
    rule: Cut
    dtype: torch.dtype | None = None


class Sharded(nn.Module):
    """A layer whose parameters are this rank's part of `full`."""

    def __init__(self, full: dict[str, Full], group: Group) -> None:
        super().__init__()
        self.full = full
        for name, (shape, rule, dtype) in full.items():
            part = torch.empty(rule.shape(shape, group.rank, group.size), dtype=dtype)
            self.register_parameter(name, nn.Parameter(part, requires_grad=False))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Sharded":
        """Keep the dtypes that a scheme dictates: `model.to(dtype)` converts floats only, so it is shown bytes."""
        fixed = {
            id(parameter) for name, parameter in self._parameters.items() if self.full[name].dtype
        }

        def convert(x: Tensor) -> Tensor:
            return fn(x.view(torch.uint8)).view(x.dtype) if id(x) in fixed else fn(x)

        return super()._apply(convert, recurse)


class Linear(Sharded):
    """A weight [out_features, in_features] cut along `dim`, plain or as `scheme` packs it, and perhaps a bias."""

    dim: ClassVar[int]
    bias_rule: ClassVar[Cut]

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        group: Group = SOLO,
        scheme: Scheme | None = None,
    ) -> None:
        plain = {"weight": ((out_features, in_features), None)}
        tensors = scheme.tensors(out_features, in_features) if scheme else plain
        # A packed tensor without that dimension (a scale for each whole row) is on every rank.
        rules = {
            name: Cut(self.dim) if len(shape) > self.dim else WHOLE
            for name, (shape, _) in tensors.items()
        }
        full = {name: Full(shape, rules[name], dtype) for name, (shape, dtype) in tensors.items()}
        super().__init__(
            full | ({"bias": Full((out_features,), self.bias_rule)} if bias else {}), group
        )
        self.scheme = scheme
        self.product: Callable[[Tensor], Tensor] | None = (
            None  # computes `forward` where a device has its own way
        )

    @property
    def added(self) -> Tensor | None:
        """The bias that `forward` adds."""
        return getattr(self, "bias", None)

    def forward(self, x: Tensor) -> Tensor:
        return (
            self.product(x) if self.product else F.linear(x, self.plain_weight(x.dtype), self.added)
        )

    def plain_weight(self, dtype: torch.dtype) -> Tensor:
        """This rank's weight as floats [out here, in here]."""
        if self.scheme is None:
            return self.weight
        return self.scheme.unpack({"weight": self.weight, "weight_scale": self.weight_scale}, dtype)


class ColumnParallel(Linear):
    """y = x Wᵀ + b with the output cut over the ranks: [..., in_features] -> [..., out_features here]."""

    dim = 0
    bias_rule = Cut(0)


class RowParallel(Linear):
    """This rank's term of y = x Wᵀ, the input cut over the ranks: [..., in_features here] -> [..., out_features].

    The bias is whole on every rank and is not added here: the caller sums the terms over the ranks first.
    """

    dim = 1
    bias_rule = WHOLE
    added = None


class VocabParallel(Sharded):
    """Embedding with its rows cut over the ranks: ids [B, S] -> hidden states [B, S, hidden] of `dtype`, on every rank.

    The ranks sum in `dtype`, not in the weight's: that may still be a narrower one of the same numbers on this rank,
    and no longer on the next (settle.py).
    """

    def __init__(self, vocab_size: int, hidden_size: int, group: Group = SOLO) -> None:
        super().__init__({"weight": Full((vocab_size, hidden_size), Cut(0))}, group)
        self.group = group
        self.first, _ = bounds(vocab_size, group.rank, group.size)

    def forward(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        if self.group.size == 1:
            return F.embedding(ids, self.weight).to(dtype)
        row = ids - self.first
        here = (row >= 0) & (row < self.weight.shape[0])
        found = F.embedding(row.where(here, 0), self.weight).to(dtype)
        # A row is on one rank only, the others add zeros: not a product, which would be NaN for an infinite row 0.
        return self.group.all_reduce(found.masked_fill(~here[..., None], 0))


class LayerNorm(Sharded):
    """Scale and shift of a layer norm over [..., hidden], whole on every rank."""

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__({name: Full((hidden_size,), WHOLE) for name in ("weight", "bias")}, SOLO)
        self.eps = eps


def rotary_tables(positions: int, dim: int, base: float) -> tuple[Tensor, Tensor]:
    """cos and sin of every position's angles, [positions, rotary] float32, each half holding the same angles.

    Always built in float32: in float16 the error reaches 0.78 near position 1857 (EleutherAI/gpt-neox issue 1003).
    An odd `dim` rotates one dimension more, as transformers does.
    """
    inverse = 1.0 / base ** (torch.arange(0, dim, 2, dtype=torch.float32) / max(dim, 1))
    angles = (
        torch.arange(positions, dtype=torch.float32)[:, None] * inverse
    )  # [positions, rotary / 2]
    both = torch.cat((angles, angles), dim=-1)
    return both.cos(), both.sin()
