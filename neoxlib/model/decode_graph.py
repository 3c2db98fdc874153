"""Single tokens of a batch by a captured graph: memory that stays, and the graph of a step.

All ranks replay the graph of the same capture, or none does: what decides is the same on all of
them, or is agreed on.
"""

import logging
import os
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from neoxlib.errors import SettingsError
from neoxlib.kernels.graph import AGAINST, Recorder
from neoxlib.kernels.npu import OPS, PLAIN, NpuOps
from neoxlib.model.cache import KVCache
from neoxlib.model.group import Group, on_all
from neoxlib.model.npu_steps import Decoding, NpuStep, NpuSteps

log = logging.getLogger("neoxlib")

CHOICES = ("auto", "on", "off")


def choose_graph(asked: str, device: str, family: str, compile: bool = True) -> tuple[bool, str]:
    """Whether to capture decode, and the rule that says so.

    Raises SettingsError for an unknown choice, and for "on" where a rule is against it.
    """
    if asked not in CHOICES:
        raise SettingsError(f"graph is {asked!r}; it is one of {', '.join(CHOICES)}")
    if asked == "off":
        return False, "off: asked for"
    against = _rule_against(device, family, compile)
    if against and asked == "on":
        raise SettingsError(f'graph is "on", but {against}; use graph="auto" or "off"')
    return not against, f"off: {against}" if against else "one graph per batch size"


def _rule_against(device: str, family: str, compile: bool) -> str:
    """The first rule against a graph, or nothing."""
    if device != "npu":
        return f"a step is captured on NPUs alone, and this runs on {device}"
    if not compile:
        return "compile is False, and PyTorch's own operators are not captured"
    if not OPS.get(family, PLAIN).graph:
        can = ", ".join(name for name, operators in OPS.items() if operators.graph)
        return f"this is a {family} NPU, and torch_npu captures decode on {can} alone"
    set_here = [name for name in AGAINST if os.environ.get(name) == "1"]
    return f"{set_here[0]} is 1: {AGAINST[set_here[0]]}" if set_here else ""


class Runner(Protocol):
    """What runs the layers: on_npu.NpuModel."""

    group: Group
    ops: NpuOps
    steps: NpuSteps

    def run(self, input_ids: Tensor, step: NpuStep, cache: KVCache) -> Tensor:
        """Hidden states [B * S, hidden] of a step."""

    def empty_cache(self, batch: int, max_seq_len: int) -> KVCache:
        """A cache in memory of its own."""


@dataclass
class GraphUse:
    """What was captured and replayed so far, and why steps run eagerly after a failure."""

    captured: int = 0
    capture_s: float = 0.0
    replayed: int = 0
    failure: str = ""


class DecodeGraph:
    """The step of one token a row, on memory that stays: ids, slot, mask, positions, output."""

    def __init__(self, model: Runner, cache: KVCache, now: Decoding) -> None:
        self.model = model  # a proxy: the model holds the graph
        device = cache.real.device
        batch, heads = cache.k[0].shape[:2]
        self.ids = torch.zeros(batch, 1, dtype=torch.int64, device=device)
        self.slot = torch.zeros(4, dtype=torch.int64, device=device)  # 0, 0, 0, slot
        places = torch.cartesian_prod(*map(torch.arange, (2, batch, heads, 1)))
        self.places = places.to(device)  # [2 * B * heads, 4]: of keys and values at slot 0
        self.offsets = now.offsets.clone()
        self.mask = now.mask.clone()
        self.source = now
        self.recorder: Recorder | None = None
        self.out: Tensor | None = None  # [B, hidden]

    def capture(self, recorder: Recorder, cache: KVCache) -> None:
        """Record the step at the slot that is next."""
        end = cache.length + 1
        self.set(self.ids, cache.length)
        with self.model.group.uncounted():
            self.out = recorder.capture(lambda: self._run(cache, end))
        self.recorder = recorder

    def _run(self, cache: KVCache, end: int) -> Tensor:
        places = self.places + self.slot
        angles = self.model.steps.angles(cache, self.offsets + self.slot[3:], 1)
        step = NpuStep(
            (len(self.ids), 1),
            end,
            self.mask,
            *angles,
            lambda held, new: self.model.ops.write_at(held, places, new),
        )
        return self.model.run(self.ids, step, cache)

    def set(self, input_ids: Tensor, slot: int) -> None:
        """Put the step's ids [B, 1] and its slot where the graph reads them."""
        self.ids.copy_(input_ids)
        self.slot[3:].fill_(slot)

    def replay(self, input_ids: Tensor, cache: KVCache, now: Decoding) -> Tensor:
        """Hidden states [B, 1, hidden] of the next token."""
        if self.source is not now:  # another batch in the same memory
            self.offsets.copy_(now.offsets)
            self.mask.copy_(now.mask)
            self.source = now
        slot = cache.reserve(1)
        now.slot = slot + 1
        self.set(input_ids, slot)
        self.recorder.replay(slot + 1)
        return self.out.unsqueeze(1).clone()  # the next step writes there


@dataclass
class Lease:
    """The memory of a cache, whoever uses it now, and its graph after the first token."""

    memory: KVCache
    user: "weakref.ref[KVCache]"
    graph: DecodeGraph | None = None

    def free(self) -> bool:
        """Whether nobody uses it any more."""
        return self.user() is None


class DecodeGraphs:
    """The graphs of a model: one per batch size and capacity, kept with the memory of its cache.

    A graph reads fixed memory, so the cache of the next batch of that size is the same memory. A
    cache of another size is made after idle ones are freed: no more memory is held than the largest
    request needs. A cache made elsewhere, or while its size is in use, runs eagerly.
    """

    def __init__(
        self, model: Runner, device: torch.device, recorder: Callable[[], Recorder]
    ) -> None:
        self.model = weakref.proxy(model)
        self.device = device
        self.recorder = recorder
        self.use = GraphUse()
        self.leases: dict[tuple[int, int], Lease] = {}

    def new_cache(self, batch: int, max_seq_len: int) -> KVCache:
        """An empty cache, with the graph of an earlier one of its size if there is one."""
        key = batch, max_seq_len
        lease = self.leases.get(key)
        if on_all(self.model.group, lease is not None and lease.free(), self.device):
            cache = lease.memory.again()
            lease.user = weakref.ref(cache)
            return cache
        self.free_idle()
        memory = self.model.empty_cache(batch, max_seq_len)
        cache = memory.again()
        self.leases[key] = Lease(memory, weakref.ref(cache))
        return cache

    def free_idle(self) -> None:
        """Free the memory and the graphs of caches that nobody holds any more."""
        self.leases = {key: kept for key, kept in self.leases.items() if not kept.free()}

    def states(self, input_ids: Tensor, cache: KVCache) -> Tensor | None:
        """Hidden states [B, 1, hidden] of the next token; None if it must run eagerly.

        The first token of a size does, and the second is captured.
        """
        lease = self.leases.get((len(cache.real), cache.capacity))
        if lease is None or lease.user() is not cache or self.use.failure:
            return None
        now = self.model.steps.decoding(cache)
        if lease.graph is None:
            lease.graph = DecodeGraph(self.model, cache, now)
            return None
        if lease.graph.recorder is None and not self._capture(lease.graph, cache):
            return None
        self.use.replayed += 1
        return lease.graph.replay(input_ids, cache, now)

    def _capture(self, graph: DecodeGraph, cache: KVCache) -> bool:
        """Capture on all ranks; where one cannot, all go on eagerly."""
        start = time.perf_counter()
        failure = ""
        try:
            graph.capture(self.recorder(), cache)
        except (RuntimeError, AttributeError, TypeError) as error:  # or a torch_npu without it
            failure = f"{type(error).__name__}: {error}".splitlines()[0]
        done = on_all(self.model.group, not failure, cache.real.device)
        if not done:
            self.use.failure = failure or "another rank could not capture the step"
            log.warning("decode runs eagerly, its graph could not be captured: %s", failure)
            return False
        self.use.captured += 1
        self.use.capture_s += time.perf_counter() - start
        return True
