"""The C++ files beside this one, compiled for this machine's CPU at first use and kept on disk.

They are kept in the folder that NEOXLIB_CACHE names, by default ~/.cache/neoxlib.
Nothing needs them: without a compiler `library` is None, says once what is lost, and callers take the plain path.
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
    "allreduce": "the ranks meet over gloo, which is slower",
}


class Built(NamedTuple):
    """What became of one C++ file."""

    library: ctypes.CDLL | None
    why_not: str  # empty where there is a library
    seconds: float  # spent compiling; 0.0 when it was there already


def library(name: str) -> ctypes.CDLL | None:
    """The functions of `ops/<name>.cpp`, or None where they cannot be compiled: see `why_not`."""
    return _built(name).library


def why_not(name: str) -> str:
    """Why `library(name)` is None, and what to do; empty if it is not."""
    return _built(name).why_not


def seconds(*names: str) -> float:
    """Time this process spent on compiling these, or waited for another to do it: 0.0 when all were compiled before."""
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
    """The library's file, and whether it was not there at once. Of several processes one compiles; the others wait."""
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
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            _run([*command, str(source), "-o", str(temporary)])
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return path, True


def _compiler() -> list[str]:
    """The command that `CXX` names, else the first of COMPILERS that is installed. FileNotFoundError if none is."""
    command = shlex.split(os.environ.get("CXX", "")) or [next(filter(shutil.which, COMPILERS), "")]
    if not shutil.which(command[0]):
        tried = command[0] or " or ".join(COMPILERS)
        raise FileNotFoundError(
            f"no {tried} on this machine; install one (apt install g++), or name yours in CXX"
        )
    return command


def _writable(folder: Path, digest: str) -> Path:
    """The folder, made if need be; where it cannot be written to, a private one in its place."""
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
    words = "%s cannot be written to, so compiled files go to %s; %s names another folder"
    log.warning(words, folder, private, CACHE)


def _digest(source: Path, command: list[str]) -> str:
    """The name of the outcome's folder: it changes with the source, command, compiler and CPU."""
    cpu = re.search(r"^(flags|Features)\s*:.*$", Path("/proc/cpuinfo").read_text(), re.M)
    compiler = Path(shutil.which(command[0]) or command[0]).resolve()
    about = compiler.stat()  # to ask it for its version takes longer than all else here
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
    """Whether the library is there and whole; one that a full disk or a power cut damaged is made anew."""
    try:
        ctypes.CDLL(str(path))
    except OSError:
        return False
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes out; the lock ends with this process, however that ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
