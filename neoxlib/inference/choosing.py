"""Choosing the next tokens of a batch over the ranks of a group: by rank 0, or by all alike.

Which of the two follows from the request and the group, so that all ranks do the same. Where all
choose alike, a few numbers a row are read from the device in one copy, and not the row's logits.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from neoxlib.errors import NotFiniteError, RankError
from neoxlib.inference.rows import Choice, Rows
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.group import Group
from neoxlib.model.layers import shares

# Ranks that choose alike hear of rank 0, which may have been asked to stop, after as many steps, or
# after about so many seconds.
MOST_STEPS = 8
SECONDS = 1.0
NOT_FINITE = -1  # in place of the token of a row whose logits hold NaN or infinity
EXACT = 2**24  # ids below this are exact in float32, in which all that is read travels


class Found(NamedTuple):
    """The most likely ids, and what the model thinks of them."""

    tokens: list[int]  # [B]; NOT_FINITE where a logit is
    logprobs: list[float]  # [B]; empty unless asked for
    top: list[list[tuple[int, float]]]  # [B][top] (id, log-probability), best first; the same


class Chooser(Protocol):
    """Makes the choice of a step from this rank's part of the logits, [B, vocab here]."""

    def __call__(self, logits: Tensor) -> Choice:
        """All ranks call it together, and all get the same tokens and reasons.

        Raises on all ranks alike NotFiniteError, Stopped, or RankError where rank 0 failed, whose
        own error is raised there.
        """


def chooser(model: GPTNeoX, rows: Rows) -> Chooser:
    """The chooser for `rows`.

    Greedy rows on accelerators are chosen by all ranks alike; on a CPU, where logits need no copy
    and a word to the others costs microseconds, rank 0 chooses, as it does wherever a draw or the
    row's history decides.
    """
    device = model.gpt_neox.final_layer_norm.weight.device
    sizes = shares(model.config.vocab_size, model.group.size)
    greedy = rows.sampling.temperature == 0 and rows.sampling.repetition_penalty == 1
    if device.type != "cpu" and model.group.joins_everywhere and greedy:
        return Alike(model.group, rows, sizes, device)
    return ByRankZero(model.group, rows, sizes)


class ByRankZero:
    """Rank 0 chooses from the joined logits, and tells the others."""

    def __init__(self, group: Group, rows: Rows, sizes: Sequence[int]) -> None:
        self.group = group
        self.rows = rows
        self.sizes = sizes

    def __call__(self, logits: Tensor) -> Choice:
        joined = self.group.gather(logits, dim=-1, sizes=self.sizes)
        return share_choice(self.group, self.rows.choose, joined)


def share_choice(group: Group, choose: Callable[[Tensor], Choice], logits: Tensor | None) -> Choice:
    """Choose on rank 0 and broadcast the choice.

    A failure of rank 0 is broadcast in its place, and so is a request to stop: otherwise the other
    ranks would wait forever for a choice.
    """
    choice = None
    failure = None
    word = None
    if group.rank == 0:
        try:
            choice = choose(logits)
            word = tuple(choice._replace(logprobs=[], top=[]))  # only rank 0 uses those
        except Exception as error:
            known = isinstance(error, NotFiniteError)  # then all ranks look for the layer together
            failure = error
            word = error if known else _told(error)
    word = group.checkpoint(word)
    if isinstance(word, NotFiniteError):
        raise word
    if failure is not None:
        raise failure
    _refuse_failed(word)
    return Choice(*word) if choice is None else choice


class Alike:
    """Every rank finds the same tokens in the same logits.

    A word of rank 0 is needed at each step only if its watch may end a row; else it comes after the
    number of steps that the last word named, and with the last step. It carries a failure of the
    watch, and a request to stop.
    """

    def __init__(
        self, group: Group, rows: Rows, sizes: Sequence[int], device: torch.device
    ) -> None:
        self.group = group
        self.rows = rows
        self.sizes = sizes
        limits = rows.limits
        first = group.rank == 0
        self.find = Finder(limits.tokenizer_size, limits.holes, rows.top, first, device)
        self.watch = self._watch if first and rows.watch else None
        self.failure: Exception | None = None
        self.steps = self.left = 1  # between the last word and the next, and still to go
        self.since = time.perf_counter()

    def __call__(self, logits: Tensor) -> Choice:
        found = self.find(self.group.all_gather(logits, dim=-1, sizes=self.sizes))
        self._refuse_not_finite(found)
        choice = self.rows.take(*found, self.watch)
        self.left -= 1
        if self.left and None in choice.reasons:
            return choice
        return self._agree(choice)

    def _agree(self, choice: Choice) -> Choice:
        """Hear rank 0: which rows have ended, and when it speaks next."""
        word = None
        if self.group.rank == 0:
            word = _told(self.failure) if self.failure else (choice.reasons, self._pause())
        word = self.group.checkpoint(word)
        if self.failure:
            raise self.failure
        _refuse_failed(word)
        reasons, self.left = word
        self.steps = self.left
        self.rows.reasons = list(reasons)
        return choice._replace(reasons=list(reasons))

    def _pause(self) -> int:
        """Steps until the next word: as many as take SECONDS at the pace of the last ones."""
        now = time.perf_counter()
        seconds = max(now - self.since, 1e-9) / self.steps
        self.since = now
        if self.rows.watch_ends or self.group.size == 1:
            return 1
        return max(1, min(MOST_STEPS, int(SECONDS / seconds)))

    def _watch(self, row: int, token: int) -> bool:
        """The watch of rank 0; its failure is kept for the next word."""
        try:
            return self.failure is None and self.rows.watch(row, token)
        except Exception as error:
            self.failure = error
            return False

    def _refuse_not_finite(self, found: Found) -> None:
        bad = [row for row, token in enumerate(found.tokens) if token == NOT_FINITE]
        if bad:
            raise NotFiniteError.of(f"row(s) {bad}", self.rows.history[bad[0]])


def _told(error: Exception) -> str:
    """A failure of rank 0 as the others are told of it."""
    return f"{type(error).__name__}: {error}"


def _refuse_failed(word: object) -> None:
    if isinstance(word, str):
        raise RankError(f"rank 0 could not choose the next token: {word}")


class Finder:
    """Finds the most likely id below `tokenizer_size` without `holes`; ties by the lowest id.

    With `told`, log-probabilities and the `top` most likely ids as well. They are computed in
    float32 on the device, which may round other than the CPU does.
    """

    def __init__(
        self,
        tokenizer_size: int,
        holes: Sequence[int],
        top: int,
        told: bool,
        device: torch.device,
    ) -> None:
        assert tokenizer_size < EXACT, tokenizer_size
        self.top = min(top, tokenizer_size)
        self.told = told
        self.ids = torch.arange(tokenizer_size, dtype=torch.float32, device=device)
        self.holes = None
        if holes:
            blocked = torch.zeros(tokenizer_size, dtype=torch.bool)
            blocked[list(holes)] = True
            self.holes = blocked.to(device)

    def __call__(self, logits: Tensor) -> Found:
        """`logits` [B, V] of a float dtype."""
        found = logits[:, : len(self.ids)]
        finite = found.isfinite().all(-1, keepdim=True)  # [B, 1]
        if self.holes is not None:
            found = found.masked_fill(self.holes, -torch.inf)
        best = found.amax(-1, keepdim=True)  # [B, 1]
        # Not argmax, which need not take the lowest of equal ones on every device.
        lowest = self.ids.where(found == best, EXACT).amin(-1, keepdim=True)
        tokens = lowest.where(finite, NOT_FINITE)
        if not self.told:
            return Found([int(token) for (token,) in tokens.tolist()], [], [])
        return _read(torch.cat((tokens, *self._likely(found.float(), best.float())), -1))

    def _likely(self, found: Tensor, best: Tensor) -> tuple[Tensor, ...]:
        """Log-probability [B, 1] of the best, and ids and log-probabilities [B, top]."""
        total = found.logsumexp(-1, keepdim=True)
        if not self.top:
            return (best - total,)
        values, ids = found.topk(self.top, -1)
        return best - total, ids.float(), values - total


def _read(table: Tensor) -> Found:
    """Split rows of token, log-probability, top ids and their log-probabilities."""
    rows = table.tolist()
    half = 2 + (table.shape[-1] - 2) // 2
    top = [
        [(int(token), value) for token, value in zip(row[2:half], row[half:], strict=True)]
        for row in rows
    ]
    return Found([int(row[0]) for row in rows], [row[1] for row in rows], top)
