"""One large file on its way to the disk: hashed and written side by side, there only when whole."""

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

Entry = dict[str, Any]  # {"bytes": ..., "sha256": ...} of a finished file
SLOT = BLOCK + (64 << 10)
SLOTS = 4  # bytes on their way to a file: a block and small tensors, so many times
SYNC = 16 << 20  # bytes between two times that a file is made durable


class TensorFile:
    """A safetensors file that is written front to back, hashed on the way, and there under its name only when whole.

    While one slot of a ring fills, one thread hashes the others, another writes them, and a third makes durable what
    was written so far, each at its own pace: little is left to wait for at the end. That third one, `syncer`, serves
    all files of a disk, which empties its own cache for all of them at once.
    Tensors come in order of falling width: values are aligned in a slot wherever it begins.
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
        self.writer = ThreadPoolExecutor(1)  # of one thread: each keeps the order
        self.syncer = syncer
        self.syncing = syncer.submit(int)
        self.asked = 0  # asked: bytes, when it was last
        self.file = self.temporary.open("wb", buffering=0)
        self.room(1, len(header), torch.uint8)[0] = torch.frombuffer(
            bytearray(header), dtype=torch.uint8
        )

    def room(self, height: int, width: int, dtype: torch.dtype) -> Tensor:
        """The file's next values [height, width], for the caller to fill before it asks for more."""
        count = height * width * dtype.itemsize
        if self.filled + count > len(self.slot):
            self._send()
        if self.filled + count > len(self.slot):  # a row of more than BLOCK bytes
            self.slot = _bytes(count)
        start = self.filled
        self.filled = self.filled + count
        self.bytes += count
        return self.slot[start : self.filled].view(dtype).view(height, width)

    def _send(self) -> None:
        """Have the slot hashed and written, and go on with the oldest one."""
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
        if self.syncing.done() and self.file.tell() - self.asked >= SYNC:
            self.syncing.result()  # raises what it met
            self.syncing, self.asked = (
                self.syncer.submit(os.fsync, self.file.fileno()),
                self.file.tell(),
            )

    def finish(self) -> Entry:
        """Make the file durable under its name."""
        self._send()
        _wait([future for _, busy in self.ring for future in busy])
        self.syncing.result()  # the kernel tells of a failure once
        os.fsync(self.file.fileno())
        self.file.close()
        os.replace(self.temporary, self.path)
        return {"bytes": self.bytes, "sha256": self.digest.hexdigest()}

    def abandon(self) -> None:
        """Leave nothing of an unfinished file."""
        self.hasher.shutdown()
        self.writer.shutdown()
        wait([self.syncing])
        self.file.close()
        self.temporary.unlink(missing_ok=True)


def _bytes(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.uint8)


def _wait(busy: list[Future[None]]) -> None:
    for future in busy:
        future.result()  # raises what its thread met
