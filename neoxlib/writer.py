"""One large file on its way to the disk: hashed as it is written, past the page cache, there only when whole."""

import errno
import fcntl
import hashlib
import io
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Entry = dict[str, Any]  # {"bytes": ..., "sha256": ...} of a finished file
HALF = 1 << 20  # bytes written at a time
PAGE = 4096
DIRECT = getattr(os, "O_DIRECT", 0)  # Linux has it


class TensorFile:
    """A safetensors file that is written front to back, hashed on the way, and there under its name only when whole.

    One half of a buffer fills while the pool hashes and writes the other. The page cache is passed by where the file
    system lets it (O_DIRECT): a copy less, and nothing is left to wait for when the file is made durable.
    """

    def __init__(self, path: Path, header: bytes, pool: ThreadPoolExecutor) -> None:
        self.path, self.temporary, self.pool = path, path.with_name(path.name + ".tmp"), pool
        self.digest, self.bytes = hashlib.sha256(), 0
        memory = np.frombuffer(mmap.mmap(-1, 2 * HALF), np.uint8)  # begins with a page, which O_DIRECT asks for
        self.half, self.other, self.filled = memory[:HALF], memory[HALF:], 0
        self.busy: list[Future[None]] = []  # with the other half
        self.file = io.FileIO(self.temporary, "wb", opener=_open_direct)
        self._put(np.frombuffer(header, np.uint8))

    def write(self, block: Tensor) -> None:
        """Append a block's values, row by row; the caller may use its memory again."""
        # numpy copies a column range on this thread; torch would wake its pool for each block, at ten times the cost.
        self._put(np.ascontiguousarray(block.view(torch.uint8).numpy()).reshape(-1))

    def _put(self, data: np.ndarray) -> None:
        self.bytes += len(data)
        while len(data):
            part, data = np.split(data, [HALF - self.filled])
            self.half[self.filled : self.filled + len(part)] = part
            self.filled += len(part)
            if self.filled == HALF:
                self._send(HALF)

    def _send(self, length: int) -> None:
        """Hash what the half holds and write `length` bytes of it, once the other half is free."""
        self._wait()
        tasks = (self.digest.update, self.half[: self.filled]), (self._write, memoryview(self.half[:length]))
        self.busy = [self.pool.submit(*task) for task in tasks]
        self.half, self.other, self.filled = self.other, self.half, 0

    def _wait(self) -> None:
        done, self.busy = self.busy, []
        for error in [future.exception() for future in done]:
            if error is not None:
                raise error

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
        self._wait()
        self.file.truncate(self.bytes)  # the last page was written whole
        os.fsync(self.file.fileno())
        self.file.close()
        os.replace(self.temporary, self.path)
        return {"bytes": self.bytes, "sha256": self.digest.hexdigest()}

    def abandon(self) -> None:
        """Leave nothing of an unfinished file."""
        wait(self.busy)
        self.file.close()
        self.temporary.unlink(missing_ok=True)


def _open_direct(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | DIRECT, 0o666)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(path, flags, 0o666)  # a file system in memory, for one
