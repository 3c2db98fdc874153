"""Copy weights to an accelerator: one block is read while the one before is on its way.

A thread reads, rounds and packs on the host, with the bits that a CPU's load has, into one of two
blocks of pinned memory, from which the device copies by itself. The layout that a chip wants
(NZ on 310P) comes after that, when `on_npu.attach` has the whole matrix on the device.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from neoxlib.model.quant import Packed

log = logging.getLogger("neoxlib")

BLOCK_BYTES = 64 << 20  # of pinned memory; what a run of rows has at most, but for wider dtypes
ALIGNMENT = 64  # bytes; where a tensor begins inside a block


class Portion(Protocol):
    """Tensors on a device, and how to read what they shall hold into others of their shapes."""

    out: Packed

    def read_into(self, out: Packed) -> None:
        """Fill `out` on the host."""


class HostBlock:
    """Pinned host memory, filled and sent again and again.

    `make_event` makes the device's event, which tells when the last copy has ended.
    """

    def __init__(self, make_event: Callable[[], "torch.Event"]) -> None:
        self.make_event = make_event
        self.sent: torch.Event | None = None
        self.memory = torch.empty(0, dtype=torch.uint8)

    def reserve(self, portion: Portion) -> Packed:
        """Tensors like the portion's, one behind the other in this memory.

        Call it in the thread that has chosen the device: another would allocate for device 0.
        """
        offsets, size = {}, 0
        for name, tensor in portion.out.items():
            offsets[name] = size
            size += -(-_bytes(tensor) // ALIGNMENT) * ALIGNMENT
        if size > len(self.memory):
            self.memory = pinned(max(size, BLOCK_BYTES))
        return {name: self._view(tensor, offsets[name]) for name, tensor in portion.out.items()}

    def _view(self, like: Tensor, offset: int) -> Tensor:
        part = self.memory[offset : offset + _bytes(like)]
        return part.view(like.dtype).view(like.shape)

    def send(self, staged: Packed, out: Packed) -> int:
        """Begin the copies to the device. Returns their bytes."""
        for name, tensor in out.items():
            tensor.copy_(staged[name], non_blocking=True)
        self.sent = self.make_event()
        self.sent.record()
        return sum(_bytes(tensor) for tensor in out.values())

    def wait(self) -> None:
        """Wait until the last copies have ended: only then the memory may change."""
        if self.sent is not None:
            self.sent.synchronize()


def copy_in_turns(portions: Iterable[Portion], device: torch.device) -> Iterator[int]:
    """Fill the portions' tensors on `device`; yield the bytes of each as it is sent."""
    return _in_turns(portions, torch.get_device_module(device).Event)


def _in_turns(
    portions: Iterable[Portion], make_event: Callable[[], "torch.Event"]
) -> Iterator[int]:
    blocks = deque(HostBlock(make_event) for _ in range(2))
    reading: deque[tuple[HostBlock, Portion, Packed, Future]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="neoxlib-read") as reader:
        for portion in portions:
            block = blocks[0]
            blocks.rotate(-1)
            block.wait()
            staged = block.reserve(portion)
            reading.append((block, portion, staged, reader.submit(portion.read_into, staged)))
            if len(reading) == len(blocks):
                yield _send(*reading.popleft())
        while reading:
            yield _send(*reading.popleft())
    for block in blocks:
        block.wait()


def _send(block: HostBlock, portion: Portion, staged: Packed, is_read: Future) -> int:
    is_read.result()
    return block.send(staged, portion.out)


def _bytes(tensor: Tensor) -> int:
    return prod(tensor.shape) * tensor.dtype.itemsize


def pinned(size: int) -> Tensor:
    """Host memory of `size` bytes that a device copies from by itself; pageable if it cannot be."""
    try:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)
    except RuntimeError as error:  # no pinned memory left, or a backend without any
        log.info("weights are read into pageable memory, slower to copy: %s", error)
        return torch.empty(size, dtype=torch.uint8)
