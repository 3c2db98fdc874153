"""Write what every step of a forward pass computes, on every rank, into a folder.

One safetensors file per pass, rank and part of the model: no more than one layer's tensors of one
pass are in memory. The folder gets its name when all of it is written.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from neoxlib.align.statistics import statistics
from neoxlib.errors import SettingsError
from neoxlib.files import replace
from neoxlib.inference.activations import Forced, check_window, chosen_names, forced, run_passes
from neoxlib.inference.contract import Inference
from neoxlib.inference.engine import Engine
from neoxlib.model.group import on_all
from neoxlib.model.steps import part_of

MANIFEST = "capture.json"
FORMAT = 1
KINDS = ("tensors", "statistics")


def capture(
    engine: Inference,
    folder: str | os.PathLike[str],
    prompts: Sequence[Sequence[int]],
    then: Sequence[Sequence[int]] = (),
    names: Sequence[str] = ("*",),
    kind: str = "tensors",
) -> Path:
    """Run token ids through an Engine or a Session and write all steps `names` into `folder`.

    `then` has, for each prompt, the tokens of the decode steps, which are forced. With the kind
    "statistics" only the least and greatest value, mean, norm and counts of NaN and infinity of
    each tensor are kept. Raises SettingsError for names that no step has, rows that do not fit, a
    folder that is there already, and a disk that is full: then nothing is left.
    """
    if kind not in KINDS:
        raise SettingsError(f"kind is {kind!r}; it is one of {', '.join(KINDS)}")
    folder = Path(folder).absolute()
    if folder.exists():
        raise SettingsError(f"{folder} is there already; name a new folder")
    rows = [list(row) for row in prompts]
    arguments = str(folder), rows, [list(row) for row in then], list(names), kind
    apply = getattr(engine, "apply", None)
    if apply is None:
        capture_on_rank(engine, *arguments)
    else:
        apply(capture_on_rank, *arguments)
    return folder


def capture_on_rank(
    engine: Engine,
    folder: str,
    rows: list[list[int]],
    then: list[list[int]],
    names: list[str],
    kind: str,
) -> None:
    """As `capture`, on one rank of the engine's group; all ranks must call it."""
    wanted = frozenset(chosen_names(engine.config, names))
    work = forced(rows, then)
    check_window(work, engine.config.vocab_size, engine.max_seq_len)
    engine.wait_until_resident()
    aside = Path(f"{folder}.part")
    writer = Writer(aside, engine.group.rank, wanted, kind)
    writer.guarded(_fresh, aside) if engine.group.rank == 0 else None
    engine.group.barrier()
    run_passes(engine.model, work, writer)
    writer.flush()
    fine = on_all(engine.group, writer.failure is None, engine.weight.device)
    if engine.group.rank == 0:
        fine = fine and writer.guarded(finish, aside, Path(folder), _manifest(engine, work, kind))
        if not fine:
            shutil.rmtree(aside, ignore_errors=True)
    if not on_all(engine.group, bool(fine), engine.weight.device):
        why = writer.failure or "another rank could not write"
        raise SettingsError(
            f"the capture could not be written to {folder}: {why}; nothing is left of it. Free "
            "space there, name another folder, choose fewer names or the kind 'statistics'"
        )


def _fresh(aside: Path) -> None:
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)


def finish(aside: Path, folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a capture, with its files, and give the folder its name."""
    manifest = manifest | {"files": _files(aside)}
    replace(aside / MANIFEST, json.dumps(manifest, indent=1).encode(), ".tmp")
    aside.rename(folder)


def _files(folder: Path) -> dict[str, int]:
    """How many tensors each file of all ranks holds, by its path in the capture."""
    found = {}
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                found[path.relative_to(folder).as_posix()] = len(file.keys())
        except SafetensorError as error:
            raise OSError(f"{path}: {error}") from error
    return found


def _manifest(engine: Engine, work: Forced, kind: str) -> dict[str, Any]:
    about = engine.describe()
    taken = ("model_dir", "fingerprint", "dtype", "quant", "world_size", "device", "compile")
    return {name: about.get(name) for name in taken} | {
        "format": FORMAT,
        "kind": kind,
        "world_size": engine.group.size,
        "layers": engine.config.num_hidden_layers,
        "ids": work.ids.tolist(),
        "mask": work.mask.tolist(),
        "passes": work.passes,
        "operators": _operators(engine, work),
    }


def _operators(engine: Engine, work: Forced) -> list[dict[str, str]]:
    """The operator of each step, of every pass, where the executor can name them."""
    name = getattr(engine.model.executor, "operators", None)
    sizes = [(len(work.ids), end - first, end) for first, end in work.passes]
    return [] if name is None else [name(*each) for each in sizes]


class Writer:
    """A sink that writes the steps `wanted`, one file per pass and part of the model.

    A rank that stopped in the middle of a pass would leave the others waiting for it: a failure to
    write is kept, and what comes after is dropped.
    """

    def __init__(self, folder: Path, rank: int, wanted: frozenset[str], kind: str) -> None:
        self.folder = folder
        self.rank = rank
        self.wanted = wanted
        self.kind = kind
        self.place: tuple[int, str] | None = None
        self.held: dict[str, Tensor] = {}
        self.failure: OSError | None = None

    def __call__(self, pass_: int, name: str, value: Tensor) -> None:
        """Keep a copy of `value` on the CPU; write those of the part before."""
        if name not in self.wanted or self.failure:
            return
        place = pass_, part_of(name)
        if place != self.place:
            self.flush()
            self.place = place
        if self.kind == "statistics":
            self.held[name] = statistics(value)
        else:
            self.held[name] = value.detach().to("cpu", copy=True).contiguous()

    def flush(self) -> None:
        """Write what is held."""
        if self.held and self.place:
            self.guarded(self._write, rank_file(self.folder, *self.place, self.rank))
        self.held = {}

    def _write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file(self.held, path)
        except OSError:
            raise
        except Exception as error:  # safetensors has an error of its own for a full disk
            raise OSError(str(error)) from error

    def guarded(self, work: Any, *args: Any) -> bool:
        """Call `work`; keep its OSError. Returns whether there was none."""
        try:
            work(*args)
        except OSError as error:
            self.failure = error
        return self.failure is None


def rank_file(folder: Path, pass_: int, part: str, rank: int) -> Path:
    """The file of one pass, part of the model and rank."""
    return folder / f"pass{pass_}" / part / f"rank{rank}.safetensors"
