"""A tar archive's questions as the inside of a zip archive in memory: nothing is unpacked."""

import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from neoxlib.errors import DataError
from neoxlib.exam.data.records import DAMAGE

KINDS = (".csv", ".jsonl", ".json", ".parquet")
LEFT_OUT = "auxiliary_train"  # most of MMLU's archive, and no part of the exam


def is_tar(path: Path) -> bool:
    """Whether a file is a tar archive, compressed or not; a damaged one is one, too."""
    try:
        with path.open("rb") as file:
            return file.read(262)[257:] == b"ustar" or tarfile.is_tarfile(path)
    except DAMAGE:
        return True  # it begins as a compressed one; reading it says what is wrong


def tar_as_zip(path: Path, largest: int) -> zipfile.ZipFile:
    """The plain files of a tar that may hold questions, of which there may be `largest` bytes.

    A name that is absolute or has `..` leads nowhere and is left out. Raises DataError where a link
    or device stands in a question file's place, for too many bytes, and for a damaged archive.
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
    inside.filename = str(path)  # what messages call it
    return inside


def damaged(path: Path, error: Exception) -> DataError:
    """What is said of an archive that cannot be read to its end."""
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
    """tarfile takes a header that is no header for the end; a whole archive ends with zeros."""
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("its end is missing")
    while tar.fileobj.read(
        io.DEFAULT_BUFFER_SIZE
    ):  # a compressed one has its checksum at the very end
        pass
