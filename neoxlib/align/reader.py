"""Read a capture: its manifest, and the tensors of one part of the model at a time."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from neoxlib.align.capture import FORMAT, KINDS, MANIFEST, rank_file
from neoxlib.align.estimates import Numerics, numerics, on_an_npu
from neoxlib.align.statistics import NAMES
from neoxlib.checkpoint.folder import fingerprint, open_checkpoint
from neoxlib.errors import SettingsError
from neoxlib.files import read_whole
from neoxlib.forms import (
    COUNT,
    FLAG,
    SIZE,
    TEXT,
    Kind,
    Maybe,
    Named,
    one_of,
    parse,
    problems,
    whole,
)
from neoxlib.machine.chips import CHIPS
from neoxlib.model.config_keys import SIZES
from neoxlib.model.steps import BEGINNING, END, Step, layer_steps, part_of

COMPILED = "compiled kernels"  # what Engine.describe() says of them
OPERATORS = "operators for "  # … and, before the chip's name, of an NPU's
LAYER = re.compile(r"gpt_neox\.layers\.(?:0|[1-9]\d{0,8})(?:\.(.+))?", re.ASCII)
IN_LAYER = {step.name: step for kind in (True, False) for step in layer_steps(kind)}
AT_ENDS = {step.name: step for step in (*BEGINNING, *END)}
FILE = re.compile(r"pass\d+/(?:begin|layer\d+|end)/rank\d+\.safetensors", re.ASCII)
Found = dict[tuple[str, int, int], Tensor]  # by name, pass and rank

MOST_RANKS = 4096
MOST_BYTES = 64 * 2**20  # of a capture.json; GPT-NeoX-20B's over 8 ranks has some 100 kB
COLUMNS = Kind(
    "two whole numbers", lambda v: isinstance(v, list) and len(v) == 2 and all(map(SIZE.fits, v))
)
FORM = {
    "model_dir": Maybe(TEXT),
    "fingerprint": Maybe(TEXT),
    "dtype": one_of("float32", "float16", "bfloat16"),
    "quant": Maybe(one_of("int8", "int4")),
    "world_size": whole(1, MOST_RANKS),
    "compile": TEXT,
    "kind": one_of(*KINDS),
    "layers": whole(0, SIZES["num_hidden_layers"]),
    "ids": [[whole(-(2**62))]],
    "mask": [[FLAG]],
    "passes": [COLUMNS],
    "files": Maybe(Named(COUNT)),  # absent from captures of earlier versions
}


@dataclass(frozen=True)
class Capture:
    """A finished capture in `folder`, with its manifest."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def size(self) -> int:
        """World size of the run."""
        return self.manifest["world_size"]

    @property
    def compiled(self) -> bool:
        """Whether the compiled kernels of the CPU ran, which keep float32 between the steps."""
        return self.manifest["compile"] == COMPILED

    @property
    def chip(self) -> str:
        """The name of the NPU whose operators ran; nothing if none did."""
        how = str(self.manifest["compile"])
        return how.removeprefix(OPERATORS) if how.startswith(OPERATORS) else ""

    @property
    def numerics(self) -> Numerics:
        """How the run rounds."""
        plain = numerics(self.manifest["dtype"], self.manifest["quant"], self.compiled)
        if not self.chip:
            return plain
        return on_an_npu(plain, CHIPS[self.chip].family if self.chip in CHIPS else "unknown")

    @property
    def passes(self) -> list[tuple[int, int]]:
        """Columns [first, end) of each forward pass."""
        return [tuple(columns) for columns in self.manifest["passes"]]

    @property
    def ids(self) -> Tensor:
        """Token ids [B, T]."""
        return torch.tensor(self.manifest["ids"])

    @property
    def mask(self) -> Tensor:
        """[B, T] bool, False on padding."""
        return torch.tensor(self.manifest["mask"], dtype=torch.bool)

    @property
    def files(self) -> dict[str, int] | None:
        """How many tensors each file holds; None where the manifest does not say it."""
        return self.manifest.get("files")

    def part(self, name: str) -> Found:
        """All tensors of one part of the model: `begin`, `layer000` … or `end`.

        Raises SettingsError if a rank's file is missing though others have theirs, and for tensors
        of another name, dtype, batch, count of tokens or number of dimensions than a step's.
        """
        found = {}
        for number in range(len(self.passes)):
            paths = [rank_file(self.folder, number, name, rank) for rank in range(self.size)]
            there = [path.is_file() for path in paths]
            if any(there) and not all(there):
                lost = [rank for rank, is_there in enumerate(there) if not is_there]
                raise SettingsError(
                    f"{self.folder} has {name} of pass {number} not from ranks {lost}: the ranks "
                    "captured different steps, or wrote to different machines; capture anew into "
                    "a folder that all of them share"
                )
            for rank, path in enumerate(paths):
                if path.is_file():
                    tensors = self._checked(path, name, number)
                    found |= {(full, number, rank): value for full, value in tensors.items()}
        return found

    def _checked(self, path: Path, part: str, number: int) -> dict[str, Tensor]:
        """The tensors of one file, each as a step of `part` in pass `number` may give it."""
        tensors = _loaded(path)
        for name, value in tensors.items():
            step = _step(name)
            if step is None or part_of(name) != part:
                raise SettingsError(f"{path} has {name!r}, no step of {part}; capture anew")
            dtypes, shape = self._expected(step, number)
            dtype = str(value.dtype).removeprefix("torch.")
            if dtype not in dtypes or not _alike(value.shape, shape):
                wanted = f"{' or '.join(dtypes)} [{', '.join(map(str, shape))}]"
                raise SettingsError(
                    f"{path} has {name} in {dtype} {list(value.shape)}, expected {wanted}; capture "
                    "anew"
                )
        listed = (self.files or {}).get(path.relative_to(self.folder).as_posix(), len(tensors))
        if len(tensors) != listed:
            raise SettingsError(
                f"{path} holds {len(tensors)} tensors, {MANIFEST} says {listed}; copy the whole "
                "capture again, or capture anew"
            )
        return tensors

    def _expected(self, step: Step, number: int) -> tuple[list[str], list[int | str]]:
        """Dtypes and dimensions of a step's tensor in pass `number`.

        Heads and width are not known here: for a wrong one the comparison accuses the step.
        """
        if self.manifest["kind"] != "tensors":
            return ["float64"], [len(NAMES)]
        first, end = self.passes[number]
        tokens = end if "cached" in step.name else end - first
        more = ["float32"] if self.compiled or self.chip else []  # kept between the steps
        heads = ["heads"] if step.dim == 2 else []
        return [self.manifest["dtype"], *more], [len(self.manifest["ids"]), tokens, *heads, "width"]


def _alike(found: Sequence[int], expected: Sequence[int | str]) -> bool:
    """Whether a shape is as expected, where a word stands for any number but 0."""
    pairs = zip(found, expected, strict=False)
    return len(found) == len(expected) and all(
        n > 0 if isinstance(wanted, str) else n == wanted for n, wanted in pairs
    )


def _step(name: str) -> Step | None:
    """The step of a full name; None if there is none."""
    layer = LAYER.fullmatch(name)
    return IN_LAYER.get(layer[1] or "") if layer else AT_ENDS.get(name)


def _loaded(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, MemoryError, SafetensorError) as error:
        raise SettingsError(f"{path} cannot be read: {error}; capture anew") from error


def read_capture(folder: str | os.PathLike[str]) -> Capture:
    """Open a capture. Raises SettingsError for a folder that is none, or of another version."""
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise SettingsError(f"{folder} is no capture: it has no {MANIFEST}; give such a folder")
    try:
        manifest = parse(read_whole(path, MOST_BYTES))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read: {error}; capture anew") from error
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if type(version) is not int or version != FORMAT:
        raise SettingsError(f"{path} has format {version!r}, expected {FORMAT}; capture anew")
    if wrong := problems(manifest, FORM) or _misfits(manifest):
        raise SettingsError(f"{path} is damaged; capture anew:\n  " + "\n  ".join(wrong))
    _refuse_lost(folder, manifest.get("files") or {})
    return Capture(folder, manifest)


def _refuse_lost(folder: Path, files: Iterable[str]) -> None:
    """Raise SettingsError if a file that the manifest names is not there."""
    lost = next((name for name in files if not (folder / name).is_file()), None)
    if lost is not None:
        raise SettingsError(
            f"{folder} has lost {lost}, which {MANIFEST} names; copy the whole capture again, or "
            "capture anew"
        )


def _misfits(manifest: dict[str, Any]) -> list[str]:
    """How token ids, padding, passes and names of files, each of its form, are wrong."""
    ids, mask, passes = (manifest[name] for name in ("ids", "mask", "passes"))
    widths = {len(row) for row in (*ids, *mask)}
    if not ids or len(widths) > 1 or len(ids) != len(mask):
        return ["ids and mask are not of the same rows and columns"]
    if not passes:
        return ["passes is empty, expected one or more"]
    ends = [0, *(end for _, end in passes)]
    follow = all(columns[0] == end for columns, end in zip(passes, ends, strict=False))
    if not follow or ends != sorted(set(ends)) or ends[-1] > max(widths):
        return ["passes do not follow each other over the columns of ids"]
    if wrong := [name for name in manifest.get("files") or () if not FILE.fullmatch(name)]:
        return [f"files names {wrong[0]!r}, which is no file of a capture"]
    return []


def need_tensors(capture: Capture) -> None:
    """Raise SettingsError for a capture of statistics, which cannot be compared step by step."""
    if capture.manifest["kind"] != "tensors":
        raise SettingsError(
            f"{capture.folder} holds {capture.manifest['kind']}; a comparison needs tensors: "
            "capture with kind='tensors'"
        )


def refuse_other_tokens(one: Capture, other: Capture) -> None:
    """Raise SettingsError unless both captures are of the same token ids and padding."""
    if (
        one.manifest["ids"] != other.manifest["ids"]
        or one.manifest["mask"] != (other.manifest["mask"])
    ):
        raise SettingsError(
            f"{one.folder} and {other.folder} are of different token ids: capture both with the "
            "same prompts and the same tokens after them"
        )


def refuse_changed_model(capture: Capture) -> None:
    """Raise SettingsError if the folder that was captured is unknown or holds another model by now.

    Raises the errors of `open_checkpoint` if it is no longer there.
    """
    folder = capture.manifest["model_dir"]
    if folder is None:
        raise SettingsError(f"{capture.folder} does not say of which model it is; give its folder")
    now = fingerprint(open_checkpoint(folder))
    if now != capture.manifest["fingerprint"]:
        raise SettingsError(
            f"{folder} is not the model that {capture.folder} was made of: its fingerprint is "
            f"{now[:12]}, the capture's {str(capture.manifest['fingerprint'])[:12]}; give the "
            "right model folder as reference, or capture anew"
        )
