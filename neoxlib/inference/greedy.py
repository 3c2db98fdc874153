"""The most likely token of each row, found where the logits are, on an accelerator.

What is read from the device is a few numbers a row, in one copy, and not the row's logits.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

NOT_FINITE = -1  # in place of the token of a row whose logits hold NaN or infinity
EXACT = 2**24  # ids below this are exact in float32, in which all that is read travels


class Found(NamedTuple):
    """The most likely ids, and what the model thinks of them."""

    tokens: list[int]  # [B]; NOT_FINITE where a logit is
    logprobs: list[float]  # [B]; empty unless asked for
    top: list[list[tuple[int, float]]]  # [B][top] (id, log-probability), best first; the same


class Finder:
    """Finds the most likely id below `tokenizer_size` without `holes`; ties by the lowest id.

    With `told`, log-probabilities and the `top` likeliest ids as well. They are computed in float32
    on the device, which may round other than the CPU does.
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
