"""Read a tar archive as a zip archive in memory, so that nothing is unpacked."""

import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from neoxlib.errors import DataError
from neoxlib.exam.data.records import DAMAGE

KINDS = (".csv", ".jsonl", ".json", ".parquet")
LEFT_OUT = "auxiliary_train"  # most of MMLU's archive, but not part of the exam


def is_tar(path: Path) -> bool:
    """Whether a file is a tar archive, compressed or not, damaged or not."""
    try:
        with path.open("rb") as file:
            return file.read(262)[257:] == b"ustar" or tarfile.is_tarfile(path)
    except DAMAGE:
        return True  # it begins like a compressed one; reading it says what is wrong


def tar_as_zip(path: Path, largest: int) -> zipfile.ZipFile:
    """The regular files of a tar that may hold questions, up to `largest` bytes in all.

    Names that are absolute or have `..` are left out. Raises DataError for a link or device named
    like a file of questions, for too many bytes, and for a damaged archive.
    """
    try:
        with tarfile.open(path, errors="replace") as tar:
            found = dict(_plain_files(tar, path, largest))
            _check_end(tar)
    except DAMAGE as error:
        raise damaged(path, error) from error
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, raw in found.items():
            archive.writestr(name, raw)
    inside = zipfile.ZipFile(memory)
    inside.filename = str(path)  # its name in messages
    return inside


def damaged(path: Path, error: Exception) -> DataError:
    """The error for an archive that cannot be read to its end."""
    return DataError(f"{path} is damaged or incomplete: {error}; fetch it again")


def _plain_files(tar: tarfile.TarFile, path: Path, largest: int) -> Iterator[tuple[str, bytes]]:
    links = []
    left = largest
    for member in tar:
        name = PurePosixPath(member.name)
        if name.suffix not in KINDS or name.is_absolute() or {"..", LEFT_OUT} & set(name.parts):
            continue
        if member.isdir():
            continue
        if not member.isreg():
            links.append(member.name)
            continue
        left -= member.size
        if left < 0:
            raise DataError(
                f"{path} has files of more than {largest >> 20} MB: {member.name[:200]}"
            )
        yield str(name), tar.extractfile(member).read()
    if links:
        raise DataError(
            f"{path} has links or devices where files of questions are expected, and "
            f"none is followed: {', '.join(links)[:200]}"
        )


def _check_end(tar: tarfile.TarFile) -> None:
    """Raise ReadError unless the archive ends with zeros, as a complete one does.

    tarfile takes any invalid header for the end.
    """
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("its end is missing")
    while tar.fileobj.read(io.DEFAULT_BUFFER_SIZE):  # up to a compressed file's checksum
        pass
