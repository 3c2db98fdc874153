"""Tensors of a .bin as torch.save writes it: shapes and offsets without data, or the whole file."""

import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, _weights_only_unpickler, serialization

from neoxlib.checkpoint.foreign import file_kind
from neoxlib.errors import WeightsError


def read_shapes(path: Path) -> dict[str, tuple[Tensor, int | None]]:
    """Read each tensor as a meta tensor and the byte offset of its values.

    The offset is None where only torch can read the values. Loads with `weights_only=True`.
    torch/serialization.py notes each storage's offset in the file as `_checkpoint_offset` when it
    reads no data.
    """
    sizes: dict[int, int] = {}
    state = _checked(path, lambda: _shapes(path, sizes))
    return {key: (tensor, _offset(tensor, sizes)) for key, tensor in state.items()}


def _offset(tensor: Tensor, sizes: dict[int, int]) -> int | None:
    """Byte offset of a tensor's values in its file; None if they are not contiguous there."""
    storage = tensor.untyped_storage()
    start = tensor.storage_offset() * tensor.itemsize
    fits = start + tensor.nbytes <= storage.nbytes() == sizes.get(storage._checkpoint_offset)
    plain = tensor.is_contiguous() and not tensor.is_neg() and not tensor.is_conj()
    return storage._checkpoint_offset + start if fits and plain else None


def _shapes(path: Path, sizes: dict[int, int]) -> Any:
    """Load the object in a .bin with meta tensors.

    Adds to `sizes` the length in bytes of each record that can be read in place, by its offset.
    """
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        if start != b"PK\x03\x04":  # torch's own test for the older format
            return torch.load(path, map_location="meta", weights_only=True, mmap=False)
        return serialization._load(
            _Records(file, sizes), "meta", _weights_only_unpickler, encoding="utf-8"
        )


class _Records:
    """torch's zip reader, for a load without data, with the offsets that the archive states.

    torch computes offsets as its own writer lays records out, which is wrong for a file that was
    zipped again. This reader also claims the native byte order: torch would swap bytes that are
    not loaded here.
    """

    def __init__(self, file: BinaryIO, sizes: dict[int, int]) -> None:
        self.reader = torch._C.PyTorchFileReader(file)
        self.sizes = sizes
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
        offset = self.reader.get_record_offset(name)
        entry = self.plain.get(name)
        if entry and entry.header_offset == self.reader.get_record_header_offset(name):
            self.sizes[offset] = entry.file_size
        return offset


def _stored_records(file: BinaryIO) -> dict[str, zipfile.ZipInfo]:
    """The records of a zip that are not compressed, not encrypted and of unique name."""
    try:
        entries = zipfile.ZipFile(file).infolist()
    except zipfile.BadZipFile:  # torch may still read it
        return {}
    names = Counter(entry.filename for entry in entries)
    return {
        entry.filename.partition("/")[2]: entry
        for entry in entries
        if entry.compress_type == zipfile.ZIP_STORED
        and not entry.flag_bits & 1
        and names[entry.filename] == 1
    }


def _checked(path: Path, read: Callable[[], Any]) -> dict[str, Tensor]:
    """Return what `read` returns. Raise WeightsError unless it is a plain table of tensors."""
    try:
        state = read()
    except Exception as error:  # a corrupt pickle can raise anything
        if kind := file_kind(path):
            raise WeightsError(f"{path} cannot be read as what torch.save writes{kind}") from error
        raise WeightsError(
            f"{path} cannot be read with weights_only=True: it is truncated or corrupt, or asks "
            "to run code, which is never done. Copy it anew, or save its tensors as safetensors. "
            f"({repr(error)[:200]})"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and _is_dense(x) for k, x in state.items()
    ):
        raise WeightsError(
            f"{path} is no plain table of name and tensor; "
            "save the model's state_dict() as safetensors"
        )
    return state


def _is_dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested


@lru_cache(maxsize=1)  # keeps one file in memory while its tensors are read
def load_whole(path: Path) -> dict[str, Tensor]:
    """Load all tensors of a .bin whose bytes cannot be read singly; needs memory for all of it."""
    state = _checked(
        path, lambda: torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    )
    if empty := [key for key, tensor in state.items() if not tensor.is_cpu]:
        raise WeightsError(
            f"{path} has no numbers for {', '.join(empty)}: they were saved from the meta device"
        )
    # copy_ from float16 to float32 takes no notice of a negated view (torch 2.13)
    return {key: tensor.resolve_conj().resolve_neg() for key, tensor in state.items()}
