"""Write a folder of weight files so that nothing unfinished ever looks finished.

That holds after a kill, with a full disk and with a second writer. A file is written under a
temporary name, synced and renamed; a journal lists the finished files. Knows no models.
"""

import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from neoxlib.checkpoint.tensor_file import DTYPES
from neoxlib.checkpoint.tensor_writer import Entry
from neoxlib.errors import ShardError
from neoxlib.files import append, replace, whole_lines
from neoxlib.forms import OBJECT, SIZE, TEXT, parse, problems

CODES = {dtype: code for code, dtype in DTYPES.items()}
# Of one file: tensor name -> dtype and shape, in the file's order.
Layout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
DONE = {"file": TEXT, "bytes": SIZE, "sha256": TEXT}  # a line of a journal, after the first


def nbytes(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor."""
    return math.prod(shape) * dtype.itemsize


def data_bytes(layout: Layout) -> int:
    """Bytes of all tensors of a file."""
    return sum(nbytes(*entry) for entry in layout.values())


def has_size(path: Path, entry: Entry) -> bool:
    """Whether the file exists with the size that it had when it was finished."""
    return path.is_file() and path.stat().st_size == entry["bytes"]


def header_of(layout: Layout, metadata: Mapping[str, str]) -> bytes:
    """The header of a safetensors file, its length first.

    Padded with spaces so that the data begins at a multiple of 8 bytes.
    """
    table: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    end = 0
    for name, (dtype, shape) in layout.items():
        start = end
        end += nbytes(dtype, shape)
        table[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    raw = json.dumps(table, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw


def write_bytes(path: Path, data: bytes) -> Entry:
    """Write a small file atomically."""
    replace(path, data, ".tmp")
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def write_json(path: Path, value: Mapping[str, Any]) -> Entry:
    """Write a small JSON file atomically."""
    return write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def sync_folder(folder: Path) -> None:
    """Sync the folder itself, which makes the names in it durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class CutJournal:
    """The finished files of a folder, one line each, after a line with the request.

    Also locks the folder. Raises ShardError if another process holds the lock, if the journal is
    damaged, or if it belongs to another request.
    """

    def __init__(self, path: Path, request: Mapping[str, Any]) -> None:
        self.path = path
        self.done: dict[str, Entry] = {}
        self.file = path.open("a+b")
        try:
            self._lock()
            self._read(dict(request))
        except BaseException:
            self.file.close()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ShardError(
                f"another process is writing to {self.path.parent}; wait until it is done"
            ) from error
        if not os.fstat(self.file.fileno()).st_nlink:
            raise ShardError(
                f"another process has just finished writing to {self.path.parent}; look there first"
            )

    def _read(self, request: dict[str, Any]) -> None:
        lines = self._whole_lines()
        if not lines:
            self._append(request)
        elif changes := differences(lines[0], request):
            raise ShardError(f"{self.path.parent} holds another cut, unfinished: {changes}")
        self.done = {
            line["file"]: {"bytes": line["bytes"], "sha256": line["sha256"]} for line in lines[1:]
        }

    def _whole_lines(self) -> list[dict[str, Any]]:
        """The lines that were written in full; a rest, which a kill left, is cut off."""
        self.file.seek(0)
        lines = whole_lines(self.file.read())
        try:
            read = [parse(line, halves=True) for line in lines]
            forms = [OBJECT, *[DONE] * (len(read) - 1)]
            found = zip(read, forms, strict=False)
            if wrong := [words for each in found for words in problems(*each)]:
                raise ValueError("; ".join(wrong[:3]))
        except ValueError as error:
            raise ShardError(
                f"{self.path} is damaged ({error}); delete {self.path.parent} and cut anew"
            ) from error
        self.file.truncate(sum(len(line) + 1 for line in lines))
        return read

    def record(self, file: str, entry: Entry) -> None:
        """Record a file as finished, durably."""
        self._append({"file": file, **entry})
        self.done[file] = entry

    def _append(self, line: Mapping[str, Any]) -> None:
        append(self.file, (json.dumps(line) + "\n").encode())

    def discard(self, written: Iterable[str]) -> None:
        """Remove the files `written` and every line of the journal."""
        for file in written:
            (self.path.parent / file).unlink(missing_ok=True)
        self.file.truncate(0)
        self.done = {}

    def remove(self) -> None:
        """Remove the journal: the folder is finished."""
        self.path.unlink(missing_ok=True)
        self.file.close()

    def close(self) -> None:
        """Release the folder, which can be resumed later."""
        self.file.close()


def differences(there: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Describe each entry of `asked` that differs, and the cure; "" if none does."""
    words = [
        _difference(key, there.get(key), value)
        for key, value in asked.items()
        if there.get(key) != value
    ]
    if not words:
        return ""
    return "; ".join([*words, "ask for the same, choose another folder, or delete this one"])


def _difference(key: str, there: Any, asked: Any) -> str:
    if not isinstance(asked, Mapping):
        return f"{key} is {there!r}, asked for {asked!r}"
    found = changed(there if isinstance(there, Mapping) else {}, asked)
    return f"{key} have changed since, or are copies: {', '.join(found)}"


def changed(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys, sorted, that two tables do not both have with the same value."""
    both = there.keys() & now.keys()
    return sorted(key for key in {**there, **now} if key not in both or there[key] != now[key])


def check_space(folder: Path, needed: int) -> None:
    """Raise ShardError if the disk has fewer than `needed` bytes free.

    It is the disk of `folder`, which need not exist yet.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        needs = tqdm.format_sizeof(needed, "B")
        has = tqdm.format_sizeof(free, "B")
        raise ShardError(
            f"{folder} needs {needs}, the disk has {has} free; make room or choose another disk"
        )


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn the OSError of a full or failing disk into a ShardError that says how to resume."""
    try:
        yield
    except OSError as error:
        raise ShardError(
            f"writing {folder} stopped: {error}. What was finished is kept: repair the cause (free "
            "some space), then give the same command again to resume"
        ) from error
