"""Ranks as threads of one process: the collectives of a real group, without starting processes."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from neoxlib.model.group import Group


class ThreadGroup(Group):
    """One rank of `size` threads that meet at a barrier and read each other's slot of a shared
    table.
    """

    backend = "threads"

    def __init__(self, rank: int, size: int, table: list, barrier: threading.Barrier) -> None:
        super().__init__()
        self.rank = rank
        self.size = size
        self.table = table
        self.meet = barrier
        self.reduces = 0

    def _swap(self, value: Any) -> list[Any]:
        self.table[self.rank] = value
        self.meet.wait()
        everyone = list(self.table)
        self.meet.wait()
        return everyone

    def all_reduce(self, x: Tensor) -> Tensor:
        self.reduces += x.is_floating_point()
        terms = self._swap(x.clone())
        assert len({(term.dtype, term.shape) for term in terms}) == 1, (
            "ranks add up what is not alike"
        )
        return x.copy_(torch.stack(terms).sum(0))

    def gather(self, x: Tensor, dim: int = -1, sizes: Sequence[int] | None = None) -> Tensor | None:
        joined = self.all_gather(x, dim, sizes)
        return joined if self.rank == 0 else None

    def all_gather(self, x: Tensor, dim: int = -1, sizes: Sequence[int] | None = None) -> Tensor:
        parts = self._swap(x)
        assert len({part.dtype for part in parts}) == 1, "ranks gather what is not alike"
        found = [part.shape[dim] for part in parts]
        assert sizes is None or found == list(sizes), f"sizes {found}, and not {sizes}"
        return torch.cat(parts, dim)

    def broadcast(self, value: Any) -> Any:
        return self._swap(value)[0]

    def barrier(self) -> None:
        self._swap(None)


def on_ranks(size: int, work: Callable[[Group], Any]) -> list[Any]:
    """Run `work(group)` on `size` ranks at once; their results in rank order, or the first
    error.
    """
    table = [None] * size
    barrier = threading.Barrier(size)

    def guarded(rank: int) -> Any:
        try:
            return work(ThreadGroup(rank, size, table, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(guarded, rank) for rank in range(size)]
        errors = [f.exception() for f in futures if f.exception() is not None]
    real = [e for e in errors if not isinstance(e, threading.BrokenBarrierError)]
    if errors:
        raise (real or errors)[0]
    return [f.result() for f in futures]
