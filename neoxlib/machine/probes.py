"""Small readings of this machine: files, commands, ports, installed packages."""

import glob
import importlib.metadata
import importlib.util
import os
import platform
import re
import socket
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from neoxlib.machine.versions import installed_version

GOMP_OF_THE_SYSTEM = ("/usr/lib/*-linux-gnu/libgomp.so.1", "/usr/lib64/libgomp.so.1")


def paths(*patterns: str) -> tuple[str, ...]:
    """List the paths that match the patterns, in the patterns' order."""
    return tuple(path for pattern in patterns for path in sorted(glob.glob(pattern)))


def text(path: str | Path) -> str | None:
    """Read a file, stripped; None if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def first_line(command: list[str], env: Mapping[str, str] | None = None) -> str | None:
    """Run a command and return its first line of output; None if it cannot be run."""
    env = os.environ | dict(env or {})
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (done.stdout.strip().splitlines() or [None])[0]


def can_bind(port: int) -> bool:
    """Return whether a server could listen on this port of 127.0.0.1; 0 is any free port."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


SOCKETS = ("/proc/net/tcp", "/proc/net/tcp6")
TIME_WAIT = "06"  # of a connection that has ended: its port can be bound


def ports_in_use(tables: Sequence[str] = SOCKETS) -> set[int]:
    """Return the TCP ports of this machine that listen or have a connection, on any address.

    Columns of the kernel's tables: docs.kernel.org/networking/proc_net_tcp.html.
    """
    lines = (line.split() for name in tables for line in (text(name) or "").splitlines()[1:])
    return {int(line[1].rpartition(":")[2], 16) for line in lines if line[3] != TIME_WAIT}


def os_name() -> str:
    """Return the name of the operating system and its version."""
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.platform()


def python_env() -> str | None:
    """Return "conda" or "venv"; None for the system's Python. The path would hold a user name."""
    if "CONDA_PREFIX" in os.environ or (Path(sys.prefix) / "conda-meta").is_dir():
        return "conda"
    return "venv" if sys.prefix != sys.base_prefix else None


def pins() -> dict[str, str]:
    """Read the exact versions of pyproject.toml, from the installed package or the checkout."""
    try:
        lines = importlib.metadata.requires("neoxlib") or []
    except importlib.metadata.PackageNotFoundError:
        project = text(Path(__file__).parents[2] / "pyproject.toml") or ""
        lines = tomllib.loads(project).get("project", {}).get("dependencies", [])
    return dict(line.split("==") for line in lines if re.fullmatch(r"[\w.-]+==[\w.]+", line))


def torch_version() -> str | None:
    """Return torch's version with its build, as 2.13.0+cu130; None if it is not installed.

    The metadata of PyPI's wheels has no build, only the file that torch itself reads. torch is not
    imported: that may fail.
    """
    found = importlib.util.find_spec("torch")
    places = (found.submodule_search_locations if found else None) or []
    said = text(Path(places[0]) / "version.py") if places else None
    build = re.search(r"^__version__ = '([\w.+]+)'$", said or "", re.M)
    return build[1] if build else installed_version("torch")


def cxx11_abi() -> bool | None:
    """Ask a child process which C++ ABI torch was built with, since its import may fail."""
    ask = "import torch; print(int(torch.compiled_with_cxx11_abi()))"
    answer = first_line([sys.executable, "-P", "-c", ask], {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"})
    return None if answer is None else answer == "1"


def libgomp() -> tuple[str, ...]:
    """List every libgomp of the packages and the system, torch's first.

    The first one that a process loads gets the room for static TLS.
    """
    site = sysconfig.get_path("purelib")
    bundled = (
        f"{site}/torch/lib/libgomp*.so*",
        f"{site}/torch*.libs/libgomp*.so*",
        f"{site}/*.libs/libgomp*.so*",
    )
    return tuple(dict.fromkeys(paths(*bundled, *GOMP_OF_THE_SYSTEM)))
