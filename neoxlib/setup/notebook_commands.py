"""The commands about notebooks: run them, list their parameters, copy them."""

import json
import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from neoxlib.errors import ParameterError
from neoxlib.files import overwrite
from neoxlib.languages import language_option, said
from neoxlib.redact import scrub
from neoxlib.streams import json_text

if TYPE_CHECKING:
    from neoxlib.workbook.headless import Report

FOLDER = click.Path(path_type=Path)
NAMES = "00_setup 01_shard 02_inference 03_ceval 04_profile 05_compare 06_align"
CODES = (
    ("0", "all went well"),
    ("1", "a cell failed, or a file cannot be written"),
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

FROM_HELP = "Run nothing: make the page of this run's folder anew."


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
@click.option("--junit", type=FOLDER, metavar="FILE", help="Also write JUnit's XML to FILE.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document; all else goes to stderr."
)
@language_option(keep=True)
@click.option("--from", "past", type=FOLDER, metavar="RUN", help=FROM_HELP)
@click.pass_context
def report(
    ctx: click.Context,
    notebooks: tuple[str, ...],
    everything: bool,
    past: Path | None,
    lang: str | None,
    junit: Path | None,
    as_json: bool,
    **asked: Any,
) -> None:
    if (past is not None) + everything + bool(notebooks) != 1:
        raise click.UsageError("name the notebooks to run, or give --all, or a run with --from")
    if past is not None and (junit or as_json):
        raise click.UsageError("--from makes the page of a run; it writes no --junit and no --json")
    if past is not None:
        remake(past)
        return
    asked["texts"] += (("lang", lang),) if lang else ()
    try:
        found = _run_notebooks(notebooks, junit, as_json, **asked)
    except ParameterError as error:
        _write_refusal(str(error), junit, as_json)
        raise
    ctx.exit(_write_results(found, junit, as_json))


def _run_notebooks(
    notebooks: tuple[str, ...],
    junit: Path | None,
    as_json: bool,
    *,
    presets: tuple[str, ...],
    texts: tuple[tuple[str, str], ...],
    outputs: Path | None,
    timeout: int | None,
) -> "Report":
    """Refuse what cannot be run, then run the rest; without names all notebooks."""
    from neoxlib.setup import refusals
    from neoxlib.workbook import arguments

    if junit is not None:
        _refuse_unwritable(junit)
    names = notebooks or [str(path) for path in arguments.all_notebooks()]
    jobs = arguments.asked(names, presets, texts)
    refusals.refuse(jobs)  # before the slow imports below
    from neoxlib.workbook import headless, terminal

    stream = sys.stderr if as_json else sys.stdout

    def say(line: str, err: bool = False) -> None:
        click.echo(said(line), file=None if err else stream, err=err)

    live = stream if stream.isatty() else None
    shown = terminal.Terminal(say, partial(say, err=True), live)
    return headless.run_all(jobs, outputs, timeout, shown)


def _refuse_unwritable(junit: Path) -> None:
    """Raise ParameterError if the file cannot be written; a FIFO or a device is not tried."""
    if not junit.absolute().parent.is_dir():
        raise ParameterError(f"--junit {junit}: there is no folder {junit.absolute().parent}")
    if junit.is_dir():
        raise ParameterError(f"--junit {junit}: it is a folder; name a file in it")
    if junit.is_file() or not junit.exists():
        import tempfile  # which help need not wait for

        try:
            with tempfile.TemporaryFile(dir=junit.resolve().parent):
                pass
        except OSError as error:
            why = error.strerror
            raise ParameterError(f"--junit {junit} cannot be written: {why}") from error


def _write_results(found: "Report", junit: Path | None, as_json: bool) -> int:
    """Write what the options ask for about runs that have ended; return the exit code."""
    from neoxlib.workbook import ci_files

    lost = ()
    if junit is not None:
        text = ci_files.junit([(run.results, run.folder) for run in found.runs])
        try:
            overwrite(junit, scrub(text).encode())
        except OSError as error:
            lost = (ci_files.unwritten(OSError(error.errno, error.strerror), junit),)
    found = replace(found, errors=(*found.errors, *lost))
    if as_json:
        runs = [ci_files.record(run.results, run.folder, run.code) for run in found.runs]
        about = {"runs": runs, "not_run": found.not_run}
        for page in (found.index, found.root / "summary.md"):
            about[page.name] = str(page) if page.exists() else None
        about |= {"error": "\n".join(found.errors)} if found.errors else {}
        click.echo(_document(found.code, **about))
    for line in lost:
        click.echo(said(line), err=True)
    return found.code


def _write_refusal(message: str, junit: Path | None, as_json: bool) -> None:
    """Write what the options ask for about parameters that were refused."""
    if junit is not None:
        from neoxlib.workbook import ci_files

        with suppress(OSError):  # the file may be what is refused
            overwrite(junit, scrub(ci_files.refusal(message)).encode())
    if as_json:
        click.echo(_document(2, error=message, runs=[]))


def _document(code: int, **values: Any) -> str:
    """Return the JSON document of --json."""
    meaning = dict(CODES).get(str(code), "broken off by a signal")
    document = json.dumps(
        {"exit_code": code, "meaning": meaning} | values, ensure_ascii=False, indent=1
    )
    return json_text(document)


def remake(run: Path) -> None:
    """Make the page of a run anew, from its folder or a file in it, and say where it is."""
    from neoxlib.workbook import pages
    from neoxlib.workbook.results import read_results

    folder = run if run.is_dir() else run.parent
    try:
        read_results(folder)
        click.echo(pages.write_report(folder))
    except ValueError as error:
        raise ParameterError(f"{run} is not the folder of a run: {error}") from error


@click.command()
@click.argument("outputs", type=FOLDER, required=False)
@language_option()
def index(outputs: Path | None) -> None:
    """Make the index of all runs below OUTPUTS anew, by default of outputs/."""
    from neoxlib.workbook import pages
    from neoxlib.workbook.run_folder import outputs_root

    root = outputs or outputs_root()
    if not root.is_dir():
        raise ParameterError(f"{root} is not a folder of runs")
    click.echo(pages.write_index(root))


@click.command()
@click.argument("notebooks", nargs=-1)
def parameters(notebooks: tuple[str, ...]) -> None:
    """List the parameters of NOTEBOOKS, by default of all, and the presets."""
    from neoxlib.workbook import arguments

    paths = [arguments.find(name) for name in notebooks] or arguments.all_notebooks()
    click.echo("\n\n".join(arguments.listing(path) for path in paths))
    click.echo(f"\n{arguments.preset_listing()}")


@click.command("copy-notebooks")
@click.argument("folder", type=FOLDER)
@language_option()
def copy_notebooks(folder: Path) -> None:
    """Copy the notebooks and presets into FOLDER; files that are there stay as they are.

    With --lang zh their prose is in Chinese, and so are their reports.
    """
    from neoxlib.setup import notebook_copies

    copied = notebook_copies.copy_notebooks(folder)
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
