"""Write one large safetensors file, hashed while it is written and visible only when complete."""

import hashlib
import os
from collections import deque
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neoxlib.checkpoint.tensor_file import BLOCK
from neoxlib.files import put

Entry = dict[str, Any]  # {"bytes": ..., "sha256": ...} of a finished file
SLOT = BLOCK + (64 << 10)  # bytes
SLOTS = 4  # buffers of SLOT bytes: each holds one block and small tensors
SYNC = 16 << 20  # bytes between two calls of fsync


class TensorFile:
    """A safetensors file written front to back; it gets its name only when complete.

    While the caller fills one slot of a ring, one thread hashes the filled slots, another writes
    them and a third, `syncer`, calls fsync: little remains to wait for at the end. All files of a
    disk share one `syncer`, since the disk flushes its cache for all of them at once.
    Tensors come in order of decreasing width: values are then aligned wherever a slot begins.
    """

    def __init__(self, path: Path, header: bytes, syncer: Executor) -> None:
        self.path = path
        self.temporary = path.with_name(path.name + ".tmp")
        self.digest = hashlib.sha256()
        self.bytes = 0
        self.slot = _bytes(SLOT)
        self.filled = 0
        self.ring: deque[tuple[Tensor, list[Future[None]]]] = deque(
            (_bytes(SLOT), []) for _ in range(SLOTS - 1)
        )
        self.hasher = ThreadPoolExecutor(1)
        self.writer = ThreadPoolExecutor(1)  # one thread each, which keeps the order
        self.syncer = syncer
        self.syncing = syncer.submit(int)
        self.sync_asked = 0  # bytes written when fsync was last asked for
        self.file = self.temporary.open("wb", buffering=0)
        self.room(1, len(header), torch.uint8)[0] = torch.frombuffer(
            bytearray(header), dtype=torch.uint8
        )

    def room(self, height: int, width: int, dtype: torch.dtype) -> Tensor:
        """Memory for the file's next values, [height, width].

        The caller fills it before it asks for more.
        """
        count = height * width * dtype.itemsize
        if self.filled + count > len(self.slot):
            self._send()
        if self.filled + count > len(self.slot):  # a row of more than BLOCK bytes
            self.slot = _bytes(count)
        start = self.filled
        self.filled += count
        self.bytes += count
        return self.slot[start : self.filled].view(dtype).view(height, width)

    def _send(self) -> None:
        """Have the slot hashed and written, and continue with the oldest one."""
        values = self.slot[: self.filled].numpy()
        hashing = self.hasher.submit(self.digest.update, values)
        writing = self.writer.submit(self._write, values)
        self.ring.append((self.slot, [hashing, writing]))
        self.slot, busy = self.ring.popleft()
        self.filled = 0
        _wait(busy)

    def _write(self, values: np.ndarray) -> None:
        view = memoryview(values)
        while view:
            view = view[self.file.write(view) :]
        written = self.file.tell()
        if self.syncing.done() and written - self.sync_asked >= SYNC:
            self.syncing.result()  # raises its error
            self.syncing = self.syncer.submit(os.fsync, self.file.fileno())
            self.sync_asked = written

    def finish(self) -> Entry:
        """Complete the file, sync it and give it its name."""
        self._send()
        _wait([future for _, busy in self.ring for future in busy])
        self.syncing.result()  # the kernel reports a failed write to one fsync only
        put(self.file, self.path)
        return {"bytes": self.bytes, "sha256": self.digest.hexdigest()}

    def abandon(self) -> None:
        """Stop the threads and remove the file if it is not complete."""
        self.hasher.shutdown()
        self.writer.shutdown()
        wait([self.syncing])
        self.file.close()
        self.temporary.unlink(missing_ok=True)


def _bytes(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.uint8)


def _wait(busy: list[Future[None]]) -> None:
    for future in busy:
        future.result()  # raises its thread's error
