"""The command `generate`: a prompt's continuation on standard output, as it comes."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from neoxlib import demo
from neoxlib.errors import ParameterError, SettingsError
from neoxlib.workbook.table import show_controls

if TYPE_CHECKING:
    from neoxlib.inference.generator import TextGenerator

LONGEST = 128  # tokens of an answer, unless another number is given


@click.command()
@click.argument("model")
@click.argument("prompt")
@click.option(
    "--world-size", type=click.IntRange(min=1), default=1, show_default=True, help="Ranks."
)
@click.option("--dtype", default="auto", show_default=True, help="Number format of the weights.")
@click.option("--device", default="auto", show_default=True, help="cpu or npu.")
@click.option("--quant", help="Weights of 8 or 4 bits: int8 or int4; as they are by default.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    default=LONGEST,
    show_default=True,
    help="Longest answer.",
)
@click.option(
    "--temperature",
    type=float,
    default=0.0,
    show_default=True,
    help="0 always takes the most likely token.",
)
@click.option("--top-k", type=int, help="Draw among the k most likely tokens.")
@click.option("--top-p", type=float, help="Draw among the most likely that reach this share.")
@click.option("--seed", type=int, help="Start of every draw; the same seed gives the same text.")
@click.option("--stop", multiple=True, help="A text that ends the answer; may be given again.")
def generate(
    model: str,
    prompt: str,
    world_size: int,
    dtype: str,
    device: str,
    quant: str | None,
    **settings: Any,
) -> None:
    """Continue PROMPT with MODEL, and print the text as it comes.

    MODEL is a model folder, or the word shipped for the model of the package. PROMPT - is read from
    standard input. Ctrl-C ends the answer: the text so far stays, and the exit code is 130.
    """
    text = _read_prompt() if prompt == "-" else prompt
    try:
        loaded = _load(
            demo.model_folder(model), world_size, dtype=dtype, device=device, quant=quant
        )
        _answer(loaded, text, settings)
    except SettingsError as error:
        raise ParameterError(str(error)) from error


def _read_prompt() -> str:
    """Read the prompt from standard input, without its last line break."""
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise ParameterError(f"the prompt on standard input is not UTF-8: {error}") from error


def _load(folder: Path, world_size: int, **given: Any) -> "TextGenerator":
    """Load the model: into this process for one rank, else over ranks of their own."""
    import neoxlib

    if world_size == 1:
        return neoxlib.load(folder, **given)
    return neoxlib.Session(folder, world_size, **given)


def _answer(model: "TextGenerator", prompt: str, settings: dict[str, Any]) -> None:
    """Print the answer; end its line and the ranks also after Ctrl-C."""
    line = Line()
    try:
        model.generate([prompt], stream=line.write, **settings)
        line.written = True  # an empty answer, too, is a line
    finally:
        line.end()
        getattr(model, "close", bool)()


class Line:
    """Text on standard output, piece by piece; a terminal is shown control characters instead."""

    def __init__(self) -> None:
        self.shown = show_controls if sys.stdout.isatty() else str
        self.written = False

    def write(self, row: int, piece: str) -> None:
        """Write a piece at once."""
        self.written = True  # before it is: Ctrl-C may come between the two
        click.echo(self.shown(piece), nl=False)

    def end(self) -> None:
        """End the line, if there is one."""
        if self.written:
            click.echo()
