"""Collectives over several hosts: ranks of a host meet in shared memory, hosts meet over gloo.

The first rank of each host speaks for it, so that a sum crosses to each host once, however many
ranks that has. Which ranks speak follows from the hosts' names alone, which every rank knows.
"""

import itertools
import logging
import time
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from neoxlib.hosts.sums import Parts
from neoxlib.model.group import Group
from neoxlib.ranks.collectives import PartGroup, TorchGroup, part_of
from neoxlib.ranks.meeting import StoreGroup, store_at
from neoxlib.ranks.shared_memory import SUMS, SharedGroup, share
from neoxlib.ranks.surroundings import Place

log = logging.getLogger("neoxlib")
SCATTERED = "the ranks of a host do not follow each other: sums cross the network once a rank"


class HostsGroup(TorchGroup):
    """The ranks of a gloo TorchGroup on several hosts; those of a host follow each other.

    A sum is that of the hosts' sums, each in rank order, added in float32: every rank gets the same
    bits. All-reduces of integers, which are few and small, go over the group of all ranks.
    While `record` is a list, each sum adds its number of values and the seconds of both parts.
    """

    record: list[tuple[int, Parts]] | None = None

    def __init__(
        self, group: TorchGroup, inside: Group, between: PartGroup | None, sizes: Sequence[int]
    ) -> None:
        self.seconds = 0.0  # torch.distributed is joined already
        self.rank = group.rank
        self.size = group.size
        self.device = group.device
        self.proved = group.proved
        self.calls = group.calls
        self.inside = inside  # the ranks of this host
        self.between = between  # the first ranks of the hosts; None on other ranks
        self.sizes = sizes  # ranks of each host
        self.backend = f"{inside.backend}, gloo between hosts" if inside.size > 1 else "gloo"

    def all_reduce(self, x: Tensor) -> Tensor:
        if x.dtype not in SUMS:
            return super().all_reduce(x)
        start = time.perf_counter()
        whole = x.float().contiguous()
        self.inside.all_reduce(whole)
        added = time.perf_counter()
        if self.between is not None:
            self.between.all_reduce(whole)
        met = time.perf_counter()
        self._spread(whole)
        if whole is not x:
            x.copy_(whole)
        end = time.perf_counter()
        self.seconds += end - start
        if self.record is not None:
            within = added - start + end - met if self.inside.size > 1 else 0.0
            self.record.append((x.numel(), Parts(within, met - added)))
        return x

    def gather(self, x: Tensor, dim: int = -1, sizes: Sequence[int] | None = None) -> Tensor | None:
        with self._clock():
            part = self.inside.gather(x, dim, sizes and self._of_this_host(sizes))
            if self.between is None:
                return None
            return self.between.gather(part, dim, sizes and self._of_hosts(sizes))

    def broadcast(self, value: Any) -> Any:
        with self._clock():
            if self.between is not None:
                value = self.between.broadcast(value)
            return self.inside.broadcast(value)

    def barrier(self) -> None:
        with self._clock():
            self.inside.barrier()
            if self.between is not None:
                self.between.barrier()
            self.inside.barrier()

    def _spread(self, x: Tensor) -> None:
        """Give the ranks of this host what its first one has."""
        if self.inside.size > 1:
            self.inside.spread(x)

    def _of_this_host(self, sizes: Sequence[int]) -> list[int]:
        first = self.rank - self.inside.rank
        return list(sizes[first : first + self.inside.size])

    def _of_hosts(self, sizes: Sequence[int]) -> list[int]:
        ends = itertools.accumulate(self.sizes)
        return [sum(sizes[end - n : end]) for end, n in zip(ends, self.sizes, strict=True)]


def join_ranks(
    rank: int, hosts: Sequence[str], place: Place, backend: str, device: str, family: str
) -> TorchGroup:
    """Return what a rank communicates by; `hosts` names the host of each, `place` their store.

    Ranks of one host on CPUs open no group of torch.distributed, and so no port, if they can share
    memory. All ranks call it together.
    """
    size = len(hosts)
    store = store_at(place, size)
    if backend == "gloo" and len(set(hosts)) == 1:
        shared = share(StoreGroup(rank, size, store))
        if isinstance(shared, SharedGroup):
            return shared
    group = TorchGroup(rank, size, store, backend, device, family)
    return join_hosts(group, hosts) if len(set(hosts)) > 1 and backend == "gloo" else group


def join_hosts(group: TorchGroup, hosts: Sequence[str]) -> TorchGroup:
    """Return what the ranks of a gloo `group` on several hosts communicate by.

    `hosts` names the host of each. All ranks call it together.
    """
    members = ranks_of_hosts(hosts)
    if len(members) > len(set(hosts)):
        log.warning(SCATTERED)
        return group
    parts = [part_of(group, ranks) for ranks in members]
    between = part_of(group, [ranks[0] for ranks in members])
    here = next(part for part in parts if part is not None)
    inside = share(here) if here.size > 1 else Group()
    return HostsGroup(group, inside, between, [len(ranks) for ranks in members])


def ranks_of_hosts(hosts: Sequence[str]) -> list[list[int]]:
    """Return each run of ranks on one host."""
    runs = itertools.groupby(range(len(hosts)), key=lambda rank: hosts[rank])
    return [list(ranks) for _, ranks in runs]
