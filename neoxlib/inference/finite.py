"""Find the first layer whose output holds NaN or infinity.

All ranks of the model's group call these functions together, and all find the same.
"""

from bisect import bisect_left
from collections.abc import Sequence

import torch
from torch import Tensor

from neoxlib.errors import NotFiniteError
from neoxlib.model.cache import KVCache
from neoxlib.model.gpt_neox import GPTNeoX


def failure_of(logits: Tensor, ids: Tensor, mask: Tensor) -> NotFiniteError | None:
    """Return the error of `logits` [B, S, vocab] that are not finite where `mask` [B, S] is True.

    `ids` are [B, S].
    """
    bad = (~logits.isfinite().all(dim=-1) & mask).any(dim=-1).nonzero()[:, 0].tolist()
    return NotFiniteError.of(f"row(s) {bad}", ids[bad[0]][mask[bad[0]]].tolist()) if bad else None


def agree(model: GPTNeoX, failure: NotFiniteError | None) -> None:
    """Raise on every rank the failure that rank 0 has found, if any, with its layer.

    All ranks are in step here, so a call can be stopped: see `Group.checkpoint`.
    """
    told = model.group.checkpoint(failure)
    if told is not None:
        raise blamed(model, told)


def blamed(model: GPTNeoX, failure: NotFiniteError) -> NotFiniteError:
    """Add to a failure that all ranks know the layer in which it begins.

    Runs the model over `failure.ids`.
    """
    return NotFiniteError(f"{failure}. {blame(model, failure.ids)}")


@torch.inference_mode()
def blame(model: GPTNeoX, ids: Sequence[int]) -> str:
    """Say in a sentence which part of `model` is the first whose output for `ids` is not finite.

    Every output after it is not finite either, since each layer adds to the last: bisection finds
    the first.
    """
    depth = model.config.num_hidden_layers

    def bad(number: int) -> bool:
        return _any(model, [_output(model, ids, number)])[0]

    first = bisect_left(range(depth + 2), True, key=bad)
    if first > depth + 1:
        return "Computed again by itself that row is finite in every layer"
    name, paths = _part(model, first)
    own = {path: p for path, p in model.named_parameters() if path.startswith(paths)}
    flags = _any(model, [p if p.is_floating_point() else p.new_zeros(0) for p in own.values()])
    broken = [path for path, flag in zip(own, flags, strict=True) if flag]
    fine = f"its weights are finite, and {str(model.dtype).removeprefix('torch.')} overflows"
    why = f"such numbers are in {', '.join(broken)}" if broken else fine
    return f"The first output that is not finite is that of {name}: {why}"


def _part(model: GPTNeoX, number: int) -> tuple[str, tuple[str, ...]]:
    """Name the part that computes the `number`-th output, and the prefixes of its parameters."""
    tied = model.config.tie_word_embeddings
    if number == 0:
        return "the embedding", ("gpt_neox.embed_in.",)
    if number <= model.config.num_hidden_layers:
        return f"layer {number - 1}", (f"gpt_neox.layers.{number - 1}.",)
    matrix = "gpt_neox.embed_in." if tied else "embed_out."
    return "the head", ("gpt_neox.final_layer_norm.", matrix)


def _output(model: GPTNeoX, ids: Sequence[int], number: int) -> Tensor:
    """The embedding of `ids`, the output of the `number`-th layer or, past the last, the logits."""
    device = model.gpt_neox.final_layer_norm.weight.device
    depth = model.config.num_hidden_layers
    if number > depth:
        return model.head(_output(model, ids, depth))
    row = torch.tensor([list(ids)], device=device)  # [1, S]
    cache = KVCache(model.config, 1, len(ids), model.group, model.dtype, device)
    return model.states(row, cache, None, layers=number)


def _any(model: GPTNeoX, tensors: Sequence[Tensor]) -> list[bool]:
    """For each tensor, whether any rank's shard holds NaN or infinity."""
    found = [int(not tensor.isfinite().all()) for tensor in tensors]
    device = model.gpt_neox.final_layer_norm.weight.device
    flags = torch.tensor(found, dtype=torch.int32, device=device)
    return [count > 0 for count in model.group.all_reduce(flags).tolist()]
