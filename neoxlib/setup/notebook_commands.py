"""The commands about notebooks: run them, list their parameters, copy them."""

from pathlib import Path

import click

FOLDER = click.Path(path_type=Path)
NAMES = "00_setup 01_shard 02_inference 03_ceval 04_profile 05_compare 06_align"
CODES = (
    ("0", "all went well"),
    ("1", "a cell failed"),
    ("2", "the parameters cannot be used; refused before a kernel starts where that is known"),
    ("3", "a check failed"),
    ("4", "a check cannot be judged, for example times of a busy machine"),
    ("130", "broken off by Ctrl-C; 143 by SIGTERM, 129 by SIGHUP"),
)
HELP = f"""Run NOTEBOOKS headless; make an offline HTML report of each, and the index of all runs.

NOTEBOOKS are files, or names or their beginnings (02, profile) of: {NAMES.replace(" ", ", ")}.
`parameters NOTEBOOK` lists what -p takes, and the presets for -f.

\b
Exit code, the worst of all runs:
{chr(10).join(f"{code:>5}  {meaning}" for code, meaning in CODES)}
"""


@click.command(help=HELP)
@click.argument("notebooks", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Run every notebook of the workbook.")
@click.option("-f", "presets", multiple=True, metavar="PRESET", help="YAML file, or preset's name.")
@click.option(
    "-p",
    "texts",
    multiple=True,
    nargs=2,
    metavar="NAME VALUE",
    help='One parameter; a text as it is, texts as ["one", "two"].',
)
@click.option("--outputs", type=FOLDER, help="Where run folders go, instead of outputs/.")
@click.option(
    "--timeout", type=click.IntRange(min=1), help="Longest time for one cell, in seconds."
)
@click.pass_context
def report(
    ctx: click.Context,
    notebooks: tuple[str, ...],
    everything: bool,
    presets: tuple[str, ...],
    texts: tuple[tuple[str, str], ...],
    outputs: Path | None,
    timeout: int | None,
) -> None:
    from neoxlib.setup import refusals
    from neoxlib.workbook import arguments

    names = [str(path) for path in arguments.all_notebooks()] if everything else notebooks
    if not names or (notebooks and everything):
        raise click.UsageError(
            "name the notebooks to run, or give --all where there is a folder notebooks"
        )
    refusals.refuse(arguments.asked(names, presets, texts))  # before the slow imports below
    from neoxlib.workbook import headless

    code = headless.report(names, presets, texts, outputs=outputs, timeout=timeout, say=click.echo)
    ctx.exit(code)


@click.command()
@click.argument("notebooks", nargs=-1)
def parameters(notebooks: tuple[str, ...]) -> None:
    """List the parameters of NOTEBOOKS, by default of all, and the presets."""
    from neoxlib.workbook import arguments

    paths = [arguments.find(name) for name in notebooks] or arguments.all_notebooks()
    click.echo("\n\n".join(arguments.listing(path) for path in paths))
    click.echo(f"\npresets, for -f: {', '.join(arguments.all_presets()) or 'none'}")


@click.command("copy-notebooks")
@click.argument("folder", type=FOLDER)
def copy_notebooks(folder: Path) -> None:
    """Copy the notebooks and presets into FOLDER; files that are there stay as they are."""
    from neoxlib.workbook import arguments

    copied = arguments.copy_notebooks(folder)
    for path in copied:
        click.echo(path)
    click.echo(f"{len(copied)} files were copied to {folder}; those that were there stay.")


@click.command()
@click.argument("folder", type=FOLDER, required=False)
@click.option("--port", type=click.IntRange(1, 65535), help="By default the first free from 8888.")
@click.option("--no-browser", is_flag=True, help="Open no browser, only print the address.")
def lab(folder: Path | None, port: int | None, no_browser: bool) -> None:
    """Open the notebooks in JupyterLab, which listens on 127.0.0.1 only.

    FOLDER is where the notebooks are; those that it lacks are copied there first, and none is
    replaced. By default it is the folder `notebooks` here or above, else that of the checkout; an
    installed wheel copies its notebooks to `notebooks`. News and update checks are off.
    """
    import os

    from neoxlib.setup import lab as module

    folder, copied = module.workbook_folder(folder)
    port = module.free_port(port)
    if copied:
        click.echo(f"{len(copied)} notebooks and presets were copied to {folder}")
    click.echo(f"from another machine first: {module.ssh_line(port, os.environ)}")
    click.echo("then open the address that begins with http://127.0.0.1 below.")
    module.start(folder, port, not no_browser and module.has_screen(os.environ))
