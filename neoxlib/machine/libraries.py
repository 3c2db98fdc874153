"""The shared libraries that Python loads for a model, beside those that are installed.

A library that is loaded from another place than expected, or twice, explains failures that nobody
else can repeat.
"""

import glob
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

# Libraries of which one copy should be loaded.
WATCHED = re.compile(
    r"lib(?:gomp|iomp5|omp|stdc\+\+|c10|torch_cpu|torch_npu|ascendcl|acl_op_compiler|hccl|hcomm|"
    r"runtime|ge_runner|opapi\w*|nnopbase|atb|ascend_hal|c_sec|mkl_rt)\b"
)
ASK = """
import os
try:
    import torch
    print("imported torch", torch.__version__)
    import torch_npu
    print("imported torch_npu", torch_npu.__version__)
except BaseException as error:
    print("stopped at:", type(error).__name__, error)
print(open("/proc/self/maps").read())
"""
SECONDS = 120


@dataclass(frozen=True)
class Library:
    """The places that one library is loaded from and installed at."""

    name: str
    loaded: tuple[str, ...]
    installed: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """What is unusual, or "" ."""
        if len(self.loaded) > 1:
            return "LOADED TWICE"
        if not self.loaded:
            return "not loaded"
        others = [path for path in self.installed if path not in self.loaded]
        return f"{len(others)} other(s) installed" if others else "ok"


def loaded_here() -> tuple[list[str], list[str]]:
    """Import torch and torch_npu in a child process: what it says, and the libraries it loaded."""
    command = [sys.executable, "-P", "-c", ASK]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"stopped at: {error}"], []
    lines = done.stdout.splitlines()
    said = [line for line in lines if line.startswith(("imported ", "stopped at: "))]
    if done.returncode:
        said.append(f"ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return said, paths_of(lines)


def paths_of(maps: Iterable[str]) -> list[str]:
    """Return the libraries in the lines of /proc/PID/maps, each once, in order."""
    found = re.findall(r"^[0-9a-f]+-[0-9a-f]+ .* (/\S.*\.so[\w.]*)$", "\n".join(maps), re.M)
    return list(dict.fromkeys(found))


def installed_here(env: Mapping[str, str] = os.environ) -> list[str]:
    """List the libraries of LD_LIBRARY_PATH, CANN's and ATB's homes, packages and the system."""
    site = sysconfig.get_path("purelib")
    homes = [env.get(name, "") for name in ("ASCEND_HOME_PATH", "ATB_HOME_PATH")]
    folders = [
        *env.get("LD_LIBRARY_PATH", "").split(":"),
        *(f"{home}/lib64" for home in homes if home),
        *(f"{home}/lib" for home in homes if home),
        *glob.glob("/usr/local/Ascend/*/lib64"),
        *glob.glob(f"{site}/torch*/lib"),
        *glob.glob(f"{site}/*.libs"),
        *glob.glob("/usr/lib/*-linux-gnu"),
        "/usr/lib64",
    ]
    found = [path for one in folders if one for path in sorted(glob.glob(f"{glob.escape(one)}/*"))]
    return list(dict.fromkeys(path for path in found if _watched(path)))


def compare(loaded: Iterable[str], installed: Iterable[str]) -> list[Library]:
    """Return a row per watched library, by name, with real paths."""
    places: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for kind, paths in enumerate((loaded, installed)):
        for path in filter(_watched, paths):
            real = os.path.realpath(path)
            places.setdefault(_name(path), ({}, {}))[kind][real] = None
    return [Library(name, tuple(a), tuple(b)) for name, (a, b) in sorted(places.items())]


def text() -> str:
    """Return the comparison on this machine as text."""
    said, loaded = loaded_here()
    lines = [*said, ""]
    for one in compare(loaded, installed_here()):
        lines.append(f"{one.name}: {one.verdict}")
        lines += [f"  loaded    {path}" for path in one.loaded]
        lines += [f"  installed {path}" for path in one.installed if path not in one.loaded]
    return "\n".join([*lines, "", "all loaded:", *loaded])


def _watched(path: str) -> bool:
    name = Path(path).name
    return ".so" in name and bool(WATCHED.match(name))


def _name(path: str) -> str:
    """The library's name without version and hash: libgomp-abc123.so.1.0.0 is libgomp."""
    return re.sub(r"(?:-[0-9a-f]{6,})?\.so[\w.]*$", "", Path(path).name)
