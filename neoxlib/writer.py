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

Entry = dict[str, Any]  # {"bytes": ..., "sha256": ...} of a finished file
SLOT, SLOTS = 2 << 20, 4  # bytes written at a time, and how many such are on their way to a file
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
        memory = np.frombuffer(mmap.mmap(-1, SLOTS * SLOT), np.uint8)  # begins with a page, which O_DIRECT asks for
        self.slot, *others = np.split(memory, SLOTS)
        self.filled = 0
        self.ring: deque[tuple[np.ndarray, list[Future[None]]]] = deque((slot, []) for slot in others)
        self.hasher, self.writer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)  # of one thread: each keeps the order
        self.file = io.FileIO(self.temporary, "wb", opener=_open_direct)
        self._put(np.frombuffer(header, np.uint8))

    def write(self, block: Tensor) -> None:
        """Append a block's values, row by row; the caller may use its memory again."""
        # numpy copies a column range on this thread; torch would wake its pool for each block, at ten times the cost.
        self._put(np.ascontiguousarray(block.view(torch.uint8).numpy()).reshape(-1))

    def _put(self, data: np.ndarray) -> None:
        self.bytes += len(data)
        while len(data):
            part, data = np.split(data, [SLOT - self.filled])
            self.slot[self.filled : self.filled + len(part)] = part
            self.filled += len(part)
            if self.filled == SLOT:
                self._send(SLOT)

    def _send(self, length: int) -> None:
        """Have what the slot holds hashed, and `length` bytes of it written; go on with the oldest slot."""
        hashing = self.hasher.submit(self.digest.update, self.slot[: self.filled])
        writing = self.writer.submit(self._write, memoryview(self.slot[:length]))
        self.ring.append((self.slot, [hashing, writing]))
        self.slot, busy = self.ring.popleft()
        self.filled = 0
        _wait(busy)

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
        self._send(-(-self.filled // PAGE) * PAGE)
        _wait([future for _, busy in self.ring for future in busy])
        self.file.truncate(self.bytes)  # the last page was written whole
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
