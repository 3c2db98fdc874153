"""The command line: each command calls one function. A user's error is one plain message."""

import platform
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from neoxlib.errors import NeoXError, ParameterError, torch_npu_error
from neoxlib.setup import commands

FOLDER = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


class Commands(click.Group):
    """Turns NeoXError and OSError into a message on stderr.

    Exit code 2 for parameters, 130 after Ctrl-C, 1 for everything else.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Broken off by Ctrl-C.", err=True)
            ctx.exit(130)
        except BrokenPipeError:
            raise  # the reader of the pipe has gone; click handles it
        except (NeoXError, ImportError, RuntimeError, OSError) as error:
            known = error if isinstance(error, (NeoXError, OSError)) else torch_npu_error(error)
            if known is None:
                raise
            click.echo(f"{type(known).__name__}: {known}", err=True)
            ctx.exit(2 if isinstance(known, ParameterError) else 1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """GPT-NeoX inference on Ascend NPUs, and on the CPU.

    Compiled kernels are kept in the folder that NEOXLIB_CACHE names, by default ~/.cache/neoxlib;
    runs go to the one that NEOXLIB_OUTPUTS names, by default outputs. Where the home folder cannot
    be written to, a private folder below the temporary one stands in for it.
    """
    from neoxlib.process import need_home  # what --help need not wait for

    need_home()


@cli.command()
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
    """Run NOTEBOOKS headless and make an offline HTML report of each, and the index of all runs.

    Exit code: 0 all went well, 1 a cell failed, 2 the parameters cannot be used, 3 a check failed.
    Ctrl-C, SIGTERM and SIGHUP end the run as interrupted, with its report; the code is then 130,
    143 or 129.
    """
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


@cli.command()
@click.argument("src", type=FOLDER)
@click.argument("dst", type=FOLDER)
@click.option("--world-size", type=int, required=True, help="Ranks to cut for.")
@click.option("--dtype", help="Number format to write; by default the source's.")
@click.option("--quant", help="Pack the weights: int8 or int4; as they are by default.")
def shard(src: Path, dst: Path, world_size: int, dtype: str | None, quant: str | None) -> None:
    """Cut the checkpoint SRC into one folder per rank below DST; resume an interrupted cut."""
    from neoxlib.checkpoint import shard as checkpoint_shard

    checkpoint_shard.shard(src, dst, world_size, dtype=dtype, quant=quant)


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
    """Say whether the model fits and how fast it can be, before any device is touched."""
    from neoxlib.speed import plan as speed_plan

    figures = {"bandwidth_gb_s": bandwidth, "tflops": tflops}
    click.echo(
        speed_plan.plan(
            model_dir, world_size, batch, seq_len, dtype=dtype, chip=chip, quant=quant, **figures
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


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--model-dir", type=FOLDER, help="Also check this model folder.")
@click.option("--host", type=FILE, help="Judge the machine that --json described.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool, model_dir: Path | None, host: Path | None) -> None:
    """Check this machine, and print what repairs each fault. Exit code 1 if something FAILs."""
    from neoxlib.setup import doctor as module

    found = module.from_json(host.read_text(encoding="utf-8")) if host else module.check(model_dir)
    click.echo(found.to_json() if as_json else found)
    ctx.exit(1 if found.worst == "FAIL" else 0)


@cli.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def align(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Say in which step a model's numbers part; exit code 3 if they do. Takes --help."""
    from neoxlib.align import command

    ctx.exit(command.main(list(arguments), ctx.command_path, standalone_mode=False) or 0)


@cli.command("install-plan")
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


@cli.command()
@click.argument("folder", type=FOLDER)
def environment(folder: Path) -> None:
    """Write FOLDER/environment.sh and FOLDER/kernel, a Jupyter kernel with CANN sourced."""
    from neoxlib.machine import host
    from neoxlib.setup import sourced_env

    for row in sourced_env.write_environment(folder, host.read_host()).itertuples(index=False):
        click.echo(f"{row[0]} {row[1]}: {row[2]}")


@cli.command("selftest-npu")
@click.option(
    "-o", "--output", type=FOLDER, help="Where the JSON goes, instead of outputs/selftest-npu.json."
)
@click.pass_context
def selftest_npu(ctx: click.Context, output: Path | None) -> None:
    """Check operators, collectives and text on this machine's NPUs, and write every error as JSON.

    Exit code: 0 all passed, 1 not all, 77 no NPU can be used here and nothing was verified.
    """
    from neoxlib.setup import selftest

    ctx.exit(selftest.main(output, click.echo))


cli.add_command(commands.explain)
cli.add_command(commands.bundle)


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


if __name__ == "__main__":
    sys.exit(cli(prog_name="python -m neoxlib"))
