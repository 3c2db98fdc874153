"""The command line: each command calls one function. A user's error is one plain message."""

import errno
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from neoxlib import __version__, demo, languages, streams
from neoxlib.errors import NeoXError, ParameterError, torch_npu_error
from neoxlib.hosts.commands import cluster
from neoxlib.languages import help
from neoxlib.ranks.commands import generate
from neoxlib.setup import commands, notebook_commands

FOLDER = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
GONE = (errno.EPIPE, errno.EIO)  # the reader of a pipe, a terminal


class Commands(help.Commands):
    """Turns NeoXError and OSError into a message on stderr.

    Exit code 2 for parameters, 130 after Ctrl-C, 1 for everything else.
    """

    def main(self, *args: Any, **options: Any) -> Any:
        streams.need_standard_streams()
        try:
            return super().main(*args, **options)
        except OSError:  # of --help, which no command writes
            if not _told_lost():
                raise
            sys.exit(1)
        except SystemExit as end:
            if not _told_lost(GONE):
                raise
            sys.exit(end.code or 1)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo(languages.said("Broken off by Ctrl-C."), err=True)
            ctx.exit(130)
        except BrokenPipeError:
            raise  # the reader of the pipe has gone; click handles it
        except (NeoXError, ImportError, RuntimeError, OSError) as error:
            if isinstance(error, OSError) and _told_lost():
                ctx.exit(1)
            known = error if isinstance(error, (NeoXError, OSError)) else torch_npu_error(error)
            if known is None:
                raise
            click.echo(f"{type(known).__name__}: {languages.said(str(known))}", err=True)
            ctx.exit(2 if isinstance(known, ParameterError) else 1)


def _told_lost(silent: tuple[int, ...] = ()) -> bool:
    """Say that standard output cannot be written to, if so; not for the errors in `silent`."""
    error = streams.lost_output()
    if error is None or error.errno in silent:
        return False
    why = error.strerror
    with suppress(OSError):
        click.echo(languages.said(f"standard output cannot be written to: {why}"), err=True)
    return True


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="neoxlib", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """GPT-NeoX inference on Ascend NPUs, and on the CPU.

    Compiled kernels are kept in the folder that NEOXLIB_CACHE names, by default ~/.cache/neoxlib;
    runs go to the one that NEOXLIB_OUTPUTS names, by default outputs. Where the home folder cannot
    be written to, a private folder below the temporary one stands in for it.
    """
    from neoxlib import process  # what --help need not wait for

    ctx.with_resource(languages.speaking(languages.chosen()))
    process.prepare_children()


@cli.command()
@click.argument("src", type=FOLDER)
@click.argument("dst", type=FOLDER)
@click.option("--world-size", type=int, required=True, help="Ranks to cut for.")
@click.option("--dtype", help="Number format to write; by default the source's.")
@click.option("--quant", help="Pack the weights: int8 or int4; as they are by default.")
def shard(src: Path, dst: Path, world_size: int, dtype: str | None, quant: str | None) -> None:
    """Cut the checkpoint SRC into one folder per rank below DST; resume an interrupted cut.

    The word shipped stands for the model of the package.
    """
    from neoxlib.checkpoint import shard as checkpoint_shard

    checkpoint_shard.shard(demo.model_folder(src), dst, world_size, dtype=dtype, quant=quant)


@cli.command()
@click.argument("dst", type=FOLDER)
def verify(dst: Path) -> None:
    """Check every file of the shard folder DST against its manifest."""
    from neoxlib.checkpoint import verify as checkpoint_verify

    rows = checkpoint_verify.verify(dst)
    for row in rows:
        click.echo(f"{row.sha256[:12]}  {row.bytes:>15,}  {row.file}")
    click.echo(f"{len(rows)} files are as the manifest says.")


@cli.command()
@click.argument("dst", type=FOLDER)
@click.argument("out", type=FOLDER)
def merge(dst: Path, out: Path) -> None:
    """Merge the shard folder DST into an unsplit checkpoint in OUT."""
    from neoxlib.checkpoint import shard as checkpoint_shard

    checkpoint_shard.merge(dst, out)
    click.echo(out)


@cli.command()
@click.argument("src", type=FOLDER)
@click.argument("dst", type=FOLDER)
def prepare(src: Path, dst: Path) -> None:
    """Make the model folder DST from SRC: links to the weights, copies of small files, no edits."""
    from neoxlib.checkpoint.prepare import prepare_model

    click.echo(prepare_model(src, dst).to_string(index=False))


@cli.command("import-config")
@click.argument("config", type=FOLDER)
@click.option("-o", "--output", type=FOLDER, help="Write the preset there instead of printing it.")
def import_config(config: Path, output: Path | None) -> None:
    """Turn the CONFIG.ini of the vendor's SDK into a preset; name all that is left out."""
    from neoxlib.files import overwrite
    from neoxlib.workbook import vendor_config

    found = vendor_config.import_config(config)
    if output is None:
        click.echo(found.preset(config.name), nl=False)
        return
    try:
        overwrite(output, found.preset(config.name).encode())
    except OSError as error:
        raise ParameterError(f"{output} cannot be written: {error}") from error
    for note in found.notes:
        click.echo(note, err=True)
    click.echo(output)


@cli.command()
@click.argument("model_dir", type=FOLDER)
@click.option("--world-size", type=int, default=1, show_default=True, help="Ranks to split over.")
@click.option("--batch", type=int, default=1, show_default=True, help="Prompts at a time.")
@click.option(
    "--seq-len", type=int, help="Prompt and answer, in tokens; the model's window by default."
)
@click.option(
    "--dtype", default="float16", show_default=True, help="Number format of weights and cache."
)
@click.option("--chip", help="A chip of the table, for example 910B3; this machine by default.")
@click.option("--quant", help="Weights packed as int8 or int4; as they are by default.")
@click.option(
    "--bandwidth", type=float, help="GB/s of device memory, in place of the table's figure."
)
@click.option("--tflops", type=float, help="Peak TFLOPS, in place of the table's figure.")
@languages.language_option()
def plan(
    model_dir: Path,
    world_size: int,
    batch: int,
    seq_len: int | None,
    dtype: str,
    chip: str | None,
    quant: str | None,
    bandwidth: float | None,
    tflops: float | None,
) -> None:
    """Say whether the model fits and how fast it can be, before any device is touched.

    The word shipped stands for the model of the package.
    """
    from neoxlib.speed import plan as speed_plan

    figures = {"bandwidth_gb_s": bandwidth, "tflops": tflops}
    click.echo(
        speed_plan.plan(
            demo.model_folder(model_dir),
            world_size,
            batch,
            seq_len,
            dtype=dtype,
            chip=chip,
            quant=quant,
            **figures,
        )
    )


@cli.command()
@click.argument("model_dir", type=FOLDER, required=False)
@click.option("--text", type=FILE, help="Paragraphs to measure on.")
def quality(model_dir: Path | None, text: Path | None) -> None:
    """Measure every dtype and quantization of MODEL_DIR, by default the shipped model.

    Writes quality.json and quality.md into outputs/.
    """
    from neoxlib.inference import quality as module

    click.echo(module.write_table(model_dir, text))


@cli.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def align(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Say in which step a model's numbers part; exit code 3 if they do. Takes --help."""
    from neoxlib.align import command

    ctx.exit(command.main(list(arguments), ctx.command_path, standalone_mode=False) or 0)


@cli.command()
@click.argument("outputs", type=FOLDER, required=False)
@click.option("--notebook", default="", help="Its name or the beginning of it; all by default.")
@click.option("--metric", default="", help="Show this figure run by run.")
@click.option("--last", type=click.IntRange(1), default=50, show_default=True, help="Earlier runs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@languages.language_option()
def history(outputs: Path | None, notebook: str, metric: str, last: int, as_json: bool) -> None:
    """Say which figures of the newest runs changed, by the comparable runs before them.

    OUTPUTS is the folder of the runs. Comparable are runs of one notebook with the same model,
    machine, dtype, ranks and parameters; noisy ones are left out. low and high are the median ± 3
    scaled MAD; detectable is the change that is found 8 times in 10. q is the chance of a false
    alarm, over all figures (Benjamini-Hochberg); a figure changed where it is at most 0.05.
    """
    import json

    from neoxlib import history as module
    from neoxlib.workbook.run_folder import outputs_root

    found = module.histories(outputs or outputs_root(), notebook, last)
    if as_json:
        records = [module.record(one) for one in found]
        document = json.dumps({"notebooks": records}, ensure_ascii=False, indent=1)
        click.echo(streams.json_text(document))
    elif not found:
        click.echo(languages.said("There is no finished run that is not noisy yet."))
    else:
        named = [one for one in found if metric in [trend.metric for trend in one.trends]]
        click.echo("\n\n".join(module.text(one, metric) for one in named or found))


for command in (
    notebook_commands.report,
    notebook_commands.index,
    notebook_commands.parameters,
    notebook_commands.copy_notebooks,
    notebook_commands.lab,
    generate,
    commands.doctor,
    cluster,
    commands.install_plan,
    commands.environment,
    commands.selftest_npu,
    commands.explain,
    commands.bundle,
):
    cli.add_command(command)


@cli.command("lm-eval", add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def lm_eval(arguments: tuple[str, ...]) -> None:
    """Run lm-evaluation-harness by its own ARGUMENTS with the model `neoxlib` (extra `eval`)."""
    if find_spec("lm_eval") is None:
        raise ParameterError(
            "lm-evaluation-harness is not installed: pip install -e '.[eval]' -c constraints.txt"
        )
    from neoxlib import harness

    harness.main(arguments)


def main() -> None:
    """Run the command `neoxlib`, which is equal to `python -m neoxlib`."""
    sys.exit(cli(prog_name="neoxlib"))


if __name__ == "__main__":
    sys.exit(cli(prog_name="python -m neoxlib"))
