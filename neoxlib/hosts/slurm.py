"""Nodes of Slurm: what a partition has, and a job that holds some of them for a session."""

import json
import os
import shlex
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass

from neoxlib.errors import SettingsError
from neoxlib.hosts.rows import HostRow
from neoxlib.hosts.ways import Srun

ASKED_SECONDS = 30  # for an answer of slurmctld
END_SECONDS = 10  # for salloc to give a job up
LAST_WORDS = 2000
FREE = ("idle", "comp")  # states of sinfo; the job before has just ended on a completing node
# Says in which job it is, and ends with its standard input: so does the job.
HOLD = """\
import json, os, sys
names = ("SLURM_JOB_ID", "SLURM_JOB_NODELIST")
print(json.dumps([os.environ[name] for name in names]), flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Partition:
    """Nodes that are wanted of a partition; 0 ranks a node are as many as it has NPUs."""

    name: str
    nodes: int
    ranks_per_node: int = 0


class Allocation:
    """`nodes` of a partition: those of the job that this process runs in, else a job of its own.

    A job of its own ends with `close`, and with this process. Its options, as an account or NPUs,
    are those that salloc reads from the environment: SALLOC_ACCOUNT, SALLOC_GRES and so on.
    """

    def __init__(self, partition: Partition, nodes: int | None = None) -> None:
        self.partition = partition
        self.wanted = nodes or partition.nodes
        self.job = ""
        self.nodes: tuple[str, ...] = ()
        self.process: subprocess.Popen | None = None
        self.said = b""
        if not os.environ.get("SLURM_JOB_ID"):
            self.process = self._submit()

    @property
    def own(self) -> bool:
        """Whether the job is its own, not the one that this process runs in."""
        return self.process is not None

    @property
    def way(self) -> Srun:
        """How its nodes are reached."""
        return Srun(self.job, self.partition.name)

    def wait(self) -> None:
        """Wait until the nodes are there. Raises SettingsError with Slurm's words if they won't."""
        if self.process is None:
            names = ("SLURM_JOB_ID", "SLURM_JOB_NODELIST")
            job, listed = (os.environ.get(name, "") for name in names)
        else:
            line = self.process.stdout.readline()
            if not line:
                self.close()
                raise SettingsError(self._refused())
            job, listed = json.loads(line)
        self.job, self.nodes = job, node_names(listed)
        if len(self.nodes) < self.wanted:
            found = f"job {job} has {len(self.nodes)} nodes, {', '.join(self.nodes)}"
            raise SettingsError(f"{found}, and {self.wanted} are needed: sbatch --nodes")

    def close(self) -> None:
        """Give the nodes back, or stop waiting for them."""
        if self.process is None:
            return
        with suppress(OSError):
            self.process.stdin.close()  # HOLD ends, and with it the job
        if not self.job:
            self.process.terminate()  # it still waits for the job
        for end in (self.process.terminate, self.process.kill):
            try:
                self.process.wait(END_SECONDS)
                break
            except subprocess.TimeoutExpired:
                end()
        self.process.wait()
        self._listener.join(1)
        self.process.stdout.close()

    def _submit(self) -> subprocess.Popen:
        asked = [f"--partition={self.partition.name}", f"--nodes={self.wanted}"]
        whole = ["--ntasks-per-node=1", "--exclusive", "--job-name=neoxlib", "--no-bell"]
        hold = [sys.executable, "-I", "-S", "-c", HOLD]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        started = subprocess.Popen(
            ["salloc", *asked, *whole, *hold], start_new_session=True, **pipes
        )
        self._listener = threading.Thread(target=self._listen, args=(started,), daemon=True)
        self._listener.start()
        return started

    def _listen(self, process: subprocess.Popen) -> None:
        with process.stderr as lines:
            for line in lines:
                self.said = (self.said + line)[-LAST_WORDS:]

    def _refused(self) -> str:
        words = " ".join(self.said.decode(errors="replace").split())
        wanted = f"{self.wanted} nodes of partition {self.partition.name}"
        return f"Slurm gives no {wanted}: {words or 'salloc ended'}; see: sinfo, squeue"


def node_names(listed: str) -> tuple[str, ...]:
    """Return the nodes of a list such as host[1-2]."""
    return tuple(_asked("scontrol", "show", "hostnames", listed).split())


def check_partition(partition: Partition) -> HostRow:
    """Check that a partition exists and that nodes enough of it are idle."""
    name = partition.name
    needed = f"{partition.nodes} idle nodes"
    try:
        rows = [row.split() for row in _asked("sinfo", "-hNp", name, "-o", "%n %t").splitlines()]
        others = sorted({*_asked("sinfo", "-ho", "%R").split()})
    except SettingsError as error:
        return HostRow(name, "partition", "FAIL", str(error), needed, "sinfo  # here")
    if not rows:
        has = f"no such partition; there are {', '.join(others) or 'none'}"
        return HostRow(name, "partition", "FAIL", has, needed, "sinfo --summarize  # here")
    idle = [node for node, state in rows if state in FREE]
    found = f"{len(idle)} of {len(rows)} nodes idle"
    if len(idle) >= partition.nodes:
        return HostRow(name, "partition", "OK", found, needed)
    found += "; " + ", ".join(f"{node} {state}" for node, state in rows if state not in FREE)
    return HostRow(name, "partition", "FAIL", found, needed, f"squeue -p {name}; sinfo -Rp {name}")


def _asked(*words: str) -> str:
    """The output of a command of Slurm. Raises SettingsError if it fails."""
    options = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL}
    try:
        done = subprocess.run(words, timeout=ASKED_SECONDS, **options)
    except FileNotFoundError:
        why = f"{words[0]} is not in PATH: this machine has no Slurm, or its module is not loaded"
        raise SettingsError(why) from None
    except subprocess.TimeoutExpired:
        raise SettingsError(f"{words[0]} has no answer after {ASKED_SECONDS} s") from None
    if done.returncode:
        raise SettingsError(f"{shlex.join(words)}: {' '.join(done.stderr.split())}")
    return done.stdout
