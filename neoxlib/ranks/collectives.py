"""Collectives over torch.distributed, and the proof that all ranks make the same ones.

What ranks exchange follows from the config and from the call, never from the state of one rank. A
group of several ranks proves it: it compares the ranks' calls and refuses those that differ.
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

from neoxlib.errors import RankError, Stopped
from neoxlib.machine import runtime as devices
from neoxlib.model.group import Group
from neoxlib.ranks import stopping

# 1: ranks compare every collective over gloo and hccl, not only the first of a kind.
DEBUG = "NEOXLIB_DEBUG"
OPERATIONS = ("all_reduce", "gather", "broadcast", "barrier")  # numbered as in rank_group.h
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
    count: int  # values sent; for a gather, values per index of the joined dimension

    def __str__(self) -> str:
        name = OPERATIONS[self.operation]
        what = (
            f" of {self.count} {str(DTYPES[self.dtype]).removeprefix('torch.')}"
            if self.count
            else ""
        )
        return f"call {self.number}, {name}{what}"


def different_calls(calls: Mapping[int, Call]) -> RankError:
    """Make the error for ranks that make different calls, given by rank."""
    told = "; ".join(f"rank {rank} makes {call}" for rank, call in sorted(calls.items()))
    return RankError(
        f"the ranks do not make the same call, so nothing was exchanged: {told}. A function given "
        "to Session.apply must make the same calls on every rank; if there was none, this is a "
        "fault of neoxlib"
    )


def values_per_index(x: Tensor, dim: int) -> int:
    """Count the values of `x` for each index along `dim`."""
    return math.prod(x.shape[:dim]) * math.prod(x.shape[dim:][1:])


class TorchGroup(Group):
    """Ranks joined by torch.distributed: gloo on the CPU, hccl on NPUs.

    Collectives run on `device`; small Python values travel as bytes in a tensor of that device,
    since hccl moves only device tensors. An NPU runs collectives after the call has returned: there
    its own events are the clock.
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
            # dist.gather needs equal shapes: shorter parts are padded.
            mine.narrow(dim, 0, x.shape[dim]).copy_(x)
            parts = [torch.empty_like(mine) for _ in sizes] if self.rank == 0 else None
            dist.gather(mine, parts)
            if parts is None:
                return None
            real = [part.narrow(dim, 0, n) for part, n in zip(parts, sizes, strict=True)]
            return torch.cat(real, dim)

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
        """Compare the next call over the ranks: the first of its kind, or with DEBUG every one."""
        self.calls += 1
        kind = OPERATIONS.index(operation), DTYPES.index(dtype), count
        if kind in self.proved and os.environ.get(DEBUG) != "1":
            return
        # int32, since HCCL on 310P has no int64.
        table = torch.zeros(self.size, 5, dtype=torch.int32, device=self.device)
        operation, dtype, count = kind
        table[self.rank] = torch.tensor([self.calls, operation, dtype, count >> 31, count % 2**31])
        dist.all_reduce(table)
        rows = enumerate(table.tolist())
        calls = {rank: Call(*row[:3], row[3] << 31 | row[4]) for rank, row in rows}
        if len(set(calls.values())) > 1:
            raise different_calls(calls)
        self.proved.add(kind)

    def _gather_sizes(self, n: int) -> list[int]:
        # int32, since HCCL on 310P has no int64.
        sizes = torch.zeros(self.size, dtype=torch.int32, device=self.device)
        sizes[self.rank] = n
        dist.all_reduce(sizes)
        return sizes.tolist()
