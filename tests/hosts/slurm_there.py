"""A Slurm over the test hosts: its controller at the desk, and a slurmd on each of the others."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.hosts.bench import Bench, wait_for
from tests.hosts.build import Host, NotHere

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "salloc", "sbatch")
DAEMONS = ("slurmctld", "slurmd", "slurmstepd", "munged")
PARTITION = "npu"
# A daemon binds to the address that its own host's name resolves to, not to all.
CONF = """\
ClusterName=test
SlurmctldHost=desk({desk})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,batch_sched_delay=1
KillWait=20
{nodes}
PartitionName={partition} Nodes={names} Default=YES State=UP
"""
NODE = "NodeName={name} NodeAddr={address} NodeHostname={name} CPUs=8 State=UNKNOWN"


@contextmanager
def slurm(bench: Bench) -> Iterator[dict[str, str]]:
    """Start Slurm on the hosts; yields the variables by which its commands find it.

    Raises NotHere where Slurm or munge is not installed.
    """
    if missing := [name for name in PROGRAMS if not shutil.which(name)]:
        raise NotHere(f"{', '.join(missing)}: apt-get install slurm-wlm munge")
    folder = bench.desk.folder.parent / "slurm"
    (folder / "state").mkdir(parents=True)
    conf = folder / "slurm.conf"
    conf.write_text(configuration(bench, folder))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    try:
        with names_in_fabric(bench):
            start_all(bench, folder, conf, key)
            wait_for(lambda: idle(bench.desk, conf) == len(bench.others), 60)
            yield {"SLURM_CONF": str(conf)}
    finally:
        for host in bench.hosts:
            for daemon in DAEMONS:
                host.run("pkill", "-KILL", "-x", daemon, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def configuration(bench: Bench, folder: Path) -> str:
    nodes = [NODE.format(name=host.name, address=host.fabric) for host in bench.others]
    names = ",".join(host.name for host in bench.others)
    place = {"desk": bench.desk.fabric, "folder": folder, "partition": PARTITION}
    return CONF.format(**place, nodes="\n".join(nodes), names=names)


@contextmanager
def names_in_fabric(bench: Bench) -> Iterator[None]:
    """Have names, also a host's own, resolve to the addresses in the network of the ranks."""
    files = {host.etc / "hosts": (host.etc / "hosts").read_text() for host in bench.hosts}
    rows = [f"{host.fabric} {host.name}" for host in bench.hosts]
    for path in files:
        path.write_text("\n".join(["127.0.0.1 localhost", *rows]) + "\n")
    try:
        yield
    finally:
        for path, text in files.items():
            path.write_text(text)


def start_all(bench: Bench, folder: Path, conf: Path, key: Path) -> None:
    for host in bench.hosts:
        host.run("mkdir", "-p", "/run/munge")
        files = {"socket": "/run/munge/munge.socket.2", "pid-file": "/run/munge/pid"}
        files |= {"key-file": key, "log-file": folder / f"munged-{host.name}.log"}
        files |= {"seed-file": folder / f"seed-{host.name}"}
        host.run("munged", "--force", *(f"--{name}={path}" for name, path in files.items()))
    bench.desk.run("slurmctld", "-f", conf, "-c")
    for host in bench.others:
        (folder / f"spool-{host.name}").mkdir()
        host.run("slurmd", "-f", conf, "-N", host.name)


def idle(desk: Host, conf: Path) -> int:
    """How many nodes are idle."""
    words = ["env", f"SLURM_CONF={conf}", "sinfo", "-hN", "-t", "idle"]
    done = desk.run(*words, check=False, stderr=subprocess.DEVNULL)
    return len(done.splitlines())
