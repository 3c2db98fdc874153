"""`python -m neoxlib align`: a capture and its verdict without a notebook."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

import neoxlib
from neoxlib.align import reproduce, tables
from neoxlib.align.joins import against
from neoxlib.align.localize import localize
from neoxlib.align.msprobe_write import refuse_there, write_msprobe
from neoxlib.align.reader import Capture
from neoxlib.align.study import FOLDER, Study, model_of, open_capture, take
from neoxlib.demo import MODEL_DIR, PROMPTS
from neoxlib.errors import SettingsError

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
    target: Path | None = None,
    reference: Path | None = None,
    output: Path | None = None,
    msprobe: Path | None = None,
) -> Answer:
    """Capture a model over its ranks, or take the capture `target`, and judge it.

    `msprobe` is where a dump for msprobe is written; the prompts are then cut to one length. Raises
    SettingsError for an `output` that is not empty, and the errors of Session and `write_msprobe`.
    """
    if msprobe is not None:
        refuse_there(msprobe)
    if output is not None and output.exists() and any(output.iterdir()):
        raise SettingsError(f"{output} is not empty; name a new folder")
    with ExitStack() as stack:
        folder = output or Path(stack.enter_context(TemporaryDirectory()))
        if target is not None:
            found = open_capture(target, model_dir=model_of(reference) or model_dir or MODEL_DIR)
        else:
            texts = prompts or PROMPTS["en"] + PROMPTS["zh"]
            where = (model_dir or MODEL_DIR, world_size, dtype, device, quant)
            with neoxlib.Session(*where, compile=not plain) as session:
                found = take(session, folder / FOLDER, texts, decode_steps, msprobe is not None)
        if msprobe is not None:
            write_msprobe(found, msprobe)
        return _judged(found, reference, output)


def _judged(found: Capture, reference: Path | None, output: Path | None) -> Answer:
    model_dir = model_of(reference)
    other = []
    if reference is not None and model_dir is None:
        other = against(found, open_capture(reference, found))
    study = Study(found, localize(found, model_dir), other=other, model_dir=model_dir)
    guilty = bool(study.alignment.first)
    lines = [study.sentence]
    if other:
        lines += ["", f"Distances from {reference}:", str(tables.against_other(study))]
    if guilty:
        rows = tables.frame(study)
        columns = ["layer", "step", "rank", "pass", "own_max", "own_rms", "not_finite"]
        worst = rows[rows["guilty"]].head(10)[columns]
        lines += ["", "The first guilty steps:", worst.to_string(index=False)]
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        tables.frame(study).to_csv(output / "steps.csv", index=False)
        reproduce.write(found, study.alignment, output / "reproduction", study.sentence, model_dir)
        lines += ["", str(output)]
    return Answer("\n".join(lines), guilty)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model_dir", type=PATH, required=False)
@click.option("--world-size", type=int, default=1, show_default=True, help="Ranks to split over.")
@click.option("--dtype", default="auto", show_default=True, help="Number format of the weights.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or npu.")
@click.option("--quant", help="Weights packed as int8 or int4; as they are by default.")
@click.option("--plain", is_flag=True, help="Plain layers, which show every step.")
@click.option("--prompt", "prompts", multiple=True, help="A text; the shipped ones by default.")
@click.option("--decode-steps", type=int, default=2, show_default=True, help="Forced tokens.")
@click.option("--target", type=PATH, help="Look into this capture; run no model.")
@click.option("--reference", type=PATH, help="What is right: a model folder, capture or dump.")
@click.option("--output", type=PATH, help="Keep capture, table and reproduction here.")
@click.option("--msprobe", type=PATH, help="Write a dump that msprobe compares, of even prompts.")
@click.pass_context
def main(ctx: click.Context, model_dir: Path | None, **options: Any) -> None:
    """Say in which step the numbers of MODEL_DIR, by default the shipped model, part.

    Runs it over its ranks and holds each step against the checkpoint. Exit code 3 if a step is
    guilty.
    """
    found = run(model_dir, **options)
    click.echo(found)
    ctx.exit(3 if found.guilty else 0)
