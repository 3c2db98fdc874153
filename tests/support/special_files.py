"""Things that have a name in a folder and are no files: reading them never ends or never begins."""

import socket
from os import mkfifo
from pathlib import Path

KINDS = ("FIFO", "socket", "device")


def special_file(path: Path, kind: str) -> Path:
    """Make one of KINDS at `path`; the device is a link to /dev/zero, which has no end."""
    if kind == "FIFO":
        mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    else:
        path.symlink_to("/dev/zero")
    return path
