"""Log-probabilities of given continuations. Token ids in, scores out; no text, no files.

Rows with a common prefix share its keys and values: see `groups`.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import NamedTuple

import torch
from torch import Tensor

from neoxlib.errors import NotFiniteError, SettingsError
from neoxlib.inference.finite import agree
from neoxlib.inference.sampling import without
from neoxlib.inference.shared_prefix import SharedPrefix, TokenRow, common
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.layers import shares

# Tokens computed at a time, padding included: this bounds the activations, not the answer.
BATCH_TOKENS = 4096
# The same on a CPU, which is busy with fewer; larger buffers would not stay in its caches.
CPU_TOKENS = 256
# Slots of a batch's cache, copies of a shared prefix included: 9 GB for GPT-NeoX-20B in float16.
CACHE_TOKENS = 8192
# Tokens that sharing must save: it costs an extra pass over all weights, and smaller batches.
MIN_SHARED_TOKENS = 256
LISTED = 8  # requests that a message names
HEAD_ROWS = 512  # states that the head takes at a time: 100 MB of logits for 50,000 ids

OnProgress = Callable[[int, int], None]  # requests scored, requests in all


class Request(NamedTuple):
    """One continuation to score after one context."""

    context: Sequence[int]
    continuation: Sequence[int]

    @property
    def input(self) -> TokenRow:
        """The ids that the model must read: the last one is only a target."""
        return (*self.context, *self.continuation[:-1])


class Score(NamedTuple):
    """Score of one continuation."""

    logprob: float  # sum of log P(token), float32, over the tokenizer's ids only
    greedy: bool  # whether each token is the most likely one at its place


@torch.inference_mode()
def log_probabilities(
    model: GPTNeoX,
    requests: Sequence[Request],
    tokenizer_size: int,
    max_seq_len: int,
    progress: OnProgress | None = None,
    holes: Sequence[int] = (),
) -> list[Score] | None:
    """Score each request; return None off rank 0, where `progress` is not called either.

    Requests that read the same ids, or a prefix of what another reads, share one row: four
    one-token choices after a prompt cost one row. Rows of a batch are right-padded and of similar
    length; shared prefixes are computed once. Probabilities are over the ids below `tokenizer_size`
    without `holes`. The call can be stopped between two batches.
    Raises SettingsError, before any work, listing every request that does not fit, and
    NotFiniteError on all ranks.
    """
    check_requests(requests, tokenizer_size, max_seq_len, holes)
    said = progress if model.group.rank == 0 else None
    answers = _score_batches(model, requests, (tokenizer_size, holes), said)
    return [answers[n] for n in range(len(requests))] if model.group.rank == 0 else None


def _score_batches(
    model: GPTNeoX,
    requests: Sequence[Request],
    ids: tuple[int, Sequence[int]],
    progress: OnProgress | None,
) -> dict[int, Score]:
    """Number -> score of each request; empty off rank 0. `ids` are those of `_score_batch`."""
    answers: dict[int, Score] = {}
    failure = None
    for batch in _planned(model, requests):
        agree(model, failure)
        try:
            answers |= _score_batch(batch, requests, ids)
        except NotFiniteError as error:  # on rank 0 alone: `agree` raises it on all ranks
            failure = error
            continue
        if progress:
            progress(len(answers), len(requests))
    agree(model, failure)
    return answers


class Batch(NamedTuple):
    """Rows to compute together, and the requests that they serve."""

    prefix: SharedPrefix
    rows: list[TokenRow]
    shared: int  # ids that all rows have in common from the start, computed once
    asked: list[tuple[int, int]]  # (row, number of the request)


def _planned(model: GPTNeoX, requests: Sequence[Request]) -> Iterator[Batch]:
    """The batches that score all requests, each of them once."""
    served = unique_rows(requests)
    needed = {
        row: min(len(requests[n].context) for n in numbers) - 1 for row, numbers in served.items()
    }
    plan = prefix_groups(sorted(served), needed)
    prefix = SharedPrefix(model, max((shared for shared, _ in plan), default=0))
    for shared, group in plan:
        for rows in batches(group, shared, prefix.device):
            asked = [(row, number) for row, ids in enumerate(rows) for number in served[ids]]
            yield Batch(prefix, rows, shared, asked)


def check_requests(
    requests: Sequence[Request], tokenizer_size: int, max_seq_len: int, holes: Sequence[int] = ()
) -> None:
    """Refuse requests that cannot be scored.

    Raises SettingsError listing every request that is empty, too long or holds ids that the
    tokenizer does not have.
    """
    problems = []
    none = set(holes)
    for number, request in enumerate(requests):
        if not request.context or not request.continuation:
            problems.append(f"request {number}: prompt and choice need at least one token each")
        elif len(request.input) > max_seq_len:
            problems.append(
                f"request {number}: {len(request.input)} tokens, but max_seq_len is {max_seq_len}"
            )
        elif any(
            min(ids) < 0 or max(ids) >= tokenizer_size
            for ids in (request.context, request.continuation)
        ):
            problems.append(f"request {number}: ids past the tokenizer's 0..{tokenizer_size - 1}")
        elif none and not none.isdisjoint((*request.context, *request.continuation)):
            problems.append(f"request {number}: ids that no token of the tokenizer has")
    if problems:
        raise SettingsError("these cannot be scored:\n  " + "\n  ".join(problems))


def unique_rows(requests: Sequence[Request]) -> dict[TokenRow, list[int]]:
    """Map each row to compute to the numbers of its requests. No row is a prefix of another."""
    wanted: dict[TokenRow, list[int]] = {}
    for number, request in enumerate(requests):
        wanted.setdefault(request.input, []).append(number)
    kept: TokenRow = ()
    for row in sorted(wanted, reverse=True):  # rows that extend a row come right before it
        if row == kept[: len(row)]:
            wanted[kept] += wanted.pop(row)
        else:
            kept = row
    return wanted


def prefix_groups(
    rows: Sequence[TokenRow], needed: dict[TokenRow, int]
) -> list[tuple[int, list[TokenRow]]]:
    """Group sorted `rows`, none a prefix of another, by common prefix: (ids shared, rows) each.

    Walks down the prefix tree. Rows become a group if sharing more of their prefix saves at least
    MIN_SHARED_TOKENS ids. Groups may nest: questions after the same five examples inside those
    after the same four. Groups are ordered so that each finds most of its prefix in the one before.
    The state at `needed[row]` is wanted, so only ids before it are shared.
    """
    alone: list[TokenRow] = []
    found = [(0, alone)]
    todo = [(list(rows), 0, 0, alone)]
    while todo:
        # Rows of `group`, which shares `base` ids; they have `depth` ids in common.
        rows, base, depth, group = todo.pop()
        for _, run in groupby(rows, key=itemgetter(depth)):
            run = list(run)
            if len(run) == 1:
                group += run
                continue
            together = common(run[0], run[-1])  # sorted: the first and the last differ first
            shared = min(together, *(needed[row] for row in run))
            if (len(run) - 1) * (shared - base) >= MIN_SHARED_TOKENS:
                found.append((shared, []))
                todo.append((run, shared, together, found[-1][1]))
            else:
                todo.append((run, base, together, group))
    return sorted((group for group in found if group[1]), key=lambda group: group[1][0][: group[0]])


def batches(rows: Sequence[TokenRow], shared: int, device: str = "cpu") -> Iterator[list[TokenRow]]:
    """Batch `rows`, longest first, as large as the limits for tokens and slots allow.

    With a shared prefix a batch has as many rows as the last one, whose cache holds the copies,
    unless at least twice as many fit.
    """
    tokens = min(BATCH_TOKENS, CPU_TOKENS) if device == "cpu" else BATCH_TOKENS
    size = 0
    ordered = iter(sorted(rows, key=len, reverse=True))
    for first in ordered:
        fit = max(1, min(tokens // (len(first) - shared), CACHE_TOKENS // len(first)))
        size = fit if fit >= 2 * size or not shared else size
        yield [first, *islice(ordered, size - 1)]


def _score_batch(
    batch: Batch, requests: Sequence[Request], ids: tuple[int, Sequence[int]]
) -> dict[int, Score]:
    """Number -> score of the requests of `batch`; empty off rank 0.

    Probabilities are over the ids below `ids[0]` without `ids[1]`, which have no token.
    Raises NotFiniteError on rank 0, at the end, when the other ranks have done their part.
    """
    model = batch.prefix.model
    states = batch.prefix.states(batch.rows, batch.shared)
    wanted = _wanted(batch.shared, batch.asked, requests)
    found: dict[int, list[tuple[float, bool]]] = {number: [] for _, number in batch.asked}
    lost = set()
    tokenizer_size, holes = ids
    for first in range(0, len(wanted), HEAD_ROWS):
        spots = list(islice(wanted, first, first + HEAD_ROWS))
        row, column = torch.tensor(spots, device=states.device).T
        sizes = shares(model.config.vocab_size, model.group.size)
        # [spots, vocab]
        logits = model.group.gather(model.head(states[row, column]), sizes=sizes)
        if logits is not None:
            here = [wanted[spot] for spot in spots]
            lost |= _look_up(logits[:, :tokenizer_size].float(), holes, here, found)
    if model.group.rank:
        return {}
    if lost:
        numbers = sorted(lost)[:LISTED]
        raise NotFiniteError.of(f"request(s) {numbers}", requests[numbers[0]].input)
    return {n: _total(each) for n, each in found.items()}


def _total(tokens: Sequence[tuple[float, bool]]) -> Score:
    return Score(sum(p for p, _ in tokens), all(hit for _, hit in tokens))


def _wanted(
    shared: int, asked: Sequence[tuple[int, int]], requests: Sequence[Request]
) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Map (row, column) of each state to the (number, token) pairs that it is asked for."""
    wanted: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for row, number in asked:
        start = len(requests[number].context) - 1 - shared  # the state at a token predicts the next
        for i, token in enumerate(requests[number].continuation):
            wanted.setdefault((row, start + i), []).append((number, token))
    return wanted


def _look_up(
    logits: Tensor,
    holes: Sequence[int],
    wanted: Sequence[Sequence[tuple[int, int]]],
    found: dict[int, list[tuple[float, bool]]],
) -> set[int]:
    """Add to `found` the (log-probability, is greedy) of each spot's (number, token).

    `logits` are [spots, ids]. Returns the numbers of the requests whose logits are not finite.
    """
    asked = [
        (spot, number, token) for spot, several in enumerate(wanted) for number, token in several
    ]
    spot, _, token = torch.tensor(asked, device=logits.device).T
    bad = (~logits.isfinite().all(dim=-1))[spot].cpu()
    logprobs = without(logits, holes).log_softmax(dim=-1)
    values = logprobs[spot, token].cpu()
    best = (logprobs.argmax(dim=-1)[spot] == token).cpu()
    for (_, number, _), value, hit in zip(asked, values.tolist(), best.tolist(), strict=True):
        found[number].append((value, hit))
    return {number for (_, number, _), lost in zip(asked, bad.tolist(), strict=True) if lost}
