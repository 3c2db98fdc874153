"""Look at test hosts from outside: what listens, what travels, what is left."""

import json
import os
import re
import subprocess
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from tests.hosts.build import Host

KINDS = ("net", "uts", "mnt", "pid")
HIDDEN = ("key", "curve_serverkey", "curve_secretkey")  # of a connection file
KEYS = re.compile(rb"curve_serverkey|IPP_CONNECTION_INFO|BEGIN OPENSSH PRIVATE KEY")


def listeners(host: Host) -> list[str]:
    """Addresses that something but sshd listens on, with ports: TCP, then UDP."""
    lines = [line for kind in "tu" for line in host.run("ss", f"-Hl{kind}np").splitlines()]
    rows = [line.split() for line in lines]
    return [row[3] for row in rows if '"sshd"' not in row[-1]]


def keys_of(desk: Host, folder: str) -> set[str]:
    """Every key in the connection files of a session at the desk, below a folder there."""
    keys: set[str] = set()
    files = desk.run("find", folder, "-name", "ipcontroller*.json", check=False)
    for file in files.split():
        with suppress(ValueError):  # it is not whole yet, or gone
            found = json.loads(desk.run("cat", file, check=False))
            keys |= {found[name] for name in HIDDEN if found.get(name)}
    return keys


def shows_key(host: Host, keys: Collection[str]) -> list[str]:
    """Processes that have a key in their command line, and files of a session that hold one."""
    patterns = [word for key in keys for word in ("-e", key)]
    lines = host.run("ps", "-eo", "pid=,args=", "ww").splitlines()
    shown = [line.split()[0] for line in lines if any(key in line for key in keys)]
    places = ("/tmp", "/dev/shm", "/run")
    files = host.run("grep", "-rlF", "-D", "skip", *patterns, *places, check=False).splitlines()
    return [f"process {pid}" for pid in shown] + files


def clear_text(file: Path, text: str) -> bool:
    """Whether a recorded file has a text as it is, in UTF-8 or as JSON writes it."""
    data = file.read_bytes()
    forms = {text.encode(), json.dumps(text)[1:-1].encode()}
    return any(form in data for form in forms if len(form) >= 6)


def secrets_of(folder: Path) -> list[str]:
    """Files below a folder that hold a key, or are one."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in files if KEYS.search(path.read_bytes())]


def links() -> set[str]:
    """The network links of this machine itself."""
    rows = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True).stdout or "[]")
    return {row["ifname"] for row in rows}


def left_of(folder: str, spaces: Collection[str], before: Collection[str]) -> list[str]:
    """What is left of hosts: links that were not there before, processes, and their folder.

    A process keeps the namespaces alive that it is in; `spaces` are those of the hosts.
    """
    all_ = [path for path in Path("/proc").iterdir() if path.name.isdecimal()]
    processes = [name for path in all_ if (name := _of_hosts(path, folder, spaces))]
    here = [folder] if Path(folder).exists() else []
    return sorted([*(links() - set(before)), *processes, *here])


def spaces_of(host: Host) -> set[str]:
    """The namespaces of a host."""
    return {os.readlink(f"/proc/{host.pid}/ns/{kind}") for kind in KINDS}


def _of_hosts(process: Path, folder: str, spaces: Collection[str]) -> str:
    """A process of test hosts, with the beginning of its command; "" for any other one."""
    try:
        words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        inside = any(os.readlink(process / "ns" / kind) in spaces for kind in KINDS)
    except OSError:  # it has just ended
        return ""
    return f"{process.name} {words[:60]}" if inside or folder in words else ""
