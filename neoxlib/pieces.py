"""Tensors inside one weight file: where their bytes are, and reading a part of them. Knows no folders and no models.

Files are read: mapped pages count as resident memory, and the kernel may take them away at any time. What is mapped,
for a first answer at once, is copied soon after (settle.py).
"""

import gc
import json
import math
import mmap
import os
import sys
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
from torch import Tensor, _weights_only_unpickler, serialization

from neoxlib.device import fit_threads
from neoxlib.errors import WeightsError
from neoxlib.foreign import file_kind
from neoxlib.ops import packing

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    # No weight of ours has these, but a table that is skipped may, and a refusal names them.
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}  # as in safetensors/torch.py
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

    `offset` None: a .bin of before torch 1.6, zipped anew with compression or of another byte order, or a tensor stored
    with strides; its file is then loaded as a whole, by torch.
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
        first, last = start + rows.start * row, start + rows.stop * row
        return pages(self.path, state_of(self.path))[first:last].view(self.dtype).view(-1, width)

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


def state_of(path: Path) -> tuple[int, int, int, int]:
    """Bytes, inode, and the times (ns) of the last change of content and of anything: another file has another."""
    with path.open("rb") as file:  # to open it makes a network file system look anew
        stat = os.fstat(file.fileno())
    return stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns


@lru_cache
def pages(path: Path, state: tuple[int, int, int, int]) -> Tensor:
    """A file's bytes, mapped: read when they are used. What is written there stays in this process.

    `state` is that of the file now: what stood under this name before is another file.
    """
    with path.open("rb") as file:
        return torch.frombuffer(mmap.mmap(file.fileno(), state[0], access=mmap.ACCESS_COPY), dtype=torch.uint8)


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
            raise WeightsError(f"{path} is no safetensors file that can be read, of {size} bytes{what}")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        metadata = header.pop("__metadata__", None)
        metadata = {} if metadata is None else dict(metadata)
        pieces = {key: _piece(path, key, entry, 8 + length) for key, entry in header.items()}
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        what = file_kind(path) or f" ({error!r}); copy it anew"
        raise WeightsError(f"{path} has a corrupt safetensors header{what}") from error
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
    sizes: dict[int, int] = {}
    state = _checked(path, lambda: _shapes(path, sizes))
    return {key: Piece(path, key, x.dtype, tuple(x.shape), _offset(x, sizes)) for key, x in state.items()}


def _offset(tensor: Tensor, sizes: dict[int, int]) -> int | None:
    """Where a tensor's values lie one after the other in its file, as they are; None where they do not."""
    storage = tensor.untyped_storage()
    start = tensor.storage_offset() * tensor.itemsize
    fits = start + tensor.nbytes <= storage.nbytes() == sizes.get(storage._checkpoint_offset)
    plain = tensor.is_contiguous() and not tensor.is_neg() and not tensor.is_conj()
    return storage._checkpoint_offset + start if fits and plain else None


def _shapes(path: Path, sizes: dict[int, int]) -> Any:
    """What a .bin holds, without the numbers; `sizes` gets the bytes of each record that can be read where it is."""
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        if start != b"PK\x03\x04":  # as torch tells the two formats apart
            return torch.load(path, map_location="meta", weights_only=True, mmap=False)
        return serialization._load(_Records(file, sizes), "meta", _weights_only_unpickler, encoding="utf-8")


class _Records:
    """torch's reader of a zip, for a load without numbers: a record's bytes are where the archive says they are.

    torch computes it for files of its own version, as its writer lays them out: one that was zipped anew lies
    otherwise. And it swaps bytes of another order, of which there are none here.
    """

    def __init__(self, file: BinaryIO, sizes: dict[int, int]) -> None:
        self.reader, self.sizes = torch._C.PyTorchFileReader(file), sizes
        default = serialization.get_default_load_endianness()
        order = "big" if default == serialization.LoadEndianness.BIG else "little"
        if self.reader.has_record("byteorder"):
            order = self.reader.get_record("byteorder").decode()
        self.plain = _stored_records(file) if order == sys.byteorder else {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reader, name)

    def has_record(self, name: str) -> bool:
        return name == "byteorder" or (name != ".format_version" and self.reader.has_record(name))

    def get_record(self, name: str) -> bytes:
        return sys.byteorder.encode() if name == "byteorder" else self.reader.get_record(name)

    def get_record_offset(self, name: str) -> int:
        offset, entry = self.reader.get_record_offset(name), self.plain.get(name)
        if entry and entry.header_offset == self.reader.get_record_header_offset(name):
            self.sizes[offset] = entry.file_size
        return offset


def _stored_records(file: BinaryIO) -> dict[str, zipfile.ZipInfo]:
    """The records of a zip that are neither compressed nor encrypted nor there twice."""
    try:
        entries = zipfile.ZipFile(file).infolist()
    except zipfile.BadZipFile:  # torch may still read it
        return {}
    names = Counter(entry.filename for entry in entries)
    return {
        entry.filename.partition("/")[2]: entry for entry in entries
        if entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1 and names[entry.filename] == 1
    }  # fmt: skip


def _checked(path: Path, read: Callable[[], Any]) -> dict[str, Tensor]:
    """What `read` returns, if it is a plain table of tensors."""
    try:
        state = read()
    except Exception as error:  # a corrupt pickle can raise anything
        if kind := file_kind(path):
            raise WeightsError(f"{path} cannot be read as what torch.save writes{kind}") from error
        raise WeightsError(
            f"{path} cannot be read with weights_only=True: it is truncated or corrupt, or asks to run code, which is "
            f"never done. Copy it anew, or save its tensors as safetensors. ({repr(error)[:200]})"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and _is_dense(x) for k, x in state.items()):
        raise WeightsError(f"{path} is no plain table of name and tensor; save the model's state_dict() as safetensors")
    return state


def _is_dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested


@lru_cache(maxsize=1)  # one file at a time, for as long as its tensors are asked for
def load_whole(path: Path) -> dict[str, Tensor]:
    """All tensors of a .bin whose bytes cannot be picked out; memory then grows with that file."""
    state = _checked(path, lambda: torch.load(path, map_location="cpu", weights_only=True, mmap=False))
    if empty := [key for key, tensor in state.items() if not tensor.is_cpu]:
        raise WeightsError(f"{path} has no numbers for {', '.join(empty)}: they were saved from the meta device")
    return state
