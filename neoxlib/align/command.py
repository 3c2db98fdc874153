"""`python -m neoxlib align`: a capture and its verdict without a notebook."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

import neoxlib
from neoxlib.align import references, reproduce, tables
from neoxlib.align.msprobe_write import refuse_there, write_msprobe
from neoxlib.align.study import Study, asked, compared, taken
from neoxlib.demo import MODEL_DIR, PROMPTS
from neoxlib.errors import SettingsError
from neoxlib.workbook.param import REFERENCES

PATH = click.Path(path_type=Path)


@dataclass(frozen=True)
class Answer:
    """What the command prints."""

    text: str
    guilty: bool

    def __str__(self) -> str:
        return self.text


def run(
    model_dir: Path | None = None,
    *,
    world_size: int = 1,
    dtype: str = "auto",
    device: str = "auto",
    quant: str | None = None,
    plain: bool = False,
    prompts: Sequence[str] = (),
    decode_steps: int = 2,
    target: str = "",
    reference: str = "",
    output: Path | None = None,
    msprobe: Path | None = None,
) -> Answer:
    """Capture a model over its ranks, or look into `target`, and judge it by `reference`.

    Both are as the parameters of notebook 06. `msprobe` is where a dump for msprobe is written; the
    prompts are then cut to one length. Raises SettingsError for an `output` that is not empty and
    for a pair that does not fit, and the errors of Session and `write_msprobe`.
    """
    if msprobe is not None:
        refuse_there(msprobe)
    if output is not None and output.exists() and any(output.iterdir()):
        raise SettingsError(f"{output} is not empty; name a new folder")
    usual = {"model_dir": model_dir or MODEL_DIR, "world_size": world_size, "dtype": dtype}
    usual |= {"device": device, "quant": quant, "compile": not plain}
    asked_for = references.parse_target(target), references.parse(reference)
    references.refuse(*asked_for, str(usual["model_dir"]), device)
    texts = prompts or PROMPTS["en"] + PROMPTS["zh"]

    def open_(**changes: Any) -> neoxlib.Session:
        return neoxlib.Session(**usual | changes)

    with ExitStack() as stack:
        folder = output or Path(stack.enter_context(TemporaryDirectory()))
        where, even = str(usual["model_dir"]), msprobe is not None
        found = taken(*asked_for, folder, open_, texts, decode_steps, where, even)
        if msprobe is not None:
            write_msprobe(found, msprobe)
        study = compared(found, asked_for[1], folder, open_)
        return _judged(study if target else asked(study, open_), output)


def _judged(study: Study, output: Path | None) -> Answer:
    lines = [study.sentence]
    if study.alignment.first:
        rows = tables.frame(study)
        columns = ["layer", "step", "rank", "pass", "own_max", "own_rms", "not_finite"]
        worst = rows[rows["guilty"]].head(10)[columns]
        lines += ["", "The first guilty steps:", worst.to_string(index=False)]
    failed = [(name, detail) for name, passed, detail in study.checks if not passed]
    more = [f"FAIL {name}: {said}" for name, said in failed if said not in study.sentence]
    lines += ["", *more] if more else []
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        tables.frame(study).to_csv(output / "steps.csv", index=False)
        tables.three_way_frame(study).to_csv(output / "three_way.csv", index=False)
        folder = output / "reproduction"
        reproduce.write(study.capture, study.alignment, folder, study.sentence, study.model_dir)
        lines += ["", str(output)]
    return Answer("\n".join(lines), bool(failed))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model_dir", type=PATH, required=False)
@click.option("--world-size", type=int, default=1, show_default=True, help="Ranks to split over.")
@click.option("--dtype", default="auto", show_default=True, help="Number format of the weights.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or npu.")
@click.option("--quant", help="Weights packed as int8 or int4; as they are by default.")
@click.option("--plain", is_flag=True, help="Plain layers, which show every step.")
@click.option("--prompt", "prompts", multiple=True, help="A text; the shipped ones by default.")
@click.option("--decode-steps", type=int, default=2, show_default=True, help="Forced tokens.")
@click.option("--target", default="", help="A capture or dump to look into, or a run to capture.")
@click.option("--reference", default="", help=f"A folder, or one of {', '.join(REFERENCES)}.")
@click.option("--output", type=PATH, help="Keep capture, table and reproduction here.")
@click.option("--msprobe", type=PATH, help="Write a dump that msprobe compares, of even prompts.")
@click.pass_context
def main(ctx: click.Context, model_dir: Path | None, **options: Any) -> None:
    """Say in which step the numbers of MODEL_DIR, by default the shipped model, part.

    Runs it over its ranks and holds each step against the checkpoint and the reference: a model
    folder, a capture, a run, transformers' model, another dtype or world size, or a second run of
    the same. Exit code 3 if a step is guilty, or a check fails.
    """
    found = run(model_dir, **options)
    click.echo(found)
    ctx.exit(3 if found.guilty else 0)
