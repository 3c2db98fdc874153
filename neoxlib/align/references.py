"""What a target can be held against, and what can be a target: the table of kinds.

A reference that is a checkpoint gives every step's own error; one that is a capture gives its
distance, and the checkpoint of the target still tells own errors.
"""

import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neoxlib.align.capture import MANIFEST, capture
from neoxlib.align.foreign import capture_transformers
from neoxlib.align.reader import Capture, read_capture
from neoxlib.checkpoint.preflight import preflight
from neoxlib.demo import MODEL_DIR
from neoxlib.errors import SettingsError
from neoxlib.inference.contract import Inference
from neoxlib.machine.environment import without_home
from neoxlib.workbook import param
from neoxlib.workbook.results import read_results

FOLDER = "capture"  # of a run's capture in the run folder
AGAIN = "reference"  # of a reference that was captured for it
PLAIN = "plain: compile is False"  # what Engine.describe() says of plain layers that were asked for
# Opens a session as the run asks for it, or with other settings of Session.
Open = Callable[..., AbstractContextManager[Inference]]


@dataclass(frozen=True)
class Kind:
    """A kind of reference: how it is given, and what the verdict calls it."""

    given: str
    words: str  # with {value}, and {dtype} of the target


KINDS = {
    "checkpoint": Kind("", "the checkpoint in float64, by formulas written apart from the model"),
    "model": Kind("a model folder", "the checkpoint {value} in float64"),
    "transformers": Kind("transformers", "transformers' model in {dtype}, unsplit"),
    "dtype": Kind("a dtype", "the same model in {value}, plain layers on one CPU"),
    "world_size": Kind("world_size=N", "the same model over {value} ranks"),
    "same": Kind("same or repeat", "a second run of the same"),
    "run": Kind("a run that names a model", "the model of the run {value}, as it ran there"),
    "capture": Kind("a capture, a run of 06_align, or a dump", "the capture {value}"),
}
CHECKPOINTS = ("checkpoint", "model")


@dataclass(frozen=True)
class Reference:
    """A parsed parameter `reference` or `target`."""

    kind: str = "checkpoint"
    value: str = ""

    @property
    def is_checkpoint(self) -> bool:
        """Whether own errors are held against it."""
        return self.kind in CHECKPOINTS

    @property
    def model_dir(self) -> str | None:
        """The model folder that tells what is right, if it is not the captured one."""
        return self.value if self.kind == "model" else None

    def words(self, dtype: str) -> str:
        """What the verdict calls it."""
        value = without_home(self.value)
        said = KINDS[self.kind].words.format(value=value, dtype=dtype)
        return said.replace("over 1 ranks", "on 1 rank")


def parse(text: str | Path | None) -> Reference:
    """Read a reference. Raises SettingsError for what is none, with the nearest word."""
    text = str(text or "")
    if not text:
        return Reference()
    if wrong := param.reference(text):
        raise SettingsError(f"reference: {wrong}")
    if number := re.fullmatch(param.RANKS, text):
        return Reference("world_size", number[1])
    if text in param.DTYPES:
        return Reference("dtype", text)
    if text in param.TWICE:
        return Reference("same")
    return Reference(text) if text == "transformers" else _folder(text)


def parse_target(text: str | Path | None) -> Reference:
    """Read a target: empty, a capture, a run or a model folder. Raises SettingsError for others."""
    text = str(text or "")
    if text and (wrong := param.target(text)):
        raise SettingsError(f"target: {wrong}")
    return _folder(text) if text else Reference()


def _folder(text: str) -> Reference:
    path = Path(text)
    folder = path.parent if path.is_file() else path
    return Reference(_kind_of(folder), str(folder))


def _kind_of(folder: Path) -> str:
    """A run of 06_align is the capture in it; what nothing is known of may be another's dump."""
    if any((folder / name).is_file() for name in (MANIFEST, f"{FOLDER}/{MANIFEST}")):
        return "capture"
    if any((folder / name).is_file() for name in ("config.json", "manifest.json")):
        return "model"
    return "run" if (folder / "results.json").is_file() else "capture"


def refuse(target: Reference, reference: Reference, model_dir: str, device: str) -> None:
    """Raise SettingsError for a pair that says nothing, before anything runs."""
    if reference.kind == "same" and target.kind == "capture":
        raise SettingsError(
            "reference 'same' runs the model twice, and a capture cannot be run: leave target "
            "empty, or give the second capture as reference"
        )
    if "capture" == target.kind == reference.kind and _same(target.value, reference.value):
        raise SettingsError(
            f"target and reference are both {target.value}: nothing can differ; give another"
        )
    if reference.kind == "world_size" and target.kind == "checkpoint":
        preflight(model_dir, int(reference.value), device=device)


def _same(one: str, other: str) -> bool:
    return Path(one).resolve() == Path(other).resolve()


def run_settings(folder: str) -> dict[str, Any]:
    """Settings of Session by which the run in `folder` ran its model.

    Raises SettingsError for results that name none.
    """
    try:
        results = read_results(Path(folder))
    except ValueError as error:
        raise SettingsError(f"{folder} is no run: {error}; give a run's folder") from error
    given, model = results["parameters"], results["model"]
    if "model_dir" not in given or not model:
        raise SettingsError(
            f"{folder} is a run of {results['notebook']} that loaded no model; give a run that "
            "did, a capture, or a model folder"
        )
    device = str(model.get("device") or "auto").partition(":")[0]
    taken = {name: model[name] for name in ("dtype", "quant", "world_size") if name in model}
    model_dir = os.path.expanduser(str(given["model_dir"])) or str(MODEL_DIR)
    return {"model_dir": model_dir, "device": device} | taken


def settings_of(found: Capture) -> dict[str, Any]:
    """Settings of Session by which a capture's model runs again."""
    about = found.manifest
    taken = {name: about.get(name) for name in ("model_dir", "dtype", "quant", "world_size")}
    device = str(about.get("device") or "auto").partition(":")[0]
    return taken | {"device": device, "compile": about.get("compile") != PLAIN}


def capture_reference(reference: Reference, found: Capture, folder: Path, open_: Open) -> Capture:
    """Capture, over the tokens of `found`, a reference that has to run first.

    Raises SettingsError, and the errors of Session, for what cannot run here.
    """
    if not found.manifest.get("model_dir"):
        raise SettingsError(
            f"{found.folder} names no model folder, so {KINDS[reference.kind].given!r} cannot run "
            "beside it; give a capture or a model folder as reference"
        )
    if reference.kind == "transformers":
        return capture_transformers(found.manifest["model_dir"], folder, found)
    if reference.kind == "dtype":
        return plain(found, folder, dtype=reference.value)
    is_run = reference.kind == "run"
    settings = run_settings(reference.value) if is_run else settings_of(found)
    if reference.kind == "world_size":
        settings["world_size"] = int(reference.value)
    with open_(**settings) as session:
        return repeat(session, folder, found)


def plain(
    found: Capture, folder: Path, model_dir: str | None = None, dtype: str | None = None
) -> Capture:
    """Capture the model of `found` in plain layers on one CPU, by default in its own dtype."""
    from neoxlib.inference.load import load

    about = found.manifest
    quant, room = about["quant"], found.ids.shape[1]
    where = model_dir or about["model_dir"]
    engine = load(where, dtype or about["dtype"], "cpu", quant, room, compile=False)
    return repeat(engine, folder, found)


def repeat(engine: Inference, folder: str | Path, like: Capture) -> Capture:
    """Capture `engine` over the token ids of another capture."""
    start = like.passes[0][1]
    mask = like.mask
    rows = [ids[:start][real[:start]].tolist() for ids, real in zip(like.ids, mask, strict=True)]
    return read_capture(capture(engine, folder, rows, like.ids[:, start:].tolist()))
