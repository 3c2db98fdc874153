"""The ipyparallel profile of a set of hosts: written by `neoxlib cluster`, read by Session."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from IPython.core.profiledir import ProfileDir, ProfileDirError
from IPython.paths import get_ipython_dir
from traitlets.config import Config
from traitlets.config.loader import ConfigFileNotFound, PyFileConfigLoader

from neoxlib.errors import SettingsError
from neoxlib.files import overwrite
from neoxlib.hosts.network import NETWORK
from neoxlib.workbook.table import NotAsked, Table

OVER_SSH = "neoxlib.ranks.over_ssh.HostsLauncher"  # the launcher that such a profile names
FILE = "ipcluster_config.py"
MARK = "# Written by neoxlib cluster"
TEXT = """\
{mark}; make it anew with
#   {command}
c = get_config()  # noqa: F821
c.Cluster.engine_launcher_class = {launcher!r}
c.Cluster.controller_ip = {address!r}  # of this machine, in the network of the ranks
c.Cluster.controller_location = {address!r}
c.HostsLauncher.hosts = {hosts!r}
c.HostsLauncher.remote_python = {python!r}
c.EngineLauncher.environment = {environment!r}
"""


@dataclass(frozen=True)
class HostsProfile:
    """What a profile says: ranks of each host, the network, this machine's address, the Python."""

    hosts: dict[str, int]
    network: str
    address: str
    python: str = sys.executable

    def text(self, name: str) -> str:
        """The profile's file."""
        words = " ".join(f"{host}:{ranks}" for host, ranks in self.hosts.items())
        command = f"neoxlib cluster --ssh {words} --network {self.network} --profile {name}"
        return TEXT.format(
            mark=MARK,
            command=command,
            launcher=OVER_SSH,
            address=self.address,
            hosts=self.hosts,
            python=self.python,
            environment={NETWORK: self.network},
        )


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
    if config.Cluster.get("engine_launcher_class") != OVER_SSH:
        return None
    launcher = config.HostsLauncher
    network = config.EngineLauncher.get("environment", {}).get(NETWORK, "")
    address = config.Cluster.get("controller_ip", "")
    return HostsProfile(dict(launcher.hosts), network, address, launcher.remote_python)


def profile_table(name: str) -> Table | NotAsked:
    """Return a profile's hosts as a table: which rank sits where."""
    profile = read_profile(name) if name else None
    if profile is None:
        other = f"The launchers of {name} are not by neoxlib cluster: see its {FILE}."
        return NotAsked(other if name else "No cluster_profile: the ranks start on this machine.")
    rows, first = [], 0
    for host, ranks in profile.hosts.items():
        rows.append((host, ranks, f"{first} to {first + ranks - 1}", profile.network))
        first += ranks
    return Table(("host", "ranks", "which", "network"), rows)
