"""Read any published checkpoint folder: which tensor is in which file. How a tensor is cut is not known here."""

import hashlib
import logging
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neoxlib.checkpoint.foreign import adapter_beside, dead_link, file_kind, folder_kind, text_kind
from neoxlib.checkpoint.manifest import (
    JOURNAL,
    MANIFEST,
    PARTS,
    QUANT_KEY,
    misplaced,
    part_of,
    read_json,
    read_manifest,
)
from neoxlib.checkpoint.pickles import load_whole
from neoxlib.checkpoint.tensor_file import BLOCK, Piece, matrix, read_header, read_pickle
from neoxlib.errors import WeightsError, unreadable_is

log = logging.getLogger("neoxlib")

# Tables that older transformers saved beside the weights, in any dtype; the model computes its own.
SKIPPED = re.compile(r"(^|\.)(attention\.(bias|masked_bias)|rotary_emb\.inv_freq)$")
# In order of preference: the first that a folder has is read.
LAYOUTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


@dataclass(frozen=True)
class Stored:
    """A tensor of the checkpoint: one piece, or the ranks' pieces that join along `dim`."""

    pieces: tuple[Piece, ...]
    dim: int | None = None

    @cached_property
    def shape(self) -> tuple[int, ...]:
        shape = list(self.pieces[0].shape)
        if self.dim is not None:
            shape[self.dim] = sum(piece.shape[self.dim] for piece in self.pieces)
        return tuple(shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.pieces[0].dtype

    @property
    def place(self) -> tuple[Path, int]:
        """File and offset: tensors sorted by it are read in one sweep."""
        return self.pieces[0].path, self.pieces[0].offset or 0

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def read_into(self, out: Tensor, index: tuple[slice, ...]) -> None:
        """Fill `out` with `self[index]`, one slice per dimension; only the pieces that overlap it are opened."""
        out = out.view(index[0].stop - index[0].start, -1) if out.ndim == 1 else out
        for piece, place, box in self._parts(index):
            piece.read_into(out if place is None else out.narrow(self.dim, *place), *box)

    def mapped(self, index: tuple[slice, ...]) -> Tensor | None:
        """`self[index]` as pages of a file; None where no file has it in one run."""
        (piece, _, box), *more = self._parts(index)
        found = None if more else piece.mapped(*box)
        return None if found is None else found.view(tuple(s.stop - s.start for s in index))

    def _parts(
        self, index: tuple[slice, ...]
    ) -> Iterator[tuple[Piece, tuple[int, int] | None, list[slice]]]:
        """The pieces that overlap `index`: each with start and length along `dim` there, its own rows and columns."""
        box = list(index) if len(index) == 2 else [*index, slice(0, 1)]
        if self.dim is None:
            yield self.pieces[0], None, box
            return
        first = 0
        wanted = box[self.dim]
        for piece in self.pieces:
            length = piece.shape[self.dim]
            start = max(wanted.start, first)
            stop = min(wanted.stop, first + length)
            if start < stop:
                box[self.dim] = slice(start - first, stop - first)
                yield piece, (start - wanted.start, stop - start), list(box)
            first += length

    def row_blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """The whole as (rows, block [rows, columns]), BLOCK bytes at a time; a block holds until the next is asked."""
        height, width = matrix(self.shape)
        step = max(1, BLOCK // (width * self.dtype.itemsize))
        block = torch.empty(min(step, height), width, dtype=self.dtype)
        for start in range(0, height, step):
            rows = slice(start, min(start + step, height))
            self.read_into(block[: rows.stop - start], (rows, slice(0, width)))
            yield rows, block[: rows.stop - start]


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a model folder by their names in it, in the order of its files.

    `part` is (rank, world size) of a folder `part_model/{rank}`, whose tensors are that rank's; (0, 1) otherwise.
    `source_names` maps names to those of the unsplit checkpoint a cut was made from, where they differ.
    `quant` is the scheme that its weights are packed by; None where they are not.
    """

    folder: Path  # the folder with config.json and the tokenizer
    files: tuple[Path, ...]
    tensors: dict[str, Stored]
    part: tuple[int, int] = (0, 1)
    source_names: dict[str, str] = field(default_factory=dict)
    quant: str | None = None


@unreadable_is(WeightsError)
def open_checkpoint(folder: str | Path) -> Checkpoint:
    """Find every tensor of a model folder without reading its data.

    Takes a published checkpoint (safetensors or .bin, one file or an index), a folder that `shard` wrote, or one
    `part_model/{rank}` of it. Raises WeightsError: nothing found, files missing, truncated,
    corrupt or unsafe, or of another program, or an adapter beside them.
    """
    folder = Path(folder)
    if folder.is_file():
        raise WeightsError(
            f"{folder} is a file{file_kind(folder)}; a model is a folder: config.json and weights"
        )
    if not folder.is_dir():
        raise WeightsError(
            dead_link(folder) or f"model folder {str(folder)!r} does not exist or is not a folder"
        )
    load_whole.cache_clear()
    if (manifest := read_manifest(folder)) is not None:
        return _open_shards(folder, manifest)
    if (folder / JOURNAL).exists():
        raise WeightsError(f"{folder} is not finished: run the same shard or merge again to resume")
    return _open_published(folder, _layout(folder))


def _layout(folder: Path) -> str:
    """The name of the file of weights, or of the index, that is read."""
    found = [folder / layout for layout in LAYOUTS]
    found = [path for path in found if path.is_file() or path.is_symlink()]
    for path, later in zip(found, [*found[1:], None], strict=False):
        if problem := dead_link(path) or adapter_beside(folder):
            raise WeightsError(problem)
        if not (later and _is_stray(path)):
            return path.name
        log.warning("%s names weight files of which none is here; %s is read", path, later.name)
    raise WeightsError(_nothing_found(folder))


def _is_stray(path: Path) -> bool:
    """Whether this is an index that came without any of its files."""
    if not path.name.endswith(".index.json"):
        return False
    files = [path.parent / name for name in set(_weight_map(path).values())]
    return not any(file.exists() or file.is_symlink() for file in files)


def stored_quant(folder: str | Path) -> str | None:
    """The scheme that a cut's weights are packed by; None for any other folder."""
    manifest = read_manifest(Path(folder))
    return manifest.get("quant") if manifest else None


def _open_published(folder: Path, layout: str) -> Checkpoint:
    listed: dict[str, str] = {}
    if layout.endswith(".index.json"):
        listed = _read_index(folder / layout)
        files = [folder / name for name in dict.fromkeys(listed.values())]
    else:
        files = [folder / layout]
    if texts := [
        f"{file} should hold weights{kind}" for file in files if (kind := text_kind(file))
    ]:
        raise WeightsError("\n  ".join(texts))
    found = {}
    marks = {}
    for file in sorted(files):
        found[file.name], metadata = (
            read_header(file) if file.suffix == ".safetensors" else (read_pickle(file), {})
        )
        marks[file.name] = part_of(metadata, file), metadata.get(QUANT_KEY)
    if len(set(marks.values())) > 1:
        raise WeightsError(
            f"{folder} holds files of different parts or packings: {marks}; copy or cut it anew"
        )
    wanted = {name: file for name, file in listed.items() if not SKIPPED.search(name)}
    if lost := [f"{name} in {file}" for name, file in wanted.items() if name not in found[file]]:
        raise WeightsError(
            f"{folder / layout} lists tensors that their files do not hold:\n  " + "\n  ".join(lost)
        )
    tensors = {
        name: Stored((piece,))
        for file, pieces in found.items()
        for name, piece in pieces.items()
        if listed.get(name, file) == file
    }
    part, quant = next(iter(marks.values()))
    return Checkpoint(folder, tuple(sorted(files)), tensors, part, quant=quant)


def _weight_map(path: Path) -> dict[str, str]:
    """An index's tensor -> file."""
    listed = read_json(path).get("weight_map")
    if (
        not isinstance(listed, dict)
        or not listed
        or not all(isinstance(file, str) for file in listed.values())
    ):
        raise WeightsError(f"{path} has no weight_map of tensor and file name; copy it anew")
    return listed


def _read_index(path: Path) -> dict[str, str]:
    """The index's tensor -> file, every file present and beside the index."""
    listed = _weight_map(path)
    files = sorted(set(listed.values()))
    # A link out of the folder is fine (download caches are made of them); a name that leads out is not.
    if outside := [
        file for file in files if file in ("", ".", "..") or "/" in file or "\\" in file
    ]:
        raise WeightsError(
            f"{path} names files that are not beside it, which is refused: {', '.join(outside)}"
        )
    if missing := [file for file in files if not (path.parent / file).is_file()]:
        links = "".join(
            f"\n  {link}" for file in missing if (link := dead_link(path.parent / file))
        )
        words = (
            f"{path.parent} lacks {len(missing)} of {len(files)} weight files: {', '.join(missing)}"
        )
        raise WeightsError(words + (links or "; copy them, too"))
    return listed


def _open_shards(folder: Path, manifest: dict[str, Any]) -> Checkpoint:
    """The ranks' files of a cut as one checkpoint, whatever the world size that reads it."""
    files = [folder / name for name in manifest["files"] if name.endswith(".safetensors")]
    if missing := [str(file.relative_to(folder)) for file in files if not file.is_file()]:
        raise WeightsError(
            f"{folder} lacks files of its manifest: {', '.join(missing)}; copy them, or cut anew"
        )
    read = {str(file.relative_to(folder)): read_header(file) for file in files}
    headers = {file: pieces for file, (pieces, _) in read.items()}
    if wrong := misplaced(manifest, {file: metadata for file, (_, metadata) in read.items()}):
        raise WeightsError(
            f"{folder} has files where others belong; cut anew:\n  " + "\n  ".join(wrong)
        )
    tensors = {}
    lost = []
    for name, entry in manifest["tensors"].items():
        lost += [
            f"{name} in {file}" for file in entry["files"] if name not in headers.get(file, {})
        ]
        if not lost:
            pieces = tuple(headers[file][name] for file in entry["files"])
            tensors[name] = Stored(pieces if entry["cut"] is not None else pieces[:1], entry["cut"])
    if lost:
        raise WeightsError(
            f"{folder}: the manifest tells of tensors that are not there:\n  " + "\n  ".join(lost)
        )
    names = {name: entry["source_name"] for name, entry in manifest["tensors"].items()}
    return Checkpoint(
        folder / PARTS / "0", tuple(files), tensors, source_names=names, quant=manifest.get("quant")
    )


def _nothing_found(folder: Path) -> str:
    here = ", ".join(sorted(path.name for path in folder.iterdir())[:20]) or "nothing"
    if (folder / PARTS).is_dir():
        return f"{folder} has {PARTS}/ but no {MANIFEST}: a cut not finished (run shard again) or not made by neoxlib"
    if (folder.parent / MANIFEST).is_file():
        return f"{folder} is inside a cut; give {folder.absolute().parent}, which is read at any world size"
    looked = f"looked for {', '.join(LAYOUTS)} and {MANIFEST}; found {here}"
    return f"{folder} holds no weights that neoxlib reads{folder_kind(folder)} ({looked})"


def fingerprint(checkpoint: Checkpoint) -> str:
    """sha256 over config.json and, of every weight file, its name, size and 64 runs of 4 KiB spread evenly.

    Cheap at any size, and it tells apart two training steps of one model, whose names and sizes agree.
    """
    digest = hashlib.sha256((checkpoint.folder / "config.json").read_bytes())
    for path in checkpoint.files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb", buffering=0) as file:
            for n in range(64):
                file.seek(max(0, size - 4096) * n // 63)
                digest.update(file.read(4096))
    return digest.hexdigest()
