"""One large file on its way to the disk: hashed as it is written, past the page cache, there only when whole."""

import errno
import fcntl
import hashlib
import io
import mmap
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neoxlib.pieces import BLOCK

Entry = dict[str, Any]  # {"bytes": ..., "sha256": ...} of a finished file
SLOT, SLOTS = BLOCK + (64 << 10), 4  # bytes on their way to a file: a block and small tensors, so many times
PAGE = 4096
DIRECT = getattr(os, "O_DIRECT", 0)  # Linux has it


class TensorFile:
    """A safetensors file that is written front to back, hashed on the way, and there under its name only when whole.

    While one slot of a ring fills, one thread hashes the others and another writes them, each at its own pace. The page
    cache is passed by where the file system lets it (O_DIRECT): a copy less, and nothing is left to wait for when the
    file is made durable.
    """

    def __init__(self, path: Path, header: bytes) -> None:
        self.path, self.temporary = path, path.with_name(path.name + ".tmp")
        self.digest, self.bytes = hashlib.sha256(), 0
        self.slot, self.filled = _pages(SLOT), 0
        self.ring: deque[tuple[Tensor, list[Future[None]]]] = deque((_pages(SLOT), []) for _ in range(SLOTS - 1))
        self.hasher, self.writer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)  # of one thread: each keeps the order
        self.file = io.FileIO(self.temporary, "wb", opener=_open_direct)
        self.room(1, len(header), torch.uint8)[0] = torch.frombuffer(bytearray(header), dtype=torch.uint8)

    def room(self, height: int, width: int, dtype: torch.dtype) -> Tensor:
        """The file's next values [height, width], for the caller to fill before it asks for more."""
        count = height * width * dtype.itemsize
        if self.filled + count > len(self.slot):
            self._send(self.filled // PAGE * PAGE)
        if self.filled + count > len(self.slot):  # a row of more than BLOCK bytes
            begun, self.slot = self.slot[: self.filled], _pages(PAGE + count)
            self.slot[: self.filled] = begun
        start, self.filled = self.filled, self.filled + count
        self.bytes += count
        return self.slot[start : self.filled].view(dtype).view(height, width)

    def _send(self, length: int) -> None:
        """Have `length` bytes of the slot hashed and written; the oldest slot goes on with what is left of a page."""
        hashing = self.hasher.submit(self.digest.update, self.slot[:length].numpy())
        writing = self.writer.submit(self._write, memoryview(self.slot[:length].numpy()))
        self.ring.append((self.slot, [hashing, writing]))
        left, (self.slot, busy) = self.slot[length : self.filled], self.ring.popleft()
        _wait(busy)
        self.filled = len(left)
        self.slot[: self.filled] = left

    def _write(self, view: memoryview) -> None:
        while view:
            try:
                view = view[self.file.write(view) :]
            except OSError as error:
                flags = fcntl.fcntl(self.file, fcntl.F_GETFL)
                if error.errno != errno.EINVAL or not flags & DIRECT:
                    raise
                fcntl.fcntl(self.file, fcntl.F_SETFL, flags & ~DIRECT)  # so many bytes at such a place it takes cached

    def finish(self) -> Entry:
        """Make the file durable under its name."""
        self._send(self.filled // PAGE * PAGE)
        _wait([future for _, busy in self.ring for future in busy])
        self.digest.update(self.slot[: self.filled].numpy())
        self._write(memoryview(self.slot[:PAGE].numpy()))
        self.file.truncate(self.bytes)  # the last page went whole
        os.fsync(self.file.fileno())
        self.file.close()
        os.replace(self.temporary, self.path)
        return {"bytes": self.bytes, "sha256": self.digest.hexdigest()}

    def abandon(self) -> None:
        """Leave nothing of an unfinished file."""
        self.hasher.shutdown()
        self.writer.shutdown()
        self.file.close()
        self.temporary.unlink(missing_ok=True)


def _pages(count: int) -> Tensor:
    """At least `count` bytes that begin with a page, as O_DIRECT asks."""
    return torch.from_numpy(np.frombuffer(mmap.mmap(-1, -(-count // PAGE) * PAGE), np.uint8))


def _wait(busy: list[Future[None]]) -> None:
    for future in busy:
        future.result()  # raises what its thread met


def _open_direct(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | DIRECT, 0o666)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(path, flags, 0o666)  # a file system in memory, for one
