"""Start ranks on other hosts: one connection a host, which the ranks do not outlive.

The connection is ssh, mpiexec or srun (see `hosts.ways`). ipyparallel's own launchers for ssh take
seven connections and four Pythons a rank, leave the ranks running when the connection is cut, and
ask once a minute whether they still run; those for MPI and Slurm know neither which rank runs where
nor how it ended, and a job of Slurm's outlives a driver that is killed.
"""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ipyparallel.cluster.launcher import EngineLauncher
from traitlets import Dict, List, Unicode

from neoxlib.hosts.checks import HERE
from neoxlib.hosts.hearing import Hearing
from neoxlib.hosts.network import NETWORK
from neoxlib.hosts.relay import RELAY
from neoxlib.hosts.shares import GROUP, share_of
from neoxlib.hosts.slurm import Allocation, Partition
from neoxlib.hosts.ways import OPTIONS, SSH, Mpiexec, Ssh, Way
from neoxlib.process import python
from neoxlib.ranks.launch import ending
from neoxlib.ranks.worker import log_file

log = logging.getLogger("neoxlib")
CLOSE_SECONDS = 6.0  # for a host to end its ranks
OWN_SECONDS = 20.0  # for mpiexec and srun to end after that, with their own daemons
END_SECONDS = 2.0  # between SIGTERM and SIGKILL
AWAY_SECONDS = 1.0  # the same, for one that may not hear: it ends them by itself
TICK_SECONDS = 0.1
SETTLE_SECONDS = 0.3  # after an end: others that belong to it are told with it
IDLE_SECONDS = 0.7  # then no call has told the user
LAST_WORDS = 2000  # characters of what ssh says
ON_HOST = ("-P", "-m", "neoxlib.ranks.on_host")
Hear = Callable[[str, Mapping[str, Any]], None]


class Link:
    """The connection to one host, and what it says about its `ranks`.

    A process of its own carries it, since this one may be busy for longer than a host waits for a
    beat; and ssh itself asks whether the host is there.
    """

    def __init__(
        self,
        host: str,
        ranks: list[int],
        command: list[str],
        log_dir: Path,
        hear: Hear = lambda host, words: None,
    ) -> None:
        self.host = host
        self.hear = hear  # is told what the host says
        self.ranks = ranks
        self.log_dir = log_dir
        self.codes: dict[int, int] = {}  # exit codes of ranks that have ended
        self.kills: dict[int, str] = {}  # who sent a SIGKILL, as far as the host knows
        self.said = b""  # what ssh itself said last
        self.by = Path(command[0]).name
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        relay = [sys.executable, "-I", "-S", "-c", RELAY, *command]
        self.process = subprocess.Popen(relay, start_new_session=True, **pipes)
        self.readers = [self._in_thread(self._read), self._in_thread(self._read_errors)]

    def tell(self, **words: Any) -> None:
        """Send a line; a link that is closed takes none."""
        try:
            self.process.stdin.write(json.dumps(words).encode() + b"\n")
            self.process.stdin.flush()
        except (OSError, ValueError):
            log.debug("the link to %s is closed", self.host)

    def ended(self) -> dict[int, str]:
        """How each rank ended that did."""
        lost = self._lost()
        known = {r: ending(code, cause=self.kills[r]) for r, code in dict(self.codes).items()}
        return (dict.fromkeys(self.ranks, lost) if lost else {}) | known

    def _lost(self) -> str:
        """Why nothing more is heard of the host; "" if it is not lost."""
        code = self.process.poll()
        if code is None:
            return ""
        for reader in self.readers:
            reader.join(1)
        if code == 0:
            return f"is lost: {self.host} ended its ranks, having heard nothing from this machine"
        words = self.said.decode(errors="replace").strip()
        said = f"{words and ': '}{words}"
        return f"is lost: {self.by} to {self.host} ended with exit code {code}{said}"

    def close(self) -> None:
        """Close the link: the host ends its ranks then."""
        with suppress(OSError):  # what was not sent yet cannot be
            self.process.stdin.close()

    def end(self) -> None:
        """End what is left of the link here; mpiexec deletes its files on SIGTERM."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(self.process.pid, number)
                self.process.wait(END_SECONDS)
        self.process.wait()
        for reader in self.readers:
            reader.join(1)

    def _in_thread(self, function: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=function, name=f"link to {self.host}", daemon=True)
        thread.start()
        return thread

    def _read(self) -> None:
        with self.process.stdout as lines:
            for line in lines:
                try:
                    self._take(json.loads(line))
                except (ValueError, KeyError, TypeError):  # a greeting of the host's shell
                    self.said = (self.said + line)[-LAST_WORDS:]

    def _take(self, words: dict[str, Any]) -> None:
        if "log" in words:
            self._keep(int(words["log"]), words["text"].encode("latin-1"))
        if "ended" in words:
            self.kills[int(words["ended"])] = words["cause"]
            self.codes[int(words["ended"])] = words["code"]
        self.hear(self.host, words)

    def _keep(self, rank: int, text: bytes) -> None:
        """Append to a rank's log; a full disk here must not look like a lost host."""
        try:
            with log_file(self.log_dir, rank).open("ab") as file:
                file.write(text)
        except OSError as error:
            log.warning("the log of rank %d, on %s, is not kept: %s", rank, self.host, error)

    def _read_errors(self) -> None:
        with self.process.stderr as lines:
            for line in lines:
                self.said = (self.said + line)[-LAST_WORDS:]


class HostsLauncher(EngineLauncher):
    """Start ranks on `hosts`, filled in order; each rank's log comes to `log_dir` of this host.

    Hosts are reached by `ssh_cmd`, or by `mpi_cmd` if that is given; with `slurm`, a partition,
    they are nodes of a job. The variable GROUP says which of how many sessions this is.
    """

    hosts = Dict(config=True, help="ranks of each host, by its name or address for ssh")
    ssh_cmd = List(Unicode(), default_value=[*SSH, *OPTIONS], config=True, help="the command ssh")
    mpi_cmd = List(Unicode(), config=True, help="mpiexec, up to the option that names a host")
    slurm = List(config=True, help="a partition, its nodes, and ranks of a node")
    remote_python = Unicode("python3", config=True, help="the Python of every host")
    log_dir = Unicode(config=True)
    links: tuple[Link, ...] = ()  # empty before `start`: `stop` may come first
    watcher: Link | None = None  # this machine's in the network of the ranks
    hearing: Hearing | None = None
    job: Allocation | None = None

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._causes: dict[int, str] = {}  # why the ranks ended, once they have
        self._stopping = threading.Event()

    async def start(self, n: int) -> None:
        """Start `n` ranks. Raises SettingsError if the hosts have room for fewer."""
        way, hosts = await self._reached(n)
        env = {k: v for k, v in self.get_env().items() if k not in ("IPP_PROFILE_DIR", GROUP)}
        shares = share_of(hosts, n, *self._group())
        for host, share in shares.items():
            command = way.reach(host, [self.remote_python, *ON_HOST])
            self.links = (*self.links, self._link(host, share.ranks, command))
        self._listen(env.get(NETWORK, ""))
        for link in self.links:
            own = env | shares[link.host].variables
            link.tell(env=own, ranks=link.ranks, args=self.engine_args)
        threading.Thread(target=self._guard, name="guard", daemon=True).start()
        self.notify_start([link.process.pid for link in self.links])

    async def _reached(self, n: int) -> tuple[Way, dict[str, int]]:
        """How the hosts are reached, and how many ranks each has room for."""
        if not self.slurm:
            way = Mpiexec(tuple(self.mpi_cmd)) if self.mpi_cmd else Ssh(tuple(self.ssh_cmd))
            return way, dict(self.hosts)
        partition = Partition(*self.slurm)
        each = partition.ranks_per_node
        self.job = Allocation(partition, min(partition.nodes, -(-n // each)))
        await asyncio.to_thread(self.job.wait)  # in Slurm's queue
        return self.job.way, dict.fromkeys(self.job.nodes, each)

    def _group(self) -> tuple[int, int]:
        """Which session this is, and of how many that divide the hosts."""
        if self.job is not None and self.job.own:  # its nodes are of this session alone
            return 0, 1
        group, replicas = self.environment.get(GROUP, "0,1").split(",")
        return int(group), int(replicas)

    def find_args(self) -> list[str]:
        """Return the beginning of the commands that reach hosts, of which each has its own."""
        return ["srun"] if self.slurm else list(self.mpi_cmd or self.ssh_cmd)

    def ended(self) -> dict[int, str]:
        """How each rank ended that did, and that those are lost whose host is."""
        return self._causes or self._ended()

    def _ended(self) -> dict[int, str]:
        everyone = [rank for link in self.links for rank in link.ranks]
        cut = self.hearing and self.hearing.cut()
        if cut:
            there = [rank for link in self.links if link.host in cut.hosts for rank in link.ranks]
            return dict.fromkeys(there or everyone, f"is lost: {cut.words}")
        if self.watcher is not None and self.watcher.process.poll() is not None:
            return dict.fromkeys(everyone, "is lost: the process that watches the network ended")
        return {rank: how for link in self.links for rank, how in link.ended().items()}

    def _listen(self, network: str) -> None:
        """Have hosts and this machine listen for each other in the network of the ranks."""
        if network:
            self.watcher = self._link(HERE, [], python("neoxlib.ranks.on_host", "main"))
            everyone = {link.host: link.tell for link in (*self.links, self.watcher)}
            self.hearing = Hearing(network, everyone)
            self.watcher.tell(env={NETWORK: network}, ranks=[], args=[])

    def _link(self, host: str, ranks: list[int], command: list[str]) -> Link:
        return Link(host, ranks, command, Path(self.log_dir), self._hear)

    def _hear(self, host: str, words: Mapping[str, Any]) -> None:
        if self.hearing is not None:
            self.hearing.take(host, words)

    def _guard(self) -> None:
        """Once a rank or a host is lost, have all hosts end their ranks, also between calls."""
        while not self._stopping.wait(TICK_SECONDS):
            if self._ended():
                self._stopping.wait(SETTLE_SECONDS)
                self._causes = self._ended()
                self._close()
                break
        if self._causes and not self._stopping.wait(IDLE_SECONDS):
            names = {
                rank: f"rank {rank} on {link.host}" for link in self.links for rank in link.ranks
            }
            told = "; ".join(f"{names[rank]} {how}" for rank, how in self._causes.items())
            log.error(
                "the session over %s has ended: %s",
                ", ".join(link.host for link in self.links),
                told,
            )

    def send_signal(self, rank: int, number: int) -> None:
        """Send a rank a signal, where it is."""
        for link in self.links:
            if rank in link.ranks:
                link.tell(rank=rank, signal=int(number))

    async def stop(self) -> None:
        """Have every host end its ranks, and wait for it; one that is away ends them by itself."""
        cut = self.hearing and self.hearing.cut()
        away = cut.hosts if cut else frozenset()
        self._stopping.set()
        self._close()
        start = time.monotonic()
        patience = OWN_SECONDS if self.mpi_cmd or self.slurm else CLOSE_SECONDS
        while time.monotonic() < start + patience:
            late = {link.host for link in self._all() if link.process.poll() is None}
            if not late or (late <= away and time.monotonic() > start + AWAY_SECONDS):
                break
            await asyncio.sleep(0.01)
        for link in self._all():
            link.end()
        if self.job is not None:
            self.job.close()
        self.notify_stop({})

    def _all(self) -> tuple[Link, ...]:
        return self.links if self.watcher is None else (*self.links, self.watcher)

    def _close(self) -> None:
        for link in self._all():
            link.close()
