"""The commands about the machine, and about a run that failed."""

import platform
from pathlib import Path

import click

from neoxlib.languages import language_option, said
from neoxlib.streams import json_text

PLACE = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.argument("logs", nargs=-1, required=True, type=PLACE, metavar="LOG...")
@language_option()
def explain(logs: tuple[Path, ...]) -> None:
    """Say which rank failed first according to LOG..., with cause and cure.

    LOG is a file, a folder of logs, or - for standard input; of any program, such as CANN's plog.
    Exit code 0 if all could be read, also if nothing in them is known; 1 otherwise.
    """
    from neoxlib.machine import explain as module
    from neoxlib.machine import log_text

    texts = [log_text.read_log(path) for path in log_text.find_logs(logs)]
    click.echo(said(str(module.explain(texts))))


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


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--model-dir", type=PLACE, help="Also check this model folder.")
@click.option("--host", type=FILE, help="Judge the machine that --json described.")
@language_option()
@click.pass_context
def doctor(ctx: click.Context, as_json: bool, model_dir: Path | None, host: Path | None) -> None:
    """Check this machine, and print what repairs each fault. Exit code 1 if something FAILs."""
    from neoxlib.setup import doctor as module

    found = module.from_json(host.read_text(encoding="utf-8")) if host else module.check(model_dir)
    click.echo(json_text(found.to_json()) if as_json else found)
    ctx.exit(1 if found.worst == "FAIL" else 0)


@click.command("install-plan")
@click.option("--chip", required=True, help="A chip of the table, for example 910B3.")
@click.option("--arch", default=platform.machine(), show_default=True, help="aarch64 or x86_64.")
@click.option("--era", default="today", show_default=True, help="today, or guide: its versions.")
@click.option("--over", is_flag=True, help="An older driver is installed: firmware comes first.")
def install_plan(chip: str, arch: str, era: str, over: bool) -> None:
    """Print the steps and packages of an installation for a chip. Installs nothing."""
    from neoxlib.machine import chips
    from neoxlib.setup import install

    steps = install.install_plan(chips.chip(chip), arch, era, over)
    click.echo(f"# {install.notes(era)}\n{install.text(steps)}")


@click.command()
@click.argument("folder", type=PLACE)
def environment(folder: Path) -> None:
    """Write FOLDER/environment.sh and FOLDER/kernel, a Jupyter kernel with CANN sourced."""
    from neoxlib.machine import host
    from neoxlib.setup import sourced_env

    for row in sourced_env.write_environment(folder, host.read_host()).itertuples(index=False):
        click.echo(f"{row[0]} {row[1]}: {row[2]}")


@click.command("selftest-npu")
@click.option(
    "-o", "--output", type=PLACE, help="Where the JSON goes, instead of outputs/selftest-npu.json."
)
@click.pass_context
def selftest_npu(ctx: click.Context, output: Path | None) -> None:
    """Check operators, collectives and text on this machine's NPUs, and write every error as JSON.

    Exit code: 0 all passed, 1 not all, 77 no NPU can be used here and nothing was verified.
    """
    from neoxlib.setup import selftest

    ctx.exit(selftest.main(output, click.echo))
