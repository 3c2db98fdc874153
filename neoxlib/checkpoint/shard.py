"""Cut a checkpoint into one folder per rank, and merge such a cut again."""

import logging
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from neoxlib.checkpoint.cut import write
from neoxlib.checkpoint.cut_job import CutJob, CutTensor
from neoxlib.checkpoint.durable import differences, has_size, nbytes
from neoxlib.checkpoint.folder import Checkpoint, fingerprint, open_checkpoint
from neoxlib.checkpoint.manifest import JOURNAL, PARTS, is_sealed, read_manifest
from neoxlib.checkpoint.match import dtype_of
from neoxlib.checkpoint.pack import PackedPart, choose_quant, match_packed
from neoxlib.checkpoint.source import read_companions, source_files
from neoxlib.checkpoint.verify import require_manifest, verify
from neoxlib.errors import ShardError, WeightsError, unreadable_is
from neoxlib.model.config import ModelConfig
from neoxlib.model.parameters import full_parameters
from neoxlib.model.world_size import check_world_size
from neoxlib.redact import scrub

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
    """Cut `src` into `dst/part_model/{rank}/`: config, tokenizer and that rank's safetensors.

    `src` is an unsplit checkpoint, or a cut for any other world size. `dtype` None keeps each
    tensor's own. `quant` quantizes by a scheme of model/quant.py; a quantized cut keeps its own. A
    model larger than `max_file_bytes` becomes several files per rank. A killed call resumes when it
    is repeated. Returns the manifest, `dst/manifest.json`, which is written last.
    Raises WeightsError for the source, SettingsError for `quant`, and ShardError for the world
    size, the destination or the disk, before anything is written if possible.
    """
    checkpoint, config, source = _open_whole(src)
    quant = choose_quant(checkpoint, quant)
    check_world_size(config, world_size, quant)
    cast_to = None if dtype is None else dtype_of(dtype)
    request = _request("shard", source, world_size, cast_to, max_file_bytes, quant)
    manifest = _finished(Path(src), Path(dst), request)
    if manifest is None:
        _verify_cut(Path(src), progress)
        folders = tuple(f"{PARTS}/{rank}" for rank in range(world_size))
        job = _job(checkpoint, config, Path(dst), folders, cast_to, request, Path(src))
        manifest = write(job, progress)
    print("Tensor parallelism weights have been successfully saved.")
    return manifest


def merge(
    dst: str | os.PathLike[str],
    out: str | os.PathLike[str],
    max_file_bytes: int = MAX_FILE_BYTES,
    progress: bool = True,
) -> None:
    """Merge the cut `dst` into an unsplit Hugging Face folder `out`, with the source's names.

    Resumes as `shard` does. Raises WeightsError if `dst` is not a finished cut, differs from its
    manifest or holds quantized weights, and ShardError for `out` or the disk.
    """
    require_manifest(Path(dst))
    checkpoint, config, source = _open_whole(dst)
    if checkpoint.quant:
        raise WeightsError(
            f"{dst} holds weights packed as {checkpoint.quant}, which do not turn back into those "
            "they came from: use the checkpoint it was cut from, or cut this one for world size 1 "
            "to have it in one folder"
        )
    request = _request("merge", source, 1, None, max_file_bytes)
    _finished(Path(dst), Path(out), request)
    verify(dst, progress)
    write(_job(checkpoint, config, Path(out), (".",), None, request, Path(dst)), progress)


def _verify_cut(src: Path, progress: bool) -> None:
    """Check the files of `src` if it is a cut: only then are there checksums."""
    if read_manifest(src):
        verify(src, progress)


def _open_whole(src: str | os.PathLike[str]) -> tuple[Checkpoint, ModelConfig, dict[str, Any]]:
    """The checkpoint, its config, and the state of its files before any is read."""
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


@unreadable_is(WeightsError)
def _source(checkpoint: Checkpoint) -> dict[str, Any]:
    """The entries of a request that identify the source."""
    try:
        content = fingerprint(checkpoint)
    except FileNotFoundError:  # source_files lists the file as gone
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
    """Source and settings of a cut; two cuts with the same request are the same."""
    is_number = isinstance(max_file_bytes, int) and not isinstance(max_file_bytes, bool)
    if not is_number or max_file_bytes < 1:
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
    """The manifest if `dst` already holds this cut in full; None if it can be written or resumed.

    Raises ShardError if `dst` holds anything else.
    """
    if src.resolve() in (dst.resolve(), *dst.resolve().parents):
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
            f"{dst} holds other things than a cut of neoxlib; nothing is touched, "
            "choose another folder"
        )
    _check_finished(dst, manifest, request)
    if (dst / JOURNAL).exists():  # it was killed when all else was done
        (dst / JOURNAL).unlink(missing_ok=True)
    log.info("%s already holds this cut: nothing is written", dst)
    return manifest


def _check_finished(dst: Path, manifest: dict[str, Any], request: dict[str, Any]) -> None:
    """Raise ShardError if the finished cut `dst` is of another request, or damaged."""
    known = {key: value for key, value in request.items() if key in manifest or is_sealed(manifest)}
    if changes := differences(manifest, known):
        raise ShardError(f"{dst} holds another finished cut: {changes}")
    if changed := [
        file for file, entry in manifest["files"].items() if not has_size(dst / file, entry)
    ]:
        raise ShardError(
            f"{dst} is finished, but files have changed: {', '.join(changed)}; "
            "delete it and cut anew"
        )


@unreadable_is(WeightsError)
def _job(
    checkpoint: Checkpoint,
    config: ModelConfig,
    root: Path,
    folders: tuple[str, ...],
    dtype: torch.dtype | None,
    request: dict[str, Any],
    src: Path,
) -> CutJob:
    tensors = _cut_tensors(checkpoint, config, dtype, request)
    groups = _groups(tensors, request["max_file_bytes"])
    small = read_companions(checkpoint.folder)
    now = partial(_source, checkpoint)
    where = scrub(str(src.absolute()))
    return CutJob(root, folders, groups, small, request, now, where)


def _cut_tensors(
    checkpoint: Checkpoint, config: ModelConfig, dtype: torch.dtype | None, request: dict[str, Any]
) -> Iterator[CutTensor]:
    """Every tensor to write, in the order of the source's files."""
    parameters = full_parameters(config, request["quant"])
    for name, (theirs, stored) in match_packed(checkpoint, config, request["quant"]).items():
        source_name = checkpoint.source_names.get(name, theirs)
        new_name = source_name if request["kind"] == "merge" else name
        full = parameters[name]
        new_dtype = full.dtype or dtype or stored.dtype
        yield CutTensor(stored, new_name, source_name, new_dtype, full.rule)


def _groups(tensors: Iterable[CutTensor], max_file_bytes: int) -> tuple[tuple[CutTensor, ...], ...]:
    """Group the tensors by file: at most `max_file_bytes`, over all ranks, or a single tensor.

    Wide values come first in a file. Each tensor then begins at a multiple of its width, as readers
    that map files require.
    """
    groups: list[list[CutTensor]] = [[]]
    held = 0
    for tensor in tensors:
        size = nbytes(tensor.dtype, tensor.stored.shape)
        if groups[-1] and held + size > max_file_bytes:
            groups.append([])
            held = 0
        groups[-1].append(tensor)
        held += size
    return tuple(tuple(sorted(group, key=_width, reverse=True)) for group in groups)


def _width(tensor: CutTensor) -> int:
    return tensor.stored.width if isinstance(tensor.stored, PackedPart) else tensor.dtype.itemsize
