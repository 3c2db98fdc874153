"""Notebook 06: take a capture, compare it, and say in a sentence where the numbers part."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from neoxlib.align import reproduce, verdict
from neoxlib.align.capture import MANIFEST, capture
from neoxlib.align.distances import Drift
from neoxlib.align.joins import against
from neoxlib.align.localize import Alignment, localize
from neoxlib.align.msprobe import read_msprobe
from neoxlib.align.reader import Capture, read_capture
from neoxlib.align.verdict import command, sentence
from neoxlib.errors import NeoXError, SettingsError
from neoxlib.inference.contract import Inference, Prompt
from neoxlib.inference.text import encode
from neoxlib.model.dumps import is_dump
from neoxlib.workbook.table import Note

if TYPE_CHECKING:
    from collections.abc import Callable

    from neoxlib.workbook.run import Run

FOLDER = "capture"  # of a run's capture in the run folder
MAX_TOKENS = 48  # of each prompt


@dataclass(frozen=True)
class Study:
    """A capture, what was found in it, and how far the same dtype on the CPU is from the truth."""

    capture: Capture
    alignment: Alignment
    same_dtype: list[Drift] = field(default_factory=list)
    other: list[Drift] = field(default_factory=list)  # against the capture `reference`
    model_dir: str | None = None  # of the reference, if not the captured one

    @property
    def sentence(self) -> str:
        """The verdict."""
        return sentence(self.capture, self.alignment)


def captured(run: "Run", kind: "Callable[..., Any]") -> Capture:
    """The capture of the parameter `target`, or a new one of the run's model over its ranks.

    `kind` is neoxlib.Session. A `target` may be a capture, a run of this notebook, or a dump.
    """
    p = run.params
    if p.target:
        return open_capture(p.target, model_dir=model_of(p.reference) or p.model_dir)
    with run.session(kind) as session:
        folder = run.folder / FOLDER
        return take(session, folder, p.prompts, p.decode_steps)


def open_capture(
    folder: str | Path, like: Capture | None = None, model_dir: str | Path | None = None
) -> Capture:
    """Read a capture, that of a run folder, or a dump of msprobe, for which see `read_msprobe`."""
    folder = Path(folder)
    inside = folder / FOLDER
    if is_dump(folder) and not (folder / MANIFEST).is_file():
        return read_msprobe(folder, like, model_dir)
    return read_capture(inside if (inside / MANIFEST).is_file() else folder)


def model_of(reference: str | Path | None) -> str | None:
    """`reference` if it is a model folder."""
    return str(reference) if reference and (Path(reference) / "config.json").is_file() else None


def take(
    engine: Inference,
    folder: str | Path,
    prompts: Sequence[Prompt],
    decode_steps: int = 2,
    even: bool = False,
) -> Capture:
    """Capture `engine` over the beginnings of `prompts` and `decode_steps` tokens after each.

    These are forced, and are the row's own first tokens: so a broken model is asked the same. With
    `even` all rows are cut to the shortest: then there is no padding.
    """
    texts = any(isinstance(prompt, str) for prompt in prompts)
    rows = encode(engine.tokenizer if texts else None, prompts)
    room = engine.max_seq_len - decode_steps
    if room < 1:
        raise SettingsError(
            f"decode_steps is {decode_steps}, but max_seq_len is {engine.max_seq_len}; lower it"
        )
    shortest = min(map(len, rows), default=0) if even else MAX_TOKENS
    rows = [row[: min(MAX_TOKENS, room, shortest)] for row in rows]
    then = _first_tokens(rows, decode_steps) if decode_steps else []
    return read_capture(capture(engine, folder, rows, then))


def _first_tokens(rows: list[list[int]], count: int) -> list[list[int]]:
    return [[row[n % len(row)] for n in range(count)] for row in rows]


def repeat(engine: Inference, folder: str | Path, like: Capture) -> Capture:
    """Capture `engine` over the token ids of another capture."""
    start = like.passes[0][1]
    mask = like.mask
    rows = [ids[:start][real[:start]].tolist() for ids, real in zip(like.ids, mask, strict=True)]
    return read_capture(capture(engine, folder, rows, like.ids[:, start:].tolist()))


def compare(run: "Run", found: Capture) -> Study:
    """Compare a capture with `reference`, and with the same dtype in plain layers on one CPU."""
    p = run.params
    other = []
    model_dir = model_of(p.reference)
    if p.reference and model_dir is None:
        other = against(found, open_capture(p.reference, found))
    alignment = localize(found, model_dir, p.layers or None)
    return Study(found, alignment, same_dtype(found, model_dir), other, model_dir)


def same_dtype(found: Capture, model_dir: str | None = None) -> list[Drift]:
    """How far the plain layers on one CPU, in the capture's dtype, are from the reference."""
    from neoxlib.inference.load import load

    about = found.manifest
    dtype, quant = about["dtype"], about["quant"]
    room = found.ids.shape[1]
    with TemporaryDirectory() as folder:
        engine = load(model_dir or about["model_dir"], dtype, "cpu", quant, room, compile=False)
        plain = repeat(engine, Path(folder) / FOLDER, found)
        return localize(plain, model_dir, own=False).drifts


def conclude(run: "Run", study: Study) -> Note:
    """Record the checks and the verdict's sentence; returns the sentence."""
    for check in verdict.checks(study.capture, study.alignment, study.same_dtype):
        run.check(*check)
    run.metrics(guilty_steps=sum(found.guilty for found in study.alignment.findings))
    run.text("verdict.txt", study.sentence + "\n")
    return Note(study.sentence)


def reproduction(run: "Run", study: Study) -> Note:
    """Write the first guilty step as a script into the run folder, and say where it is."""
    folder = run.folder / "reproduction"
    try:
        names = reproduce.write(
            study.capture, study.alignment, folder, study.sentence, study.model_dir
        )
    except SettingsError as error:
        return Note(f"No reproduction: {error}")
    if not names:
        return Note(
            "No step is guilty whose operator could be run alone: there is nothing to show."
        )
    return Note(f"reproduction/{names[0]}, with its inputs in {names[1]} beside it.")


def where(engine: Inference, prompts: Sequence[Prompt]) -> str:
    """Name the first guilty step of `engine`, for a check that failed, and the command to look."""
    about = engine.describe()
    with TemporaryDirectory() as folder:
        try:
            found = take(engine, Path(folder) / FOLDER, prompts)
            said = sentence(found, localize(found))
        except NeoXError as error:  # the check's own words must not be lost
            said = f"the steps cannot be compared here: {error}"
    return f"{said}. Look: {command(about)}"
