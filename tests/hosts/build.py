"""Hosts on one machine: each has namespaces of its own, with addresses, a name, a disk and an sshd.

A host is one process, the first of its PID namespace. It reads a pipe of the process that built it:
when that ends, also by SIGKILL, so does every process of the host, and the kernel takes namespaces,
links and mounts back. Nothing is added to the machine's own network: the hosts are joined by two
bridges in one more namespace.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

TOOLS = {  # program: the Debian package that has it
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "ip": "iproute2",
    "tc": "iproute2",
    "ss": "iproute2",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "tcpdump": "tcpdump",
}
PLACE = "/var/tmp"  # of the hosts' folders: /tmp is each host's own
PLACES = "/usr/local/sbin:/usr/sbin:/sbin"  # of programs that a user's PATH may lack
# Of the network that names resolve to, and of the one that the ranks are to use.
OFFICE, FABRIC = "192.168.77", "10.77.0"
OFFICE_CARD, FABRIC_CARD = "eth0", "hpc0"
SECRETS = ("ssh_host_*", "shadow*", "gshadow*", "private")  # of /etc, of no use to test hosts
KINDS = ("--net", "--uts", "--mount", "--pid")
# The first process of a host: adopts and reaps, and ends with the pipe.
HOLD = "import signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); sys.stdin.read()"
SSHD = """\
Port 22
ListenAddress {office}
ListenAddress {fabric}
HostKey {folder}/host_key
AuthorizedKeysFile {home}/.ssh/authorized_keys
PidFile none
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
StrictModes no
MaxStartups 100
Subsystem sftp internal-sftp
SetEnv {env}
"""


class NotHere(Exception):
    """Hosts cannot be built on this machine."""


@dataclass(frozen=True)
class Host:
    """One host: its name, the process that holds it, and its folders as this process sees them."""

    name: str
    number: int
    pid: int
    folder: Path
    env: dict[str, str]
    switch: int  # the process that holds the bridges

    @property
    def office(self) -> str:
        """Its address in the network that names resolve to."""
        return f"{OFFICE}.{self.number}"

    @property
    def fabric(self) -> str:
        """Its address in the network for the ranks."""
        return f"{FABRIC}.{self.number}"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def etc(self) -> Path:
        return self.folder / "etc"

    @property
    def disk(self) -> Path:
        """What the host sees as the folder `disk` beside those of the hosts."""
        return self.folder / "disk"

    def port(self, card: str) -> str:
        """The port of the bridge that a card is at."""
        return f"{card}-{self.number}"

    def at_switch(self, *words: str) -> None:
        """Run a command where the bridges are."""
        subprocess.run(["nsenter", f"--target={self.switch}", "--net", *words], check=True)

    def command(self, *words: str | os.PathLike[str]) -> list[str]:
        """A command that runs `words` on the host, with nothing of this process's environment."""
        path = os.environ["PATH"] + ":" + PLACES
        own = {"PATH": path, "HOME": self.home, "USER": "root", "LANG": "C.UTF-8"} | self.env
        env = ["env", "-i", *(f"{name}={value}" for name, value in own.items())]
        return ["nsenter", f"--target={self.pid}", *KINDS, *env, *map(str, words)]

    def run(self, *words: str | os.PathLike[str], **options: object) -> str:
        """Run a command on the host; its output. Raises CalledProcessError with it if it fails."""
        settings = {"check": True, "text": True, "stdout": subprocess.PIPE} | options
        return subprocess.run(self.command(*words), **settings).stdout

    def start(self, *words: str | os.PathLike[str], **options: object) -> subprocess.Popen:
        """Start a command on the host."""
        return subprocess.Popen(self.command(*words), **options)


@contextmanager
def hosts(names: Sequence[str], **env: str) -> Iterator[list[Host]]:
    """Build hosts, each reachable by ssh from every other, and take them down again.

    `env` are variables of every process on them. Raises NotHere where that is not allowed or a
    program is missing.
    """
    refuse_elsewhere()
    with ExitStack() as stack:
        root = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="neoxlib-hosts-", dir=PLACE))
        )
        (root / "disk").mkdir()
        switch = stack.enter_context(_held(["--net"]))
        for net in (OFFICE_CARD, FABRIC_CARD):
            _ip(switch, "link", "add", f"br-{net}", "type", "bridge")
            _ip(switch, "link", "set", f"br-{net}", "up")
        built = [
            Host(name, number, stack.enter_context(_held(KINDS)), root / name, env, switch)
            for number, name in enumerate(names, 1)
        ]
        _write_files(root, built, env)
        for host in built:
            _join(host)
            _furnish(host, root)
        for host in built:
            start_sshd(host)
        yield built


def refuse_elsewhere() -> None:
    """Raise NotHere, with the reason, where hosts cannot be built."""
    os.environ["PATH"] += "" if PLACES in os.environ["PATH"] else f":{PLACES}"
    if missing := sorted({TOOLS[tool] for tool in TOOLS if not shutil.which(tool)}):
        raise NotHere(f"programs are missing: apt-get install {' '.join(missing)}")
    tried = subprocess.run(["unshare", *KINDS, "--fork", "true"], capture_output=True, text=True)
    if os.getuid() or tried.returncode:
        why = tried.stderr.strip() or "this user is not root"
        raise NotHere(f"namespaces may not be made here: {why}")
    bridge = ["unshare", "--net", "ip", "link", "add", "br0", "type", "bridge"]
    made = subprocess.run(bridge, capture_output=True, text=True)
    if made.returncode:
        raise NotHere(f"a network namespace has no bridges here: {made.stderr.strip()}")


@contextmanager
def _held(kinds: Sequence[str]) -> Iterator[int]:
    """New namespaces, held by one process; its pid as this process sees it."""
    own_pids = "--pid" in kinds
    more = ["--fork", "--kill-child", "--mount-proc"] if own_pids else []
    command = ["unshare", *kinds, *more, sys.executable, "-S", "-E", "-c", HOLD]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    holder = subprocess.Popen(command, start_new_session=True, **pipes)
    try:
        yield _first_child(holder.pid) if own_pids else _entered(holder.pid)
    finally:
        holder.stdin.close()
        try:
            holder.wait(10)
        except subprocess.TimeoutExpired:
            holder.kill()
            holder.wait()


def _entered(pid: int) -> int:
    """`pid`, once it is in a network namespace of its own."""
    _until(lambda: os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net"))
    return pid


def _first_child(pid: int) -> int:
    """The first process of the PID namespace that the process `pid` makes."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    _until(lambda: children.read_text().split())
    child = int(children.read_text().split()[0])
    _until(lambda: b"import signal" in Path(f"/proc/{child}/cmdline").read_bytes())
    return child


def _until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        if time.monotonic() > deadline:
            raise NotHere("namespaces were not made within 10 s")
        time.sleep(0.01)


def _ip(pid: int, *words: str) -> None:
    subprocess.run(["nsenter", f"--target={pid}", "--net", "ip", *words], check=True)


def _join(host: Host) -> None:
    """Give a host its two cards, each at a bridge."""
    for net, address in ((OFFICE_CARD, host.office), (FABRIC_CARD, host.fabric)):
        peer = ["peer", "name", net, "netns", str(host.pid)]
        host.at_switch("ip", "link", "add", host.port(net), "type", "veth", *peer)
        host.at_switch("ip", "link", "set", host.port(net), "master", f"br-{net}", "up")
        _ip(host.pid, "address", "add", f"{address}/24", "dev", net)
        _ip(host.pid, "link", "set", net, "up")
    _ip(host.pid, "link", "set", "lo", "up")


def _write_files(root: Path, built: Sequence[Host], env: dict[str, str]) -> None:
    """Folders, keys, and the few files of /etc in which the hosts differ from this machine."""
    key = root / "key"
    _new_key(key)
    lines = Path("/etc/passwd").read_text().splitlines()
    for host in built:
        (host.home / ".ssh").mkdir(parents=True, mode=0o700)
        host.disk.mkdir()
        _new_key(host.folder / "host_key")
        users = [f"root:x:0:0:root:{host.home}:/bin/sh", *(x for x in lines if x[:5] != "root:")]
        # A copy: mounts of single files are lost when a package's installation replaces those.
        shutil.copytree("/etc", host.etc, symlinks=True, ignore=shutil.ignore_patterns(*SECRETS))
        (host.etc / "passwd").write_text("\n".join(users) + "\n")
        (host.etc / "shadow").write_text("root:*:20000::::::\n")  # no password, and not locked
        names = ["127.0.0.1 localhost", *(f"{each.office} {each.name}" for each in built)]
        # As Debian has it: a host's own name is its loopback.
        own = [f"127.0.1.1 {host.name}" if host.name in line.split() else line for line in names]
        (host.etc / "hosts").write_text("\n".join(own) + "\n")
        set_env = " ".join(f"{name}={value}" for name, value in env.items()) or "LC_ALL=C.UTF-8"
        places = {"folder": host.folder, "home": host.home, "env": set_env}
        text = SSHD.format(office=host.office, fabric=host.fabric, **places)
        (host.folder / "sshd_config").write_text(text)
    known = [
        f"{each.name},{each.office},{each.fabric} {(each.folder / 'host_key.pub').read_text()}"
        for each in built
    ]
    for host in built:
        shutil.copy(f"{key}.pub", host.home / ".ssh" / "authorized_keys")
        shutil.copy(key, host.home / ".ssh" / "id_ed25519")
        (host.home / ".ssh" / "known_hosts").write_text("".join(known))


def _new_key(path: Path) -> None:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)]
    subprocess.run(command, check=True)


def _furnish(host: Host, root: Path) -> None:
    """Give a host its name, its own files of /etc, disk, memory and places for sockets."""
    host.run("hostname", host.name)
    host.run("mount", "--bind", host.etc, "/etc")
    host.run("mount", "--bind", host.disk, root / "disk")
    for place in ("/run", "/tmp", "/dev/shm"):
        host.run("mount", "-t", "tmpfs", "tmpfs", place)
    host.run("mkdir", "-m", "755", "/run/sshd")


def start_sshd(host: Host) -> None:
    """Start sshd in the background of the host; it is there when the command returns."""
    log = str(host.folder / "sshd.log")
    host.run(shutil.which("sshd"), "-f", str(host.folder / "sshd_config"), "-E", log)
