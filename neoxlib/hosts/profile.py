"""The ipyparallel profile of a set of hosts: written by `neoxlib cluster`, read by Session."""

import os
import sys
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from IPython.core.profiledir import ProfileDir, ProfileDirError
from IPython.paths import get_ipython_dir
from traitlets.config import Config
from traitlets.config.loader import ConfigFileNotFound, PyFileConfigLoader

from neoxlib.errors import SettingsError
from neoxlib.files import overwrite
from neoxlib.hosts.network import NETWORK
from neoxlib.hosts.slurm import Partition
from neoxlib.workbook.table import NotAsked, Table

OVER_HOSTS = "neoxlib.ranks.over_ssh.HostsLauncher"  # the launcher that such a profile names
FILE = "ipcluster_config.py"
MARK = "# Written by neoxlib cluster"
TEXT = """\
{mark}; make it anew with
#   {command}
c = get_config()  # noqa: F821
c.Cluster.engine_launcher_class = {launcher!r}
c.Cluster.controller_ip = {address!r}  # of this machine, in the network of the ranks
c.Cluster.controller_location = {address!r}
{where}
c.HostsLauncher.remote_python = {python!r}
c.EngineLauncher.environment = {environment!r}
"""


@dataclass(frozen=True)
class HostsProfile:
    """What a profile says: ranks of each host, the network, this machine's address, the Python.

    Hosts are reached by ssh, or by the command `mpi`, which a host's name follows. With `slurm`
    there are no `hosts`: Slurm chooses them for each session.
    """

    hosts: dict[str, int]
    network: str
    address: str
    python: str = sys.executable
    mpi: tuple[str, ...] = ()
    slurm: Partition | None = None

    def text(self, name: str) -> str:
        """The profile's file."""
        return TEXT.format(
            mark=MARK,
            command=f"neoxlib cluster {self._asked()} --network {self.network} --profile {name}",
            launcher=OVER_HOSTS,
            address=self.address,
            where="\n".join(f"c.HostsLauncher.{k} = {v!r}" for k, v in self._where().items()),
            python=self.python,
            environment={NETWORK: self.network},
        )

    def _where(self) -> dict[str, Any]:
        """What the launcher is told of the hosts."""
        if self.slurm:
            return {"slurm": astuple(self.slurm)}
        return {"hosts": self.hosts} | ({"mpi_cmd": list(self.mpi)} if self.mpi else {})

    def _asked(self) -> str:
        """The options that make this profile."""
        if self.slurm:
            each = f" --ranks-per-node {self.slurm.ranks_per_node}"
            return f"--slurm {self.slurm.name} --nodes {self.slurm.nodes}{each}"
        words = " ".join(f"{host}:{ranks}" for host, ranks in self.hosts.items())
        return "--mpi HOSTFILE" if self.mpi else f"--ssh {words}"

    @property
    def room(self) -> int:
        """The ranks that it has places for."""
        if self.slurm:
            return self.slurm.nodes * self.slurm.ranks_per_node
        return sum(self.hosts.values())


def write_profile(name: str, profile: HostsProfile) -> Path:
    """Write a profile of IPython, which only its user can enter; return its file.

    Raises SettingsError for a name that is no name, and where another program's profile is.
    """
    if not name.isidentifier():
        raise SettingsError(f"profile {name!r}: use letters, digits and _, as in two_hosts")
    folder = Path(get_ipython_dir(), f"profile_{name}")
    path = folder / FILE
    if path.exists() and not path.read_text(encoding="utf-8").startswith(MARK):
        raise SettingsError(f"{path} is not by neoxlib and stays as it is; give another --profile")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    overwrite(path, profile.text(name).encode())
    return path


def find_profile(name: str) -> str:
    """Find the folder of an ipyparallel profile. Raises SettingsError with the existing names."""
    try:
        return ProfileDir.find_profile_dir_by_name(get_ipython_dir(), name).location
    except ProfileDirError:
        found = sorted(
            path.name.removeprefix("profile_") for path in Path(get_ipython_dir()).glob("profile_*")
        )
        raise SettingsError(
            f"cluster_profile {name!r} is not in {get_ipython_dir()}; there are "
            f"{', '.join(found) or 'none'}. Make one with: "
            f"neoxlib cluster --ssh host1:4 host2:4 --profile {name}"
        ) from None


def read_config(folder: str | os.PathLike[str]) -> Config:
    """Return what a profile configures. Raises SettingsError if its file cannot be run."""
    try:
        return PyFileConfigLoader(FILE, path=str(folder)).load_config()
    except ConfigFileNotFound:
        return Config()
    except Exception as error:  # whatever the user wrote there
        raise SettingsError(f"{Path(folder, FILE)} cannot be read: {error!r}") from error


def read_profile(name: str) -> HostsProfile | None:
    """Return what a profile of `neoxlib cluster` says; None for one with other launchers."""
    config = read_config(find_profile(name))
    if config.Cluster.get("engine_launcher_class") != OVER_HOSTS:
        return None
    launcher = config.HostsLauncher
    network = config.EngineLauncher.get("environment", {}).get(NETWORK, "")
    address = config.Cluster.get("controller_ip", "")
    hosts, mpi = dict(launcher.get("hosts", {})), tuple(launcher.get("mpi_cmd", ()))
    slurm = Partition(*launcher.slurm) if "slurm" in launcher else None
    return HostsProfile(hosts, network, address, launcher.remote_python, mpi, slurm)


def profile_table(name: str) -> Table | NotAsked:
    """Return a profile's hosts as a table: which rank sits where."""
    profile = read_profile(name) if name else None
    if profile is None:
        other = f"The launchers of {name} are not by neoxlib cluster: see its {FILE}."
        return NotAsked(other if name else "No cluster_profile: the ranks start on this machine.")
    hosts = profile.hosts
    if slurm := profile.slurm:  # which nodes is Slurm's choice, anew for each session
        nodes = range(1, slurm.nodes + 1)
        hosts = {f"{slurm.name}, node {node}": slurm.ranks_per_node for node in nodes}
    rows, first = [], 0
    for host, ranks in hosts.items():
        rows.append((host, ranks, f"{first} to {first + ranks - 1}", profile.network))
        first += ranks
    return Table(("host", "ranks", "which", "network"), rows)
