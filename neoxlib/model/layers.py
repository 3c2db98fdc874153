"""Linear and embedding layers that hold one rank's shard. Each states which axis is cut."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neoxlib.model.group import SOLO, Group
from neoxlib.model.quant import Scheme


def bounds(length: int, rank: int, size: int) -> tuple[int, int]:
    """First and one-past-last index of `rank`'s share of `length`; shares differ by at most one."""
    return length * rank // size, length * (rank + 1) // size


def shares(length: int, size: int) -> list[int]:
    """Sizes of all ranks' shares of `length`, as every rank can compute them."""
    ends = [bounds(length, rank, size) for rank in range(size)]
    return [end - start for start, end in ends]


class Placement:
    """Shard rule of a parameter: the part of it that each rank holds."""

    dim: int | None  # the dimension that is split over the ranks; None: every rank holds all

    def slices(self, shape: tuple[int, ...], rank: int, size: int) -> tuple[slice, ...]:
        """Slices of `rank`'s part of a full tensor of `shape`."""
        slices = [slice(0, n) for n in shape]
        if self.dim is not None:
            slices[self.dim] = slice(*bounds(shape[self.dim], rank, size))
        return tuple(slices)

    def shape(self, shape: tuple[int, ...], rank: int, size: int) -> tuple[int, ...]:
        """Shape of `rank`'s part of a full tensor of `shape`."""
        return tuple(s.stop - s.start for s in self.slices(shape, rank, size))


@dataclass(frozen=True)
class Shard(Placement):
    """Rank r holds the r-th range of indices along `dim`."""

    dim: int


@dataclass(frozen=True)
class Replicate(Placement):
    """Every rank holds the whole parameter."""

    dim: ClassVar[None] = None


class ParameterSpec(NamedTuple):
    """A parameter of the unsplit model; `dtype` None is the model's dtype."""

    shape: tuple[int, ...]
    rule: Placement
    dtype: torch.dtype | None = None


class Sharded(nn.Module):
    """A layer whose parameters are this rank's parts of `full`."""

    def __init__(self, full: dict[str, ParameterSpec], group: Group) -> None:
        super().__init__()
        self.full = full
        for name, (shape, rule, dtype) in full.items():
            part = torch.empty(rule.shape(shape, group.rank, group.size), dtype=dtype)
            self.register_parameter(name, nn.Parameter(part, requires_grad=False))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Sharded":
        """Keep the dtypes that a quantization scheme dictates.

        `model.to(dtype)` converts floats only, so `fn` gets those parameters as bytes.
        """
        fixed = {
            id(parameter) for name, parameter in self._parameters.items() if self.full[name].dtype
        }

        def convert(x: Tensor) -> Tensor:
            return fn(x.view(torch.uint8)).view(x.dtype) if id(x) in fixed else fn(x)

        return super()._apply(convert, recurse)


class Linear(Sharded):
    """A weight [out_features, in_features] cut along `dim`, plain or packed, and a bias."""

    dim: ClassVar[int]
    bias_rule: ClassVar[Placement]

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
        # A packed tensor without that dimension (a scale for each whole row) is replicated.
        rules = {
            name: Shard(self.dim) if len(shape) > self.dim else Replicate()
            for name, (shape, _) in tensors.items()
        }
        full = {
            name: ParameterSpec(shape, rules[name], dtype)
            for name, (shape, dtype) in tensors.items()
        }
        super().__init__(
            full | ({"bias": ParameterSpec((out_features,), self.bias_rule)} if bias else {}), group
        )
        self.scheme = scheme

    @property
    def added(self) -> Tensor | None:
        """The bias that `forward` adds."""
        return getattr(self, "bias", None)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.plain_weight(x.dtype), self.added)

    def plain_weight(self, dtype: torch.dtype) -> Tensor:
        """This rank's weight as floats [out here, in here]."""
        if self.scheme is None:
            return self.weight
        return self.scheme.unpack({"weight": self.weight, "weight_scale": self.weight_scale}, dtype)


class ColumnParallel(Linear):
    """y = x Wᵀ + b, the output cut over ranks: [..., in_features] -> [..., out_features here]."""

    dim = 0
    bias_rule = Shard(0)


class RowParallel(Linear):
    """This rank's partial sum of y = x Wᵀ, with the input cut over the ranks.

    [..., in_features here] -> [..., out_features]. The bias is replicated and not added here: the
    caller all-reduces the partial sums first.
    """

    dim = 1
    bias_rule = Replicate()
    added = None


class VocabParallel(Sharded):
    """Embedding, its rows cut over the ranks: ids [B, S] -> [B, S, hidden] on all ranks.

    The all-reduce is in `dtype`, not in the weight's dtype: until the weights are resident, a rank
    may still hold them in a narrower dtype (checkpoint/resident.py).
    """

    def __init__(self, vocab_size: int, hidden_size: int, group: Group = SOLO) -> None:
        super().__init__({"weight": ParameterSpec((vocab_size, hidden_size), Shard(0))}, group)
        self.group = group
        self.first, _ = bounds(vocab_size, group.rank, group.size)

    def forward(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        if self.group.size == 1:
            return F.embedding(ids, self.weight).to(dtype)
        row = ids - self.first
        here = row.clamp(0, self.weight.shape[0] - 1)  # of another rank's: any row
        found = F.embedding(here, self.weight).to(dtype)
        # A row is on one rank, and the others add zeros. Not by a product: NaN for an infinite row
        # 0.
        return self.group.all_reduce(found.masked_fill((row != here)[..., None], 0))


class LayerNorm(Sharded):
    """Weight and bias of a layer norm over [..., hidden], replicated."""

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__(
            {name: ParameterSpec((hidden_size,), Replicate()) for name in ("weight", "bias")}, SOLO
        )
        self.eps = eps


def rotary_tables(positions: int, dim: int, base: float) -> tuple[Tensor, Tensor]:
    """cos and sin of all positions' angles, [positions, rotary] float32; both halves are the same.

    Always built in float32: in float16 the error reaches 0.78 near position 1857
    (EleutherAI/gpt-neox issue 1003). An odd `dim` rotates one dimension more, as transformers does.
    """
    inverse = 1.0 / base ** (torch.arange(0, dim, 2, dtype=torch.float32) / max(dim, 1))
    # [positions, rotary / 2]
    angles = torch.arange(positions, dtype=torch.float32)[:, None] * inverse
    both = torch.cat((angles, angles), dim=-1)
    return both.cos(), both.sin()
