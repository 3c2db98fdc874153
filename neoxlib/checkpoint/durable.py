"""Write a folder of weight files so that a kill, a full disk or a second writer never leaves something that looks done.

A file is written under a temporary name, synced and renamed; a journal keeps what is finished. No model is known here.
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

CODES = {dtype: code for code, dtype in DTYPES.items()}
Layout = Mapping[
    str, tuple[torch.dtype, tuple[int, ...]]
]  # name -> dtype and shape, in the order of the file


def nbytes(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor."""
    return math.prod(shape) * dtype.itemsize


def data_bytes(layout: Layout) -> int:
    """Bytes of all tensors of a file."""
    return sum(nbytes(*entry) for entry in layout.values())


def has_size(path: Path, entry: Entry) -> bool:
    """Is the file there, as long as it was when it was finished?"""
    return path.is_file() and path.stat().st_size == entry["bytes"]


def header_of(layout: Layout, metadata: Mapping[str, str]) -> bytes:
    """The head of a safetensors file, its length first; spaces make the data begin at a multiple of 8."""
    table: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    end = 0
    for name, (dtype, shape) in layout.items():
        start = end
        end = end + nbytes(dtype, shape)
        table[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    raw = json.dumps(table, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw


def write_bytes(path: Path, data: bytes) -> Entry:
    """A small file, whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def write_json(path: Path, value: Mapping[str, Any]) -> Entry:
    """A small JSON file, whole or not at all."""
    return write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def sync_folder(folder: Path) -> None:
    """Make the folder's names durable, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Journal:
    """The finished files of a folder, a line each, behind the request they belong to; it also locks the folder.

    Raises ShardError when another process holds it, or when it belongs to another request.
    """

    def __init__(self, path: Path, request: Mapping[str, Any]) -> None:
        self.path = path
        self.done = {}
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
        self.file.seek(0)
        lines = []
        end = 0
        for line in self.file:
            if not line.endswith(b"\n"):
                break  # a kill cut it short: its file is written again
            try:
                lines.append(json.loads(line))
            except ValueError as error:
                raise ShardError(
                    f"{self.path} is damaged ({error}); delete {self.path.parent} and cut anew"
                ) from error
            end += len(line)
        self.file.truncate(end)
        if not lines:
            self._append(request)
        elif changes := differences(lines[0], request):
            raise ShardError(f"{self.path.parent} holds another cut, unfinished: {changes}")
        self.done = {
            line["file"]: {"bytes": line["bytes"], "sha256": line["sha256"]} for line in lines[1:]
        }

    def record(self, file: str, entry: Entry) -> None:
        """Note a file as finished, for good."""
        self._append({"file": file, **entry})
        self.done[file] = entry

    def _append(self, line: Mapping[str, Any]) -> None:
        self.file.write((json.dumps(line) + "\n").encode())
        self.file.flush()
        os.fsync(self.file.fileno())

    def discard(self, written: Iterable[str]) -> None:
        """Forget all, and remove what was written: nothing of it is of use."""
        for file in written:
            (self.path.parent / file).unlink(missing_ok=True)
        self.file.truncate(0)
        self.done = {}

    def remove(self) -> None:
        """All is written: only now does the folder look finished."""
        self.path.unlink(missing_ok=True)
        self.file.close()

    def close(self) -> None:
        """Let go of the folder, to be resumed."""
        self.file.close()


def differences(there: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """What was asked for and is not there, in words and with what to do; empty if nothing."""
    words = [
        _difference(key, there.get(key), asked[key])
        for key in asked
        if there.get(key) != asked[key]
    ]
    return (
        "; ".join([*words, "ask for the same, choose another folder, or delete this one"])
        if words
        else ""
    )


def _difference(key: str, there: Any, asked: Any) -> str:
    if not isinstance(asked, Mapping):
        return f"{key} is {there!r}, asked for {asked!r}"
    return f"{key} have changed since, or are copies: {', '.join(changed(there or {}, asked))}"


def changed(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys of two tables whose values are not the same."""
    return sorted(
        key
        for key in {**there, **now}
        if key not in there or key not in now or there[key] != now[key]
    )


def check_space(folder: Path, needed: int) -> None:
    """Raises ShardError when the disk of `folder` (which may not exist yet) has fewer than `needed` bytes free."""
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
    """A full or failing disk as a ShardError that says how to go on."""
    try:
        yield
    except OSError as error:
        raise ShardError(
            f"writing {folder} stopped: {error}. What was finished is kept: repair the cause (free some space), then "
            "give the same command again to resume"
        ) from error
