"""The three times that are wanted first of an NPU: a launch, attention, an all-reduce.

At the sizes of GPT-NeoX-20B for one token of one row. They are told, not judged.
"""

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from neoxlib.setup.npu_trials import HEADS, WIDTH, Site, Timing

if TYPE_CHECKING:
    from neoxlib.inference.engine import Engine

LAUNCHES = 1000
CALLS = {"cpu": 2, "npu": 100}
KEYS = 2048  # of the cache that attention reads
QUEUE = "TASK_QUEUE_ENABLE"


def launch(at: Site) -> Timing:
    """Time an operator that has next to nothing to do: what the host needs to start it."""
    x = torch.zeros(8, dtype=at.kind, device=at.device)
    us = _microseconds(lambda: x.add_(0), LAUNCHES, x.device)
    return Timing(
        "launch of an operator", at.dtype, us, f"{QUEUE} {os.environ.get(QUEUE, 'unset')}"
    )


def attention(at: Site) -> Timing:
    """Time the attention of one token over a full cache."""
    shapes = [(1, HEADS, 1, WIDTH), *[(1, HEADS, KEYS, WIDTH)] * 2]
    q, k, v = at.to_device(*(at.normal(*shape, seed=n) for n, shape in enumerate(shapes)))
    ops = at.ops()
    mask = ops.mask(torch.ones(1, 1, 1, KEYS, dtype=torch.bool, device=at.device), KEYS)
    us = _microseconds(lambda: ops.attend(q, k, v, mask, KEYS), CALLS[at.device], q.device)
    return Timing("attention of one token", at.dtype, us, f"{HEADS} heads, {KEYS} keys")


def all_reduce(engine: "Engine") -> float:
    """Microseconds of an all-reduce of one token's states, on this rank."""
    device = engine.weight.device
    x = torch.zeros(1, HEADS * WIDTH, dtype=engine.weight.dtype, device=device)
    return _microseconds(lambda: engine.group.all_reduce(x), CALLS[device.type], device)


def _microseconds(call: Callable[[], object], calls: int, device: torch.device) -> float:
    """The median of five rounds, after one that is not counted; each ends when the device does."""
    wait = torch.get_device_module(device).synchronize
    times = []
    for _ in range(6):
        wait()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        wait()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[2] / calls * 1e6
