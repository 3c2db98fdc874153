"""Checks that apply to every machine: pure functions of a described host.

Each returns a row of found, needed and repair.
"""

from collections.abc import Callable
from dataclasses import dataclass

from neoxlib.machine.host import Host
from neoxlib.machine.versions import order
from neoxlib.workbook.table import Status

GIB = 2**30


@dataclass(frozen=True)
class CheckRow:
    """One check: found, needed, and the shell command that repairs it, with remarks after a #."""

    name: str
    status: Status
    found: str
    needed: str = ""
    repair: str = ""


HostCheck = Callable[[Host], CheckRow | None]  # None: the check does not apply to this machine


def verdict(
    name: str, fine: bool, found: str, needed: str, repair: str, otherwise: Status = "WARN"
) -> CheckRow:
    """Return an OK row without a repair, or one of status `otherwise` with it."""
    return (
        CheckRow(name, "OK", found, needed)
        if fine
        else CheckRow(name, otherwise, found, needed, repair)
    )


def at_least(version: str | None, least: str) -> bool:
    """Compare dotted versions number by number: 2.4 is below 2.27."""
    return bool(version) and order(version) >= order(least)


def base(version: str | None) -> str:
    """Drop the build from a version: 2.13.0 for 2.13.0+cpu."""
    return (version or "").partition("+")[0]


def operating_system(host: Host) -> CheckRow:
    repair = "docker run -it ubuntu:22.04  # or another Linux"
    return verdict("OS", host.system == "Linux", f"{host.os_name}", "Linux", repair)


def architecture(host: Host) -> CheckRow:
    repair = "uname -m  # use a machine where this prints x86_64 or aarch64"
    return verdict(
        "architecture", host.arch in ("x86_64", "aarch64"), host.arch, "x86_64 or aarch64", repair
    )


def glibc(host: Host) -> CheckRow:
    repair = "docker run -it ubuntu:22.04  # a newer C library comes with a newer system only"
    return verdict(
        "glibc", at_least(host.glibc, "2.27"), host.glibc or "none", "2.27 or later", repair, "FAIL"
    )


def gcc(host: Host) -> CheckRow | None:
    fine = at_least(host.gcc, "7.5")
    if not fine and not host.has_npu:
        return None  # only CANN calls it
    return verdict(
        "gcc", fine, host.gcc or "none", "7.5 or later", install(host, "gcc", "gcc-c++", "g++")
    )


def install(host: Host, both: str, red_hat: str, debian: str) -> str:
    """Return the command that installs system packages on this family of Linux."""
    yum = any(
        name in host.os_name.lower()
        for name in ("euler", "centos", "red hat", "kylin", "fedora", "alibaba")
    )
    return f"yum install -y {both} {red_hat}" if yum else f"apt-get install -y {both} {debian}"


def python(host: Host) -> CheckRow:
    repair = "conda env create -f environment.yml && conda activate neoxlib"
    return verdict("Python", host.python.startswith("3.11."), host.python, "3.11", repair, "FAIL")


def packages(host: Host) -> CheckRow:
    lost = [name for name in host.pins if not host.packages.get(name)]
    other = [
        name
        for name, pin in host.pins.items()
        if name not in lost and base(host.packages[name]) != pin
    ]
    wanted = " ".join(f"{name}=={host.pins[name]}" for name in (*lost, *other))
    found = ", ".join(
        [f"{name} missing" for name in lost] + [f"{name} {host.packages[name]}" for name in other]
    )
    if not wanted:
        fine = f"{len(host.pins)} at the tested versions"
        return CheckRow("packages", "OK", fine, "the pins of pyproject.toml")
    return CheckRow("packages", "FAIL" if lost else "WARN", found, wanted, f"pip install {wanted}")


def libgomp(host: Host) -> CheckRow | None:
    if host.arch != "aarch64":
        return None
    preloaded = host.env.get("LD_PRELOAD", "")
    path = (*host.libgomp, "/usr/lib/aarch64-linux-gnu/libgomp.so.1")[0]
    needed = "libgomp loaded first, else it may fail: cannot allocate memory in static TLS block"
    found = f"LD_PRELOAD={preloaded}" if preloaded else "LD_PRELOAD is not set"
    return verdict("libgomp", "libgomp" in preloaded, found, needed, f"export LD_PRELOAD={path}")


def cpu(host: Host) -> CheckRow:
    fine = host.governor in (None, "performance")
    limit = f" ({host.cores_limit})" if host.cores_limit else ""
    found = f"{host.cores} core(s){limit}, governor {host.governor or 'not shown'}"
    needed = "governor performance, where there is one"
    return verdict("CPU", fine, found, needed, "cpupower frequency-set -g performance")


def memory(host: Host) -> CheckRow:
    limit = f" ({host.memory_limit})" if host.memory_limit else ""
    found = f"{host.memory_free / GIB:.1f} of {host.memory / GIB:.1f} GiB free{limit}"
    repair = "ps aux --sort -rss | head  # end what is not needed"
    if host.memory_limit:
        repair += ", or start this with a higher limit"
    return verdict(
        "memory", host.memory_free >= 2 * GIB, found, "2 GiB for the workbook itself", repair
    )


def disk(host: Host) -> CheckRow:
    repair = "df -h && export NEOXLIB_OUTPUTS=/a/larger/disk  # or free some"
    found = f"{host.disk_free / GIB:.1f} GiB free here"
    return verdict("disk", host.disk_free >= 5 * GIB, found, "5 GiB", repair)


def shared_memory(host: Host) -> CheckRow:
    found = "none" if host.shm_free is None else f"{host.shm_free / GIB:.2f} GiB free"
    repair = (
        "docker run --shm-size=16g ..." if host.container else "mount -o remount,size=16G /dev/shm"
    )
    return verdict(
        "/dev/shm", (host.shm_free or 0) >= GIB, found, "1 GiB, for ranks that share memory", repair
    )


def open_files(host: Host) -> CheckRow:
    unlimited = host.open_files < 0
    found = "no limit" if unlimited else f"{host.open_files} at most"
    return verdict(
        "open files", unlimited or host.open_files >= 1024, found, "1024 or more", "ulimit -n 65536"
    )


def container(host: Host) -> CheckRow:
    """Name the container and the Python environment; any will do.

    The ranks' environment variables differ inside a container.
    """
    inside = f"inside a container ({host.container})" if host.container else "not in a container"
    of = f"a {host.python_env} environment" if host.python_env else "the system's own Python"
    return CheckRow("docker or conda", "OK", f"{inside}, {of}", "either, both or none")


def loopback(host: Host) -> CheckRow:
    found = "127.0.0.1 can be used" if host.loopback else "127.0.0.1 cannot be used"
    return verdict(
        "loopback", host.loopback, found, "ranks talk over it", "ip link set lo up", "FAIL"
    )


MACHINE: tuple[HostCheck, ...] = (
    operating_system,
    architecture,
    glibc,
    gcc,
    python,
    packages,
    libgomp,
    cpu,
    memory,
    disk,
    shared_memory,
    open_files,
    container,
    loopback,
)
