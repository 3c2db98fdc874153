"""Tensors inside one weight file: where their bytes are, and reading a part of them. Knows no folders and no models.

Files are read: mapped pages count as resident memory, and the kernel may take them away at any time. What is mapped,
for a first answer at once, is copied soon after (settle.py).
"""

import gc
import json
import math
import mmap
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from neoxlib.checkpoint.foreign import file_kind
from neoxlib.checkpoint.pickles import load_whole, read_shapes
from neoxlib.errors import WeightsError
from neoxlib.kernels.cpu import pack
from neoxlib.machine.runtime import fit_threads

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    # No weight of ours has these, but a table that is skipped may, and a refusal names them.
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}  # as in safetensors/torch.py
BLOCK = (
    2 << 20
)  # bytes held at a time: a processor's cache takes it, so it is sliced and hashed while still warm
MAX_HEADER = 100_000_000  # the format's own limit
Answer = TypeVar("Answer")
_WHOLE = threading.Lock()


def at_once(tasks: Iterable[Callable[[], Answer]]) -> Iterator[Answer]:
    """The tasks' answers, in order. Threads share the tasks, one more than PyTorch has: it waits while they work.

    Where that needs PyTorch's operators, which have threads of their own, one task runs after the other.
    """
    fit_threads()
    if not pack.compiled():
        yield from (task() for task in tasks)
        return
    with ThreadPoolExecutor(torch.get_num_threads() + 1) as pool:
        yield from pool.map(lambda task: task(), tasks)


@contextmanager
def without_collection() -> Iterator[None]:
    """Python's search for cycles waits: it walks through all objects of PyTorch, and no thread has work meanwhile."""
    wanted = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if wanted:
            gc.enable()


@dataclass(frozen=True)
class Piece:
    """A tensor inside a file: `shape` values of `dtype` from byte `offset` on, row by row.

    `offset` None: a .bin of before torch 1.6, compressed or of another byte order, or a tensor
    stored with strides; its file is then loaded as a whole, by torch.
    """

    path: Path
    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int | None

    def read_into(self, out: Tensor, rows: slice, columns: slice) -> None:
        """Fill `out` [rows, columns], of any dtype, device and strides, with that part of the piece."""
        height, width = matrix(self.shape)
        assert out.shape == (rows.stop - rows.start, columns.stop - columns.start), (
            out.shape,
            rows,
            columns,
        )
        if self.offset is None:
            with _WHOLE:  # once for all threads
                out.copy_(load_whole(self.path)[self.key].reshape(height, width)[rows, columns])
        elif (
            columns == slice(0, width)
            and out.dtype == self.dtype
            and out.is_cpu
            and out.is_contiguous()
        ):
            self._read_rows(out, rows.start)
        else:
            # Whole rows, since one long read beats many short ones; the unwanted columns go no further than `block`.
            step = max(1, BLOCK // max(1, width * self.dtype.itemsize))
            block = torch.empty(min(step, len(out)), width, dtype=self.dtype)
            for start in range(0, len(out), step):
                part = block[: len(out) - start]
                self._read_rows(part, rows.start + start)
                pack.copy(part[:, columns], out[start : start + len(part)])

    def mapped(self, rows: slice, columns: slice) -> Tensor | None:
        """That part as pages of the file [rows, width]; None where the file does not have it in one run."""
        _, width = matrix(self.shape)
        if self.offset is None or self.offset % self.dtype.itemsize or columns != slice(0, width):
            return None
        start = self.offset
        row = width * self.dtype.itemsize
        first = start + rows.start * row
        last = start + rows.stop * row
        return pages(self.path, state_of(self.path))[first:last].view(self.dtype).view(-1, width)

    def _read_rows(self, out: Tensor, first: int) -> None:
        """Fill contiguous `out` [rows, width] with the bytes from row `first` on."""
        view = as_bytes(out)
        start = self.offset + first * out.shape[1] * out.itemsize
        with self.path.open("rb", buffering=0) as file:
            file.seek(start)
            while view:
                got = file.readinto(view)
                if not got:
                    raise WeightsError(
                        f"{self.path} ended {len(view)} bytes early inside {self.key}; copy it anew"
                    )
                view = view[got:]


def state_of(path: Path) -> tuple[int, int, int, int]:
    """Bytes, inode, and times (ns) of the last change of content and of anything of a file."""
    with path.open("rb") as file:  # to open it makes a network file system look anew
        stat = os.fstat(file.fileno())
    return stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns


@lru_cache
def pages(path: Path, state: tuple[int, int, int, int]) -> Tensor:
    """A file's bytes, mapped: read when they are used. What is written there stays in this process.

    `state` is that of the file now: what stood under this name before is another file.
    """
    with path.open("rb") as file:
        return torch.frombuffer(
            mmap.mmap(file.fileno(), state[0], access=mmap.ACCESS_COPY), dtype=torch.uint8
        )


def matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Any shape as [rows, columns]: a vector is one column."""
    return (shape[0], math.prod(shape[1:])) if shape else (1, 1)


def as_bytes(x: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor, without a copy."""
    return memoryview(x.detach().flatten().view(torch.uint8).numpy())


def read_header(path: Path) -> tuple[dict[str, Piece], dict[str, Any]]:
    """Tensors and metadata of a safetensors file. Raises WeightsError when header and file length do not agree.

    The format: 8 bytes of header length, the header in JSON, then the data without gaps
    (https://github.com/huggingface/safetensors#format).
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            what = file_kind(path) or ": it is truncated, or another file"
            raise WeightsError(
                f"{path} is no safetensors file that can be read, of {size} bytes{what}"
            )
        raw = file.read(length)
    try:
        header = json.loads(raw)
        metadata = header.pop("__metadata__", None)
        metadata = {} if metadata is None else dict(metadata)
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError(f"__metadata__ is {metadata}")
        pieces = {key: _piece(path, key, entry, 8 + length) for key, entry in header.items()}
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        what = file_kind(path) or f" ({error!r}); copy it anew"
        raise WeightsError(f"{path} has a corrupt safetensors header{what}") from error
    _check_gaps(path, pieces, 8 + length)
    return pieces, metadata


def _check_gaps(path: Path, pieces: dict[str, Piece], end: int) -> None:
    """Raises WeightsError unless tensors follow each other from `end` on, and fill the file."""
    for piece in sorted(pieces.values(), key=lambda p: (p.offset, math.prod(p.shape))):
        if piece.offset != end:
            raise WeightsError(
                f"{path}: {piece.key} begins at byte {piece.offset}, expected {end}; copy it anew"
            )
        end += math.prod(piece.shape) * piece.dtype.itemsize
    if end != (size := path.stat().st_size):
        kind = "truncated" if size < end else "too long"
        raise WeightsError(
            f"{path} is {kind}: it has {size} bytes, its header tells of {end}; copy it anew"
        )


def _piece(path: Path, key: str, entry: Mapping[str, Any], base: int) -> Piece:
    code = entry["dtype"]
    shape = tuple(entry["shape"])
    (start, stop) = entry["data_offsets"]
    if code not in DTYPES:
        raise WeightsError(
            f"{path}: {key} has dtype {code}, which neoxlib does not read; it reads {', '.join(DTYPES)}"
        )
    if not all(isinstance(n, int) and n >= 0 for n in (*shape, start, stop)):
        raise ValueError(f"{key} has shape {shape} at {start}:{stop}")
    if stop - start != math.prod(shape) * DTYPES[code].itemsize:
        raise ValueError(
            f"{key} is {code} {list(shape)}, which does not fill its {stop - start} bytes"
        )
    return Piece(path, key, DTYPES[code], shape, base + start)


def read_pickle(path: Path) -> dict[str, Piece]:
    """Tensors of a .bin: names, shapes and offsets, no data."""
    return {
        key: Piece(path, key, tensor.dtype, tuple(tensor.shape), offset)
        for key, (tensor, offset) in read_shapes(path).items()
    }
