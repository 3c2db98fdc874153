"""Write files so that a kill or a full disk never leaves half of one under its name.

A file is replaced as a whole, or grows by lines of which the last may be torn.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def replacing(path: Path, ending: str) -> Iterator[Path]:
    """Yield `path` with `ending` appended: the file written there becomes `path`, durably.

    A reader of `path` sees the old content or the new, never a part. After an exception `path` is
    as it was, and the other file is removed. Two writers need different endings.
    """
    aside = path.with_name(path.name + ending)
    try:
        yield aside
        with aside.open("rb") as file:
            put(file, path)
    finally:
        aside.unlink(missing_ok=True)


def put(file: IO[Any], path: Path) -> None:
    """Make the content of an open file durable, close it and rename it to `path`."""
    _sync(file)
    file.close()
    os.replace(file.name, path)


def replace(path: Path, data: bytes, ending: str) -> None:
    """Replace the content of `path`; see `replacing`."""
    with replacing(path, ending) as aside:
        aside.write_bytes(data)


def overwrite(path: Path, data: bytes) -> None:
    """Replace the content of a file that the user named, which may be a link or a device.

    A link keeps its place and the file its mode; what is no file, as /dev/stdout, is written to.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    path = path.resolve()
    with replacing(path, f".{os.getpid()}.part") as aside:
        aside.write_bytes(data)
        if path.exists():
            shutil.copymode(path, aside)


def append(file: IO[bytes], data: bytes) -> None:
    """Append to an open file; when this returns the data are on the disk."""
    file.write(data)
    _sync(file)


def whole_lines(data: bytes) -> list[bytes]:
    """The lines without their line breaks; a last one without a line break was torn: left out."""
    *lines, _ = data.split(b"\n")
    return lines


def _sync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())
