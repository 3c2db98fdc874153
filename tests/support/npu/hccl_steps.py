"""Decode steps of a small model on the make-believe NPUs of hccl_ranks.py, and what they cost."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist

from neoxlib.inference import choosing
from neoxlib.inference.choosing import ByRankZero
from neoxlib.inference.decode import DecodeStep, decode
from neoxlib.inference.rows import Limits
from neoxlib.inference.sampling import Sampling
from neoxlib.model import on_npu, stopping
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.group import Group
from neoxlib.ranks import collectives
from neoxlib.ranks.collectives import Alone, TorchGroup
from tests.support.npu import device, hccl
from tests.support.npu.path import HALF, ROOM, VARIANTS, loaded

PROMPTS = [[5, 6, 7], [8]]
VOCAB = 211
VARIANTS["eight heads"] = {"num_attention_heads": 8}  # in a rank's process, not in the tests'


def opened(rank: int, size: int, store: str) -> Group:
    """The group that a session's rank is given."""
    if size == 1:
        return Alone()
    return TorchGroup(rank, size, dist.FileStore(store, size), "hccl", f"npu:{rank}")


def model_on(group: Group) -> GPTNeoX:
    family = "310P" if hccl.here.chip.startswith("300") else hccl.here.chip
    model = loaded(group, HALF, variant="eight heads").to("npu")
    on_npu.attach(model, family)
    return model


def steps(model: GPTNeoX, tokens: int = 6, **settings: Any) -> Iterator[DecodeStep]:
    """Steps without phases; `settings` are those of `decode` or of Sampling."""
    own = {name: settings.pop(name) for name in ("watch", "watch_ends", "top") if name in settings}
    sampling = Sampling(tokens, **settings)
    limits = Limits((), VOCAB, ROOM)
    return decode(model, PROMPTS, sampling, limits, **{"detail": False} | own)


def taken() -> dict[str, int]:
    """What has been counted since the last call: collectives, waits of the host, timing events."""
    device.Event.stamps, events = 0, device.Event.stamps
    seen = dict(hccl.counts) | {f"wait {name}": n for name, n in device.waits.items()}
    hccl.counts.clear()
    device.waits.clear()
    return seen | ({"events": events} if events else {})


def costs(rank: int, size: int, store: str, of: int = 0, **settings: Any) -> list[dict[str, int]]:
    """What each step counts; with `of` rank 0 of that many ranks, alone.

    However long a step takes here, rank 0 speaks after the most steps.
    """
    hccl.here.alone = bool(of)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "SECONDS", 1e9)
        if of:
            patch.setattr(collectives, "prove_members", lambda *_: None)  # nor to prove it to
        try:
            group = opened(0, of, store) if of else opened(rank, size, store)
            if of:
                group._prove = lambda *call: None  # there is no other rank to compare with
            model = model_on(group)
            found = []
            taken()
            for _ in steps(model, **settings):
                found.append(taken())
            return found
        finally:
            hccl.here.alone = False


def costs_of_one(rank: int, size: int, store: str, **settings: Any) -> list[dict[str, int]]:
    """What each step counts on one rank that is a session by itself."""
    return costs(0, 1, store, **settings)


def answers(rank: int, size: int, store: str, settings: dict[str, Any]) -> list[Any]:
    """The choice of each step."""
    torch.manual_seed(0)
    return [step.choice for step in steps(model_on(opened(rank, size, store)), **settings)]


def communicators(rank: int, size: int, store: str) -> tuple[int, int]:
    """Communicators and tensors on the device when a group is open."""
    opened(rank, size, store)
    return hccl.counts["communicators"], device.taken_memory["tensors"]


def drawn(rank: int, size: int, store: str, settings: dict[str, Any]) -> list[dict[str, int]]:
    return costs(rank, size, store, **settings)


def chosen_by_rank_0(rank: int, size: int, store: str, settings: dict[str, Any]) -> list[Any]:
    """The choices where rank 0 alone chooses, from the same logits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            choosing, "Alike", lambda group, rows, sizes, _: ByRankZero(group, rows, sizes)
        )
        return answers(rank, size, store, settings)


def ended(rank: int, size: int, store: str, how: str) -> tuple[int, str]:
    """The number of steps before all ranks end, and why, when something happens at the third."""
    group = opened(rank, size, store)
    model = model_on(group)
    stopping.asked.clear()
    seen = []

    def watch(row: int, token: int) -> bool:
        seen.append(token)
        if how == "failure" and len(seen) == 5:
            raise ValueError("no text")
        return how == "stop string" and len(seen) == 5

    count = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "SECONDS", 1e9)
        patch.setattr(choosing, "MOST_STEPS", 4)
        try:
            for _ in steps(model, 12, watch=watch, watch_ends=how == "stop string"):
                count += 1
                if count == 2 and how == "request" and rank == 0:
                    stopping.asked.set()
                if count == 2 and how == "nan":
                    model.gpt_neox.layers[1].input_layernorm.bias.data.fill_(torch.nan)
        except Exception as error:
            return count, f"{type(error).__name__}: {error}"
        finally:
            stopping.asked.clear()
    return count, ""


def stopped_row(rank: int, size: int, store: str) -> list[Any]:
    count = 0

    def watch(row: int, token: int) -> bool:
        nonlocal count
        count += row == 0
        return row == 0 and count == 3

    return answers(rank, size, store, {"tokens": 12, "watch": watch})


def joined(rank: int, size: int, store: str) -> list[Any]:
    """Unequal parts of which the ranks know the sizes, and of which they do not."""
    group = opened(rank, size, store)
    x = torch.full((2, rank + 1), float(rank), device="npu")
    everywhere = group.all_gather(x, sizes=[1, 2]).tolist()
    first = group.gather(x)
    group.barrier()
    told = group.broadcast({"rank": rank})
    return [everywhere, None if first is None else first.tolist(), told, dict(hccl.counts)]
