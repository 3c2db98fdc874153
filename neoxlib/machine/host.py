"""This machine, read once into a plain value. Nothing here imports torch, which may be broken."""

import importlib.util
import os
import platform
import re
import resource
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from neoxlib.errors import TOOLKIT, SettingsError
from neoxlib.forms import of, problems
from neoxlib.machine import environment, installed, limits, npu_smi, probes
from neoxlib.machine.hccl_rules import ports
from neoxlib.machine.npu_smi import Card, Holder, Position, Smi
from neoxlib.machine.versions import PYTHON_NEEDS, installed_version
from neoxlib.redact import shown

ATB = ("/usr/local/Ascend/nnal/atb/set_env.sh",)
RESERVED_PORTS = "/proc/sys/net/ipv4/ip_local_reserved_ports"
PORT_RANGE = "/proc/sys/net/ipv4/ip_local_port_range"
FORMER = ("hccl_port_free",)  # fields of older descriptions
GOVERNOR = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"


@dataclass(frozen=True)
class Host:
    """A machine as the checks see it; the defaults describe a plain CPU.

    Sizes are in bytes. None means "not known" or "not there".
    """

    system: str = "Linux"
    os_name: str = "Linux"
    arch: str = "x86_64"
    glibc: str | None = "2.36"
    gcc: str | None = "12.2.0"
    python: str = "3.11.9"
    # distribution -> installed version, and the version that neoxlib was tested with
    packages: dict[str, str | None] = field(default_factory=dict)
    pins: dict[str, str] = field(default_factory=dict)
    torch_npu: str | None = None  # version; "" if installed without one
    env: dict[str, str] = field(default_factory=dict)
    nodes: tuple[str, ...] = ()  # /dev/davinci0 ...
    smi: Smi | None = None  # None: there is no npu-smi
    positions: tuple[Position, ...] = ()  # torch's number of each chip
    links: tuple[str, ...] = ()  # kinds of links between the cards: HCCS, PIX, PHB, SYS
    set_env: tuple[str, ...] = ()  # set_env.sh of CANN installations
    atb_set_env: tuple[str, ...] = ()
    driver: str | None = None
    driver_takes: str | None = None  # range of firmware, from the driver's record
    firmware: str | None = None
    cann: str | None = None  # version of the sourced one, else of the first installed
    cann_kernels: str | None = None
    cann_needs: tuple[str, ...] = ()  # missing Python packages of CANN's tools
    cxx11_abi: bool | None = None  # of torch; read only if ATB is sourced
    python_env: str | None = None  # conda or venv; None: the system's Python
    libgomp: tuple[str, ...] = ()  # torch's own first
    cores: int = 8
    cores_limit: str | None = None  # the reason for fewer cores than the machine has
    governor: str | None = None
    memory: int = 64 * 2**30
    memory_free: int = 48 * 2**30
    memory_limit: str | None = None  # the reason for less than the machine has
    disk_free: int = 200 * 2**30
    shm_free: int | None = 32 * 2**30
    open_files: int = 65536
    container: str | None = None  # its kind
    loopback: bool = True
    hccl_ports_taken: tuple[int, ...] = ()  # of HCCL's ports of the host
    reserved_ports: str | None = "60000-60031"  # the kernel gives them to no other connection
    port_range: str | None = "32768 60999"  # it takes ports of connections from these

    @property
    def has_npu(self) -> bool:
        """Whether a device node or the driver's own tool, npu-smi, is present."""
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
    """Describe this machine; `folder` is where results are written.

    Changes nothing and starts no device.
    """
    return Host(**_system(), **_software(), **_resources(folder), **_ascend())


def _system() -> dict[str, Any]:
    """Read the operating system, its compiler and what surrounds this process."""
    return {
        "system": platform.system(),
        "os_name": probes.os_name(),
        "arch": platform.machine(),
        "glibc": platform.libc_ver()[1] or None,
        "gcc": probes.first_line(["gcc", "-dumpfullversion"]),
        "env": shown(environment.variables("checks")),
        "libgomp": probes.libgomp(),
        "governor": probes.text(GOVERNOR),
        "container": container(),
        "loopback": probes.can_bind(0),
        "hccl_ports_taken": _hccl_ports_taken(),
        "reserved_ports": probes.text(RESERVED_PORTS),
        "port_range": probes.text(PORT_RANGE),
    }


def _hccl_ports_taken() -> tuple[int, ...]:
    asked = ports(os.environ.get("HCCL_IF_BASE_PORT", ""))
    return tuple(sorted(probes.ports_in_use().intersection(asked)))


def _software() -> dict[str, Any]:
    """Read Python and its packages."""
    pins = probes.pins()
    has_torch_npu = importlib.util.find_spec("torch_npu") is not None
    return {
        "python": platform.python_version(),
        "python_env": probes.python_env(),
        "packages": {name: _version(name) for name in pins},
        "pins": pins,
        "torch_npu": installed_version("torch-npu") or "" if has_torch_npu else None,
        "cann_needs": tuple(n for n in PYTHON_NEEDS.split() if installed_version(n) is None),
        "cxx11_abi": probes.cxx11_abi() if "ATB_HOME_PATH" in os.environ else None,
    }


def _version(name: str) -> str | None:
    return probes.torch_version() if name == "torch" else installed_version(name)


def _resources(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read cores, memory, disks and limits."""
    cores = limits.cores()
    memory = limits.memory()
    return {
        "cores": cores.count,
        "cores_limit": cores.limit,
        "memory": memory.total,
        "memory_free": memory.free,
        "memory_limit": memory.limit,
        "disk_free": shutil.disk_usage(folder).free,
        "shm_free": shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else None,
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    }


def _ascend() -> dict[str, Any]:
    """Read the cards, their driver and CANN."""
    answer = npu_smi.query()
    set_env = probes.paths(*TOOLKIT)
    return {
        "nodes": probes.paths("/dev/davinci[0-9]*"),
        "smi": answer,
        "positions": npu_smi.parse_map(npu_smi.ask("-m")) if answer else (),
        "links": _links() if answer and len(answer.cards) > 1 else (),
        "set_env": set_env,
        "atb_set_env": probes.paths(*ATB),
        **_drivers(answer),
        **_cann(cann_homes(os.environ.get("ASCEND_HOME_PATH"), set_env)),
    }


def _drivers(answer: Smi | None) -> dict[str, str | None]:
    """Read the versions of driver and firmware, from npu-smi if a container hides their files."""
    board: dict[str, str] = {}
    if answer and answer.cards:
        board = npu_smi.parse_pairs(npu_smi.ask("-t", "board", "-i", str(answer.cards[0].npu)))
    driver, takes = installed.driver()
    return {
        "driver": driver or board.get("Software Version"),
        "driver_takes": takes,
        "firmware": installed.firmware() or board.get("Firmware Version"),
    }


def _cann(homes: Sequence[str]) -> dict[str, str | None]:
    """Read the versions of CANN and its kernels from the first of `homes` that records each."""
    toolkits = filter(None, map(installed.cann_version, homes))
    kernels = filter(None, map(installed.kernels_version, homes))
    return {"cann": next(toolkits, None), "cann_kernels": next(kernels, None)}


def restore(said: Mapping[str, Any]) -> Host:
    """Rebuild the host that `doctor --json` described, to judge a machine from elsewhere.

    Raises SettingsError for anything else.
    """
    if wrong := [line for name in said for line in _misfits(name, said[name])]:
        lines = "; ".join(wrong)
        raise SettingsError(f"not a host as `doctor --json` describes it: {lines}")
    try:
        values = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in said.items()
            if name not in FORMER
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


def _misfits(name: str, value: Any) -> list[str]:
    """How a field of a described host differs from its type; unknown ones are refused later."""
    hint = get_type_hints(Host).get(name)
    return problems(value, of(hint), name) if hint else []


def cann_homes(sourced: str | None, set_env: Sequence[str]) -> list[str]:
    """List the folders that may record CANN's version.

    Only the sourced one if there is one, else those beside the installed `set_env.sh` scripts.
    """
    if sourced:
        return [sourced]
    folders = [os.path.dirname(path) for path in set_env]
    return [home for folder in folders for home in (f"{folder}/latest", folder)]


def _links() -> tuple[str, ...]:
    rows = npu_smi.parse_topology(npu_smi.ask("-t", "topo")).links.values()
    links = {link for row in rows for link in row.values()}
    return tuple(sorted(links - {"X", "NA"}))  # X: the card itself, NA: unknown


def container() -> str | None:
    """Return the kind of container that this process runs in; None outside of one."""
    marks = {"/.dockerenv": "docker", "/run/.containerenv": "podman"}
    kind = next((kind for path, kind in marks.items() if Path(path).exists()), None)
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "kubernetes"
    named = re.search(r"docker|kubepods|containerd|lxc", probes.text("/proc/1/cgroup") or "")
    return kind or (named.group(0) if named else None)
