"""Open any published checkpoint folder, or a cut: which tensor is in which file.

How a tensor is cut is not known here.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neoxlib.checkpoint.foreign import dead_link, file_kind, text_kind
from neoxlib.checkpoint.manifest import (
    JOURNAL,
    PARTS,
    QUANT_KEY,
    misplaced,
    part_of,
    read_manifest,
)
from neoxlib.checkpoint.names import SKIPPED
from neoxlib.checkpoint.pickles import load_whole
from neoxlib.checkpoint.stored_tensor import StoredTensor
from neoxlib.checkpoint.tensor_file import FileTensor, read_header, read_pickle
from neoxlib.checkpoint.weight_files import choose_layout, read_index
from neoxlib.errors import WeightsError, unreadable_is

Mark = tuple[tuple[int, int], str | None]  # (rank, world size) of a file, and its quantization
Tensors = dict[str, FileTensor]  # of one file, by their names
FORM = "2:"  # that fingerprints begin with; earlier ones had none and saw less
SAMPLES = 16  # of a fingerprint, of each tensor
SAMPLE = 4096  # bytes


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a model folder by their names in it, in the order of its files.

    `part` is (rank, world size) of a folder `part_model/{rank}`, which holds that rank's tensors;
    (0, 1) otherwise. `source_names` maps names to those of the unsplit checkpoint that was cut.
    `quant` is the scheme that the weights are quantized by, or None.
    """

    folder: Path  # the folder with config.json and the tokenizer
    files: tuple[Path, ...]
    tensors: dict[str, StoredTensor]
    part: tuple[int, int] = (0, 1)
    source_names: dict[str, str] = field(default_factory=dict)
    quant: str | None = None


@unreadable_is(WeightsError)
def open_checkpoint(folder: str | Path) -> Checkpoint:
    """Find every tensor of a model folder without reading its data.

    Takes a published checkpoint (safetensors or .bin, one file or an index), a folder that `shard`
    wrote, or one `part_model/{rank}` of it. Raises WeightsError if nothing is found, if files are
    missing, truncated, corrupt, unsafe or another program's, or if an adapter lies beside them.
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
        return _open_cut(folder, manifest)
    if (folder / JOURNAL).exists():
        raise WeightsError(f"{folder} is not finished: run the same shard or merge again to resume")
    return _open_published(folder)


def check_part(checkpoint: Checkpoint, rank: int, world_size: int) -> None:
    """Raise WeightsError if a `part_model/{rank}` folder is not this rank's and world size's."""
    theirs, size = checkpoint.part
    if size > 1 and (theirs, size) != (rank, world_size):
        raise WeightsError(
            f"{checkpoint.folder} is the part of rank {theirs} of {size}, "
            f"this is rank {rank} of {world_size}; "
            f"give {checkpoint.folder.absolute().parent.parent}, which is read at any world size"
        )


def stored_quant(folder: str | Path) -> str | None:
    """The scheme that a cut's weights are quantized by; None for any other folder."""
    manifest = read_manifest(Path(folder))
    return manifest.get("quant") if manifest else None


def _open_published(folder: Path) -> Checkpoint:
    layout = choose_layout(folder)
    listed = read_index(layout) if layout.name.endswith(".index.json") else {}
    files = [folder / name for name in dict.fromkeys(listed.values())] or [layout]
    if texts := [
        f"{file} should hold weights{kind}" for file in files if (kind := text_kind(file))
    ]:
        raise WeightsError("\n  ".join(texts))
    files = sorted(files)
    headers: dict[str, Tensors] = {}
    marks: dict[str, Mark] = {}
    for file in files:
        headers[file.name], marks[file.name] = _read(file)
    part, quant = _agreed(folder, marks)
    _check_listed(layout, listed, headers)
    tensors = {
        name: StoredTensor((tensor,))
        for file, header in headers.items()
        for name, tensor in header.items()
        if listed.get(name, file) == file
    }
    return Checkpoint(folder, tuple(files), tensors, part, quant=quant)


def _read(file: Path) -> tuple[Tensors, Mark]:
    """The tensors of a weight file, and which part of which cut it says it is."""
    tensors, metadata = (
        read_header(file) if file.suffix == ".safetensors" else (read_pickle(file), {})
    )
    return tensors, (part_of(metadata, file), metadata.get(QUANT_KEY))


def _agreed(folder: Path, marks: dict[str, Mark]) -> Mark:
    """The one mark of all files."""
    if len(set(marks.values())) > 1:
        raise WeightsError(
            f"{folder} holds files of different parts or packings: {marks}; copy or cut it anew"
        )
    return next(iter(marks.values()))


def _check_listed(index: Path, listed: dict[str, str], headers: dict[str, Tensors]) -> None:
    """Raise WeightsError with every tensor of an index that its file does not hold."""
    wanted = {name: file for name, file in listed.items() if not SKIPPED.search(name)}
    if lost := [f"{name} in {file}" for name, file in wanted.items() if name not in headers[file]]:
        raise WeightsError(
            f"{index} lists tensors that their files do not hold:\n  " + "\n  ".join(lost)
        )


def _open_cut(folder: Path, manifest: dict[str, Any]) -> Checkpoint:
    """The ranks' files of a cut as one checkpoint, whatever world size it is read at."""
    files = [folder / name for name in manifest["files"] if name.endswith(".safetensors")]
    headers = _read_cut(folder, files, manifest)
    lost = [
        f"{name} in {file}"
        for name, entry in manifest["tensors"].items()
        for file in entry["files"]
        if name not in headers.get(file, {})
    ]
    if lost:
        raise WeightsError(
            f"{folder}: the manifest tells of tensors that are not there:\n  " + "\n  ".join(lost)
        )
    tensors = {name: _join(name, entry, headers) for name, entry in manifest["tensors"].items()}
    names = {name: entry["source_name"] for name, entry in manifest["tensors"].items()}
    quant = manifest.get("quant")
    return Checkpoint(folder / PARTS / "0", tuple(files), tensors, source_names=names, quant=quant)


def _read_cut(folder: Path, files: list[Path], manifest: dict[str, Any]) -> dict[str, Tensors]:
    """The tensors of a cut's files, each at the place that its mark says."""
    if missing := [str(file.relative_to(folder)) for file in files if not file.is_file()]:
        raise WeightsError(
            f"{folder} lacks files of its manifest: {', '.join(missing)}; copy them, or cut anew"
        )
    read = {str(file.relative_to(folder)): read_header(file) for file in files}
    if wrong := misplaced(manifest, {file: metadata for file, (_, metadata) in read.items()}):
        raise WeightsError(
            f"{folder} has files where others belong; cut anew:\n  " + "\n  ".join(wrong)
        )
    return {file: tensors for file, (tensors, _) in read.items()}


def _join(name: str, entry: dict[str, Any], headers: dict[str, Tensors]) -> StoredTensor:
    """One tensor of a cut, from all its files; rank 0 has the whole of one that is not cut."""
    pieces = tuple(headers[file][name] for file in entry["files"])
    return StoredTensor(pieces if entry["cut"] is not None else pieces[:1], entry["cut"])


def fingerprint(checkpoint: Checkpoint) -> str:
    """ "2:" and a sha256 over config.json, each weight file and each tensor; cheap at any size.

    Of a tensor it takes the name, the place, and all of at most 64 KiB, else 16 samples of 4 KiB
    from its first byte to its last: it tells two training steps apart, whose names and sizes agree,
    and an edit of any whole tensor. An edit of some rows of a large one may lie between samples. Of
    a cut it also takes the sha256 of each file that the manifest has.
    """
    digest = hashlib.sha256((checkpoint.folder / "config.json").read_bytes())
    if checkpoint.folder.parent.name == PARTS:
        manifest = read_manifest(checkpoint.folder.parent.parent) or {}
        digest.update(json.dumps(manifest.get("files"), sort_keys=True).encode())
    pieces = [piece for tensor in checkpoint.tensors.values() for piece in tensor.pieces]
    for path in checkpoint.files:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        here = [piece for piece in pieces if piece.path == path]
        with path.open("rb", buffering=0) as file:
            if any(piece.offset is None for piece in here):  # torch must load the whole file, too
                digest.update(hashlib.file_digest(file, "sha256").digest())
            for piece in here:
                digest.update(f"{piece.key} {piece.dtype} {piece.shape} {piece.offset}\n".encode())
                for place, size in _samples(piece):
                    digest.update(os.pread(file.fileno(), size, place))
    return f"{FORM}{digest.hexdigest()}"


def may_be_one(one: object, other: object) -> bool:
    """Tell whether two fingerprints may be of one model; of different forms they always may."""
    return one == other or str(one).startswith(FORM) != str(other).startswith(FORM)


def _samples(piece: FileTensor) -> Iterator[tuple[int, int]]:
    """Place and bytes of a small tensor, or of samples that are spread evenly over a larger one."""
    if piece.offset is not None and piece.nbytes <= SAMPLES * SAMPLE:
        yield piece.offset, piece.nbytes
    elif piece.offset is not None:
        step = (piece.nbytes - SAMPLE) / (SAMPLES - 1)
        for n in range(SAMPLES):
            yield piece.offset + int(step * n), SAMPLE
