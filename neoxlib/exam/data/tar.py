"""Read a zip or tar archive in place, so that nothing is unpacked; a tar as a zip in memory."""

import io
import posixpath
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from neoxlib.errors import DataError
from neoxlib.exam.data.records import DAMAGE, reason

KINDS = (".csv", ".jsonl", ".json", ".parquet")
LEFT_OUT = "auxiliary_train"  # most of MMLU's archive, but not part of the exam
MOST_MEMBERS = 10_000  # files and folders of an archive; a real exam has a few hundred
MOST_PARTS = 20  # of a name: zipfile.Path makes every folder that a name implies


class InZip(zipfile.Path):
    """A path in an archive whose names are looked through once, and not for every folder."""

    def iterdir(self) -> Iterator["InZip"]:
        """The entries of a folder."""
        if not hasattr(self.root, "inside"):
            self.root.inside = defaultdict(list)
            for name in self.root.namelist():
                self.root.inside[posixpath.dirname(name.rstrip("/"))].append(name)
        return (type(self)(self.root, name) for name in self.root.inside[self.at.rstrip("/")])


def check_names(archive: zipfile.ZipFile, path: Path, largest: int) -> None:
    """Raise DataError for more members, deeper ones, or more bytes than an exam has."""
    left = largest
    members = archive.infolist()
    _check_count(len(members), path)
    for info in members:
        name = PurePosixPath(info.filename)
        _check_depth(name, path)
        if name.suffix in KINDS and LEFT_OUT not in name.parts:
            left -= info.file_size
            _check_left(left, path, info.filename, largest)


def _check_count(members: int, path: Path) -> None:
    if members > MOST_MEMBERS:
        raise DataError(
            f"{path} has more than {MOST_MEMBERS:,} files and folders; "
            "expected the archive of an exam alone"
        )


def _check_depth(name: PurePosixPath, path: Path) -> None:
    if len(name.parts) > MOST_PARTS:
        raise DataError(f"{path} has folders in folders, more than {MOST_PARTS}: {str(name)[:200]}")


def _check_left(left: int, path: Path, name: str, largest: int) -> None:
    if left < 0:
        raise DataError(f"{path} has files of more than {largest >> 20} MB: {name[:200]}")


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
    return DataError(f"{path} is damaged or incomplete: {reason(error)}; fetch it again")


def _plain_files(tar: tarfile.TarFile, path: Path, largest: int) -> Iterator[tuple[str, bytes]]:
    links = []
    left = largest
    for count, member in enumerate(tar, start=1):
        _check_count(count, path)
        name = PurePosixPath(member.name)
        _check_depth(name, path)
        if name.suffix not in KINDS or name.is_absolute() or {"..", LEFT_OUT} & set(name.parts):
            continue
        if member.isdir():
            continue
        if not member.isreg():
            links.append(member.name)
            continue
        left -= member.size
        _check_left(left, path, member.name, largest)
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
