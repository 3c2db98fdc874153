"""The command `cluster`: from hosts to a profile that Session takes."""

import sys
from typing import TYPE_CHECKING, Any

import click

from neoxlib.errors import ParameterError, SettingsError

if TYPE_CHECKING:
    from neoxlib.hosts.survey import Wanted

FORMS = "--ssh host1:4 host2:4, --mpi HOSTFILE or --slurm PARTITION --nodes 2"


@click.command()
@click.option("--ssh", is_flag=True, help="The ranks are started by ssh; name the hosts.")
@click.option("--mpi", metavar="HOSTFILE", help="By mpiexec, on the hosts of a hostfile.")
@click.option("--slurm", metavar="PARTITION", help="By srun, on nodes of a partition.")
@click.argument("hosts", nargs=-1, metavar="[HOST:RANKS]...")
@click.option("--nodes", type=click.IntRange(1), help="How many nodes, with --slurm.")
@click.option(
    "--ranks-per-node",
    type=click.IntRange(1),
    help="With --slurm; by default one for each NPU of a node, and 1 without NPUs.",
)
@click.option("--profile", default="hosts", show_default=True, help="Name of the profile to write.")
@click.option("--network", default="", help="Of the ranks: 10.1.0.0/16, or an interface here.")
@click.option("--python", default=sys.executable, help="Python of every host; by default as here.")
@click.option("--model-dir", default="", help="Also check that every host has this model folder.")
@click.option("--sha256", is_flag=True, help="Compare every byte of the model, not its sizes only.")
@click.pass_context
def cluster(ctx: click.Context, profile: str, **asked: Any) -> None:
    """Check that the hosts can work together, and write the profile for `cluster_profile`.

    HOST is a name for ssh, as user@name, and RANKS the number of ranks there: one for each NPU. A
    port or a key is named in ~/.ssh/config. Every host is asked, connects to every other, and
    nothing is changed there. Exit code 1, and no profile, if something FAILs.
    """
    from neoxlib.hosts.profile import write_profile
    from neoxlib.hosts.survey import survey

    try:
        found = survey(_wanted(**asked))
        click.echo(found.report)
        if found.profile is None:
            ctx.exit(1)
        path = write_profile(profile, found.profile)
    except SettingsError as error:
        raise ParameterError(str(error)) from error
    room = found.profile.room
    click.echo(f"{path} is written: -p cluster_profile {profile} -p world_size {room}")


def _wanted(
    ssh: bool,
    mpi: str | None,
    slurm: str | None,
    hosts: tuple[str, ...],
    nodes: int | None,
    ranks_per_node: int | None,
    **more: Any,
) -> "Wanted":
    """What the options ask for. Raises SettingsError unless they are one of FORMS."""
    from neoxlib.hosts.hostfile import read_hostfile
    from neoxlib.hosts.slurm import Partition
    from neoxlib.hosts.survey import Wanted, parse_hosts
    from neoxlib.hosts.ways import mpiexec

    if sum(map(bool, (ssh, mpi, slurm))) != 1:
        raise SettingsError(f"say how the hosts are reached, in one way: {FORMS}")
    if hosts and not ssh:
        named = " ".join(hosts)
        raise SettingsError(f"{named}: hosts are named with --ssh alone; write {FORMS}")
    if bool(nodes) != bool(slurm) or (ranks_per_node and not slurm):
        raise SettingsError(f"--nodes and --ranks-per-node go with --slurm; write {FORMS}")
    if slurm:
        return Wanted({}, slurm=Partition(slurm, nodes or 1, ranks_per_node or 0), **more)
    if mpi:
        return Wanted(read_hostfile(mpi), mpi=mpiexec(), **more)
    return Wanted(parse_hosts(hosts), **more)
