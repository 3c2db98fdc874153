"""Decode loop: token ids in, token ids and clocks out. No text, files or chips here.

Every rank of the model's group runs the same loop, and comes to the same tokens (choosing.py).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from neoxlib.errors import NotFiniteError, SettingsError
from neoxlib.inference.choosing import chooser
from neoxlib.inference.clocks import Clock, clocks_for
from neoxlib.inference.finite import blamed
from neoxlib.inference.rows import Choice, Limits, Rows, Watch
from neoxlib.inference.sampling import Sampling
from neoxlib.model.gpt_neox import GPTNeoX

PAD = 0  # any id will do: padding is masked, and the output of an ended row is dropped


class DecodeStep(NamedTuple):
    """One forward pass: the tokens chosen and the time it took."""

    choice: Choice
    clock: Clock
    # Of the forward pass with its all-reduces, by an accelerator's own events.
    device_ms: float | None = None


def decode(
    model: GPTNeoX,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    limits: Limits,
    *,
    top: int = 0,
    watch: Watch | None = None,
    watch_ends: bool = True,
    detail: bool = True,
) -> Iterator[DecodeStep]:
    """Continue `prompts`, all in one batch: iterate over the Steps until every row has ended.

    A row ends with "stop" at one of `ending` (which is among its tokens, as in transformers) or
    where `watch(row, token)`, called on rank 0 for every other new token, returns True; with
    "length" after `max_new_tokens`. With `watch_ends` False what `watch` returns ends no row, and
    its error may come some steps later: rank 0 then need not speak at every step. `top` is the
    number of alternatives per token. Without `detail` an accelerator's step is timed as a whole,
    without waiting for its phases. Every rank must take every step.
    Raises SettingsError, before any work, that lists every prompt that cannot be served.
    """
    check_prompts(prompts, sampling, limits)
    if not prompts:
        return iter(())
    rows = Rows(prompts, sampling, limits, top, watch, watch_ends)
    return run_steps(model, rows, detail=detail)


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


def run_steps(
    model: GPTNeoX, rows: Rows, timed: bool = True, detail: bool = True
) -> Iterator[DecodeStep]:
    """Run the decode loop: one forward pass per DecodeStep until every row of `rows` has ended.

    The loop can be stopped between two steps: rank 0's word travels by `Group.checkpoint`. Without
    `timed` no clock is read, the device is never waited for, and each step's clock is UNTIMED.
    """
    weight = model.gpt_neox.final_layer_norm.weight  # a norm's weight is never quantized
    device = weight.device
    clocks = clocks_for(model.group, device, timed, detail)
    ids, mask = left_pad(rows.history)  # [B, S]
    mask = None if mask.all() else mask.to(device)
    cache = model.new_cache(len(ids), rows.limits.max_seq_len)
    choose = chooser(model, rows)
    reasons = rows.reasons
    while None in reasons:
        ids = ids.to(device)
        with clocks.forward(), torch.inference_mode():
            logits = model(ids, cache, mask, last_only=True)[:, -1]  # [B, vocab here]
        try:
            choice = choose(logits)
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
