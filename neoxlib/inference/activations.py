"""Run given tokens through a model and keep what its steps compute: prefill, then forced tokens.

All ranks of the model's group call these functions together.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from neoxlib.errors import SettingsError, did_you_mean
from neoxlib.inference.decode import left_pad
from neoxlib.model.cache import KVCache
from neoxlib.model.config import ModelConfig
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.group import Group
from neoxlib.model.steps import EMBEDDED, GATHERED, LOGITS, PARTIAL, Step, all_steps
from neoxlib.model.taps import tapped

if TYPE_CHECKING:
    import numpy as np


class Sink(Protocol):
    """Takes the tensors of a run; they change after the call."""

    def __call__(self, pass_: int, name: str, value: Tensor) -> None:
        """Keep `value` [B, tokens, ...] of the step `name` in forward pass number `pass_`."""


class Forced(NamedTuple):
    """Token ids for a prefill and some decode steps, padded on the left."""

    ids: Tensor  # [B, T]: the prompts' ids, then one column per decode step
    mask: Tensor  # [B, T], False on padding
    passes: list[tuple[int, int]]  # columns [first, end) of each forward pass


def forced(prompts: Sequence[Sequence[int]], then: Sequence[Sequence[int]] = ()) -> Forced:
    """The passes over `prompts` and the tokens that `then` has for each, one pass a token.

    Raises SettingsError for no prompts, empty prompts, and rows of `then` of unequal lengths.
    """
    if not prompts or not all(prompts):
        raise SettingsError("there is a prompt without tokens; give each one or more")
    then = then or [[] for _ in prompts]
    if len({len(row) for row in then}) > 1 or len(then) != len(prompts):
        raise SettingsError("the tokens of the decode steps must be as many for every prompt")
    ids, mask = left_pad([[*row, *more] for row, more in zip(prompts, then, strict=True)])
    start = ids.shape[1] - len(then[0])
    return Forced(ids, mask, [(0, start)] + [(n, n + 1) for n in range(start, ids.shape[1])])


def check_window(work: Forced, vocab_size: int, max_seq_len: int) -> None:
    """Raise SettingsError for ids without embedding, and for rows that the cache cannot hold."""
    if work.ids.shape[1] > max_seq_len:
        raise SettingsError(
            f"the longest row has {work.ids.shape[1]} tokens, but max_seq_len is {max_seq_len}; "
            "give shorter prompts or fewer decode steps"
        )
    if work.ids.min() < 0 or work.ids.max() >= vocab_size:
        raise SettingsError(
            f"ids reach from {work.ids.min()} to {work.ids.max()}; the vocabulary has ids 0 to "
            f"{vocab_size - 1}"
        )


@torch.inference_mode()
def run_passes(model: GPTNeoX, work: Forced, sink: Sink) -> None:
    """Run `work` through the model and hand every step's tensor to `sink`.

    A pass without padding has no mask, as in `decode`: what is seen is what runs there.
    """
    weight = model.gpt_neox.final_layer_norm.weight
    ids = work.ids.to(weight.device)
    cache = KVCache(model.config, *ids.shape, model.group, weight.dtype, weight.device)
    for number, (first, end) in enumerate(work.passes):

        def record(name: str, value: Tensor, number: int = number) -> None:
            sink(number, name, value)

        with tapped(model, record):
            real = work.mask[:, first:end]
            mask = None if real.all() else real.to(weight.device)
            logits = model(ids[:, first:end], cache, mask)
        sink(number, LOGITS, logits)


def chosen_names(config: ModelConfig, names: Sequence[str]) -> dict[str, Step]:
    """The steps that `names` stand for, by full name; a name may hold * and ?.

    Raises SettingsError with each name that no step has.
    """
    known = all_steps(config)
    if isinstance(names, str):
        names = [names]
    wrong = [name for name in names if not any(fnmatchcase(step, name) for step in known)]
    if wrong:
        told = "; ".join(f"{name!r} is no step{did_you_mean(name, known)}" for name in wrong)
        raise SettingsError(
            f"{told}. Steps are named by the checkpoint's modules, as gpt_neox.layers.0 or "
            "gpt_neox.layers.*.mlp.activation; neoxlib.model.steps.all_steps lists them"
        )
    return {
        step: about
        for step, about in known.items()
        if any(fnmatchcase(step, name) for name in names)
    }


@torch.inference_mode()
def activations(
    model: GPTNeoX, prompts: Sequence[Sequence[int]], names: Sequence[str], max_seq_len: int
) -> "list[dict[str, np.ndarray]]":
    """What the steps `names` compute for each prompt: arrays [tokens, ...] float32, by full name.

    All ranks' parts are joined by the step's shard rule; only rank 0 gets them. Raises
    SettingsError for a name that no step has or that this way of running does not show.
    """
    wanted = chosen_names(model.config, names)
    work = forced(prompts)
    check_window(work, model.config.vocab_size, max_seq_len)
    kept: dict[str, Tensor] = {}

    def keep(_: int, name: str, value: Tensor) -> None:
        if name in wanted:
            kept[name] = value.detach().to(torch.float32, copy=True)

    run_passes(model, work, keep)
    if model.group.size == 1:
        wanted.pop(EMBEDDED, None)  # one rank has nothing to sum
    refuse_unseen([name for name in wanted if name not in kept], model)
    joined = {name: join(model.group, kept.pop(name), step) for name, step in wanted.items()}
    if model.group.rank:
        return []
    return [
        {name: value[row, real].numpy() for name, value in joined.items()}
        for row, real in enumerate(work.mask)
    ]


def refuse_unseen(names: Sequence[str], model: GPTNeoX) -> None:
    """Raise SettingsError if there are names that the model, as it runs, does not show."""
    if names:
        shown = f"{', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
        raise SettingsError(
            f"{type(model.executor).__name__} does not show {shown}; load with compile=False, or "
            "leave these names out"
        )


def join(group: Group, part: Tensor, step: Step) -> Tensor | None:
    """Make the whole tensor, on the CPU of rank 0, of what each rank holds of a step."""
    if step.join == PARTIAL:
        return group.all_reduce(part).cpu()
    if step.join == GATHERED:
        part = group.gather(part.contiguous(), dim=step.dim % part.ndim)
    return None if part is None else part.cpu()
