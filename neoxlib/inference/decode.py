"""Decode loop: token ids in, token ids and clocks out. No text, files or chips here.

Every rank of the model's group runs the same loop; rank 0 chooses the tokens and broadcasts them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from neoxlib.errors import NotFiniteError, RankError, SettingsError
from neoxlib.inference.clocks import Clock, NoClocks, StepClocks
from neoxlib.inference.finite import blamed
from neoxlib.inference.sampling import Sampling, pick
from neoxlib.model.cache import KVCache
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.group import Group

PAD = 0  # any id will do: padding is masked, and the output of an ended row is dropped


class Choice(NamedTuple):
    """The tokens that rank 0 chose in one step."""

    tokens: list[int | None]  # [B]; None for a row that had ended before
    # [B]; "stop" or "length" from the step that ends the row, None until then
    reasons: list[str | None]
    logprobs: list[float]  # [B], under the model itself; empty on the other ranks
    # [B][top] most likely (id, log-probability), best first; empty on the other ranks
    top: list[list[tuple[int, float]]]


class DecodeStep(NamedTuple):
    """One forward pass: the tokens chosen and the time it took."""

    choice: Choice
    clock: Clock
    # Of the forward pass with its all-reduces, by an accelerator's own events.
    device_ms: float | None = None


@dataclass(frozen=True)
class Limits:
    """The limits that a model and its tokenizer set.

    Without `eos_ids` a row ends only by its length or by what the caller names.
    """

    eos_ids: tuple[int, ...]
    tokenizer_size: (
        int  # one more than the tokenizer's last id; rows from there on pad the vocabulary
    )
    max_seq_len: int  # prompt and answer together
    holes: tuple[int, ...] = ()  # ids below `tokenizer_size` that have no token: never chosen


def decode(
    model: GPTNeoX,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    limits: Limits,
    *,
    top: int = 0,
    watch: Callable[[int, int], bool] | None = None,
) -> Iterator[DecodeStep]:
    """Continue `prompts`, all in one batch: iterate over the Steps until every row has ended.

    A row ends with "stop" at one of `ending` (which is among its tokens, as in transformers) or
    where `watch(row, token)`, called on rank 0 for every other new token, returns True; with
    "length" after `max_new_tokens`. `top` is the number of alternatives per token. Every rank must
    take every step.
    Raises SettingsError, before any work, that lists every prompt that cannot be served.
    """
    check_prompts(prompts, sampling, limits)
    return run_steps(model, Rows(prompts, sampling, limits, top, watch)) if prompts else iter(())


def ending(sampling: Sampling, limits: Limits) -> frozenset[int]:
    """Return the ids that end a row: the end of text, and those that the caller names."""
    return frozenset((*limits.eos_ids, *sampling.stop_token_ids))


def check_prompts(prompts: Sequence[Sequence[int]], sampling: Sampling, limits: Limits) -> None:
    """Refuse prompts that cannot be served.

    Raises SettingsError with every prompt that is empty, too long, or holds unknown ids, and for
    `stop_token_ids` that the tokenizer does not have: no row would ever end there.
    """
    if unknown := _unknown(sampling.stop_token_ids, limits):
        what = f"stop_token_ids holds ids {unknown}"
        raise SettingsError(f"{what} that are not among {_known(limits)}")
    problems = [
        f"prompts[{n}] {text}"
        for n, ids in enumerate(prompts)
        for text in _problems(ids, sampling, limits)
    ]
    if problems:
        raise SettingsError("these prompts cannot be served:\n  " + "\n  ".join(problems))


def _problems(ids: Sequence[int], sampling: Sampling, limits: Limits) -> Iterator[str]:
    if not ids:
        end = f"; to start from nothing give the end-of-text id, {list(limits.eos_ids[:1])}"
        yield f"has no tokens: at least one is needed{end if limits.eos_ids else ''}"
    if wrong := _unknown(ids, limits):
        yield f"holds ids {wrong} that are not among {_known(limits)}"
    total = len(ids) + sampling.max_new_tokens
    if total > limits.max_seq_len:
        yield (
            f"has {len(ids)} tokens and max_new_tokens is {sampling.max_new_tokens}: {total} "
            f"together, but max_seq_len is {limits.max_seq_len}; shorten the prompt, lower "
            "max_new_tokens or load with a larger max_seq_len"
        )


def _unknown(ids: Sequence[int], limits: Limits) -> list[int]:
    holes = set(limits.holes)
    return sorted(
        {token for token in ids if not 0 <= token < limits.tokenizer_size or token in holes}
    )


def _known(limits: Limits) -> str:
    holes = f", without {len(limits.holes)} of them that have no token" if limits.holes else ""
    return f"the tokenizer's 0..{limits.tokenizer_size - 1}{holes}"


class Rows:
    """The rows of a batch: their ids so far, their random generators, which have ended and why."""

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        limits: Limits,
        top: int,
        watch: Callable[[int, int], bool] | None,
    ) -> None:
        self.sampling = sampling
        self.limits = limits
        self.top = top
        self.watch = watch
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
        tokens = [
            self._take(row, token) if reason is None else None
            for row, (token, reason) in enumerate(
                zip(picked.tokens.tolist(), self.reasons, strict=True)
            )
        ]
        best = zip(picked.top_tokens.tolist(), picked.top_logprobs.tolist(), strict=True)
        top = [list(zip(ids, values, strict=True)) for ids, values in best]
        return Choice(tokens, list(self.reasons), picked.logprobs.tolist(), top)

    def _take(self, row: int, token: int) -> int:
        self.history[row].append(token)
        if token in self.ending or (self.watch is not None and self.watch(row, token)):
            self.reasons[row] = "stop"
        elif len(self.history[row]) == self.ends[row]:
            self.reasons[row] = "length"
        return token


def run_steps(model: GPTNeoX, rows: Rows, timed: bool = True) -> Iterator[DecodeStep]:
    """Run the decode loop: one forward pass per Step until every row of `rows` has ended.

    The loop can be stopped between two steps: the choice of each step travels by
    `Group.checkpoint`. Without `timed` no clock is read, the device is never waited for, and each
    Step's clock is UNTIMED.
    """
    group = model.group
    weight = model.gpt_neox.final_layer_norm.weight  # a norm's weight is never quantized
    device = weight.device
    clocks = StepClocks(group, device) if timed else NoClocks()
    ids, mask = left_pad(rows.history)  # [B, S]
    mask = None if mask.all() else mask.to(device)
    cache = KVCache(model.config, len(ids), rows.limits.max_seq_len, group, weight.dtype, device)
    reasons = rows.reasons
    while None in reasons:
        ids = ids.to(device)
        with clocks.forward(), torch.inference_mode():
            logits = model(ids, cache, mask, last_only=True)[:, -1]  # [B, vocab here]
        try:
            choice = _share_choice(group, rows.choose, group.gather(logits, dim=-1))
        except NotFiniteError as error:  # on all ranks; timing.Deep has the real model inside
            raise blamed(getattr(model, "model", model), error) from None
        yield DecodeStep(choice, *clocks.read())
        clocks.resume()
        reasons = choice.reasons
        ids = torch.tensor([[PAD if token is None else token] for token in choice.tokens])  # [B, 1]
        mask = None


def left_pad(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Pad on the left: ids [B, S] that end together, and their mask [B, S], True on real tokens."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    lengths = torch.tensor([[len(prompt)] for prompt in prompts])
    return ids, torch.arange(longest) >= longest - lengths


def _share_choice(
    group: Group, choose: Callable[[Tensor], Choice], logits: Tensor | None
) -> Choice:
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
            word = choice._replace(logprobs=[], top=[])  # only rank 0 uses those
        except Exception as error:
            known = isinstance(error, NotFiniteError)  # then all ranks look for the layer together
            failure = error
            word = error if known else f"{type(error).__name__}: {error}"
    word = group.checkpoint(word)
    if isinstance(word, NotFiniteError):
        raise word
    if failure is not None:
        raise failure
    if isinstance(word, str):
        raise RankError(f"rank 0 could not choose the next token: {word}")
    return word if choice is None else choice
