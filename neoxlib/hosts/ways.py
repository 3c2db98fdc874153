"""The ways to run a command on a host: ssh, mpiexec, and srun in a job of Slurm."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from neoxlib.errors import SettingsError

# No question of ssh may wait for an answer, and a host that is away is given up soon.
SSH = ("ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=8")
# ssh gives up after 9 s without an answer, which does not outlast every break of 5 s: TCP waits
# ever longer before it tries again. A connection that others share would outlive this one.
ALIVE = ("ServerAliveInterval=1", "ServerAliveCountMax=8", "ControlMaster=no", "ControlPath=none")
OPTIONS = tuple(word for option in ALIVE for word in ("-o", option))
# One process, bound to no core: it starts the ranks.
OPEN_MPI = ("-n", "1", "--bind-to", "none")
HYDRA = ("-n", "1", "-bind-to", "none")
SRUN = ("--overlap", "--nodes=1", "--ntasks=1", "--cpu-bind=none")
OPEN_MPI_SSH = ("--mca", "plm_rsh_args", shlex.join(SSH[2:]))  # unless another rsh agent is set
VERSION_SECONDS = 20


class Way(Protocol):
    """How a command gets to a host. Its standard input and output are those of the command."""

    name: str  # of the program

    def reach(self, host: str, words: Sequence[str]) -> list[str]:
        """The command here that runs `words` there."""

    def typed(self, host: str) -> str:
        """The beginning of a line for a shell that runs a command there."""


@dataclass(frozen=True)
class Ssh:
    """By ssh, which takes a command as one line for the user's shell there."""

    command: tuple[str, ...] = SSH
    name = "ssh"

    def reach(self, host: str, words: Sequence[str]) -> list[str]:
        """The command here that runs `words` there."""
        return [*self.command, "--", host, shlex.join(words)]

    def typed(self, host: str) -> str:
        """The beginning of a line for a shell that runs a command there."""
        return f"ssh {shlex.quote(host)}"


@dataclass(frozen=True)
class Mpiexec:
    """By mpiexec, whatever that uses: ssh, or the site's batch system."""

    command: tuple[str, ...]  # with all options but the host's, which comes next
    name = "mpiexec"

    def reach(self, host: str, words: Sequence[str]) -> list[str]:
        """The command here that runs `words` there."""
        return [*self.command, host, *words]

    def typed(self, host: str) -> str:
        """The beginning of a line for a shell that runs a command there."""
        return f"mpiexec -n 1 {self.command[-1]} {shlex.quote(host)}"


@dataclass(frozen=True)
class Srun:
    """By srun, as a step of a running job, beside the job's other steps."""

    job: str
    partition: str = ""
    name = "srun"

    def reach(self, host: str, words: Sequence[str]) -> list[str]:
        """The command here that runs `words` there."""
        return ["srun", f"--jobid={self.job}", *SRUN, f"--nodelist={host}", *words]

    def typed(self, host: str) -> str:
        """The beginning of a line for a shell that runs a command there; a job of its own."""
        where = f"-p {self.partition} " if self.partition else ""
        return f"srun {where}-w {shlex.quote(host)}"


def mpiexec() -> Mpiexec:
    """Return the way of this machine's mpiexec: Open MPI, or one with Hydra (MPICH, Intel MPI).

    Raises SettingsError where there is none, or another one.
    """
    program = shutil.which("mpiexec")
    if program is None:
        why = "there is no mpiexec in PATH; load the site's MPI, or install Debian's openmpi-bin"
        raise SettingsError(f"{why}; or name the hosts to ssh: neoxlib cluster --ssh host1:4")
    said = _version(program)
    if re.search(r"open ?(rte|mpi)|prrte", said, re.I):
        return Mpiexec((program, *OPEN_MPI, *OPEN_MPI_SSH, "--host"))
    if re.search(r"hydra|mpich|intel\(r\) mpi", said, re.I):
        return Mpiexec((program, *HYDRA, "-hosts"))
    first = said.splitlines()[0] if said else "nothing"
    why = f"{program} is of no known MPI: --version says {first!r}"
    raise SettingsError(f"{why}; Open MPI, MPICH and Intel MPI are known")


def _version(program: str) -> str:
    asked = [program, "--version"]
    options = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL}
    try:
        done = subprocess.run(asked, timeout=VERSION_SECONDS, **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SettingsError(f"{program} --version: {error}") from error
    return (done.stdout + done.stderr).strip()
