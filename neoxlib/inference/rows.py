"""The rows of a batch while it is continued, what is chosen for them, and the first answers.

The first answers are kept as they were given, so that `parity` can judge them later.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from neoxlib.inference.sampling import Sampling, pick

KEPT = 4  # answers of an engine
LONGEST = 512  # ids of a kept answer with its context, computed once more in float32
Watch = Callable[[int, int], bool]  # (row, token) -> whether the row ends here


class Choice(NamedTuple):
    """The tokens chosen in one step."""

    tokens: list[int | None]  # [B]; None for a row that had ended before
    # [B]; "stop" or "length" from the step that ends the row, None until then
    reasons: list[str | None]
    logprobs: list[float]  # [B], under the model itself; empty on the other ranks
    # [B][top] most likely (id, log-probability), best first; empty on the other ranks
    top: list[list[tuple[int, float]]]


@dataclass(frozen=True)
class Limits:
    """The limits that a model and its tokenizer set.

    Without `eos_ids` a row ends only by its length or by what the caller names.
    """

    eos_ids: tuple[int, ...]
    # One more than the tokenizer's last id; rows from there on pad the vocabulary.
    tokenizer_size: int
    max_seq_len: int  # prompt and answer together
    holes: tuple[int, ...] = ()  # ids below `tokenizer_size` that have no token: never chosen


def ending(sampling: Sampling, limits: Limits) -> frozenset[int]:
    """Return the ids that end a row: the end of text, and those that the caller names."""
    return frozenset((*limits.eos_ids, *sampling.stop_token_ids))


class Rows:
    """The rows of a batch: their ids so far, their random generators, which have ended and why.

    `watch` is for rank 0 alone. Unless `watch_ends`, what it returns ends no row.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        limits: Limits,
        top: int,
        watch: Watch | None,
        watch_ends: bool = True,
    ) -> None:
        self.sampling = sampling
        self.limits = limits
        self.top = top
        self.watch = watch
        self.watch_ends = watch_ends and watch is not None
        self.ending = ending(sampling, limits)
        self.history = [list(prompt) for prompt in prompts]
        self.ends = [len(prompt) + sampling.max_new_tokens for prompt in prompts]
        self.reasons: list[str | None] = [None] * len(prompts)
        self.generators = sampling.generators(prompts)

    def choose(self, logits: Tensor) -> Choice:
        """Choose the next token of every row that still runs from `logits` [B, V]."""
        limits = self.limits
        picked = pick(
            logits.float().cpu(),
            self.history,
            self.sampling,
            self.generators,
            limits.tokenizer_size,
            self.top,
            limits.holes,
        )
        best = zip(picked.top_tokens.tolist(), picked.top_logprobs.tolist(), strict=True)
        top = [list(zip(ids, values, strict=True)) for ids, values in best]
        return self.take(picked.tokens.tolist(), picked.logprobs.tolist(), top, self.watch)

    def take(
        self,
        tokens: Sequence[int],
        logprobs: list[float],
        top: list[list[tuple[int, float]]],
        watch: Watch | None,
    ) -> Choice:
        """Take a token for every row that still runs; those of the others are dropped."""
        taken = [
            self._take(row, token, watch) if reason is None else None
            for row, (token, reason) in enumerate(zip(tokens, self.reasons, strict=True))
        ]
        return Choice(taken, list(self.reasons), logprobs, top)

    def _take(self, row: int, token: int, watch: Watch | None) -> int:
        self.history[row].append(token)
        seen = token not in self.ending and watch is not None and watch(row, token)
        if token in self.ending or (seen and self.watch_ends):
            self.reasons[row] = "stop"
        elif len(self.history[row]) == self.ends[row]:
            self.reasons[row] = "length"
        return token


class Answered(NamedTuple):
    """A continuation that an engine gave or scored, and its log-probability at that moment."""

    context: Sequence[int]
    continuation: Sequence[int]
    logprob: float  # sum of log P(token) over the first `tokenizer_size` ids without `holes`
    tokenizer_size: int
    holes: tuple[int, ...] = ()


def keep_first(
    kept: list[Answered],
    limits: Limits,
    answers: Iterable[tuple[Sequence[int], Sequence[int], float]],
) -> None:
    """Add (context, continuation, log-probability) to `kept` while it holds fewer than KEPT."""
    for context, continuation, logprob in answers:
        if len(kept) >= KEPT:
            return
        if len(context) + len(continuation) <= LONGEST:
            kept.append(
                Answered(context, continuation, logprob, limits.tokenizer_size, limits.holes)
            )
