"""Whether hosts can work together: pure functions of what each says of itself."""

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, ip_address
from typing import Any

from neoxlib.hosts.rows import HostRow, Status
from neoxlib.hosts.ways import Srun, Ssh, Way
from neoxlib.machine.hccl_rules import ports

PACKAGES = ("torch", "torch_npu", "ipyparallel", "pyzmq", "safetensors", "transformers", "numpy")
MUST_AGREE = ("torch", "torch_npu", "ipyparallel")  # another version of the rest is a warning
CLOCK_SECONDS = 0.5  # between the clocks of two hosts; logs are compared by time
HERE = "this machine"
MODEL = "the same files on every host"
# How mpiexec and srun say that a program is not there.
NO_PROGRAM = re.compile(r"execve|could not access|execvp|No such file")


@dataclass(frozen=True)
class Answers:
    """What one host answered. `host` is its name for its way, or HERE for the one that asks."""

    host: str
    ranks: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    offset: float = 0.0  # seconds that its clock is ahead of this machine's
    unsure: float = 0.0  # half the time of the fastest answer
    model: dict[str, Any] | None = None
    address: str = ""  # in the network of the ranks
    interface: str = ""
    network: str = ""  # of the ranks
    reached: dict[str, str] = field(default_factory=dict)  # host: the error of connecting to it
    seconds: dict[str, float] = field(default_factory=dict)  # host: of one that was reached
    way: Way = field(default_factory=Ssh)

    @property
    def name(self) -> str:
        """The name that the host gives itself."""
        return self.facts["name"]


Check = Callable[[Answers, Sequence[Answers]], HostRow]


def silent(host: str, code: int | None, said: str, python: str, way: Way | None = None) -> HostRow:
    """Say why a host did not answer."""
    way = way or Ssh()
    needed = f"{way.name} gets there and asks nothing, and finds Python"
    words = " ".join(said.split()) or "nothing was said"
    found = words if code is None else f"{words} (exit code {code})"
    repairs = {
        "Permission denied (": f"ssh-copy-id {shlex.quote(host)}",
        "Host key verification failed": f"ssh {shlex.quote(host)} true  # compare the fingerprint",
        "REMOTE HOST IDENTIFICATION": f"ssh-keygen -R {shlex.quote(host)}  # if it was set up anew",
        "Could not resolve": f"getent hosts {shlex.quote(host)}  # name it in /etc/hosts or in DNS",
        "Connection refused": "systemctl enable --now ssh  # there",
        "timed out": f"ping {shlex.quote(host)}  # is it up, and does its firewall let ssh in?",
        "No route to host": f"ip route get {shlex.quote(host)}",
    }
    repair = next((line for words, line in repairs.items() if words in said), "")
    missing = code in (126, 127) or (python in said and NO_PROGRAM.search(said))
    if not repair and missing:
        repair = "neoxlib cluster --python /path/to/python"
        return _row(host, "Python", False, found, python, repair)
    typed = way.typed(host).replace("ssh ", "ssh -v ", 1)
    fallback = f"{typed} {shlex.quote(python)} --version"
    return _row(host, "reached", False, found, needed, repair or fallback)


def python(one: Answers, all_: Sequence[Answers]) -> HostRow:
    due = all_[0].facts["python"]
    found = f"{one.facts['python']}, {one.facts['executable']}"
    repair = f"conda create -n neoxlib python={due}  # there; then neoxlib cluster --python"
    return _row(one.host, "Python", one.facts["python"] == due, found, due, repair)


def neoxlib(one: Answers, all_: Sequence[Answers]) -> HostRow:
    due = all_[0].facts["source"]
    source = one.facts["source"]
    wheel = "python -m pip wheel --no-deps -w dist . && "
    if not isinstance(one.way, Srun):  # its nodes see the folder that srun is started in
        wheel += f"rsync -a dist constraints.txt {one.host}: && "
    repair = wheel + _pip(one, "--force-reinstall dist/neoxlib-*.whl -c constraints.txt")
    found = f"source {source[:12]}" if source else "not installed"
    return _row(one.host, "neoxlib", source == due, found, f"source {due[:12]}", repair)


def packages(one: Answers, all_: Sequence[Answers]) -> HostRow:
    mine, due = one.facts["packages"], all_[0].facts["packages"]
    differ = [name for name in PACKAGES if mine[name] != due[name]]
    listed = differ or [name for name in MUST_AGREE if due[name]]
    found, needed = (
        ", ".join(f"{name} {of[name] or 'missing'}" for name in listed) for of in (mine, due)
    )
    wanted = [f"{name}=={due[name].partition('+')[0]}" for name in differ if due[name]]
    repair = _pip(one, " ".join(wanted)) if wanted else _pip(one, " ".join(differ), "uninstall")
    status: Status = "FAIL" if set(differ) & set(MUST_AGREE) else "WARN"
    return _row(one.host, "packages", not differ, found, needed, repair, status)


def name(one: Answers, all_: Sequence[Answers]) -> HostRow:
    same = [
        other.host
        for other in all_
        if other is not one and other.name == one.name and not _is_here(one, other)
    ]
    found = f"{one.name}, as {', '.join(same)}" if same else one.name
    needed = "a name of its own: ranks of one name share memory"
    return _row(one.host, "name", not same, found, needed, "hostnamectl set-hostname NAME  # there")


def _is_here(one: Answers, other: Answers) -> bool:
    """Whether `other` is the machine that asks, and `one` is that machine asked by ssh."""
    return other.host == HERE and other.facts["interfaces"] == one.facts["interfaces"]


def clock(one: Answers, all_: Sequence[Answers]) -> HostRow:
    ahead = abs(one.offset) - one.unsure
    found = f"{one.offset:+.3f} s, give or take {one.unsure:.3f} s"
    repair = "timedatectl set-ntp true  # there, or: chronyc makestep"
    fine = ahead <= CLOCK_SECONDS
    if fine:
        found = f"within {CLOCK_SECONDS} s"
    return _row(one.host, "clock", fine, found, f"within {CLOCK_SECONDS} s", repair, "WARN")


def processors(one: Answers, all_: Sequence[Answers]) -> HostRow:
    with_npus = [other.host for other in all_[1:] if other.facts["npus"]]
    npus, cores = one.facts["npus"], one.facts["cores"]
    if with_npus:
        found = f"{npus} NPUs for {one.ranks} ranks"
        needed = f"an NPU a rank, as on {', '.join(with_npus)}"
        repair = f"neoxlib cluster with {one.host}:{npus}" if npus else "npu-smi info  # there"
        return _row(one.host, "NPUs", npus >= one.ranks, found, needed, repair)
    found = f"no NPU; {cores} cores for {one.ranks} ranks"
    repair = f"neoxlib cluster with {one.host}:{cores}"
    return _row(one.host, "NPUs", cores >= one.ranks, found, "a core a rank", repair, "WARN")


def free_ports(one: Answers, all_: Sequence[Answers]) -> HostRow:
    """HCCL's ports of the host on NPUs; the others are given by the kernel, and connected to."""
    wanted = ports("") if one.facts["npus"] else range(0)
    taken = sorted(set(wanted) & set(one.facts["listening"]))
    found = f"taken: {', '.join(map(str, taken))}" if taken else "free ports can be listened on"
    needed = f"{wanted[0]}-{wanted[-1]} free" if wanted else ""
    return _row(one.host, "ports", not taken, found, needed, "ss -ltnp  # there", "WARN")


def reaches(one: Answers, all_: Sequence[Answers]) -> HostRow:
    """Whether every other host is reached at its address in the network of the ranks."""
    failed = [f"{host}: {why}" for host, why in one.reached.items() if why]
    others = ", ".join(one.seconds)
    slowest = max(one.seconds.values(), default=0.0) * 1e3
    found = f"{one.address} ({one.interface}) reaches {others}, {slowest:.1f} ms"
    if failed:
        found = f"{one.address} ({one.interface}) does not reach {'; '.join(failed)}"
    needed = "every other host, on any port"
    repair = f"firewall-cmd --zone=trusted --add-source={one.network}  # there and here"
    return _row(one.host, "network", not failed, found, needed, repair)


def model(one: Answers, all_: Sequence[Answers]) -> HostRow:
    mine, due = one.model or {}, _first_model(all_)
    if not mine.get("there"):
        repair = _copy(one, all_, "-a", str(mine.get("path")))
        return _row(one.host, "model", False, f"no model in {mine.get('path')}", MODEL, repair)
    differ = {
        file
        for file in {*mine["files"], *due["files"]}
        if mine["files"].get(file, "missing") != due["files"].get(file, "missing")
    }
    hashed = all(found and found[1] for found in mine["files"].values())
    how = "sha256 of every file" if hashed else "sizes, and sha256 of the small files"
    found = f"{len(mine['files'])} files, {how}; {mine['kind'] or 'disk of unknown kind'}"
    if differ:
        found = f"other or missing files: {', '.join(sorted(differ))}"
    repair = _copy(one, all_, "-ac --delete", mine["path"])
    return _row(one.host, "model", not differ, found, MODEL, repair)


CHECKS: tuple[Check, ...] = (python, neoxlib, packages, name, clock, processors, free_ports)


def judge(all_: Sequence[Answers]) -> list[HostRow]:
    """Check every host that answered. The first one is the machine that asks."""
    hosts = all_[1:]
    rows = [check(one, all_) for check in CHECKS for one in hosts]
    rows += [reaches(one, all_) for one in all_ if one.address]
    if any(one.model for one in hosts):
        rows += [model(one, all_) for one in hosts]
    return rows


def outside(one: Answers, network: IPv4Network) -> HostRow:
    """Say that a host has no address in the network of the ranks."""
    listed = ", ".join(f"{at}/{bits} ({card})" for card, at, bits in one.facts["interfaces"])
    repair = "neoxlib cluster --network NETWORK  # one that every host has an address in"
    return _row(one.host, "network", False, listed, f"an address in {network}", repair)


def address_in(one: Answers, network: IPv4Network) -> tuple[str, str] | None:
    """Return the host's address in a network, with the interface, or None."""
    cards = ((at, card) for card, at, _ in one.facts["interfaces"])
    return next((found for found in cards if ip_address(found[0]) in network), None)


def _first_model(all_: Sequence[Answers]) -> dict[str, Any]:
    """The model folder that the others are compared with: this machine's, if it has one."""
    there = [one.model for one in all_ if one.model and one.model["there"]]
    return there[0] if there else {"files": {}}


def _pip(one: Answers, what: str, verb: str = "install") -> str:
    return f"{one.way.typed(one.host)} {one.facts['executable']} -m pip {verb} {what}"


def _copy(one: Answers, all_: Sequence[Answers], options: str, path: str) -> str:
    """The command that copies a folder of this machine to a host."""
    if isinstance(one.way, Srun):
        return f"{one.way.typed(one.host)} rsync {options} {all_[0].name}:{path}/ {path}/"
    return f"rsync {options} {path}/ {one.host}:{path}/"


def _row(
    host: str,
    check: str,
    fine: bool,
    found: str,
    needed: str,
    repair: str,
    otherwise: Status = "FAIL",
) -> HostRow:
    if fine:
        return HostRow(host, check, "OK", found, needed)
    return HostRow(host, check, otherwise, found, needed, repair)
