"""How likely the model holds a continuation: token ids in, log-probabilities out. No text or files here.

Rows that begin alike share the keys and values of their beginning: see `groups`.
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
from neoxlib.model.cache import KVCache
from neoxlib.model.gpt_neox import GPTNeoX

BATCH_TOKENS = 4096  # computed at a time, padding included; bounds the activations, not the answer
CPU_TOKENS = 256  # the same on a CPU, which has enough to do with fewer; larger buffers only fall out of its caches
CACHE_TOKENS = 8192  # slots of a batch's cache, copies of a shared prefix included: GPT-NeoX-20B's in float16 are 9 GB
PAYS = 256  # tokens that sharing must save: it costs a pass of its own, which reads all weights, and smaller batches
LISTED = 8  # numbers of requests that a message gives
HEAD_ROWS = 512  # states that meet the head at a time: of 50 thousand ids 100 MB of logits

Row = tuple[int, ...]
Progress = Callable[[int, int], None]  # requests scored, requests in all


class Request(NamedTuple):
    """One continuation to score after one context."""

    context: Sequence[int]
    continuation: Sequence[int]

    @property
    def input(self) -> Row:
        """The ids the model must read: the last one is only ever a target."""
        return (*self.context, *self.continuation[:-1])


class Score(NamedTuple):
    """What the model holds of a continuation."""

    logprob: float  # sum of log P(token), float32, over the tokenizer's ids only
    greedy: bool  # whether each token is the likeliest where it stands


@torch.inference_mode()
def log_probabilities(
    model: GPTNeoX,
    requests: Sequence[Request],
    real_ids: int,
    max_seq_len: int,
    progress: Progress | None = None,
    holes: Sequence[int] = (),
) -> list[Score] | None:
    """The score of each request; None off rank 0, where `progress` is not called either.

    Requests that read the same ids, or the beginning of what another reads, share one row: four
    one-token choices after a prompt cost one row. Rows are right-padded and of like length; their
    shared beginnings are computed once. Probabilities are over the ids below `real_ids` that are no
    `holes`.
    Raises SettingsError, before any work, listing every request that does not fit, and
    NotFiniteError on all ranks.
    """
    check(requests, real_ids, max_seq_len, holes)
    served = readers(requests)
    needed = {
        row: min(len(requests[n].context) for n in numbers) - 1 for row, numbers in served.items()
    }
    answers: list[Score | None] = [None] * len(requests)
    plan = groups(sorted(served), needed)
    done = 0
    failure = None
    trunk = Trunk(model, max((shared for shared, _ in plan), default=0))
    for shared, rows in plan:
        for batch in batches(rows, shared, trunk.device):
            agree(model, failure)  # all ranks are in step here: the notebook may stop them
            asked = [(row, number) for row, ids in enumerate(batch) for number in served[ids]]
            try:
                found = _score_batch(trunk, batch, shared, asked, requests, (real_ids, holes))
            except NotFiniteError as error:  # on rank 0 alone: the others hear of it when they meet
                failure = error
                continue
            for number, score in found:
                answers[number] = score
            done += len(asked)
            if progress and model.group.rank == 0:
                progress(done, len(requests))
    agree(model, failure)
    return answers if model.group.rank == 0 else None


def check(
    requests: Sequence[Request], real_ids: int, max_seq_len: int, holes: Sequence[int] = ()
) -> None:
    """Raises SettingsError listing every request that is empty, too long or holds ids the tokenizer does not have."""
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
            min(ids) < 0 or max(ids) >= real_ids for ids in (request.context, request.continuation)
        ):
            problems.append(f"request {number}: ids past the tokenizer's 0..{real_ids - 1}")
        elif none and not none.isdisjoint((*request.context, *request.continuation)):
            problems.append(f"request {number}: ids that no token of the tokenizer has")
    if problems:
        raise SettingsError("these cannot be scored:\n  " + "\n  ".join(problems))


def readers(requests: Sequence[Request]) -> dict[Row, list[int]]:
    """Row -> numbers of the requests that it serves. No row is the beginning of another."""
    wanted: dict[Row, list[int]] = {}
    for number, request in enumerate(requests):
        wanted.setdefault(request.input, []).append(number)
    kept: Row = ()
    for row in sorted(wanted, reverse=True):  # what begins with a row comes right before it
        if row == kept[: len(row)]:
            wanted[kept] += wanted.pop(row)
        else:
            kept = row
    return wanted


def common(one: Row, other: Row) -> int:
    """How many ids two rows have in common from the start."""
    return next(
        (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


def groups(rows: Sequence[Row], needed: dict[Row, int]) -> list[tuple[int, list[Row]]]:
    """Sorted `rows`, of which none begins another -> (ids shared from the start, the rows that share them).

    Walks down the tree of beginnings. Where rows part from others and still go on together for so long that PAYS ids
    are not computed, they become a group, and may hold such groups themselves: questions after the same five examples
    within those after the same four. Groups come in an order in which each finds most of its beginning in the one
    before. The state at `needed[row]` is wanted, so no more than the ids before it are shared.
    """
    alone: list[Row] = []
    found = [(0, alone)]
    todo = [(list(rows), 0, 0, alone)]
    while todo:
        rows, base, depth, group = (
            todo.pop()
        )  # rows of `group`, which shares `base` ids; they have `depth` in common
        for _, run in groupby(rows, key=itemgetter(depth)):
            run = list(run)
            if len(run) == 1:
                group += run
                continue
            together = common(run[0], run[-1])  # sorted: the first and the last differ first
            shared = min(together, *(needed[row] for row in run))
            if (len(run) - 1) * (shared - base) >= PAYS:
                found.append((shared, []))
                todo.append((run, shared, together, found[-1][1]))
            else:
                todo.append((run, base, together, group))
    return sorted((group for group in found if group[1]), key=lambda group: group[1][0][: group[0]])


def batches(rows: Sequence[Row], shared: int, device: str = "cpu") -> Iterator[list[Row]]:
    """`rows` by length, the longest first, in batches as large as the limits for tokens and slots allow.

    Where a beginning is shared, a batch has as many rows as the last, which hold its copies, or twice as many or more.
    """
    tokens = min(BATCH_TOKENS, CPU_TOKENS) if device == "cpu" else BATCH_TOKENS
    size = 0
    ordered = iter(sorted(rows, key=len, reverse=True))
    for first in ordered:
        fit = max(1, min(tokens // (len(first) - shared), CACHE_TOKENS // len(first)))
        size = fit if fit >= 2 * size or not shared else size
        yield [first, *islice(ordered, size - 1)]


def right_pad(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids of unequal length -> ids [B, S] that start together, and their mask [B, S]: True on real tokens."""
    longest = max(map(len, rows))
    lengths = torch.tensor([[len(row)] for row in rows])
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    return ids, torch.arange(longest) < lengths


class Trunk:
    """What rows begin with, at most `longest` ids: computed once in a cache of one row, copied to a batch's rows."""

    def __init__(self, model: GPTNeoX, longest: int) -> None:
        self.model = model
        self.ids = ()
        self.copies = None
        self.device = model.gpt_neox.final_layer_norm.weight.device.type
        self.cache = self._cache(1, longest) if longest else None

    def states(self, rows: Sequence[Row], shared: int) -> Tensor:
        """Hidden states [B, S - shared, hidden] of the ids after the first `shared`, which all rows have in common."""
        ids, mask = right_pad([row[shared:] for row in rows])
        cache = self._rows(len(rows), shared, shared + ids.shape[1], rows[0][:shared])
        device = cache.real.device
        return self.model.states(ids.to(device), cache, mask.to(device))

    def _rows(self, count: int, shared: int, room: int, prefix: Row) -> KVCache:
        """A cache of `count` rows that hold `prefix`; the last batch's, where it will do."""
        if not shared:
            return self._cache(count, room)
        old = self.copies
        if prefix != self.ids or old is None or len(old.real) != count or old.real.shape[1] < room:
            self.copies = None  # two at a time would be too much
            self._hold(prefix)
            self.copies = self._cache(count, room)
            for mine, ours in ((self.copies.k, self.cache.k), (self.copies.v, self.cache.v)):
                mine[:, :, :, :shared] = ours[
                    :, :, :, :shared
                ]  # [layers, B, heads here, shared, head_dim]
            self.copies.real[:, :shared] = True
        self.copies.length = shared
        return self.copies

    def _hold(self, prefix: Row) -> None:
        kept = common(self.ids, prefix)
        self.cache.length = kept
        self.ids = prefix
        if kept < len(prefix):
            ids = torch.tensor([prefix[kept:]], device=self.cache.real.device)
            self.model.states(ids, self.cache, torch.ones_like(ids, dtype=torch.bool))

    def _cache(self, rows: int, room: int) -> KVCache:
        weight = self.model.gpt_neox.final_layer_norm.weight
        return KVCache(self.model.config, rows, room, self.model.group, weight.dtype, weight.device)


def _score_batch(
    trunk: Trunk,
    rows: Sequence[Row],
    shared: int,
    asked: Sequence[tuple[int, int]],
    requests: Sequence[Request],
    ids: tuple[int, Sequence[int]],
) -> list[tuple[int, Score]]:
    """(number, score) of the `asked` (row, number of the request); nothing off rank 0.

    Probabilities are over `ids`: those below the first, without the others, which have no token.
    Raises NotFiniteError on rank 0, at the end, when the other ranks have done their part.
    """
    states = trunk.states(rows, shared)
    group = trunk.model.group
    wanted = _wanted(shared, asked, requests)
    found: dict[int, list[tuple[float, bool]]] = {number: [] for _, number in asked}
    spots = list(wanted)
    lost = set()
    (real_ids, holes) = ids
    for first in range(0, len(spots), HEAD_ROWS):
        piece = spots[first : first + HEAD_ROWS]
        row, column = torch.tensor(piece, device=states.device).T
        logits = group.gather(trunk.model.head(states[row, column]))  # [spots, vocab]
        if logits is not None:
            here = [wanted[spot] for spot in piece]
            lost |= _look_up(logits[:, :real_ids].float(), holes, here, found)
    if group.rank:
        return []
    if lost:
        numbers = sorted(lost)[:LISTED]
        raise NotFiniteError.of(f"request(s) {numbers}", requests[numbers[0]].input)
    return [
        (n, Score(sum(p for p, _ in each), all(hit for _, hit in each)))
        for n, each in found.items()
    ]


def _wanted(
    shared: int, asked: Sequence[tuple[int, int]], requests: Sequence[Request]
) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """(row, column) -> (number, token) of what is asked of the state there: each state is used once."""
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
    """Add to `found` what `logits` [spots, ids] say of each spot's (number, token).

    Returns the numbers of those whose logits are not finite.
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
