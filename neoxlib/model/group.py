"""The group of ranks that a model runs in. With one rank every call returns at once.

What ranks exchange follows from the config and the request, never from the state of one rank.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from neoxlib.errors import RankError


class Group:
    """One rank alone. `seconds` is the time spent in communication since `reset_clock`.

    An accelerator's sums take time only to be timed, so they are timed only while `detail` is True.
    """

    rank = 0
    size = 1
    backend = "none"
    detail = False
    # Whether parts reach every rank at no higher cost than rank 0: then all may choose alike.
    joins_everywhere = True

    def __init__(self) -> None:
        self.seconds = 0.0

    def reset_clock(self) -> float:
        """Return the seconds spent communicating since the last reset, and start again at zero.

        An accelerator must be synchronized first.
        """
        spent = self.seconds
        self.seconds = 0.0
        return spent

    def all_reduce(self, x: Tensor) -> Tensor:
        """Sum `x` over the ranks, in place."""
        return x

    def gather(self, x: Tensor, dim: int = -1, sizes: Sequence[int] | None = None) -> Tensor | None:
        """Join the ranks' `x` along `dim` (sizes may differ) on rank 0; None on other ranks.

        `sizes` are those of all ranks, where every rank can compute them: where they are missing,
        some groups must exchange them.
        """
        return x

    def all_gather(self, x: Tensor, dim: int = -1, sizes: Sequence[int] | None = None) -> Tensor:
        """As `gather`, on every rank: all get the same bits."""
        return x

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's `value` (small, and of those that `words` knows) on every rank."""
        return value

    def checkpoint(self, value: Any = None) -> Any:
        """Broadcast `value` at a point where a call may be stopped: once per step.

        Returns rank 0's `value` on every rank, as `broadcast` does and in the same single message.
        A group over processes may raise Stopped instead, on all ranks alike.
        """
        return self.broadcast(value)

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Measure no time of communication inside: a captured step takes no events of a clock."""
        yield

    def barrier(self) -> None:
        """Wait until every rank is here."""

    def close(self) -> None:
        """Leave the group."""


SOLO = Group()


def on_all(group: Group, flag: bool, device: str | torch.device) -> bool:
    """Return whether `flag` is True on every rank, so that all ranks take the same branch."""
    if group.size == 1:
        return flag
    told = torch.tensor([int(flag)], dtype=torch.int32, device=device)
    return group.all_reduce(told).item() == group.size


def check_same(group: Group, facts: Mapping[str, str], device: str | torch.device) -> None:
    """Raise RankError on all ranks if `facts` differ from rank 0's; it names them and the ranks."""
    if group.size == 1:
        return
    first = group.broadcast(dict(facts))
    differs = torch.zeros(group.size, len(facts), dtype=torch.int32, device=device)
    differs[group.rank] = torch.tensor([first[name] != fact for name, fact in facts.items()])
    found = group.all_reduce(differs).nonzero().tolist()
    names = list(facts)
    if found:
        told = "; ".join(f"{names[n]} on rank {rank}" for rank, n in found)
        raise RankError(
            f"the ranks were not given the same: {told} differs from rank 0's, which is {first}. "
            "Give every host the same model folder and the same variables"
        )
