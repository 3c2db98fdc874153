"""Collectives over torch.distributed, and the proof that all ranks make the same ones.

What ranks exchange follows from the config and from the call, never from the state of one rank. A
group of several ranks proves it: it compares the ranks' calls and refuses those that differ.
"""

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from neoxlib.errors import RankError, Stopped
from neoxlib.machine import runtime as devices
from neoxlib.model import stopping, words
from neoxlib.model.group import Group
from neoxlib.ranks.meeting import prove_members, shared_secret

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


class Alone(Group):
    """The only rank of a session: no group is opened, and a call can be stopped all the same."""

    def checkpoint(self, value: Any = None) -> Any:
        """Return `value`; raises Stopped if this rank was asked to stop."""
        if stopping.asked.is_set():
            raise Stopped(stopping.REASON)
        return value


class TorchGroup(Group):
    """Ranks joined by torch.distributed: gloo on the CPU, hccl on NPUs.

    Tensors travel on `device`. Over hccl only sums and all-gathers do: it has no broadcast on a
    310P (hccl 09300b70, docs/zh/api_ref/comm_op_interface/HcclBroadcast.md:15) and no gather
    (torch_npu 9e73e708, torch_npu/distributed/distributed_c10d.py:226), and each value that the
    host reads from the device is a wait. So `host`, a gloo group beside it, takes Python values. An
    NPU runs collectives after the call has returned: there its own events are the clock.
    """

    timer: devices.Timer | None = None
    joined: dist.ProcessGroup | None = None  # for tensors; None is the group of all ranks
    host: dist.ProcessGroup | None = None  # for Python values; None is that of all ranks, too
    calls = 0  # collectives so far
    joins_everywhere = False

    def __init__(
        self,
        rank: int,
        size: int,
        store: dist.Store,
        backend: str = "gloo",
        device: str = "cpu",
        family: str = "",  # of the chips, if all ranks are on one server
    ) -> None:
        super().__init__()
        self.rank = rank
        self.size = size
        self.backend = backend
        self.device = device
        options = devices.hccl_options(family) if backend == "hccl" else None
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=size, pg_options=options
        )
        self.proved: set[tuple[int, int, int]] = set()
        if backend == "hccl":
            # Before anything takes memory of the device.
            devices.open_communicator(dist.group.WORLD, torch.device(device), rank)
            self.host = dist.new_group(backend="gloo")
            self.joins_everywhere = True
        self.secret = shared_secret(store, rank)
        prove_members(self.host, rank, size, self.secret)
        if torch.device(device).type != "cpu":
            self.timer = devices.Timer(torch.device(device))

    def reset_clock(self) -> float:
        if self.timer is not None:
            self.seconds = self.timer.take() / 1e3
        return super().reset_clock()

    @contextmanager
    def _clock(self) -> Iterator[None]:
        if self.timer is not None:
            with self.timer.span() if self.detail else nullcontext():
                yield
            return
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        timer = self.timer
        self.timer = None
        try:
            yield
        finally:
            self.timer = timer

    def all_reduce(self, x: Tensor) -> Tensor:
        with self._clock():
            self._prove("all_reduce", x.dtype, x.numel())
            dist.all_reduce(x, group=self.joined)
        return x

    def spread(self, x: Tensor) -> Tensor:
        """Give every rank rank 0's `x`, in place."""
        with self._clock():
            self._prove("broadcast", x.dtype, x.numel())
            dist.broadcast(x, group=self.joined, group_src=0)
        return x

    def gather(self, x: Tensor, dim: int = -1, sizes: Sequence[int] | None = None) -> Tensor | None:
        with self._clock():
            dim %= x.ndim
            mine, sizes = self._padded(x, dim, sizes)
            if self.joins_everywhere:
                parts = self._everyones_parts(mine)
            else:
                parts = [torch.empty_like(mine) for _ in sizes] if self.rank == 0 else None
                dist.gather(mine, parts, group=self.joined, group_dst=0)
            return None if self.rank else _join(parts, dim, sizes)

    def all_gather(self, x: Tensor, dim: int = -1, sizes: Sequence[int] | None = None) -> Tensor:
        with self._clock():
            dim %= x.ndim
            mine, sizes = self._padded(x, dim, sizes)
            return _join(self._everyones_parts(mine), dim, sizes)

    def broadcast(self, value: Any) -> Any:
        with self._clock():
            self._prove("broadcast")
            said = words.encode(value) if self.rank == 0 else b""
            count = torch.tensor([len(said)])
            dist.broadcast(count, group=self.host, group_src=0)
            text = torch.frombuffer(bytearray(said or count.item()), dtype=torch.uint8)
            dist.broadcast(text, group=self.host, group_src=0)
            return value if self.rank == 0 else words.decode(text.numpy().tobytes())

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
            dist.barrier(group=self.host)

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()

    def _prove(self, operation: str, dtype: torch.dtype = torch.float32, count: int = 0) -> None:
        """Compare the next call over the ranks: the first of its kind, or with DEBUG every one."""
        self.calls += 1
        kind = OPERATIONS.index(operation), DTYPES.index(dtype), count
        if kind in self.proved and os.environ.get(DEBUG) != "1":
            return
        table = torch.zeros(self.size, 5, dtype=torch.int32)
        operation, dtype, count = kind
        table[self.rank] = torch.tensor([self.calls, operation, dtype, count >> 31, count % 2**31])
        dist.all_reduce(table, group=self.host)
        rows = enumerate(table.tolist())
        calls = {rank: Call(*row[:3], row[3] << 31 | row[4]) for rank, row in rows}
        if len(set(calls.values())) > 1:
            raise different_calls(calls)
        self.proved.add(kind)

    def _padded(
        self, x: Tensor, dim: int, sizes: Sequence[int] | None
    ) -> tuple[Tensor, Sequence[int]]:
        """Prove a gather; give `x` the largest of the ranks' sizes along `dim`, and those sizes.

        Collectives need equal shapes.
        """
        self._prove("gather", x.dtype, values_per_index(x, dim))
        sizes = sizes or self._gather_sizes(x.shape[dim])
        shape = list(x.shape)
        shape[dim] = max(sizes)
        if shape == list(x.shape):
            return x.contiguous(), sizes
        mine = x.new_zeros(shape)
        mine.narrow(dim, 0, x.shape[dim]).copy_(x)
        return mine, sizes

    def _everyones_parts(self, mine: Tensor) -> Sequence[Tensor]:
        """The `mine` of every rank, all of one shape, in rank order."""
        whole = mine.new_empty((self.size, *mine.shape))
        dist.all_gather_into_tensor(whole, mine, group=self.joined)
        return whole.unbind()

    def _gather_sizes(self, n: int) -> list[int]:
        sizes = torch.zeros(self.size, dtype=torch.int32)
        sizes[self.rank] = n
        dist.all_reduce(sizes, group=self.host)
        return sizes.tolist()


class PartGroup(TorchGroup):
    """Some ranks of a gloo TorchGroup, joined among themselves; the lowest of them is rank 0."""

    def __init__(self, joined: dist.ProcessGroup, rank: int, size: int) -> None:
        self.seconds = 0.0
        self.rank = rank
        self.size = size
        self.backend = "gloo"
        self.device = "cpu"
        self.joined = joined
        self.host = joined
        self.proved: set[tuple[int, int, int]] = set()


def part_of(group: TorchGroup, members: Sequence[int]) -> PartGroup | None:
    """Join the ranks `members` of `group`; None on other ranks. All ranks call it together."""
    joined = dist.new_group(list(members), backend="gloo")
    if group.rank not in members:
        return None
    part = PartGroup(joined, list(members).index(group.rank), len(members))
    prove_members(joined, part.rank, part.size, group.secret)
    return part


def _join(parts: Sequence[Tensor], dim: int, sizes: Sequence[int]) -> Tensor:
    """Join padded parts along `dim`, without their padding."""
    real = [part.narrow(dim, 0, n) for part, n in zip(parts, sizes, strict=True)]
    return torch.cat(real, dim)
