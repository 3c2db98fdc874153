"""Sampling: settings, and a pure function from logits to ids. No model, ranks or text here."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neoxlib.errors import NotFiniteError, SettingsError
from neoxlib.kernels.cpu.top_tokens import top_tokens


def _integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


# name -> (is this value good, what it must be)
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_new_tokens": (lambda v: _integer(v) and v >= 1, "an integer of 1 or more"),
    "temperature": (
        lambda v: _number(v) and v >= 0,
        "a finite number of 0 or more (0 takes the most likely token)",
    ),
    "top_k": (lambda v: v is None or (_integer(v) and v >= 1), "None or an integer of 1 or more"),
    "top_p": (
        lambda v: v is None or (_number(v) and 0 < v <= 1),
        "None or a number above 0 and at most 1",
    ),
    "repetition_penalty": (
        lambda v: _number(v) and v > 0,
        "a finite number above 0 (1 changes nothing)",
    ),
    "stop": (
        lambda v: isinstance(v, tuple) and all(isinstance(s, str) and s for s in v),
        "None, a non-empty string or a list of non-empty strings",
    ),
    "seed": (
        lambda v: v is None or (_integer(v) and -(2**63) <= v < 2**63),
        "None or an integer of 64 bits",
    ),
    "stop_token_ids": (
        lambda v: isinstance(v, tuple) and all(_integer(n) and n >= 0 for n in v),
        "None, a token id or a list of token ids",
    ),
    "skip_special_tokens": (lambda v: isinstance(v, bool), "True or False"),
}


@dataclass(frozen=True)
class Sampling:
    """Sampling settings, each with the meaning that it has in transformers' `generate`.

    `stop` may be given as None, one string or a list of strings, `stop_token_ids` as None, one id
    or a list of ids.
    Raises SettingsError that lists every bad setting.
    """

    max_new_tokens: int = 32
    temperature: float = 0.0  # 0 = greedy
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0  # of every id in the prompt or generated so far
    stop: tuple[str, ...] = ()
    seed: int | None = None  # None = a new one each time
    stop_token_ids: tuple[int, ...] = ()  # end a row as the end of text does
    # In the text; they are among the ids, and `stop` may name them.
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", _as_tuple(self.stop))
        object.__setattr__(self, "stop_token_ids", _as_tuple(self.stop_token_ids))
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        bad = {name: value for name, value in given.items() if not RULES[name][0](value)}
        if bad:
            problems = [
                f"{name} is {value!r}, it must be {RULES[name][1]}" for name, value in bad.items()
            ]
            raise SettingsError("bad sampling settings:\n  " + "\n  ".join(problems))

    def generators(self, prompts: Sequence[Sequence[int]]) -> list[torch.Generator]:
        """One random generator per row, so that a row's draws do not depend on its neighbours.

        Every prompt starts from `seed`; the k-th copy of the same prompt starts from `seed + k`.
        """
        seen: dict[tuple[int, ...], int] = {}
        streams = []
        for prompt in map(tuple, prompts):
            copy = seen[prompt] = seen.get(prompt, -1) + 1
            streams.append(torch.Generator())
            if self.seed is None:
                streams[-1].seed()
            else:
                streams[-1].manual_seed(int(self.seed) + copy)
        return streams


def _as_tuple(stop: Any) -> Any:
    if stop is None:
        return ()
    if isinstance(stop, str) or _integer(stop):
        return (stop,)
    return tuple(stop) if isinstance(stop, list) else stop


class Pick(NamedTuple):
    """The chosen ids and their probability under the model, before settings changed its scores."""

    tokens: Tensor  # [B] int64
    logprobs: Tensor  # [B] float32, log-probability of each
    top_tokens: Tensor  # [B, top] int64, the model's most likely ids, best first
    top_logprobs: Tensor  # [B, top] float32


def pick(
    logits: Tensor,
    history: Sequence[Sequence[int]],
    sampling: Sampling,
    generators: Sequence[torch.Generator],
    tokenizer_size: int,
    top: int = 0,
    holes: Sequence[int] = (),
) -> Pick:
    """Choose one id per row from `logits` [B, V] float32 on the CPU.

    `history` is each row's prompt and answer so far. Only ids below `tokenizer_size` without
    `holes` count: a vocabulary is often padded past the tokenizer's last id. Order as in
    transformers: repetition penalty, temperature, top-k, top-p. `top` is the number of alternatives
    to return.
    Raises NotFiniteError, a SettingsError, when a row's logits hold NaN or infinity.
    """
    found = logits[:, :tokenizer_size]
    logits = without(found, holes)
    best = top_tokens(logits, max(1, min(top, logits.shape[1])))
    _refuse_not_finite(found, best.total, history)
    scores = penalize(logits, history, sampling.repetition_penalty)
    if sampling.temperature == 0:
        tokens = (best if scores is logits else top_tokens(scores, 1)).ids[:, 0]
    else:
        tokens = _draw(warp(scores, sampling).softmax(dim=-1), generators)
    chosen = logits.gather(1, tokens[:, None])[:, 0]
    top_logprobs = best.logits[:, :top] - best.total[:, None]
    return Pick(tokens, chosen - best.total, best.ids[:, :top], top_logprobs)


def _draw(probs: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw one id per row of `probs` [B, ids]."""
    rows = zip(probs, generators, strict=True)
    return torch.cat([torch.multinomial(row, 1, generator=g) for row, g in rows])


def without(logits: Tensor, holes: Sequence[int]) -> Tensor:
    """Return logits [..., V] in which the ids `holes` are impossible."""
    if not holes:
        return logits
    return logits.index_fill(-1, torch.tensor(holes, device=logits.device), -torch.inf)


def penalize(logits: Tensor, history: Sequence[Sequence[int]], penalty: float) -> Tensor:
    """Make the ids of `history` less likely: divide positive logits, multiply negative ones.

    logits [B, V]. The repetition penalty of CTRL (arXiv 1909.05858). Padding never enters
    `history`, so a ragged batch answers as single prompts do.
    """
    if penalty == 1:
        return logits
    scores = logits.clone()
    limit = torch.finfo(logits.dtype)
    for row, ids in zip(scores, history, strict=True):
        seen = torch.tensor(ids)  # an id that occurs twice is written twice with the same score
        score = row[seen]
        row[seen] = torch.where(score < 0, score * penalty, score / penalty).clamp(
            limit.min, limit.max
        )
    return scores


def warp(scores: Tensor, sampling: Sampling) -> Tensor:
    """Apply temperature, top-k and top-p to scores [B, V]: ids that may not be drawn get -inf."""
    # Softmax is invariant to the shift, and with it no score overflows, however small the
    # temperature. The upper bound is for 1e300: infinite in float32, it would turn -inf into NaN.
    temperature = min(max(sampling.temperature, 1e-30), 1e30)
    scores = (scores - scores.amax(dim=-1, keepdim=True)) / temperature
    if sampling.top_k is not None:
        best = scores.topk(min(sampling.top_k, scores.shape[-1]), dim=-1).values
        least = best[:, -1:]  # ties with the k-th stay
        scores = scores.masked_fill(scores < least, -torch.inf)
    if sampling.top_p is not None and sampling.top_p < 1:
        scores = scores.masked_fill(_outside_nucleus(scores, sampling.top_p), -torch.inf)
    return scores


def _outside_nucleus(scores: Tensor, top_p: float) -> Tensor:
    """True [B, V] outside the smallest set of most likely ids whose probability reaches `top_p`."""
    ascending, order = scores.sort(dim=-1)
    outside = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
    outside[:, -1] = False  # the most likely id always stays
    return outside.scatter(1, order, outside)


def _refuse_not_finite(logits: Tensor, total: Tensor, history: Sequence[Sequence[int]]) -> None:
    # NaN or +infinity propagates to the row's total; -infinity (probability zero) does not.
    least = logits.numpy().min(axis=-1).tolist()
    ends = zip(total.tolist(), least, strict=True)
    bad = [row for row, values in enumerate(ends) if not all(map(math.isfinite, values))]
    if bad:
        raise NotFiniteError.of(f"row(s) {bad}", history[bad[0]])
