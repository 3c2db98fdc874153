"""The group of ranks a model runs in. One rank is the plain case: every call below then returns at once.

What ranks exchange follows from the config and from what they were asked, never from the state of one rank. Groups of
several ranks prove it: they compare their calls, and refuse those that differ.
"""

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from neoxlib.errors import RankError
from neoxlib.machine import runtime as devices
from neoxlib.model.group import Group
from neoxlib.ranks import stopping
from neoxlib.ranks.stopping import Stopped

DEBUG = "NEOXLIB_DEBUG"  # 1: ranks compare every collective over gloo and hccl, not the first of a kind only
OPERATIONS = ("all_reduce", "gather", "broadcast", "barrier")  # numbered as in sums.cpp
DTYPES = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int8,
    torch.uint8,
    torch.int32,
    torch.int64,
    torch.bool,
)


class Call(NamedTuple):
    """A collective as one rank makes it. All ranks must make the same one."""

    number: int  # of this rank's calls, the first is 1
    operation: int  # index in OPERATIONS
    dtype: int  # index in DTYPES; 0 where no tensor is sent
    count: int  # values sent; those per index of the dimension that is joined, for a gather

    def __str__(self) -> str:
        name = OPERATIONS[self.operation]
        what = (
            f" of {self.count} {str(DTYPES[self.dtype]).removeprefix('torch.')}"
            if self.count
            else ""
        )
        return f"call {self.number}, {name}{what}"


def different_calls(calls: Mapping[int, Call]) -> RankError:
    """The error of ranks that make different calls, given by rank."""
    told = "; ".join(f"rank {rank} makes {call}" for rank, call in sorted(calls.items()))
    return RankError(
        f"the ranks do not make the same call, so nothing was exchanged: {told}. A function given to "
        "Session.apply must make the same calls on every rank; if there was none, this is a fault of neoxlib"
    )


def values_per_index(x: Tensor, dim: int) -> int:
    """Values of `x` for each index along `dim`."""
    return math.prod(x.shape[:dim]) * math.prod(x.shape[dim:][1:])


class TorchGroup(Group):
    """Ranks joined by torch.distributed: gloo on the CPU, hccl on NPUs.

    Collectives run on `device`; small Python values travel as bytes in a tensor of that device, since hccl moves
    device tensors only. An NPU does them later than they are called: there its own events are the clock.
    """

    timer: devices.Timer | None = None
    calls = 0  # collectives so far

    def __init__(
        self, rank: int, size: int, store: dist.Store, backend: str = "gloo", device: str = "cpu"
    ) -> None:
        super().__init__()
        self.rank = rank
        self.size = size
        self.backend = backend
        self.device = device
        options = devices.hccl_options() if backend == "hccl" else None
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=size, pg_options=options
        )
        if torch.device(device).type != "cpu":
            self.timer = devices.Timer(torch.device(device))
        self.proved: set[tuple[int, int, int]] = set()

    def reset_clock(self) -> float:
        if self.timer is not None:
            self.seconds = self.timer.take() / 1e3
        return super().reset_clock()

    @contextmanager
    def _clock(self) -> Iterator[None]:
        if self.timer is not None:
            with self.timer.span():
                yield
            return
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start

    def all_reduce(self, x: Tensor) -> Tensor:
        with self._clock():
            self._prove("all_reduce", x.dtype, x.numel())
            dist.all_reduce(x)
        return x

    def gather(self, x: Tensor, dim: int = -1) -> Tensor | None:
        with self._clock():
            dim %= x.ndim
            self._prove("gather", x.dtype, values_per_index(x, dim))
            sizes = self._gather_sizes(x.shape[dim])
            shape = list(x.shape)
            shape[dim] = max(sizes)
            mine = x.new_zeros(shape)
            mine.narrow(dim, 0, x.shape[dim]).copy_(
                x
            )  # gather wants equal shapes: the shorter ones are padded
            parts = [torch.empty_like(mine) for _ in sizes] if self.rank == 0 else None
            dist.gather(mine, parts)
            if parts is None:
                return None
            return torch.cat(
                [part.narrow(dim, 0, n) for part, n in zip(parts, sizes, strict=True)], dim
            )

    def broadcast(self, value: Any) -> Any:
        with self._clock():
            self._prove("broadcast")
            box = [value]
            dist.broadcast_object_list(box, device=torch.device(self.device))
            return box[0]

    def checkpoint(self, value: Any = None) -> Any:
        """As `broadcast`; raises Stopped on all ranks if rank 0 was asked to stop.

        The request travels in place of `value`, so a step costs no further message.
        """
        stop = self.rank == 0 and stopping.asked.is_set()
        told = self.broadcast(Stopped(stopping.REASON) if stop else value)
        if isinstance(told, Stopped):
            raise told
        return told

    def barrier(self) -> None:
        with self._clock():
            self._prove("barrier")
            dist.barrier()

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()

    def _prove(self, operation: str, dtype: torch.dtype = torch.float32, count: int = 0) -> None:
        """Compare the call that follows over the ranks, if it is the first of its kind here or NEOXLIB_DEBUG is 1."""
        self.calls += 1
        kind = OPERATIONS.index(operation), DTYPES.index(dtype), count
        if kind in self.proved and os.environ.get(DEBUG) != "1":
            return
        table = torch.zeros(
            self.size, 5, dtype=torch.int32, device=self.device
        )  # HCCL on 310P has no int64
        operation, dtype, count = kind
        table[self.rank] = torch.tensor([self.calls, operation, dtype, count >> 31, count % 2**31])
        dist.all_reduce(table)
        rows = enumerate(table.tolist())
        calls = {rank: Call(*row[:3], row[3] << 31 | row[4]) for rank, row in rows}
        if len(set(calls.values())) > 1:
            raise different_calls(calls)
        self.proved.add(kind)

    def _gather_sizes(self, n: int) -> list[int]:
        sizes = torch.zeros(
            self.size, dtype=torch.int32, device=self.device
        )  # HCCL on 310P has no int64
        sizes[self.rank] = n
        dist.all_reduce(sizes)
        return sizes.tolist()
