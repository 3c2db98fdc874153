"""Look at test hosts from outside: what listens, what travels, what is left."""

import json
import os
import re
import subprocess
from collections.abc import Collection
from pathlib import Path

from tests.hosts.build import Host

KINDS = ("net", "uts", "mnt", "pid")
KEYS = re.compile(rb"curve_serverkey|IPP_CONNECTION_INFO|BEGIN OPENSSH PRIVATE KEY")


def listeners(host: Host) -> list[str]:
    """Addresses that something but sshd listens on, with ports."""
    rows = [row.split() for row in host.run("ss", "-Hltnp").splitlines()]
    return [row[3] for row in rows if '"sshd"' not in row[-1]]


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
