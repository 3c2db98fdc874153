"""Trials over ranks: the collectives, which must be exact, and the two-layer model."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from neoxlib.inference import parity
from neoxlib.inference.decode import left_pad
from neoxlib.ranks.session import Session
from neoxlib.setup.model_trials import LOGIT_UNIT, logit_error, small_model, small_prompts
from neoxlib.setup.npu_trials import Timing, Trial
from neoxlib.setup.timings import all_reduce

if TYPE_CHECKING:
    from torch import Tensor

    from neoxlib.inference.engine import Engine


def over_ranks(device: str, dtype: str, size: int) -> list[Trial | Timing]:
    """Try the collectives and the two-layer model over `size` ranks, and time an all-reduce.

    The ranks are processes, started as Session starts them.
    """
    with tempfile.TemporaryDirectory() as folder:
        model_dir = small_model(Path(folder), heads=size * -(-4 // size))
        try:
            with Session(model_dir, world_size=size, dtype=dtype, device=device) as session:
                told = f"{size:d} ranks, {session.describe()['backend']}"
                errors = session.apply(collectives)
                us = session.apply(all_reduce)
                rows = small_prompts(session.config)
                found = _real_logits(session, rows)
        except Exception as failure:
            return [Trial.failed(f"ranks: {size}", dtype, failure)]
        error = logit_error(found, parity.reference_logits(model_dir, rows))
    exact = [Trial.judged(name, dtype, e, 0.0, "exact", told) for name, e in errors.items()]
    limit = parity.TOLERANCE[dtype]
    whole = Trial.judged("two layers over ranks", dtype, error, limit, LOGIT_UNIT, told)
    return [*exact, whole, Timing("all-reduce of a token's states", dtype, us, told)]


def _real_logits(session: "Session", rows: list[list[int]]) -> "list[Tensor]":
    """Return the logits of each row, without its padding."""
    ids, mask = left_pad(rows)
    logits = session.logits(ids.tolist(), mask.tolist())
    return [row[kept] for row, kept in zip(logits, mask, strict=True)]


def collectives(engine: "Engine") -> dict[str, float] | None:
    """Return the largest error on any rank of each collective; None on ranks other than 0.

    Every rank knows the right result in advance.
    """
    errors = _all_reduce_errors(engine) | _gather_and_broadcast_errors(engine)
    return _worst_of_ranks(engine, errors)


def _all_reduce_errors(engine: "Engine") -> dict[str, float]:
    group = engine.group
    ones = torch.arange(2048 * 96) % 2  # whole numbers, which any dtype adds exactly
    due = ones * sum(range(group.size + 1))
    errors = {}
    for dtype in (engine.weight.dtype, torch.int32):
        summed = group.all_reduce((ones * (group.rank + 1)).to(engine.weight.device, dtype))
        errors[f"all-reduce of {str(dtype).removeprefix('torch.')}"] = _worst(summed, due)
    return errors


def _gather_and_broadcast_errors(engine: "Engine") -> dict[str, float]:
    group = engine.group
    whole = group.gather(torch.full((3, group.rank + 1), group.rank).to(engine.weight))
    ranks = torch.arange(group.size)
    due = ranks.repeat_interleave(ranks + 1).expand(3, -1)
    value = {"tokens": list(range(9)), "text": "从零开始"}
    received = group.broadcast(value if group.rank == 0 else None)
    return {
        "gather of unequal parts": 0.0 if whole is None else _worst(whole, due),
        "broadcast of a value": float(received != value),
    }


def _worst_of_ranks(engine: "Engine", errors: dict[str, float]) -> dict[str, float] | None:
    mine = torch.tensor([list(errors.values())], device=engine.weight.device)
    everyone = engine.group.gather(mine, dim=0)  # [ranks, errors]
    return None if everyone is None else dict(zip(errors, everyone.amax(0).tolist(), strict=True))


def _worst(found: "Tensor", due: "Tensor") -> float:
    return (found.cpu().double() - due).abs().max().item()
