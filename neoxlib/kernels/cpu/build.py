"""Compile the C++ files of this folder for this CPU at first use, and cache them on disk.

The cache is the folder that NEOXLIB_CACHE names, by default ~/.cache/neoxlib; `sealed` says which
files and folders of it are used. Nothing requires compiled files: where nothing can be compiled
`compiled` returns None, one warning says what is slower, and callers use plain PyTorch or NumPy.
"""

import ctypes
import fcntl
import hashlib
import logging
import math
import os
import platform
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, NamedTuple

from neoxlib.errors import telling
from neoxlib.files import replacing
from neoxlib.kernels.cpu import sealed
from neoxlib.process import CACHE, cache_dir, need_home, private_folder

log = logging.getLogger("neoxlib")

SOURCES = Path(__file__).parent
TUNE = "-mcpu=native" if platform.machine() == "aarch64" else "-march=native"
FLAGS = ("-O3", TUNE, "-std=c++17", "-shared", "-fPIC", "-pthread")
EXTRA = {"pack": ("-ffp-contract=off",)}  # its bits are those of single operations
COMPILERS = ("g++", "clang++")
LIMIT_SECONDS = 300  # to compile one file or to wait for who does: a busy machine takes a minute
POLL_SECONDS = 0.02
MOST_SAID = 1 << 16  # characters of a compiler's messages that are read
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
        library, compiled = _library(name)
        return Built(library, "", time.perf_counter() - start if compiled else 0.0)
    except (OSError, subprocess.SubprocessError) as error:
        output = telling(getattr(error, "stderr", None) or "")
        reason = "; ".join([str(error), *output[:1]])
        log.warning(
            "%s.cpp could not be compiled or loaded, so %s: %s",
            name,
            LOST.get(name, "it is left out"),
            reason,
        )
        return Built(None, reason, 0.0)


def _library(name: str) -> tuple[ctypes.CDLL, bool]:
    """Return the library, and whether it had to be compiled or waited for.

    Of several processes one compiles, and the others wait.
    """
    need_home()
    source = SOURCES / f"{name}.cpp"
    command = [*_compiler(), *FLAGS, *EXTRA.get(name, ())]
    digest = _digest(source, command)
    path = cache_dir() / digest / f"{name}.so"
    if library := _stored(path):
        return library, False
    path = _writable(path.parent) / path.name
    if library := _stored(path):
        return library, False
    deadline = time.monotonic() + LIMIT_SECONDS
    with _locked(path.with_suffix(".lock"), deadline):
        if library := _stored(path):
            return library, True
        with replacing(path, f".{secrets.token_hex(8)}.tmp") as temporary:
            _run([*command, str(source), "-o", str(temporary)], deadline)
            sealed.seal(temporary, digest)
    if library := _stored(path):
        return library, True
    raise FileNotFoundError(f"{path} was compiled, and is gone or another")


def _stored(path: Path) -> ctypes.CDLL | None:
    """Load a library of the cache; None if there is none, or none that may be used."""
    try:
        return sealed.load(path, path.parent.name)
    except sealed.UnfitError as error:
        _tell_once(f"{path} {error}: it is not loaded, and is compiled anew")
        return None


def _compiler() -> list[str]:
    """The command in `CXX`, else the first installed of COMPILERS. Raises FileNotFoundError."""
    named = os.environ.get("CXX", "")
    try:
        command = shlex.split(named) or [next(filter(shutil.which, COMPILERS), "")]
    except ValueError as error:
        why = f"CXX is {named}, which is no command ({error}); close its quotes, or unset it"
        raise FileNotFoundError(why) from error
    if not shutil.which(command[0]):
        tried = command[0] or " or ".join(COMPILERS)
        raise FileNotFoundError(
            f"no {tried} on this machine; install one (apt install g++), or name yours in CXX"
        )
    return command


def _writable(folder: Path) -> Path:
    """Create and return the folder, or one of a private cache if it cannot be used."""
    try:
        return _made(folder)
    except OSError as error:
        private = private_folder() / ".cache" / "neoxlib"
        _tell_once(
            f"{folder.parent} {_reason(error)}; so compiled files go to {private}; "
            f"{CACHE} names another folder"
        )
        return _made(private / folder.name)


def _made(folder: Path) -> Path:
    """Make a folder of the cache; raise OSError if this user cannot write to it or others can."""
    folder.parent.parent.mkdir(parents=True, exist_ok=True)
    for each in (folder.parent, folder):
        each.mkdir(mode=0o755, exist_ok=True)
        sealed.check_folder(each)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise sealed.UnfitError("cannot be written to")
    return folder


def _reason(error: OSError) -> str:
    if isinstance(error, sealed.UnfitError):
        return str(error)
    return f"cannot be used ({error.strerror or error})"


@cache
def _tell_once(text: str) -> None:
    log.warning("%s", text)


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


def _run(command: list[str], deadline: float = math.inf) -> None:
    """Run the compiler, and end it with all that it started if it is not done by the deadline."""
    left = max(0.0, deadline - time.monotonic())
    # A file: a pipe would stay open for as long as anything that the compiler started.
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": said}
        process = subprocess.Popen(command, start_new_session=True, **pipes)
        try:
            code = process.wait(left if math.isfinite(left) else None)
        except subprocess.TimeoutExpired:
            raise TimeoutError(
                f"{command[0]} was not done after {LIMIT_SECONDS} s; name another compiler in CXX"
            ) from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if code:
            said.seek(0)
            raise subprocess.CalledProcessError(code, command, stderr=said.read(MOST_SAID))


@contextmanager
def _locked(path: Path, deadline: float) -> Iterator[None]:
    """Hold a lock against other processes; it ends with this process in any case."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "wb") as file:
        while not _taken(file):
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"another process has held {path} for {LIMIT_SECONDS} s; `fuser {path}` "
                    "names it: end it, or wait for it and load again"
                )
            time.sleep(POLL_SECONDS)
        yield


def _taken(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
