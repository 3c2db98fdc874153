"""Write files so that a kill or a full disk never leaves half of one under its name.

A file is replaced as a whole, or grows by lines of which the last may be torn. And read files
whole, but nothing that has no end.
"""

import errno
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

READER_SECONDS = 5.0
# What is no regular file can be opened for reading as these.
KINDS: dict[Callable[[int], bool], str] = {
    stat.S_ISFIFO: "a FIFO",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISDIR: "a folder",
    bool: "of an unknown kind",
}


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


def read_whole(path: Path, most: int) -> bytes:
    """Return the content of a regular file of at most `most` bytes.

    Raises OSError for a larger one, and for a FIFO or a device, which may be without end or never
    answer.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            what = next(words for fits, words in KINDS.items() if fits(found.st_mode))
            raise OSError(errno.EINVAL, f"is {what}, not a file", str(path))
        if found.st_size > most:
            what = f"has {found.st_size:,} bytes, and at most {most:,} are read"
            raise OSError(errno.EFBIG, what, str(path))
        with open(handle, "rb", closefd=False) as file:
            return file.read(most)
    finally:
        os.close(handle)


def overwrite(path: Path, data: bytes) -> None:
    """Replace the content of a file that the user named, which may be a link or a device.

    A link keeps its place and the file its mode; what is no file, as /dev/stdout, is written to.
    """
    if path.exists() and not path.is_file():
        with os.fdopen(_open_for_writing(path), "wb") as file:
            file.write(data)
        return
    path = path.resolve()
    with replacing(path, f".{os.getpid()}.part") as aside:
        aside.write_bytes(data)
        if path.exists():
            shutil.copymode(path, aside)


def _open_for_writing(path: Path) -> int:
    """Open what may be a FIFO, whose reader is waited for, but not forever."""
    deadline = time.monotonic() + READER_SECONDS
    while True:
        try:
            handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.set_blocking(handle, True)
            return handle
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


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
