"""A model's first answers, kept as they were given, so that `parity` can judge them later."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from neoxlib.inference.decode import Limits

KEPT = 4  # answers of an engine
LONGEST = 512  # ids of a kept answer with its context, computed once more in float32


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
