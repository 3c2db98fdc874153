"""Tensors inside one weight file: where their bytes are, and how to read a part of them.

Knows no folders and no models. Files are read, not mapped: mapped pages count as resident memory,
and the kernel may evict them at any time. Weights that are mapped for a fast first answer are
copied soon after (resident.py).
"""

import gc
import math
import mmap
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from neoxlib.checkpoint.foreign import file_kind
from neoxlib.checkpoint.names import MAX_HEADER
from neoxlib.checkpoint.pickles import load_whole, read_shapes
from neoxlib.errors import WeightsError
from neoxlib.forms import SIZE, TEXT, Kind, Maybe, Named, parse, problems
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
    # No GPT-NeoX weight has these, but a skipped table may, and an error message names them.
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}  # as in safetensors/torch.py
# The format: https://github.com/huggingface/safetensors#format
HEADER = {"__metadata__": Maybe(Named(TEXT))}
OFFSETS = Kind(
    "two whole numbers, 0 or more",
    lambda v: isinstance(v, list) and len(v) == 2 and all(map(SIZE.fits, v)),
)
TENSOR = {"dtype": TEXT, "shape": [SIZE], "data_offsets": OFFSETS}
BLOCK = 2 << 20  # bytes read at a time: they fit the CPU's cache while they are sliced and hashed
Result = TypeVar("Result")
_LOAD_WHOLE = threading.Lock()


def run_in_threads(tasks: Iterable[Callable[[], Result]]) -> Iterator[Result]:
    """Run `tasks` in a thread pool and yield their results in order.

    The pool has one thread more than PyTorch, whose threads are idle meanwhile. Without the
    compiled kernels the tasks use PyTorch's operators, which have threads of their own: they then
    run one after the other.
    """
    fit_threads()
    if not pack.compiled():
        for task in tasks:
            yield task()
        return
    with ThreadPoolExecutor(torch.get_num_threads() + 1) as pool:
        yield from pool.map(lambda task: task(), tasks)


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Pause the cyclic garbage collector.

    A pass over all of PyTorch's objects holds the GIL and stalls the threads that read.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass(frozen=True)
class FileTensor:
    """A tensor inside one file: `shape` values of `dtype` from byte `offset` on, row by row.

    `offset` is None for a .bin from before torch 1.6, compressed or of another byte order, and for
    a tensor stored with strides: torch then loads the whole file.
    """

    path: Path
    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int | None

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def read_into(
        self, out: Tensor, rows: slice, columns: slice, only_columns: bool = False
    ) -> None:
        """Fill `out` [rows, columns], of any dtype, device and strides, with that part of it.

        With `only_columns` no other column is read, by a short read for each row.
        """
        height, width = matrix(self.shape)
        size = (rows.stop - rows.start, columns.stop - columns.start)
        assert out.shape == size, (out.shape, rows, columns)
        whole_rows = columns == slice(0, width)
        if self.offset is None:
            with _LOAD_WHOLE:  # one thread loads, the others find it cached
                out.copy_(load_whole(self.path)[self.key].reshape(height, width)[rows, columns])
        elif whole_rows and out.dtype == self.dtype and out.is_cpu and out.is_contiguous():
            self._read_rows(out, rows.start)
        elif only_columns and not whole_rows:
            self._read_only_columns(out, rows.start, columns)
        else:
            self._read_columns(out, rows.start, columns)

    def mapped(self, rows: slice, columns: slice) -> Tensor | None:
        """That part as mapped pages of the file, [rows, width].

        None if its bytes are not contiguous, not aligned or of unknown place.
        """
        _, width = matrix(self.shape)
        if self.offset is None or self.offset % self.dtype.itemsize or columns != slice(0, width):
            return None
        row = width * self.dtype.itemsize
        first = self.offset + rows.start * row
        last = self.offset + rows.stop * row
        return pages(self.path, state_of(self.path))[first:last].view(self.dtype).view(-1, width)

    def _read_columns(self, out: Tensor, first: int, columns: slice) -> None:
        """Fill `out` [rows, columns] from row `first` on.

        Reads whole rows, since one long read beats many short ones; unwanted columns stay in
        `block`.
        """
        _, width = matrix(self.shape)
        step = max(1, BLOCK // max(1, width * self.dtype.itemsize))
        block = torch.empty(min(step, len(out)), width, dtype=self.dtype)
        for start in range(0, len(out), step):
            part = block[: len(out) - start]
            self._read_rows(part, first + start)
            pack.copy(part[:, columns], out[start : start + len(part)])

    def _read_only_columns(self, out: Tensor, first: int, columns: slice) -> None:
        """As `_read_columns`, without the bytes of other columns."""
        step = max(1, BLOCK // max(1, out.shape[1] * self.dtype.itemsize))
        fits = out.dtype == self.dtype and out.is_cpu and out.is_contiguous()
        block = torch.empty(0 if fits else min(step, len(out)), out.shape[1], dtype=self.dtype)
        for start in range(0, len(out), step):
            target = out[start : start + step]
            part = target if fits else block[: len(target)]
            self._read_segments(part, first + start, columns.start)
            if not fits:
                pack.copy(part, target)

    def _read_segments(self, out: Tensor, first: int, column: int) -> None:
        """Fill contiguous `out` [rows, columns], of this dtype, from a row and column on."""
        _, width = matrix(self.shape)
        view = as_bytes(out)
        size = out.shape[1] * out.itemsize
        with self.path.open("rb", buffering=0) as file:
            for row in range(len(out)):
                file.seek(self.offset + ((first + row) * width + column) * out.itemsize)
                self._fill(file, view[row * size : (row + 1) * size])

    def _read_rows(self, out: Tensor, first: int) -> None:
        """Fill contiguous `out` [rows, width], of this dtype, from row `first` on."""
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset + first * out.shape[1] * out.itemsize)
            self._fill(file, as_bytes(out))

    def _fill(self, file: FileIO, view: memoryview) -> None:
        """Read until `view` is full. Raises WeightsError if the file ends before."""
        while view:
            count = file.readinto(view)
            if not count:
                raise WeightsError(
                    f"{self.path} ended {len(view)} bytes early inside {self.key}; copy it anew"
                )
            view = view[count:]


def state_of(path: Path) -> tuple[int, int, int, int]:
    """Size (bytes), inode, mtime and ctime (ns) of a file."""
    with path.open("rb") as file:  # opening it makes a network file system look anew
        stat = os.fstat(file.fileno())
    return stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns


@lru_cache
def pages(path: Path, state: tuple[int, int, int, int]) -> Tensor:
    """A file's bytes, mapped copy-on-write: read on first use, and writes stay in this process.

    `state` is the file's `state_of` now: a file replaced under the same name is mapped anew.
    """
    with path.open("rb") as file:
        return torch.frombuffer(
            mmap.mmap(file.fileno(), state[0], access=mmap.ACCESS_COPY), dtype=torch.uint8
        )


def matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of any shape: a vector is one column, a scalar [1, 1]."""
    return (shape[0], math.prod(shape[1:])) if shape else (1, 1)


def as_bytes(x: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor, without a copy."""
    return memoryview(x.detach().flatten().view(torch.uint8).numpy())


def read_header(path: Path) -> tuple[dict[str, FileTensor], dict[str, str]]:
    """Read the tensors and the metadata of a safetensors file, without its data.

    The format: 8 bytes of header length, the header in JSON, then the data without gaps
    (https://github.com/huggingface/safetensors#format).
    Raises WeightsError for a corrupt header, or one that does not fit the file's length.
    """
    raw = _raw_header(path)
    begin = 8 + len(raw)
    try:
        header = parse(raw, unique=True)
        if wrong := problems(header, HEADER):
            raise ValueError("; ".join(wrong))
        metadata = header.pop("__metadata__", None) or {}
        tensors = {key: _tensor(path, key, entry, begin) for key, entry in header.items()}
    except ValueError as error:
        kind = file_kind(path) or f" ({error!r}); copy it anew"
        raise WeightsError(f"{path} has a corrupt safetensors header{kind}") from error
    _check_gaps(path, tensors, begin)
    return tensors, metadata


def _raw_header(path: Path) -> bytes:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            kind = file_kind(path) or ": it is truncated, or another file"
            raise WeightsError(
                f"{path} is no safetensors file that can be read, of {size} bytes{kind}"
            )
        return file.read(length)


def _check_gaps(path: Path, tensors: dict[str, FileTensor], end: int) -> None:
    """Raise WeightsError unless the tensors follow each other from byte `end` and fill the file."""
    for tensor in sorted(tensors.values(), key=lambda t: (t.offset, math.prod(t.shape))):
        if tensor.offset != end:
            raise WeightsError(
                f"{path}: {tensor.key} begins at byte {tensor.offset}, expected {end}; copy it anew"
            )
        end += math.prod(tensor.shape) * tensor.dtype.itemsize
    if end != (size := path.stat().st_size):
        kind = "truncated" if size < end else "too long"
        raise WeightsError(
            f"{path} is {kind}: it has {size} bytes, its header tells of {end}; copy it anew"
        )


def _tensor(path: Path, key: str, entry: Mapping[str, Any], base: int) -> FileTensor:
    """One entry of a header whose data begins at byte `base`."""
    if wrong := problems(entry, TENSOR, key):
        raise ValueError("; ".join(wrong))
    code = entry["dtype"]
    shape = tuple(entry["shape"])
    (start, stop) = entry["data_offsets"]
    if code not in DTYPES:
        raise WeightsError(
            f"{path}: {key} has dtype {code}, which neoxlib does not read; "
            f"it reads {', '.join(DTYPES)}"
        )
    if stop - start != math.prod(shape) * DTYPES[code].itemsize:
        raise ValueError(
            f"{key} is {code} {list(shape)}, which does not fill its {stop - start} bytes"
        )
    return FileTensor(path, key, DTYPES[code], shape, base + start)


def read_pickle(path: Path) -> dict[str, FileTensor]:
    """Read names, shapes and offsets of a .bin's tensors, without their data."""
    return {
        key: FileTensor(path, key, tensor.dtype, tuple(tensor.shape), offset)
        for key, (tensor, offset) in read_shapes(path).items()
    }
