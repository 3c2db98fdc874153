"""The commands for a run that failed: `explain` and `bundle`."""

from pathlib import Path

import click

PLACE = click.Path(path_type=Path)


@click.command()
@click.argument("logs", nargs=-1, required=True, type=PLACE, metavar="LOG...")
def explain(logs: tuple[Path, ...]) -> None:
    """Say which rank failed first according to LOG..., with cause and cure.

    LOG is a file, a folder of logs, or - for standard input; of any program, such as CANN's plog.
    Exit code 0 if all could be read, also if nothing in them is known; 1 otherwise.
    """
    from neoxlib.machine import explain as module
    from neoxlib.machine import log_text

    texts = [log_text.read_log(path) for path in log_text.find_logs(logs)]
    click.echo(module.explain(texts))


@click.command()
@click.argument("run", type=PLACE)
@click.option("-o", "--output", type=PLACE, help="The zip to write, instead of RUN/bundle.zip.")
def bundle(run: Path, output: Path | None) -> None:
    """Put all that helps to find the fault of RUN into one zip below 1 MB, without secrets.

    RUN is the folder of a run. The zip holds its logs, CANN's, the environment, versions, loaded
    and installed libraries, npu-smi, the doctor's report and the plan.
    """
    from neoxlib.setup import bundle as module

    path = module.write_bundle(run, output)
    click.echo(f"{path}  {path.stat().st_size:,} bytes; read it before you send it")
