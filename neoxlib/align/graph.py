"""What each step should give, from what the steps before it were seen to give.

A step's inputs are taken as they were observed on its rank, where they were; otherwise they are
computed from what was observed before them. So with every step observed an error is the step's
own, and with none observed this is a forward pass from the token ids.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from neoxlib.align import estimates
from neoxlib.align.estimates import SUM, Estimate, Numerics
from neoxlib.align.reader import Found
from neoxlib.align.weights import Weights
from neoxlib.model import steps
from neoxlib.model.config import ACTIVATIONS, ModelConfig

Where = tuple[int, int]  # pass and rank
Formula = Callable[[int, int], Estimate]
FINAL_NORM = "gpt_neox.final_layer_norm"


class Work(NamedTuple):
    """The tokens of a run: ids and mask [B, T], columns [first, end) of each pass."""

    ids: Tensor
    mask: Tensor
    passes: list[tuple[int, int]]

    @property
    def positions(self) -> Tensor:
        """[B, T]: padding does not count."""
        return (self.mask.long().cumsum(-1) - 1).clamp(min=0)

    def seen(self, pass_: int) -> Tensor:
        """[B, S, end]: the real tokens up to each; a padding token sees itself, too."""
        first, end = self.passes[pass_]
        index = torch.arange(end)
        rows = index[first:, None]
        return ((index <= rows) & self.mask[:, None, :end]) | (index == rows)


def share(n: int, rank: int, size: int) -> slice:
    """The `rank`-th of `size` consecutive parts of `n`."""
    return slice(n * rank // size, n * (rank + 1) // size)


class Graph:
    """The steps of one part of the model over all passes and ranks.

    `found` are the observed tensors by full name, pass and rank; `inputs` what the part before
    gives, by pass and rank.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        work: Work,
        how: Numerics,
        found: Found,
        size: int,
        inputs: dict[Where, Estimate],
        layer: int | None = None,
    ) -> None:
        self.config = config
        self.weights = weights
        self.work = work
        self.how = how
        self.found = found
        self.size = size
        self.inputs = inputs
        self.layer = layer
        self.known: dict[tuple[str, int, int], Estimate] = {}

    def full(self, name: str) -> str:
        """The full name of a step of this part."""
        return name if self.layer is None else steps.full_name(self.layer, name)

    def estimate(self, name: str, pass_: int, rank: int) -> Estimate:
        """What was observed of a step, or else what is expected."""
        seen = self.found.get((self.full(name), pass_, rank))
        return self.expected(name, pass_, rank) if seen is None else estimates.observed(seen)

    def expected(self, name: str, pass_: int, rank: int) -> Estimate:
        """What a step should give on a rank in a pass."""
        key = name, pass_, rank
        if key not in self.known:
            self.known[key] = self.formulas[name](pass_, rank)
        return self.known[key]

    def outputs(self, name: str) -> dict[Where, Estimate]:
        """The estimates of a step that is the next part's input."""
        passes = range(len(self.work.passes))
        return {(p, r): self.estimate(name, p, r) for p in passes for r in range(self.size)}

    @property
    def formulas(self) -> dict[str, Formula]:
        """How each step is computed.

        Not kept: they hold the graph, which would then outlive its part with all its weights.
        """
        raise NotImplementedError

    def _norm(self, name: str, x: Estimate) -> Estimate:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return estimates.layer_norm(x, weight, bias, self.config.layer_norm_eps, self.how)

    def _sum_over_ranks(self, before: str, pass_: int, rank: int) -> Estimate:
        terms = [self.estimate(before, pass_, each) for each in range(self.size)]
        return estimates.total(terms, self.how.out)


class BeginningGraph(Graph):
    """Token ids to hidden states."""

    @property
    def formulas(self) -> dict[str, Formula]:
        """How each step is computed."""
        return {
            steps.EMBEDDED: self._rows,
            "gpt_neox.embed_in": partial(self._exact_sum, steps.EMBEDDED),
        }

    def _rows(self, pass_: int, rank: int) -> Estimate:
        table = self.weights["gpt_neox.embed_in"]
        mine = share(len(table), rank, self.size)
        ids = self.work.ids[:, slice(*self.work.passes[pass_])]
        here = (ids >= mine.start) & (ids < mine.stop)
        return estimates.observed(table[ids].masked_fill(~here[..., None], 0))

    def _exact_sum(self, before: str, pass_: int, rank: int) -> Estimate:
        return estimates.total([self.estimate(before, pass_, r) for r in range(self.size)], 0.0)


class EndGraph(Graph):
    """Hidden states to logits."""

    @property
    def formulas(self) -> dict[str, Formula]:
        """How each step is computed."""
        return {
            FINAL_NORM: lambda p, r: self._norm(FINAL_NORM, self.inputs[p, r]),
            steps.LOGITS: self._logits,
        }

    def _logits(self, pass_: int, rank: int) -> Estimate:
        head = self.weights[steps.LOGITS]
        mine = head[share(len(head), rank, self.size)]
        return estimates.linear(self.estimate(FINAL_NORM, pass_, rank), mine, None, self.how)


class LayerGraph(Graph):
    """One layer."""

    @property
    def formulas(self) -> dict[str, Formula]:
        """How each step is computed."""
        attention, mlp = "attention.dense", "mlp.dense_4h_to_h"
        both = {
            "input_layernorm": self._first_norm,
            steps.QUERY_KEY_VALUE: partial(self._columns, "input_layernorm", steps.QUERY_KEY_VALUE),
            steps.ROTARY_QUERY: partial(self._rotated, 0),
            steps.ROTARY_KEY: partial(self._rotated, 1),
            steps.CACHED_KEY: partial(self._cached, self._key),
            steps.CACHED_VALUE: partial(self._cached, self._value),
            steps.CONTEXT: self._context,
            attention: partial(self._rows, steps.CONTEXT, attention),
            "post_attention_layernorm": self._second_norm,
            "mlp.dense_h_to_4h": partial(
                self._columns, "post_attention_layernorm", "mlp.dense_h_to_4h"
            ),
            "mlp.activation": self._activation,
            mlp: partial(self._rows, "mlp.activation", mlp),
        }
        return both | (self._parallel_sums() if self._parallel else self._serial_sums())

    @property
    def _parallel(self) -> bool:
        return self.config.use_parallel_residual

    def _parallel_sums(self) -> dict[str, Formula]:
        names = ["attention.dense", "mlp.dense_4h_to_h"]
        return {
            "all_reduce.before": partial(self._branches, names),
            "all_reduce.after": partial(self._sum_over_ranks, "all_reduce.before"),
            "": partial(self._added, lambda p, r: self.inputs[p, r], "all_reduce.after", names),
        }

    def _serial_sums(self) -> dict[str, Formula]:
        attention, mlp = "attention.dense", "mlp.dense_4h_to_h"
        first, second = "attention.all_reduce", "mlp.all_reduce"
        middle = partial(self.estimate, "attention.residual")
        return {
            f"{first}.before": partial(self.estimate, attention),
            f"{first}.after": partial(self._sum_over_ranks, f"{first}.before"),
            "attention.residual": partial(
                self._added, lambda p, r: self.inputs[p, r], f"{first}.after", [attention]
            ),
            f"{second}.before": partial(self.estimate, mlp),
            f"{second}.after": partial(self._sum_over_ranks, f"{second}.before"),
            "": partial(self._added, middle, f"{second}.after", [mlp]),
        }

    def _columns(self, before: str, name: str, pass_: int, rank: int) -> Estimate:
        """A product whose outputs are cut over the ranks."""
        weight = self.weights[f"{name}.weight"]
        bias = self.weights.get(f"{name}.bias")
        mine = share(len(weight), rank, self.size)
        x = self.estimate(before, pass_, rank)
        return estimates.linear(x, weight[mine], None if bias is None else bias[mine], self.how)

    def _rows(self, before: str, name: str, pass_: int, rank: int) -> Estimate:
        """A product whose inputs are cut over the ranks; its bias is added later, or on rank 0."""
        weight = self.weights[f"{name}.weight"]
        mine = share(weight.shape[1], rank, self.size)
        x = self.estimate(before, pass_, rank)
        bias = self.row_bias(name) if rank == 0 else None
        return estimates.linear(x, weight[:, mine], bias, self.how)

    def row_bias(self, name: str) -> Tensor | None:
        """What the product of rank 0 adds, if not the residual stream: see model/npu_taps.py."""
        both = ["attention.dense", "mlp.dense_4h_to_h"]
        names = both * (name == both[0]) if self._parallel else [name]
        found = [self.weights[f"{each}.bias"] for each in names if f"{each}.bias" in self.weights]
        return sum(found) if found and self.how.fused else None

    def _head_part(self, which: int, pass_: int, rank: int) -> Estimate:
        """Queries (0), keys (1) or values (2) [B, S, heads, head_dim]."""
        qkv = self.estimate(steps.QUERY_KEY_VALUE, pass_, rank)
        parts = (t.unflatten(-1, (-1, 3, self.config.head_dim))[..., which, :] for t in qkv)
        return Estimate(*parts)

    def _rotated(self, which: int, pass_: int, rank: int) -> Estimate:
        positions = self.work.positions[:, slice(*self.work.passes[pass_])]
        config = self.config
        x = self._head_part(which, pass_, rank)
        return estimates.rotary(x, positions, config.rotary_dim, config.rotary_emb_base, self.how)

    def _key(self, pass_: int, rank: int) -> Estimate:
        return self.estimate(steps.ROTARY_KEY, pass_, rank)

    def _value(self, pass_: int, rank: int) -> Estimate:
        return self._head_part(2, pass_, rank)

    def _cached(self, source: Formula, pass_: int, rank: int) -> Estimate:
        """What all passes so far have put into the cache."""
        parts = [source(each, rank) for each in range(pass_ + 1)]
        whole = Estimate(*(torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True)))
        narrower = self.how.cache if self.how.cache != self.how.out else 0.0
        return estimates.copied(whole, narrower, self.how.floor)

    def _context(self, pass_: int, rank: int) -> Estimate:
        q = self.estimate(steps.ROTARY_QUERY, pass_, rank)
        k = self.estimate(steps.CACHED_KEY, pass_, rank)
        v = self.estimate(steps.CACHED_VALUE, pass_, rank)
        return estimates.attention(q, k, v, self.work.seen(pass_), self.how)

    def _first_norm(self, pass_: int, rank: int) -> Estimate:
        x = self.inputs[pass_, rank]
        return self._norm("input_layernorm", self._unrounded(x) if self.layer else x)

    def _second_norm(self, pass_: int, rank: int) -> Estimate:
        if self._parallel:
            return self._norm("post_attention_layernorm", self.inputs[pass_, rank])
        x = self.estimate("attention.residual", pass_, rank)
        return self._norm("post_attention_layernorm", self._unrounded(x))

    def _unrounded(self, x: Estimate) -> Estimate:
        """The sum that was seen as x, and that a fused norm takes before it is rounded."""
        return estimates.copied(x, self.how.out) if self.how.fused else x

    def _activation(self, pass_: int, rank: int) -> Estimate:
        x = self.estimate("mlp.dense_h_to_4h", pass_, rank)
        return estimates.activation(x, ACTIVATIONS[self.config.hidden_act], self.how)

    def _branches(self, names: list[str], pass_: int, rank: int) -> Estimate:
        return estimates.total(
            [self.estimate(name, pass_, rank) for name in names], self.how.out, self.how.floor
        )

    def _added(
        self, stream: Formula, reduced: str, names: list[str], pass_: int, rank: int
    ) -> Estimate:
        """The residual stream plus the sum over the ranks plus each layer's bias, once."""
        terms = [stream(pass_, rank), self.estimate(reduced, pass_, rank)]
        like = terms[0].value
        for name in () if self.how.fused else names:
            if (bias := self.weights.get(f"{name}.bias")) is not None:
                terms.append(estimates.observed(bias.expand_as(like)))
        y = estimates.total(terms, SUM)
        return estimates.copied(y, self.how.out, self.how.floor)
