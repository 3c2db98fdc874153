"""What a host says of itself. This text is sent to its Python, which may be of any version from 3.8
on, and need not have neoxlib: it imports nothing but the standard library, and changes nothing.

Requests and answers are lines of JSON. It ends with its standard input.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
import platform
import shutil
import socket
import struct
import sys
import time
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from importlib.util import find_spec
from typing import Any

ADDRESS = 0x8915  # SIOCGIFADDR
MASK = 0x891B  # SIOCGIFNETMASK
SMALL = 1 << 20  # files up to this size are always hashed
SOURCES = (".py", ".cpp", ".h")
MARKS = ("config.json", "manifest.json")  # one of them is in a model folder
SECONDS = 3.0  # for a connection to another host
TRIES = 3
listeners: list[socket.socket] = []


def facts(packages: list[str]) -> dict[str, Any]:
    """Name, Python, packages, interfaces, processors and ports of this host."""
    here = os.environ.get("SSH_CONNECTION", "").split()
    return {
        "name": socket.gethostname(),
        "user": os.environ.get("USER", ""),
        "python": platform.python_version(),
        "executable": sys.executable,
        "packages": {name: version(name) for name in packages},
        "source": source(),
        "interfaces": interfaces(),
        "reached_from": here[0] if here else "",
        "reached_at": here[2] if here else "",
        "npus": len(glob.glob("/dev/davinci[0-9]*")),
        "cores": len(os.sched_getaffinity(0)),
        "listening": listening(),
    }


def version(name: str) -> str | None:
    """Version of an installed package, or None."""
    try:
        return version_of(name)
    except PackageNotFoundError:
        return None


def source() -> str | None:
    """Digest of neoxlib's own source, or None where there is none: an edit shows in it."""
    spec = find_spec("neoxlib")
    if spec is None or not spec.origin:
        return None
    top = os.path.dirname(spec.origin)
    paths = (os.path.join(at, name) for at, _, names in os.walk(top) for name in names)
    digest = hashlib.sha256()
    for path in sorted(path for path in paths if path.endswith(SOURCES)):
        with open(path, "rb") as file:
            digest.update(os.path.relpath(path, top).encode() + b"\0" + file.read() + b"\0")
    return digest.hexdigest()


def interfaces() -> list[list[Any]]:
    """Name, IPv4 address and length of the network's prefix of each interface that has one."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            asked = struct.pack("256s", name.encode()[:15])
            try:
                address, mask = (
                    fcntl.ioctl(probe.fileno(), what, asked)[20:24] for what in (ADDRESS, MASK)
                )
            except OSError:  # no address
                continue
            ones = bin(struct.unpack("!I", mask)[0]).count("1")
            found.append([name, socket.inet_ntoa(address), ones])
    return found


def listening() -> list[int]:
    """Ports that something listens on, at any address."""
    found = set()
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(path) as file:
                rows = [line.split() for line in file][1:]
        except OSError:
            continue
        found |= {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}
    return sorted(found)


def model(path: str, everything: bool) -> dict[str, Any]:
    """Size of each file of a model folder, and sha256 of the small ones or of `everything`."""
    path = os.path.abspath(path)
    if not any(os.path.isfile(os.path.join(path, name)) for name in MARKS):
        return {"there": False, "path": path}
    names = sorted(
        os.path.relpath(os.path.join(at, name), path)
        for at, _, names in os.walk(path)
        for name in names
        if not name.startswith(".")
    )
    files = {name: described(os.path.join(path, name), everything) for name in names}
    free = shutil.disk_usage(path).free
    return {"there": True, "path": path, "files": files, "kind": kind_of_disk(path), "free": free}


def described(path: str, everything: bool) -> list[Any] | None:
    """Size and, if it is asked for, sha256 of a file; None for a link to nothing."""
    try:
        size = os.path.getsize(path)
        if size > SMALL and not everything:
            return [size, ""]
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            for piece in iter(lambda: file.read(1 << 20), b""):
                digest.update(piece)
        return [size, digest.hexdigest()]
    except OSError:
        return None


def kind_of_disk(path: str) -> str:
    """Kind of the file system of a path: ext4, nfs4 and so on; "" if it is not known."""
    best = ("", "")
    try:
        with open("/proc/mounts") as file:
            rows = [line.split() for line in file]
    except OSError:
        return ""
    for row in rows:
        point = row[1].rstrip("/")
        if (path + "/").startswith(point + "/") and len(point) >= len(best[0]):
            best = (point, row[2])
    return best[1]


def clock() -> float:
    """Seconds of this host's clock."""
    return time.time()


def listen(address: str) -> int:
    """Take any connection to a free port of `address`; returns the port."""
    listeners.append(socket.create_server((address, 0)))
    return listeners[-1].getsockname()[1]


def connect(address: str, port: int) -> list[Any]:
    """Connect to another host; returns own address and the seconds that the fastest try took."""
    fastest = SECONDS
    for _ in range(TRIES):
        start = time.perf_counter()
        with socket.create_connection((address, port), timeout=SECONDS) as made:
            fastest = min(fastest, time.perf_counter() - start)
            own = made.getsockname()[0]
    return [own, fastest]


REQUESTS = {"facts": facts, "model": model, "clock": clock, "listen": listen, "connect": connect}


def serve() -> None:
    """Answer requests, [name, argument, ...], until there are no more."""
    for line in sys.stdin.buffer:
        name, *arguments = json.loads(line)
        try:
            answer = {"answer": REQUESTS[name](*arguments)}
        except (OSError, ValueError) as error:
            answer = {"error": str(error)}
        sys.stdout.write("\nneoxlib:" + json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
