"""Tensors inside one weight file: where their bytes are, and reading a part of them. Knows no folders and no models.

Files are read: mapped pages count as resident memory, and the kernel may take them away at any time. What is mapped,
for a first answer at once, is copied soon after (settle.py).
"""

import gc
import json
import math
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

from neoxlib.device import fit_threads
from neoxlib.errors import WeightsError
from neoxlib.ops import packing

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}
BLOCK = 2 << 20  # bytes held at a time: a processor's cache takes it, so it is sliced and hashed while still warm
MAX_HEADER = 100_000_000  # the format's own limit
Answer = TypeVar("Answer")
_WHOLE = threading.Lock()


def at_once(tasks: Iterable[Callable[[], Answer]]) -> Iterator[Answer]:
    """The tasks' answers, in order. Threads share the tasks, one more than PyTorch has: it waits while they work.

    Where that needs PyTorch's operators, which have threads of their own, one task runs after the other.
    """
    fit_threads()
    if not packing.compiled():
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

    `offset` None: a .bin of before torch 1.6, or a tensor stored with strides; its file is then loaded as a whole.
    """

    path: Path
    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int | None

    def read_into(self, out: Tensor, rows: slice, columns: slice) -> None:
        """Fill `out` [rows, columns], of any dtype, device and strides, with that part of the piece."""
        height, width = matrix(self.shape)
        assert out.shape == (rows.stop - rows.start, columns.stop - columns.start), (out.shape, rows, columns)
        if self.offset is None:
            with _WHOLE:  # once for all threads
                out.copy_(load_whole(self.path)[self.key].reshape(height, width)[rows, columns])
        elif columns == slice(0, width) and out.dtype == self.dtype and out.is_cpu and out.is_contiguous():
            self._read_rows(out, rows.start)
        else:
            # Whole rows, since one long read beats many short ones; the unwanted columns go no further than `block`.
            step = max(1, BLOCK // max(1, width * self.dtype.itemsize))
            block = torch.empty(min(step, len(out)), width, dtype=self.dtype)
            for start in range(0, len(out), step):
                part = block[: len(out) - start]
                self._read_rows(part, rows.start + start)
                packing.copy(part[:, columns], out[start : start + len(part)])

    def mapped(self, rows: slice, columns: slice) -> Tensor | None:
        """That part as pages of the file [rows, width]; None where the file does not have it in one run."""
        _, width = matrix(self.shape)
        if self.offset is None or self.offset % self.dtype.itemsize or columns != slice(0, width):
            return None
        start, row = self.offset, width * self.dtype.itemsize
        return pages(self.path)[start + rows.start * row : start + rows.stop * row].view(self.dtype).view(-1, width)

    def _read_rows(self, out: Tensor, first: int) -> None:
        """Fill contiguous `out` [rows, width] with the bytes from row `first` on."""
        view, start = as_bytes(out), self.offset + first * out.shape[1] * out.itemsize
        with self.path.open("rb", buffering=0) as file:
            file.seek(start)
            while view:
                got = file.readinto(view)
                if not got:
                    raise WeightsError(f"{self.path} ended {len(view)} bytes early inside {self.key}; copy it anew")
                view = view[got:]


@lru_cache
def pages(path: Path) -> Tensor:
    """A file's bytes, mapped: read when they are used. What is written there stays in this process."""
    return torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)


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
            raise WeightsError(f"{path} is truncated or no safetensors file: {size} bytes hold no such header")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        metadata = dict(header.pop("__metadata__", {}))
        pieces = {key: _piece(path, key, entry, 8 + length) for key, entry in header.items()}
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise WeightsError(f"{path} has a corrupt safetensors header ({error!r}); copy it anew") from error
    end = 8 + length
    for piece in sorted(pieces.values(), key=lambda p: (p.offset, math.prod(p.shape))):
        if piece.offset != end:
            raise WeightsError(f"{path}: {piece.key} begins at byte {piece.offset}, expected {end}; copy it anew")
        end += math.prod(piece.shape) * piece.dtype.itemsize
    if end != size:
        kind = "truncated" if size < end else "too long"
        raise WeightsError(f"{path} is {kind}: it has {size} bytes, its header tells of {end}; copy it anew")
    return pieces, metadata


def _piece(path: Path, key: str, entry: Mapping[str, Any], base: int) -> Piece:
    code, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if code not in DTYPES:
        raise WeightsError(f"{path}: {key} has dtype {code}, which neoxlib does not read; it reads {', '.join(DTYPES)}")
    if not all(isinstance(n, int) and n >= 0 for n in (*shape, start, stop)):
        raise ValueError(f"{key} has shape {shape} at {start}:{stop}")
    if stop - start != math.prod(shape) * DTYPES[code].itemsize:
        raise ValueError(f"{key} is {code} {list(shape)}, which does not fill its {stop - start} bytes")
    return Piece(path, key, DTYPES[code], shape, base + start)


def read_pickle(path: Path) -> dict[str, Piece]:
    """Tensors of a .bin, by `weights_only=True` onto the meta device: names, shapes and offsets, no data.

    torch/serialization.py notes where each storage's bytes begin as `_checkpoint_offset` when nothing is read.
    """
    state = _safe_load(path, "meta")
    pieces, size = {}, path.stat().st_size
    for key, tensor in state.items():
        start = tensor.untyped_storage()._checkpoint_offset
        if start is not None and tensor.is_contiguous():
            start += tensor.storage_offset() * tensor.itemsize
            if start + tensor.nbytes > size:
                raise WeightsError(f"{path} is truncated inside {key}; copy it anew")
        else:
            start = None
        pieces[key] = Piece(path, key, tensor.dtype, tuple(tensor.shape), start)
    return pieces


def _safe_load(path: Path, device: str) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a corrupt pickle can raise anything
        raise WeightsError(
            f"{path} cannot be read with weights_only=True: it is truncated or corrupt, or asks to run code, which is "
            f"never done. Copy it anew, or save its tensors as safetensors. ({repr(error)[:200]})"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) and not t.is_sparse for t in state.values()):
        raise WeightsError(f"{path} is no plain table of name and tensor; save the model's state_dict() as safetensors")
    return state


@lru_cache(maxsize=1)  # one file at a time, for as long as its tensors are asked for
def load_whole(path: Path) -> dict[str, Tensor]:
    """All tensors of a .bin whose bytes cannot be picked out; memory then grows with that file."""
    return _safe_load(path, "cpu")
