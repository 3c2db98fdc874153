"""Compiled libraries on disk: written with a hash at their end, checked before they are loaded.

Loading a library runs what is in it. It must be a file, in a folder of the cache, that only this
user or root can write to, and its bytes must be those that were compiled: one that was cut would
end the process by SIGBUS. No check helps against this user's own programs or root.
"""

import ctypes
import errno
import hashlib
import os
import stat
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

MARK = b"\nneoxlib: SHA-256 of all before\n"
TAIL = len(MARK) + hashlib.sha256().digest_size
MOST_BYTES = 1 << 28
OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO is not waited for


class UnfitError(OSError):
    """A file or folder that is not used; the message says why, and goes on after its name."""


def seal(path: Path, key: str) -> None:
    """Append the hash of `key` and the content; only this user may write to the file then."""
    data = path.read_bytes()
    with path.open("ab") as file:
        file.write(MARK + _hash(key, data))
    path.chmod(0o755)


def load(path: Path, key: str) -> ctypes.CDLL | None:
    """Load the library that `seal` finished with the same key, from <cache>/<folder>/<file>.

    None if there is none, or if the folders are not fit: see `check_folder`. Raises UnfitError if
    the file is another or not this user's, and OSError if the system does not load it.
    """
    try:
        handle = _open(path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnfitError("is a link") from error
        return None
    try:
        _refuse_others(os.fstat(handle), stat.S_ISREG)
        _refuse_damage(handle, key)
        return _loaded(handle, path)
    except BaseException:
        os.close(handle)
        raise


def _loaded(handle: int, path: Path) -> ctypes.CDLL:
    """Load an open file: the one that was checked, whatever its path leads to by now.

    It must stay open, since the loader takes two libraries of one name for the same.
    """
    name = f"/proc/self/fd/{handle}"
    try:
        return ctypes.CDLL(name)
    except OSError as error:  # a file system without execution, for example
        raise OSError(str(error).replace(name, str(path))) from error


def check_folder(folder: Path) -> None:
    """Raise OSError if the folder is a link or is no folder, or if others could write to it."""
    with ExitStack() as held:
        _folder(folder, None, held)


def _open(path: Path) -> int:
    with ExitStack() as held:
        cache = _folder(path.parent.parent, None, held)
        folder = _folder(Path(path.parent.name), cache, held)
        return os.open(path.name, OPEN, dir_fd=folder)


def _folder(folder: Path, above: int | None, held: ExitStack) -> int:
    """Open and check a folder; `above` is the open one that holds it."""
    if stat.S_ISLNK(os.stat(folder, dir_fd=above, follow_symlinks=False).st_mode):
        raise UnfitError("is a link, which is not followed")
    handle = os.open(folder, OPEN | os.O_DIRECTORY, dir_fd=above)
    held.callback(os.close, handle)
    _refuse_others(os.fstat(handle), stat.S_ISDIR)
    return handle


def _refuse_others(found: os.stat_result, wanted: Callable[[int], bool]) -> None:
    if not wanted(found.st_mode):
        raise UnfitError("is not a regular file")
    if found.st_uid not in (os.geteuid(), 0):
        raise UnfitError(f"belongs to user {found.st_uid}, not to user {os.geteuid()}")
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o022:
        raise UnfitError(f"has mode {mode:o}: other users may write to it; chmod go-w closes it")


def _refuse_damage(handle: int, key: str) -> None:
    size = os.fstat(handle).st_size
    if not TAIL < size < MOST_BYTES:
        raise UnfitError(f"is damaged: it has {size:,} bytes")
    with open(handle, "rb", closefd=False) as file:
        data = file.read(size)
    if data[-TAIL:] != MARK + _hash(key, data[:-TAIL]):
        raise UnfitError("is damaged: its bytes are not those that were compiled")


def _hash(key: str, data: bytes) -> bytes:
    found = hashlib.sha256(key.encode())
    found.update(data)
    return found.digest()
