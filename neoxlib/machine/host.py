"""What this machine is, read once into a plain value. Nothing here imports torch: it may be what is broken."""

import glob
import importlib.metadata
import importlib.util
import os
import platform
import re
import resource
import shutil
import socket
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neoxlib.errors import SettingsError
from neoxlib.machine import installed, limits, npu_smi
from neoxlib.machine.npu_smi import Card, Holder, Position, Smi
from neoxlib.machine.versions import PYTHON_NEEDS

VARIABLES = re.compile(
    r"ASCEND_\w+|ATB_\w+|HCCL_\w+|INF_NAN_\w+|PYTORCH_(NPU_)?ALLOC_CONF|TORCH_DEVICE_BACKEND_AUTOLOAD|TASK_QUEUE_ENABLE"
    r"|LCCL_\w+|BACKEND|LD_PRELOAD|MAX_SEQ_LEN"
)
TOOLKIT = (  # the newest layout first: a host with both has an old CANN in the old one
    "/usr/local/Ascend/cann/set_env.sh",
    "/usr/local/Ascend/cann-*/set_env.sh",
    "/usr/local/Ascend/ascend-toolkit/set_env.sh",
)
ATB = ("/usr/local/Ascend/nnal/atb/set_env.sh",)
HCCL_PORT = 16666  # where HCCL listens unless HCCL_IF_BASE_PORT says otherwise


@dataclass(frozen=True)
class Host:
    """A machine as the checks see it. Sizes in bytes; None is "not known" or "not there"; by default a plain CPU."""

    system: str = "Linux"
    os_name: str = "Linux"
    arch: str = "x86_64"
    glibc: str | None = "2.36"
    gcc: str | None = "12.2.0"
    python: str = "3.11.9"
    packages: dict[str, str | None] = field(
        default_factory=dict
    )  # distribution -> installed version
    pins: dict[str, str] = field(
        default_factory=dict
    )  # distribution -> the version neoxlib was tested with
    torch_npu: str | None = None  # version, "" where it can be found but does not say
    env: dict[str, str] = field(default_factory=dict)
    nodes: tuple[str, ...] = ()  # /dev/davinci0 ...
    smi: Smi | None = None  # None: there is no npu-smi
    positions: tuple[Position, ...] = ()  # the number that torch counts each chip by
    links: tuple[str, ...] = ()  # kinds of links between the cards: HCCS, PIX, PHB, SYS
    set_env: tuple[str, ...] = ()  # set_env.sh of CANN installations
    atb_set_env: tuple[str, ...] = ()
    driver: str | None = None
    driver_takes: str | None = None  # range of firmware, as the driver's record has it
    firmware: str | None = None
    cann: str | None = None  # version of the sourced one, else of the first that is installed
    cann_kernels: str | None = None
    cann_needs: tuple[
        str, ...
    ] = ()  # Python packages that CANN's tools need and that are not there
    cxx11_abi: bool | None = None  # of torch; asked where ATB is sourced
    python_env: str | None = None  # conda or venv; None: the system's Python
    libgomp: tuple[str, ...] = ()  # the one torch brings first
    cores: int = 8
    cores_limit: str | None = None  # what makes them fewer than the machine has
    governor: str | None = None
    memory: int = 64 * 2**30
    memory_free: int = 48 * 2**30
    memory_limit: str | None = None  # what makes it less than the machine has
    disk_free: int = 200 * 2**30
    shm_free: int | None = 32 * 2**30
    open_files: int = 65536
    container: str | None = None  # what kind
    loopback: bool = True
    hccl_port_free: bool = True

    @property
    def has_npu(self) -> bool:
        """Whether anything here speaks of an NPU: a device node, or the driver's own tool."""
        return bool(self.nodes) or self.smi is not None

    @property
    def cards(self) -> tuple[Card, ...]:
        """The chips that npu-smi lists."""
        return self.smi.cards if self.smi else ()

    @property
    def sourced(self) -> bool:
        """Whether CANN's set_env.sh was sourced before this process started."""
        return bool(self.env.get("ASCEND_HOME_PATH"))


def read_host(folder: str | os.PathLike[str] = ".") -> Host:
    """Look at this machine; `folder` is where results are written. Changes nothing and starts no device."""
    cores = limits.read_cores()
    memory = limits.memory()
    pins = _pins()
    return Host(
        system=platform.system(),
        os_name=_os_name(),
        arch=platform.machine(),
        glibc=platform.libc_ver()[1] or None,
        gcc=_first_line(["gcc", "-dumpfullversion"]),
        python=platform.python_version(),
        packages={name: _version(name) for name in pins},
        pins=pins,
        torch_npu=None
        if importlib.util.find_spec("torch_npu") is None
        else _version("torch-npu") or "",
        env={
            name: value for name, value in sorted(os.environ.items()) if VARIABLES.fullmatch(name)
        },
        cann_needs=tuple(name for name in PYTHON_NEEDS.split() if _version(name) is None),
        cxx11_abi=_cxx11_abi() if "ATB_HOME_PATH" in os.environ else None,
        python_env=_python_env(),
        libgomp=_libgomp(),
        cores=cores.count,
        cores_limit=cores.limit,
        governor=_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        memory=memory.total,
        memory_free=memory.free,
        memory_limit=memory.limit,
        disk_free=shutil.disk_usage(folder).free,
        shm_free=shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else None,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        container=container(),
        loopback=_can_bind(0),
        hccl_port_free=_can_bind(HCCL_PORT),
        **_ascend(),
    )


def _ascend() -> dict[str, Any]:
    """The fields that speak of cards, their driver and CANN."""
    answer = npu_smi.read()
    board = (
        npu_smi.parse_pairs(npu_smi.ask("-t", "board", "-i", str(answer.cards[0].npu)))
        if answer and answer.cards
        else {}
    )
    driver, takes = installed.driver()  # neither file need be there in a container
    set_env = _found(*TOOLKIT)
    homes = cann_homes(os.environ.get("ASCEND_HOME_PATH"), set_env)
    return {
        "nodes": _found("/dev/davinci[0-9]*"),
        "smi": answer,
        "positions": npu_smi.parse_map(npu_smi.ask("-m")) if answer else (),
        "links": _links() if answer and len(answer.cards) > 1 else (),
        "set_env": set_env,
        "atb_set_env": _found(*ATB),
        "driver": driver or board.get("Software Version"),
        "driver_takes": takes,
        "firmware": installed.firmware() or board.get("Firmware Version"),
        "cann": next(
            (version for home in homes if (version := installed.cann_version(home))), None
        ),
        "cann_kernels": next(
            (version for home in homes if (version := installed.kernels_version(home))), None
        ),
    }


def restore(said: Mapping[str, Any]) -> Host:
    """The host that `doctor --json` described, so that another machine can be judged from its description.

    Raises SettingsError for what is no such description.
    """
    try:
        values = {
            name: tuple(value) if isinstance(value, list) else value for name, value in said.items()
        }
        if answer := values.get("smi"):
            lists = {"cards": Card, "holders": Holder}
            parts = {
                name: tuple(kind(**one) for one in answer.get(name, ()))
                for name, kind in lists.items()
            }
            values["smi"] = Smi(**answer | parts)
        values["positions"] = tuple(Position(**one) for one in values.get("positions", ()))
        return Host(**values)
    except (AttributeError, TypeError) as error:
        raise SettingsError(f"not a host as `doctor --json` describes it: {error}") from error


def cann_homes(sourced: str | None, set_env: Sequence[str]) -> list[str]:
    """Folders whose records tell CANN's version: the sourced one alone, else those beside the installed scripts."""
    folders = [os.path.dirname(path) for path in set_env]
    return (
        [sourced]
        if sourced
        else [home for folder in folders for home in (f"{folder}/latest", folder)]
    )


def _links() -> tuple[str, ...]:
    rows = npu_smi.parse_topology(npu_smi.ask("-t", "topo")).links.values()
    links = {link for row in rows for link in row.values()}
    return tuple(sorted(links - {"X", "NA"}))  # a card itself, and what is not known


def _cxx11_abi() -> bool | None:
    """Which C++ ABI torch was built with; a throw-away process asks, since its import may fail."""
    ask = "import torch; print(int(torch.compiled_with_cxx11_abi()))"
    answer = _first_line([sys.executable, "-P", "-c", ask], {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"})
    return None if answer is None else answer == "1"


def _python_env() -> str | None:
    """conda or venv; not its path, which holds a person's name."""
    if "CONDA_PREFIX" in os.environ or (Path(sys.prefix) / "conda-meta").is_dir():
        return "conda"
    return "venv" if sys.prefix != sys.base_prefix else None


def _pins() -> dict[str, str]:
    """The exact versions of pyproject.toml, from the installed package or from the checkout."""
    try:
        lines = importlib.metadata.requires("neoxlib") or []
    except importlib.metadata.PackageNotFoundError:
        text = _text(Path(__file__).parents[2] / "pyproject.toml") or ""
        lines = tomllib.loads(text).get("project", {}).get("dependencies", [])
    return dict(line.split("==") for line in lines if re.fullmatch(r"[\w.-]+==[\w.]+", line))


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.platform()


def _libgomp() -> tuple[str, ...]:
    """Every libgomp that a package brings or the system has; static TLS room goes to the first one that is loaded."""
    site = sysconfig.get_path("purelib")
    bundled = (
        f"{site}/torch/lib/libgomp*.so*",
        f"{site}/torch*.libs/libgomp*.so*",
        f"{site}/*.libs/libgomp*.so*",
    )
    return tuple(
        dict.fromkeys(
            _found(*bundled, "/usr/lib/*-linux-gnu/libgomp.so.1", "/usr/lib64/libgomp.so.1")
        )
    )


def container() -> str | None:
    """What kind of container this process is in; None outside of one."""
    marks = {"/.dockerenv": "docker", "/run/.containerenv": "podman"}
    kind = next((kind for path, kind in marks.items() if Path(path).exists()), None)
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "kubernetes"
    named = re.search(r"docker|kubepods|containerd|lxc", _text("/proc/1/cgroup") or "")
    return kind or (named.group(0) if named else None)


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _found(*patterns: str) -> tuple[str, ...]:
    return tuple(path for pattern in patterns for path in sorted(glob.glob(pattern)))


def _text(path: str | Path) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _first_line(command: list[str], env: Mapping[str, str] | None = None) -> str | None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=os.environ | dict(env or {})
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (done.stdout.strip().splitlines() or [None])[0]
