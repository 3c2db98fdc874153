"""Notice that another program writes to weight files while they are read, or mapped."""

import os
from collections.abc import Iterable
from pathlib import Path

from neoxlib.errors import WeightsError

State = tuple[tuple[int, int], tuple[int, int]]  # (device, inode), (bytes, time of the last write)


class FileStates:
    """Files as they are now, to be compared with what they are later."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.before = {file: _state(file) for file in files}

    def changed(self) -> list[str]:
        """Return what happened to each file that was written to in place since."""
        found = []
        for file, before in self.before.items():
            now = _state(file)
            # Another file under this name leaves the one that is open or mapped as it was.
            if before and now and before[0] == now[0] and before[1] != now[1]:
                was, size = before[1][0], now[1][0]
                how = f"{file} had {was:,} bytes and has {size:,}"
                found.append(how if was != size else f"{file} was written to")
        return found

    def refuse_changed(self) -> None:
        """Raise WeightsError if a file was written to in place."""
        if found := self.changed():
            raise WeightsError(
                f"weights changed while a model used them: {'; '.join(found)}. Its answers would "
                "be wrong: restore the files, and load anew. To replace a model while it is in "
                "use, write another file and rename it"
            )


def _state(file: Path) -> State | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return (found.st_dev, found.st_ino), (found.st_size, found.st_mtime_ns)
