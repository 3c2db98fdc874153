"""Stand-ins for CANN's libraries: enough for `import torch_npu` to link, and nothing that works.

Made from what the installed wheel's own libraries ask for: their names, compiled from one C file.
Each function counts its call and fails (an error code, NULL where a pointer is due), so that
nothing can take them for a device. With NEOXLIB_STANDIN_DEVICE=1 three of them tell of one device,
which torch asks for even where a tensor has no data; all that would allocate or run still fails.
They stay in the environment of `make verify-npu`, are never part of the package, and neither get
made nor loaded where a real CANN is: they would hide it.
"""

import ctypes
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.npu_wheel import wheel

FOLDER = Path(sys.prefix) / "cann-standins"
DEVICE = "NEOXLIB_STANDIN_DEVICE"
REAL = (
    "ASCEND_HOME_PATH",
    "/usr/local/Ascend",
)  # a variable of a sourced CANN, and where it is installed
ERROR = 507899  # of aclError's internal ones: any but 0 would do
REFUSED = 78  # exit code of a process that loads them beside a real CANN
HOME = "libascendcl.so"  # has all functions: a loader looks a name up in all libraries alike
# Asked by torch's device guard for tensors without data too: device count 1, current device 0, and
# setting it.
GUARD = {
    "aclrtGetDeviceCount": ("unsigned *count", "*count = 1;"),
    "aclrtGetDevice": ("int *device", "*device = 0;"),
    "aclrtSetDevice": ("int device", ""),
}
POINTER = (
    r"Create(TensorDesc|DataBuffer|Attr|Dataset|Channel)|ErrMsg|SocName"
    r"|^acltdtGet|^aclGetTensorDesc"
)


class Refused(RuntimeError):
    """A real CANN is here."""


def real_cann() -> str | None:
    """The sign of a real CANN on this machine; None where there is no sign."""
    variable, path = REAL
    if os.environ.get(variable):
        return f"{variable}={os.environ[variable]}"
    return path if os.path.exists(path) else None


def make(folder: Path = FOLDER) -> dict[str, list[str]]:
    """Compile the stand-ins into `folder`; what they are, as manifest.json says it too. Raises
    Refused.
    """
    if real := real_cann():
        raise Refused(
            f"a real CANN is here ({real}), which stand-ins would hide; run "
            "python -m neoxlib selftest-npu"
        )
    folder.mkdir(parents=True, exist_ok=True)
    libraries, functions = wanted()
    code = folder / "standins.c"
    nothing = folder / "nothing.c"
    code.write_text(source(functions))
    nothing.write_text("")
    for name in sorted(
        libraries, key=lambda name: name != HOME
    ):  # HOME first: the others link to it
        link = (
            [str(code)]
            if name == HOME
            else [str(nothing), "-Wl,--no-as-needed", f"-L{folder}", f"-l:{HOME}"]
        )
        _run(
            "gcc",
            "-shared",
            "-fPIC",
            "-O1",
            "-w",
            f"-Wl,-soname,{name}",
            "-o",
            str(folder / name),
            *link,
        )
    manifest = {"libraries": libraries, "functions": functions}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    return manifest


def environment(device: bool = False) -> dict[str, str]:
    """The variables of a process that loads torch_npu on stand-ins; `device`: they tell of one, for
    fake tensors.
    """
    found = {
        name: value for name, value in os.environ.items() if name != "TORCH_DEVICE_BACKEND_AUTOLOAD"
    }
    path = os.pathsep.join(filter(None, (str(FOLDER), os.environ.get("LD_LIBRARY_PATH"))))
    return found | {"LD_LIBRARY_PATH": path} | ({DEVICE: "1"} if device else {})


def wanted() -> tuple[list[str], list[str]]:
    """Libraries that the wheel needs and this machine lacks, and the functions that they would have
    to bring.
    """
    npu = wheel.folder()
    torch = wheel.folder("torch")
    own = [path for path in npu.rglob("*.so*") if path.is_file() and not path.is_symlink()]
    torchs = [*(torch / "lib").glob("*.so*")]
    here = {path.name for path in (*own, *torchs)}
    needs = {name for path in own for name in _needed(path)}
    libraries = sorted(name for name in needs - here if not _loads(name))
    brought = set().union(*(_symbols(path, "--defined-only") for path in (*own, *torchs)))
    asked = set().union(*(_symbols(path, "--undefined-only") for path in own))
    process = ctypes.CDLL(
        None
    )  # the C library's names and the interpreter's own, some asked for without a version
    functions = sorted(
        name for name in asked - brought if "@" not in name and not hasattr(process, name)
    )
    assert not [name for name in functions if name.startswith("_ZT")], (
        "tables of C++ classes are no functions"
    )
    return libraries, functions


def source(functions: Iterable[str]) -> str:
    """The C file: a guard that ends a process which has a real CANN, and the functions."""
    variable, path = REAL
    lines = [
        "#include <stdio.h>",
        "#include <stdlib.h>",
        "#include <unistd.h>",
        "static volatile long calls;",
        "long standin_calls(void) { return calls; }",
        "__attribute__((constructor)) static void guard(void) {",
        f'  if (!getenv("{variable}") && access("{path}", F_OK)) return;',
        '  fputs("CANN stand-ins refuse to load: a real CANN is here\\n", stderr);',
        f"  _exit({REFUSED});",
        "}",
    ]
    for name in functions:
        arguments, answer = GUARD.get(name, ("void", ""))
        told = f'if (getenv("{DEVICE}")) {{ {answer} return 0; }} ' if name in GUARD else ""
        alias = f"f{len(lines)}"
        lines.append(f'long {alias}({arguments}) __asm__("{name}");')
        lines.append(f"long {alias}({arguments}) {{ {told}calls++; return {_failure(name)}; }}")
    return "\n".join(lines) + "\n"


def _failure(name: str) -> int:
    """Status functions of the C interfaces fail with a code, all others give NULL."""
    status = re.match(r"(acl|hccl|Hccl|rt[A-Z])", name) and not re.search(POINTER, name)
    return ERROR if status else 0


def _needed(path: Path) -> list[str]:
    return re.findall(r"\(NEEDED\).*\[(.+?)\]", _run("readelf", "-dW", str(path)))


def _symbols(path: Path, which: str) -> set[str]:
    """Strong dynamic symbols: those asked for with the version at their name, those brought
    without.
    """
    rows = [line.split() for line in _run("nm", "-D", which, str(path)).splitlines()]
    if which == "--undefined-only":
        return {row[-1] for row in rows if row[-2] == "U"}
    return {row[-1].partition("@")[0] for row in rows if row}


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
