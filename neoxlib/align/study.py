"""Notebook 06: take a capture, compare it, and say in a sentence where the numbers part."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from neoxlib.align import operators, references, reproduce, three_way, verdict
from neoxlib.align.capture import MANIFEST, capture
from neoxlib.align.joins import against, bits
from neoxlib.align.localize import Alignment, localize
from neoxlib.align.msprobe import read_msprobe
from neoxlib.align.reader import Capture, read_capture
from neoxlib.align.references import AGAIN, FOLDER, Open, Reference, repeat
from neoxlib.align.three_way import Line, Other, Witness
from neoxlib.align.verdict import command, sentence
from neoxlib.errors import NeoXError, SettingsError
from neoxlib.inference.contract import Inference, Prompt
from neoxlib.inference.text import encode
from neoxlib.model.dumps import is_dump
from neoxlib.workbook.run import SESSION
from neoxlib.workbook.table import Note

if TYPE_CHECKING:
    from neoxlib.workbook.run import Run

MAX_TOKENS = 48  # of each prompt


@dataclass(frozen=True)
class Study:
    """A capture, and what was found in it: held against a checkpoint, and against `other`."""

    capture: Capture
    alignment: Alignment  # own errors, and distances from the checkpoint
    witness: Witness = field(default_factory=Witness)
    reference: Reference = field(default_factory=Reference)
    other: Other | None = None

    @property
    def dtype(self) -> str:
        """Of the target."""
        return self.capture.manifest["dtype"]

    @property
    def model_dir(self) -> str | None:
        """The model folder that tells what is right, if it is not the captured one."""
        return self.reference.model_dir

    @cached_property
    def lines(self) -> list[Line]:
        """Reference, the same dtype and the target, step by step."""
        unit = three_way.rounding(self.capture)
        return three_way.lines(self.alignment, self.witness, self.other, unit)

    @cached_property
    def checks(self) -> list[tuple[str, bool, str]]:
        """Name, whether it holds, and detail of each check."""
        same = self.witness.drifts
        return verdict.checks(self.capture, self.alignment, same, self.lines, self.other)

    @cached_property
    def sentence(self) -> str:
        """The verdict, and against what."""
        words = self.reference.words(self.dtype)
        said = f"{sentence(self.capture, self.alignment)}. "
        if self.other is None:
            return f"{said}Held against {words}"
        if self.reference.kind == "same":
            return f"{said}Beside {words}: {verdict.twice(self.capture, self.other.bits)}"
        return f"{said}Against {words}: {verdict.parted(self.lines, self.other)}"


def captured(run: "Run", kind: Callable[..., Any]) -> Capture:
    """The capture of the parameter `target`, or a new one of the run's model over its ranks.

    `kind` is neoxlib.Session. Raises SettingsError for a `target` and `reference` that do not fit.
    """
    p = run.params
    target, reference = references.parse_target(p.target), references.parse(p.reference)
    references.refuse(target, reference, p.model_dir, p.device)
    open_ = opener(run, kind, record=True)
    return taken(target, reference, run.folder, open_, p.prompts, p.decode_steps, p.model_dir)


def opener(run: "Run", kind: Callable[..., Any], record: bool = False) -> Open:
    """Opens `kind` as the run asks for it, or with other settings; may record what it runs."""
    given = {name: value for name, value in vars(run.params).items() if name in SESSION}
    usual = given | {"model_dir": run.params.model_dir}
    logs = run.logs if record else run.logs / AGAIN

    def open_(**changes: Any) -> Any:
        opened = kind(**usual | changes, log_dir=logs)
        if record:
            run.describe(opened)
        return opened

    return open_


def taken(
    target: Reference,
    reference: Reference,
    folder: Path,
    open_: Open,
    prompts: Sequence[Prompt],
    decode_steps: int,
    model_dir: str | None = None,
    even: bool = False,
) -> Capture:
    """Open the target's capture, or take it in `folder`; with the reference "same", take it twice.

    `open_` opens a session by the settings that differ from the usual ones; `model_dir` is the
    model of a dump; `even` is as in `take`.
    """
    if target.kind == "capture":
        return open_capture(target.value, model_dir=reference.model_dir or model_dir)
    changes = {"run": references.run_settings, "model": lambda value: {"model_dir": value}}
    settings = changes[target.kind](target.value) if target.kind in changes else {}
    with open_(**settings) as session:
        found = take(session, folder / FOLDER, prompts, decode_steps, even)
        if reference.kind == "same":
            repeat(session, folder / AGAIN, found)
    return found


def open_capture(
    folder: str | Path, like: Capture | None = None, model_dir: str | Path | None = None
) -> Capture:
    """Read a capture, that of a run folder, or a dump of msprobe, for which see `read_msprobe`."""
    folder = Path(folder)
    inside = folder / FOLDER
    if is_dump(folder) and not (folder / MANIFEST).is_file():
        return read_msprobe(folder, like, model_dir)
    return read_capture(inside if (inside / MANIFEST).is_file() else folder)


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


def compare(run: "Run", found: Capture, kind: Callable[..., Any]) -> Study:
    """Compare a capture with `reference`, and with the same dtype in plain layers on one CPU."""
    p = run.params
    reference = references.parse(p.reference)
    return compared(found, reference, run.folder, opener(run, kind), p.layers or None)


def compared(
    found: Capture,
    reference: Reference,
    folder: Path,
    open_: Open,
    layers: list[int] | None = None,
) -> Study:
    """As `compare`: a reference that has to run first is captured in `folder`."""
    truth = None if reference.is_checkpoint else _other_capture(found, reference, folder, open_)
    alignment = localize(found, reference.model_dir, layers)
    with TemporaryDirectory() as place:
        plain = references.plain(found, Path(place) / FOLDER, reference.model_dir)
        same = witness(found, plain, reference.model_dir, layers)
        other = _other(found, plain, truth, reference) if truth else None
    judged = three_way.with_witness(alignment, same)
    blamed = operators.blamed(found, judged, reference.model_dir)
    return Study(found, blamed, same, reference, other)


def asked_again(run: "Run", study: Study, kind: Callable[..., Any]) -> Study:
    """As `asked`, of the run's model; a `target` that is there already cannot be asked."""
    return study if run.params.target else asked(study, opener(run, kind))


def asked(study: Study, open_: Open) -> Study:
    """Open a session once more if a step is guilty, and ask it for its operators."""
    if not study.alignment.first:
        return study
    try:
        with open_() as session:
            found = operators.blamed(study.capture, study.alignment, study.model_dir, session)
    except NeoXError:  # no second session: what the capture alone says stands
        return study
    return replace(study, alignment=found)


def _other_capture(found: Capture, reference: Reference, folder: Path, open_: Open) -> Capture:
    """The reference as a capture: one that is there, one taken with the target, or a new one."""
    if reference.kind == "capture":
        return open_capture(reference.value, found)
    if reference.kind == "same":
        return read_capture(folder / AGAIN)
    return references.capture_reference(reference, found, folder / AGAIN, open_)


def _other(found: Capture, plain: Capture, truth: Capture, reference: Reference) -> Other:
    twice = bits(found, truth) if reference.kind == "same" else []
    return three_way.beside(found, truth, against(found, truth), against(plain, truth), twice)


def witness(
    found: Capture, plain: Capture, model_dir: str | None = None, layers: list[int] | None = None
) -> Witness:
    """What `plain`, the same dtype in plain layers, shows of the tokens of `found`."""
    same = localize(plain, model_dir, layers)
    return Witness(same.drifts, same.findings, against(found, plain))


def conclude(run: "Run", study: Study) -> Note:
    """Record the checks and the verdict's sentence; returns the sentence."""
    for check in study.checks:
        run.check(*check)
    run.metrics(**verdict.key_figures(study.alignment))
    run.text("verdict.txt", study.sentence + "\n")
    return Note(study.sentence)


def reproduction(run: "Run", study: Study) -> Note:
    """Write the first guilty step as a script into the run folder, and say where it is."""
    folder = run.folder / "reproduction"
    names = reproduce.write(study.capture, study.alignment, folder, study.sentence, study.model_dir)
    if not names:
        return Note("No step is guilty that has a tensor: there is nothing to show.")
    return Note(f"reproduction/{names[0]}, with its inputs in {names[1]} beside it.")


def where(engine: Inference, prompts: Sequence[Prompt]) -> str:
    """Name the first guilty step of `engine`, for a check that failed, and the command to look."""
    about = engine.describe()
    with TemporaryDirectory() as folder:
        try:
            found = take(engine, Path(folder) / FOLDER, prompts)
            said = sentence(found, operators.blamed(found, localize(found), engine=engine))
        except NeoXError as error:  # the check's own words must not be lost
            said = f"the steps cannot be compared here: {error}"
    return f"{said}. Look: {command(about)}"
