"""The surroundings of ranks: their variables, the folder of their logs, and where they meet."""

import os
import platform
import socket
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from neoxlib.errors import SettingsError
from neoxlib.hosts.network import NETWORK, own_address
from neoxlib.hosts.shares import SHARE
from neoxlib.machine import probes
from neoxlib.machine.devices import chip_for, pick_device
from neoxlib.machine.host import container
from neoxlib.machine.launch_env import NEW_ALLOCATOR, kept, launch_env
from neoxlib.machine.recipe import RECIPE, Launch
from neoxlib.ranks import placement
from neoxlib.ranks.needs import check_machine


class Place(NamedTuple):
    """Where the ranks of a session meet, and what lets them in."""

    path: str = ""  # on one host
    url: str = ""  # over hosts
    server: bytes = b""  # public key of rank 0's store
    public: bytes = b""  # the key pair that it lets in
    secret: bytes = b""


def open_log_dir(asked: str | os.PathLike[str] | None) -> Path:
    """Make the folder for logs, by default a new temporary one.

    Raises SettingsError if it cannot be written to.
    """
    try:
        folder = Path(asked or tempfile.mkdtemp(prefix="neoxlib-logs-")).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        where = f"log_dir {str(asked)!r}" if asked else "the temporary folder (TMPDIR)"
        why = f"{where} cannot be written to: {error}; name another folder"
        raise SettingsError(why) from error


@dataclass(frozen=True)
class Variables:
    """Variables that are added for ranks, and the user's own that stand in place of ours."""

    added: dict[str, str]
    kept: dict[str, str]


def variables_of(
    elsewhere: bool, world_size: int, device: str, deterministic: bool, share: dict[str, str]
) -> Variables:
    """Return the variables of the ranks; those of other machines add their own there."""
    if not elsewhere:
        return rank_environment(world_size, device, deterministic, share)
    found = handed_on()
    return Variables(found.added | share, found.kept)


def rank_environment(
    world_size: int, device: str, deterministic: bool, share: Mapping[str, str] | None = None
) -> Variables:
    """Return what ranks of this machine get on top of this process's environment.

    `share` keeps them to their part of the machine, for replicas. Raises SettingsError for ranks
    that HCCL does not serve, for exported values that would end them, and where they cannot start.
    """
    check_machine(world_size)
    exported = os.environ | (share or {})
    found = _recipe(world_size, device, deterministic, exported, preload=_libgomp(device))
    env = found.added | {"PYTHONUNBUFFERED": "1"}
    if device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        env["OMP_NUM_THREADS"] = str(placement.threads(world_size))
    if "MAX_SEQ_LEN" in os.environ:
        env["MAX_SEQ_LEN"] = os.environ["MAX_SEQ_LEN"]  # a report shows it
    return Variables(env | (share or {}), found.kept)


def handed_on() -> Variables:
    """Return what ranks of other machines, which inherit nothing, get of this user's variables."""
    names = {row.name for row in RECIPE} | {NEW_ALLOCATOR, "MAX_SEQ_LEN"}
    user = {name: os.environ[name] for name in sorted(names) if name in os.environ}
    return Variables(user | {"PYTHONUNBUFFERED": "1"}, {})


def own_environment(rank: int, hosts: Sequence[str], device: str, deterministic: bool) -> Variables:
    """Return what this rank of a cluster adds to its environment, before it imports torch.

    By its own machine's device and chip; all but LD_PRELOAD can still be set then. Among several
    hosts HCCL gets the address that the others see: by itself it takes the first interface by
    name (hccl 09300b70, docs/zh/user_guide/hccl_env/HCCL_IF_IP.md:11-14). Raises as
    `rank_environment`.
    """
    device = pick_device(device)
    place = {"here": hosts.count(hosts[rank]), "servers": len(set(hosts))}
    part = placement.own_part(device, place["here"], os.environ.get(SHARE))
    found = _recipe(len(hosts), device, deterministic, os.environ | part, **place)
    found = Variables(found.added | part, found.kept)
    named = "HCCL_IF_IP" in os.environ or "HCCL_SOCKET_IFNAME" in os.environ
    if device == "cpu" or place["servers"] == 1 or named:
        return found
    return Variables(found.added | {"HCCL_IF_IP": address_seen_by(hosts)}, found.kept)


def _recipe(
    size: int, device: str, deterministic: bool, exported: Mapping[str, str], **options: Any
) -> Variables:
    """The recipe for this machine's chip, without what is exported."""
    chip = chip_for(device)
    inside = container() is not None
    added = launch_env(chip, size, inside, deterministic, exported=exported, **options)
    return Variables(added, kept(added, Launch(chip, size, inside, deterministic), exported))


def _libgomp(device: str) -> str:
    """The libgomp that NPU ranks on aarch64 load first, torch's own; "" elsewhere.

    Loaded late it may fail: cannot allocate memory in static TLS block.
    """
    found = probes.libgomp() if device == "npu" and platform.machine() == "aarch64" else ()
    return found[0] if found else ""


def host_of(rank: int) -> str:
    """Return the name of the machine that a rank runs on, which is this one."""
    return socket.gethostname()


def address_seen_by(hosts: Sequence[str]) -> str:
    """This machine's address as the other hosts see it; loopback when there are none.

    Where a profile names the network of the ranks, it is the address in that. Raises SettingsError
    if there is none.
    """
    others = set(hosts) - {socket.gethostname()}
    if others and (network := os.environ.get(NETWORK)):
        return own_address(network)
    for other in sorted(others):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((other, 9))  # sends nothing: it only picks the interface
            return probe.getsockname()[0]
    return "127.0.0.1"
