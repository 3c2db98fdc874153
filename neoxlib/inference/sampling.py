"""How the next token is chosen: settings, and one pure function from logits to ids. No model, ranks or text here."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neoxlib.errors import NotFiniteError, SettingsError
from neoxlib.kernels.cpu.top_tokens import likeliest


def _integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


# name -> (is this value good, what it must be)
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_new_tokens": (lambda v: _integer(v) and v >= 1, "an integer of 1 or more"),
    "temperature": (
        lambda v: _number(v) and v >= 0,
        "a finite number of 0 or more (0 takes the likeliest token)",
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
    """What a user may ask of the choice of tokens; the meaning of each number is that of transformers' `generate`.

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
    skip_special_tokens: bool = (
        True  # in the text; they are among the ids, and `stop` may name them
    )

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
        """One random stream per row, so that a row's draws do not depend on its neighbours.

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
    """The chosen ids, and how likely the model itself held them: before any setting changed its scores."""

    tokens: Tensor  # [B] int64
    logprobs: Tensor  # [B] float32, log-probability of each
    top_tokens: Tensor  # [B, top] int64, the model's likeliest ids, best first
    top_logprobs: Tensor  # [B, top] float32


def pick(
    logits: Tensor,
    history: Sequence[Sequence[int]],
    sampling: Sampling,
    generators: Sequence[torch.Generator],
    real_ids: int,
    top: int = 0,
    holes: Sequence[int] = (),
) -> Pick:
    """Choose one id per row from `logits` [B, V] float32 on the CPU; `history` is each row's prompt and answer so far.

    Only ids below `real_ids` that are no `holes` count: a vocabulary is often padded past the
    tokenizer's last id. Order as in transformers: repetition penalty, temperature, top-k, top-p.
    `top` asks for that many alternatives.
    Raises NotFiniteError, a SettingsError, when a row's logits hold NaN or infinity.
    """
    found = logits[:, :real_ids]
    logits = without(found, holes)
    best = likeliest(logits, max(1, min(top, logits.shape[1])))
    _refuse_not_finite(found, best.total, history)
    scores = penalize(logits, history, sampling.repetition_penalty)
    if sampling.temperature == 0:
        tokens = (best if scores is logits else likeliest(scores, 1)).ids[:, 0]
    else:
        probs = warp(scores, sampling).softmax(dim=-1)  # [B, real_ids]
        draws = [
            torch.multinomial(row, 1, generator=g) for row, g in zip(probs, generators, strict=True)
        ]
        tokens = torch.cat(draws)
    chosen = logits.gather(1, tokens[:, None])[:, 0]
    return Pick(
        tokens, chosen - best.total, best.ids[:, :top], best.logits[:, :top] - best.total[:, None]
    )


def without(logits: Tensor, holes: Sequence[int]) -> Tensor:
    """Logits [..., V] in which the ids `holes` are impossible."""
    if not holes:
        return logits
    return logits.index_fill(-1, torch.tensor(holes, device=logits.device), -torch.inf)


def penalize(logits: Tensor, history: Sequence[Sequence[int]], penalty: float) -> Tensor:
    """Make the ids of `history` less likely: a positive score is divided by `penalty`, a negative one multiplied.

    logits [B, V]. CTRL (arXiv 1909.05858). Padding never enters `history`, so a ragged batch answers as single prompts.
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
    """Scores [B, V] after temperature, top-k and top-p: an id that may not be drawn has -inf."""
    # Softmax does not see the shift; with it no score overflows, however small the temperature. Nor
    # does a temperature of 1e300, which is infinite in float32 and would make NaN of an impossible
    # id's -infinity.
    temperature = min(max(sampling.temperature, 1e-30), 1e30)
    scores = (scores - scores.amax(dim=-1, keepdim=True)) / temperature
    if sampling.top_k is not None:
        least = scores.topk(min(sampling.top_k, scores.shape[-1]), dim=-1).values[
            :, -1:
        ]  # ties with the k-th stay
        scores = scores.masked_fill(scores < least, -torch.inf)
    if sampling.top_p is not None and sampling.top_p < 1:
        scores = scores.masked_fill(_outside_nucleus(scores, sampling.top_p), -torch.inf)
    return scores


def _outside_nucleus(scores: Tensor, top_p: float) -> Tensor:
    """True for ids [B, V] outside the smallest set of likeliest ids whose probabilities reach `top_p`."""
    ascending, order = scores.sort(dim=-1)
    outside = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
    outside[:, -1] = False  # the likeliest always stays
    return outside.scatter(1, order, outside)


def _refuse_not_finite(logits: Tensor, total: Tensor, history: Sequence[Sequence[int]]) -> None:
    # One NaN or infinity makes its row's total that; -infinity, which is no likelihood at all, does
    # not.
    least = logits.numpy().min(axis=-1).tolist()
    ends = zip(total.tolist(), least, strict=True)
    bad = [row for row, values in enumerate(ends) if not all(map(math.isfinite, values))]
    if bad:
        raise NotFiniteError.of(f"row(s) {bad}", history[bad[0]])
