"""Cut a checkpoint into one folder per rank, check such a cut, and join it again."""

import logging
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch

from neoxlib.checkpoint.cut import Job, Target, write
from neoxlib.checkpoint.durable import differences, has_size, nbytes
from neoxlib.checkpoint.folder import Checkpoint, fingerprint, open_checkpoint
from neoxlib.checkpoint.manifest import JOURNAL, PARTS, is_sealed, read_manifest
from neoxlib.checkpoint.match import dtype_of
from neoxlib.checkpoint.pack import PackedPart, choose_quant, match_packed
from neoxlib.checkpoint.source import companions, source_files
from neoxlib.checkpoint.verify import require_manifest, verify
from neoxlib.errors import ShardError, WeightsError, unreadable_is
from neoxlib.model.config import ModelConfig
from neoxlib.model.parameters import full_parameters
from neoxlib.model.world_size import check_world_size

log = logging.getLogger("neoxlib")
MAX_FILE_BYTES = 2 << 30


def shard(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    world_size: int,
    dtype: str | torch.dtype | None = None,
    quant: str | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
    progress: bool = True,
) -> dict[str, Any]:
    """Cut `src` into `dst/part_model/{rank}/`, each a folder with config, tokenizer and that rank's safetensors.

    `src` is an unsplit checkpoint, or a cut for any other world size. `dtype` None keeps each tensor's own. `quant`
    packs weights by a scheme of quant.py; those of a packed cut stay as they are. A model larger than `max_file_bytes`
    becomes several files per rank. Killed half-way, the same call goes on where it was.
    Returns the manifest, `dst/manifest.json`, which is written last. Raises WeightsError for the source, SettingsError
    for `quant`, ShardError for the world size, the destination or the disk; before anything is written, if it can be
    known by then.
    """
    checkpoint, config, source = _open_whole(src)
    quant = choose_quant(checkpoint, quant)
    check_world_size(config, world_size, quant)
    to = None if dtype is None else dtype_of(dtype)
    request = _request("shard", source, world_size, to, max_file_bytes, quant)
    manifest = _finished(Path(src), Path(dst), request)
    if manifest is None:
        if read_manifest(Path(src)):
            verify(src, progress)
        folders = tuple(f"{PARTS}/{rank}" for rank in range(world_size))
        manifest = write(_job(checkpoint, config, Path(dst), folders, to, request), progress)
    print("Tensor parallelism weights have been successfully saved.")
    return manifest


def merge(
    dst: str | os.PathLike[str],
    out: str | os.PathLike[str],
    max_file_bytes: int = MAX_FILE_BYTES,
    progress: bool = True,
) -> None:
    """Join the cut `dst` to an unsplit Hugging Face folder `out`: tensor for tensor, name for name what was cut.

    Resumable as `shard` is. Raises WeightsError when `dst` is no finished cut, not what its
    manifest says, or one of packed weights, ShardError for `out` or the disk.
    """
    require_manifest(Path(dst))
    checkpoint, config, source = _open_whole(dst)
    if checkpoint.quant:
        raise WeightsError(
            f"{dst} holds weights packed as {checkpoint.quant}, which do not turn back into those they came from: use "
            "the checkpoint it was cut from, or cut this one for world size 1 to have it in one folder"
        )
    request = _request("merge", source, 1, None, max_file_bytes)
    _finished(Path(dst), Path(out), request)
    verify(dst, progress)
    write(_job(checkpoint, config, Path(out), (".",), None, request), progress)


def _open_whole(src: str | os.PathLike[str]) -> tuple[Checkpoint, ModelConfig, dict[str, Any]]:
    """The checkpoint, its config, and what its files were before they were read."""
    checkpoint = open_checkpoint(src)
    rank, size = checkpoint.part
    if size > 1:
        parent = checkpoint.folder.absolute().parent.parent
        raise WeightsError(
            f"{src} is the part of rank {rank} of {size} only; give {parent}, which holds them all"
        )
    config = ModelConfig.from_dir(checkpoint.folder)
    source = _source(checkpoint)
    return open_checkpoint(src), config, source


def _source(checkpoint: Checkpoint) -> dict[str, Any]:
    """What tells that a source is still the one that was cut."""
    try:
        content = fingerprint(checkpoint)
    except FileNotFoundError:  # source_files says which
        content = ""
    return {"source_fingerprint": content, "source_files": source_files(checkpoint)}


def _request(
    kind: str,
    source: dict[str, Any],
    world_size: int,
    dtype: torch.dtype | None,
    max_file_bytes: int,
    quant: str | None = None,
) -> dict[str, Any]:
    if (
        isinstance(max_file_bytes, bool)
        or not isinstance(max_file_bytes, int)
        or max_file_bytes < 1
    ):
        raise ShardError(
            f"max_file_bytes is {max_file_bytes!r}; it is a number of bytes, 1 or more"
        )
    return {
        "kind": kind,
        **source,
        "world_size": world_size,
        "quant": quant,
        "cast_to": None if dtype is None else str(dtype).removeprefix("torch."),
        "max_file_bytes": max_file_bytes,
    }


@unreadable_is(ShardError)
def _finished(src: Path, dst: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest, if `dst` already holds this cut in full; None if it is free, or to be resumed. Else ShardError."""
    source = src.resolve()
    there = dst.resolve()
    if there == source or source in there.parents:
        raise ShardError(f"{dst} is the source or lies inside it; choose a folder elsewhere")
    if dst.is_file():
        raise ShardError(f"{dst} is a file; choose a folder")
    if not dst.exists() or not any(dst.iterdir()):
        return None
    manifest = read_manifest(dst)
    if manifest is None:
        if (dst / JOURNAL).is_file():
            return None
        raise ShardError(
            f"{dst} holds other things than a cut of neoxlib; nothing is touched, choose another folder"
        )
    known = {key: value for key, value in request.items() if key in manifest or is_sealed(manifest)}
    if changes := differences(manifest, known):
        raise ShardError(f"{dst} holds another finished cut: {changes}")
    if changed := [
        file for file, entry in manifest["files"].items() if not has_size(dst / file, entry)
    ]:
        raise ShardError(
            f"{dst} is finished, but files have changed: {', '.join(changed)}; delete it and cut anew"
        )
    log.info("%s already holds this cut: nothing is written", dst)
    return manifest


@unreadable_is(WeightsError)
def _job(
    checkpoint: Checkpoint,
    config: ModelConfig,
    root: Path,
    folders: tuple[str, ...],
    dtype: torch.dtype | None,
    request: dict[str, Any],
) -> Job:
    parameters = full_parameters(config, request["quant"])
    groups = [[]]
    held = 0
    for name, (theirs, stored) in match_packed(checkpoint, config, request["quant"]).items():
        source_name = checkpoint.source_names.get(name, theirs)
        written_name = source_name if request["kind"] == "merge" else name
        full = parameters[name]
        target = Target(
            stored, written_name, source_name, full.dtype or dtype or stored.dtype, full.rule
        )
        size = nbytes(target.dtype, stored.shape)
        if groups[-1] and held + size > request["max_file_bytes"]:
            groups.append([])
            held = 0
        groups[-1].append(target)
        held += size
    # Wide values first: each tensor then begins at a multiple of its width, which readers that map files rely on.
    ordered = tuple(tuple(sorted(group, key=lambda target: -_width(target))) for group in groups)
    return Job(
        root, folders, ordered, _companions(checkpoint), request, partial(_source, checkpoint)
    )


def _companions(checkpoint: Checkpoint) -> dict[str, bytes]:
    found = {name: path.read_bytes() for name, path in companions(checkpoint.folder).items()}
    if pointers := [
        name for name, data in found.items() if data.startswith(b"version https://git-lfs")
    ]:
        words = f"are git-lfs pointers, not the files they stand for: {', '.join(pointers)}"
        raise WeightsError(
            f"in {checkpoint.folder} some {words}; run `git lfs pull`, or download the files"
        )
    return found


def _width(target: Target) -> int:
    return target.stored.width if isinstance(target.stored, PackedPart) else target.dtype.itemsize
