"""How likely the model holds a continuation: token ids in, log-probabilities out. No text or files here."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from neoxlib.errors import SettingsError
from neoxlib.model import GPTNeoX, KVCache

BATCH_TOKENS = 4096  # padding included; bounds the activations, not the answer


class Request(NamedTuple):
    """One continuation to score after one context."""

    context: Sequence[int]
    continuation: Sequence[int]

    @property
    def input(self) -> tuple[int, ...]:
        """The ids the model must read: the last one is only ever a target."""
        return (*self.context, *self.continuation[:-1])


def log_probabilities(
    model: GPTNeoX, requests: Sequence[Request], real_ids: int, max_seq_len: int
) -> list[float] | None:
    """Sum of log P(token) over each continuation, float32, over the tokenizer's `real_ids` only; None off rank 0.

    Requests that read the same ids share one row: four one-token choices after a prompt cost one forward pass.
    Rows are right-padded, by length. Raises SettingsError, before any work, listing every request that does not fit.
    """
    check(requests, real_ids, max_seq_len)
    wanted: dict[tuple[int, ...], list[int]] = {}
    for number, request in enumerate(requests):
        wanted.setdefault(request.input, []).append(number)
    answers = [0.0] * len(requests)
    for rows in batches(sorted(wanted, key=len)):
        asked = [(row, number) for row, ids in enumerate(rows) for number in wanted[ids]]
        sums = _score_batch(model, rows, [(row, requests[number]) for row, number in asked], real_ids)
        for (_, number), value in zip(asked, sums or [0.0] * len(asked), strict=True):
            answers[number] = value
    return answers if model.group.rank == 0 else None


def check(requests: Sequence[Request], real_ids: int, max_seq_len: int) -> None:
    """Raises SettingsError listing every request that is empty, too long or holds ids the tokenizer does not have."""
    problems = []
    for number, request in enumerate(requests):
        if not request.context or not request.continuation:
            problems.append(f"request {number}: prompt and choice need at least one token each")
        elif len(request.input) > max_seq_len:
            problems.append(f"request {number}: {len(request.input)} tokens, but max_seq_len is {max_seq_len}")
        elif any(not 0 <= i < real_ids for i in (*request.context, *request.continuation)):
            problems.append(f"request {number}: ids past the tokenizer's 0..{real_ids - 1}")
    if problems:
        raise SettingsError("these cannot be scored:\n  " + "\n  ".join(problems))


def batches(rows: Sequence[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """Cut `rows`, sorted by length, into batches of at most BATCH_TOKENS ids, padding included."""
    batch: list[tuple[int, ...]] = []
    for row in rows:
        if batch and (len(batch) + 1) * len(row) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def right_pad(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids of unequal length -> ids [B, S] that start together, and their mask [B, S]: True on real tokens."""
    longest = max(map(len, rows))
    lengths = torch.tensor([[len(row)] for row in rows])
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    return ids, torch.arange(longest) < lengths


@torch.inference_mode()
def _score_batch(
    model: GPTNeoX, rows: Sequence[tuple[int, ...]], asked: Sequence[tuple[int, Request]], real_ids: int
) -> list[float] | None:
    """The log-probability of each asked request, whose input is `rows[row]`; None off rank 0."""
    weight = model.gpt_neox.final_layer_norm.weight
    ids, mask = (t.to(weight.device) for t in right_pad(rows))  # [B, S]
    states = model.states(ids, KVCache(model.config, *ids.shape, model.group, weight.dtype, weight.device), mask)
    spots = [
        (row, len(request.context) - 1 + i, token)
        for row, request in asked for i, token in enumerate(request.continuation)
    ]  # the state at a token predicts the next one
    row, column, target = torch.tensor(spots, device=weight.device).T
    logits = model.group.gather(model.head(states[row, column]))  # [spots, vocab]
    if logits is None:
        return None
    found = logits[:, :real_ids].float().log_softmax(dim=-1).gather(1, target[:, None])[:, 0]
    lengths = [len(request.continuation) for _, request in asked]
    return [part.sum().item() for part in found.cpu().split(lengths)]
