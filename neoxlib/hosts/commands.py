"""The command `cluster`: from hosts to a profile that Session takes."""

import sys
from typing import TYPE_CHECKING

import click

from neoxlib.errors import ParameterError, SettingsError

if TYPE_CHECKING:
    from neoxlib.hosts.survey import Wanted


@click.command()
@click.option("--ssh", is_flag=True, required=True, help="The ranks are started by ssh.")
@click.argument("hosts", nargs=-1, required=True, metavar="HOST:RANKS...")
@click.option("--profile", default="hosts", show_default=True, help="Name of the profile to write.")
@click.option("--network", default="", help="Of the ranks: 10.1.0.0/16, or an interface here.")
@click.option("--python", default=sys.executable, help="Python of every host; by default as here.")
@click.option("--model-dir", default="", help="Also check that every host has this model folder.")
@click.option("--sha256", is_flag=True, help="Compare every byte of the model, not its sizes only.")
@click.pass_context
def cluster(
    ctx: click.Context,
    ssh: bool,
    hosts: tuple[str, ...],
    profile: str,
    network: str,
    python: str,
    model_dir: str,
    sha256: bool,
) -> None:
    """Check that the hosts can work together, and write the profile for `cluster_profile`.

    HOST is a name for ssh, as user@name, and RANKS the number of ranks there: one for each NPU. A
    port or a key is named in ~/.ssh/config. Every host is asked over ssh, connects to every other,
    and nothing is changed there. Exit code 1, and no profile, if something FAILs.
    """
    from neoxlib.hosts.profile import write_profile
    from neoxlib.hosts.survey import Wanted, parse_hosts, survey

    try:
        wanted = Wanted(parse_hosts(hosts), python, network, model_dir, sha256)
        found = survey(wanted)
        click.echo(found.report)
        if found.profile is None:
            ctx.exit(1)
        path = write_profile(profile, found.profile)
    except SettingsError as error:
        raise ParameterError(str(error)) from error
    click.echo(f"{path} is written: -p cluster_profile {profile} -p world_size {_ranks(wanted)}")


def _ranks(wanted: "Wanted") -> int:
    return sum(wanted.hosts.values())
