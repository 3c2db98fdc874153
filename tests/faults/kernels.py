"""Compiled kernels in the cache: damaged, planted, given away; compilers and locks that hang."""

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.support.sessions import gone

SOURCE = 'extern "C" int answer() { return 42; }\n'
# Loads the library of argv[1]'s source; argv[2] is the limit for compilers and locks.
LOAD = """
import sys
from pathlib import Path
from neoxlib.kernels.cpu import build
build.SOURCES, build.LIMIT_SECONDS = Path(sys.argv[1]), float(sys.argv[2])
built = build._built("thing")
print(built.library and built.library.answer(), built.seconds > 0)
"""
PLANTED = """
#include <cstdlib>
__attribute__((constructor)) static void ran() { system("touch %s"); }
extern "C" int answer() { return 43; }
"""
NOBODY = 65534
LIMIT = 2.0


class Row(NamedTuple):
    """A fault, and what injects it: it returns what was seen, and raises if it was not told."""

    name: str
    inject: Callable[[Path], str]


class Cache:
    """A cache of its own with one small library."""

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "thing.cpp").write_text(SOURCE)
        self.env = os.environ | {"NEOXLIB_CACHE": str(place / "cache"), "TMPDIR": str(place)}

    @property
    def library(self) -> Path:
        (path,) = (self.place / "cache").rglob("*.so")
        return path

    def load(self, **env: str) -> tuple[str, str]:
        """What a new process gets, and the last line that it says."""
        command = [sys.executable, "-c", LOAD, str(self.place), str(LIMIT if env else 60)]
        env = self.env | env
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
        assert not done.returncode, f"ended with {done.returncode}: {done.stderr}"
        said = done.stderr.strip().splitlines()
        assert len(said) <= 1, said
        return done.stdout.strip(), "".join(said)


def damaged(_: Path, changes: Callable[[bytes], list[bytes]]) -> str:
    with tempfile.TemporaryDirectory() as name:
        cache = Cache(Path(name))
        assert cache.load()[0] == "42 True"
        whole = cache.library.read_bytes()
        cases = changes(whole)
        for data in cases:
            cache.library.write_bytes(data)
            got, said = cache.load()
            assert got == "42 True" and "compiled anew" in said, (got, said)
            assert cache.library.read_bytes() == whole
    return f"{len(cases)} libraries, each compiled anew, one line; no process ended"


def cuts(data: bytes) -> list[bytes]:
    return [data[: len(data) * percent // 100] for percent in range(2, 91, 8)]


def zeroed(data: bytes) -> list[bytes]:
    starts = range(0, len(data) - 4096, 4096)
    return [data[:at] + bytes(4096) + data[at + 4096 :] for at in starts if any(data[at:][:4096])]


def flipped(data: bytes) -> list[bytes]:
    spots = range(8, len(data), len(data) // 8)
    return [data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :] for at in spots]


def planted(_: Path, how: str) -> str:
    """Another user's library, which would leave a mark, where ours is looked for."""
    if os.geteuid():
        return "not injected here: only root can be another user"
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        cache = Cache(place)
        assert cache.load()[0] == "42 True"
        mark, source = place / "ran", place / "planted.cpp"
        source.write_text(PLANTED % mark)
        command = ["g++", "-shared", "-fPIC", str(source), "-o", str(cache.library)]
        subprocess.run(command, check=True)
        top = place / "cache"
        if how == "his folder":
            for path in [top, *top.rglob("*")]:
                os.chown(path, NOBODY, NOBODY)
        elif how == "mode 777":
            top.chmod(0o777)
        else:
            top.rename(place / "real")
            top.symlink_to(place / "real")
        got, said = cache.load()
        assert got == "42 True" and not mark.exists(), (got, said)
        return f"not loaded; {said.replace(name, '…')[:160]}"


def hanging_compiler(_: Path) -> str:
    with tempfile.TemporaryDirectory() as name:
        compiler = Path(name, "compiler")
        compiler.write_text("#!/bin/sh\nsleep 600 & echo $! > $0.pid; wait\n")
        compiler.chmod(0o755)
        start = time.monotonic()
        got, said = Cache(Path(name)).load(CXX=str(compiler))
        took = time.monotonic() - start
        assert got == "None False" and "was not done after" in said, (got, said)
        assert gone([int(Path(f"{compiler}.pid").read_text())], 10), "what it started was left"
    return f"plain operators and one line after {took:.1f} s (limit {LIMIT:.0f} s)"


def held_lock(_: Path) -> str:
    with tempfile.TemporaryDirectory() as name:
        cache = Cache(Path(name))
        cache.load()
        library = cache.library
        library.unlink()
        with library.with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            start = time.monotonic()
            got, said = cache.load(X="1")
            took = time.monotonic() - start
    assert got == "None False" and "fuser" in said, (got, said)
    return f"plain operators and one line after {took:.1f} s (limit {LIMIT:.0f} s)"


def bad_compiler(_: Path, name: str) -> str:
    with tempfile.TemporaryDirectory() as place:
        got, said = Cache(Path(place)).load(CXX=name)
    assert got == "None False" and said, (got, said)
    return f"plain operators; {said[:160]}"


ROWS = (
    Row("a library cut to 2 to 90 %", partial(damaged, changes=cuts)),
    Row("a library with a zeroed block", partial(damaged, changes=zeroed)),
    Row("a library with a flipped bit", partial(damaged, changes=flipped)),
    *(
        Row(f"a library planted in the cache: {how}", partial(planted, how=how))
        for how in ("his folder", "mode 777", "a link")
    ),
    Row("a compiler that hangs", hanging_compiler),
    Row("a lock that is never given up", held_lock),
    *(
        Row(f"CXX={name}", partial(bad_compiler, name=name))
        for name in ('g++ "-O2', "no-such-compiler")
    ),
)
