"""The group of ranks a model runs in. One rank is the plain case: every call below then returns at once."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from neoxlib import device as devices


class Group:
    """One rank alone. `seconds` adds up the time spent in communication, `reset_clock` gives it out."""

    rank = 0
    size = 1
    backend = "none"

    def __init__(self) -> None:
        self.seconds = 0.0

    def reset_clock(self) -> float:
        """Seconds spent communicating since the last reset; the clock starts again at zero.

        An accelerator must have done all that it was given.
        """
        spent, self.seconds = self.seconds, 0.0
        return spent

    def all_reduce(self, x: Tensor) -> Tensor:
        """Sum `x` over the ranks, in place."""
        return x

    def gather(self, x: Tensor, dim: int = -1) -> Tensor | None:
        """Join the ranks' `x` along `dim` on rank 0 (sizes along `dim` may differ); None on the other ranks."""
        return x

    def broadcast(self, value: Any) -> Any:
        """Rank 0's `value` (anything small that pickles) on every rank."""
        return value

    def barrier(self) -> None:
        """Wait until every rank is here."""

    def close(self) -> None:
        """Leave the group."""


SOLO = Group()


class TorchGroup(Group):
    """Ranks joined by torch.distributed: gloo on the CPU, hccl on NPUs.

    Collectives run on `device`; small Python values travel as bytes in a tensor of that device, since hccl moves
    device tensors only. An NPU does them later than they are called: there its own events are the clock.
    """

    timer: devices.Timer | None = None

    def __init__(self, rank: int, size: int, store: dist.Store, backend: str = "gloo", device: str = "cpu") -> None:
        super().__init__()
        self.rank, self.size, self.backend, self.device = rank, size, backend, device
        options = devices.hccl_options() if backend == "hccl" else None
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, pg_options=options)
        if torch.device(device).type != "cpu":
            self.timer = devices.Timer(torch.device(device))

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
            dist.all_reduce(x)
        return x

    def gather(self, x: Tensor, dim: int = -1) -> Tensor | None:
        with self._clock():
            sizes = self._gather_sizes(x.shape[dim])
            shape = list(x.shape)
            shape[dim] = max(sizes)
            mine = x.new_zeros(shape)
            mine.narrow(dim, 0, x.shape[dim]).copy_(x)  # gather wants equal shapes: the shorter ones are padded
            parts = [torch.empty_like(mine) for _ in sizes] if self.rank == 0 else None
            dist.gather(mine, parts)
            if parts is None:
                return None
            return torch.cat([part.narrow(dim, 0, n) for part, n in zip(parts, sizes, strict=True)], dim)

    def broadcast(self, value: Any) -> Any:
        with self._clock():
            box = [value]
            dist.broadcast_object_list(box, device=torch.device(self.device))
            return box[0]

    def barrier(self) -> None:
        with self._clock():
            dist.barrier()

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()

    def _gather_sizes(self, n: int) -> list[int]:
        sizes = torch.zeros(self.size, dtype=torch.int32, device=self.device)  # HCCL on 310P has no int64
        sizes[self.rank] = n
        dist.all_reduce(sizes)
        return sizes.tolist()
