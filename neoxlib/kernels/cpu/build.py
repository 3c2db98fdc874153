"""Compile the C++ files of this folder for this CPU at first use, and cache them on disk.

The cache is the folder that NEOXLIB_CACHE names, by default ~/.cache/neoxlib. Nothing requires
compiled files: without a compiler `compiled` returns None, one warning says what is slower, and
callers use plain PyTorch or NumPy.
"""

import ctypes
import fcntl
import hashlib
import logging
import os
import platform
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from neoxlib.errors import telling
from neoxlib.files import replacing
from neoxlib.process import CACHE, cache_dir, need_home, private_folder

log = logging.getLogger("neoxlib")

SOURCES = Path(__file__).parent
TUNE = "-mcpu=native" if platform.machine() == "aarch64" else "-march=native"
FLAGS = ("-O3", TUNE, "-std=c++17", "-shared", "-fPIC", "-pthread")
EXTRA = {"pack": ("-ffp-contract=off",)}  # its bits are those of single operations
COMPILERS = ("g++", "clang++")
LOST = {
    "forward": "the model runs on PyTorch's own operators, which is slower",
    "pack": "weights are converted and packed by PyTorch, which is slower",
    "bandwidth": "the speed of memory is measured by NumPy, which reads it slower",
    "allreduce": "the ranks communicate over gloo, which is slower",
}


class Built(NamedTuple):
    """The outcome of compiling one C++ file."""

    library: ctypes.CDLL | None
    why_not: str  # empty if there is a library
    seconds: float  # spent compiling; 0.0 if it was in the cache


def compiled(name: str) -> ctypes.CDLL | None:
    """The functions of `<name>.cpp`, or None if it cannot be: see `compile_error`."""
    return _built(name).library


def compile_error(name: str) -> str:
    """Why `compiled(name)` is None, and what to do; empty if it is not None."""
    return _built(name).why_not


def seconds(*names: str) -> float:
    """Seconds that this process compiled these files, or waited for another process to do so."""
    return sum(_built(name).seconds for name in names)


@cache
def _built(name: str) -> Built:
    start = time.perf_counter()
    try:
        path, compiled = _compiled(name)
        return Built(ctypes.CDLL(str(path)), "", time.perf_counter() - start if compiled else 0.0)
    except (OSError, subprocess.SubprocessError) as error:
        output = telling(getattr(error, "stderr", None) or "")
        reason = "; ".join([str(error), *output[:1]])
        log.warning(
            "%s.cpp could not be compiled, so %s: %s",
            name,
            LOST.get(name, "it is left out"),
            reason,
        )
        return Built(None, reason, 0.0)


def _compiled(name: str) -> tuple[Path, bool]:
    """Return the library's file, and whether it had to be compiled or waited for.

    Of several processes one compiles, and the others wait.
    """
    need_home()
    source = SOURCES / f"{name}.cpp"
    command = [*_compiler(), *FLAGS, *EXTRA.get(name, ())]
    digest = _digest(source, command)
    path = cache_dir() / digest / f"{name}.so"
    if _loads(path):
        return path, False
    path = _writable(path.parent, digest) / path.name
    if _loads(path):
        return path, False
    with _locked(path.with_suffix(".lock")):
        if _loads(path):
            return path, True
        with replacing(path, f".{os.getpid()}.tmp") as temporary:
            _run([*command, str(source), "-o", str(temporary)])
    return path, True


def _compiler() -> list[str]:
    """The command in `CXX`, else the first installed of COMPILERS. Raises FileNotFoundError."""
    command = shlex.split(os.environ.get("CXX", "")) or [next(filter(shutil.which, COMPILERS), "")]
    if not shutil.which(command[0]):
        tried = command[0] or " or ".join(COMPILERS)
        raise FileNotFoundError(
            f"no {tried} on this machine; install one (apt install g++), or name yours in CXX"
        )
    return command


def _writable(folder: Path, digest: str) -> Path:
    """Create and return the folder, or a private one if it is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    except OSError:
        pass
    private = private_folder() / ".cache" / "neoxlib"
    _tell_once(str(folder.parent), str(private))
    (private / digest).mkdir(parents=True, exist_ok=True)
    return private / digest


@cache
def _tell_once(folder: str, private: str) -> None:
    text = "%s cannot be written to, so compiled files go to %s; %s names another folder"
    log.warning(text, folder, private, CACHE)


def _digest(source: Path, command: list[str]) -> str:
    """Cache key: a hash of the source, the headers, the command, the compiler and the CPU."""
    cpu = re.search(r"^(flags|Features)\s*:.*$", Path("/proc/cpuinfo").read_text(), re.M)
    compiler = Path(shutil.which(command[0]) or command[0]).resolve()
    about = compiler.stat()  # its --version would take longer than all else here
    texts = [
        file.read_text(encoding="utf-8") for file in (source, *sorted(source.parent.glob("*.h")))
    ]
    known = [
        *texts,
        *command,
        f"{compiler} {about.st_size} {about.st_mtime_ns}",
        cpu[0] if cpu else "",
    ]
    return hashlib.sha256("\0".join(known).encode()).hexdigest()[:32]


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def _loads(path: Path) -> bool:
    """Return whether the library exists and loads; a damaged file is compiled again."""
    try:
        ctypes.CDLL(str(path))
    except OSError:
        return False
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock against other processes; it ends with this process in any case."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
