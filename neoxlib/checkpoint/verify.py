"""Check a cut: every file against its sha256, its rank and world size, and the manifest's seal."""

import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from neoxlib.checkpoint.durable import CODES, has_size
from neoxlib.checkpoint.manifest import JOURNAL, PARTS, is_sealed, misplaced, read_manifest
from neoxlib.checkpoint.tensor_file import FileTensor, at_once, read_header
from neoxlib.errors import NeoXError, WeightsError, unreadable_is
from neoxlib.model.config import ModelConfig
from neoxlib.model.parameters import shard_rules
from neoxlib.workbook.progress import Meter

log = logging.getLogger("neoxlib")
WEIGHT_NAMES = (".safetensors", ".bin", ".index.json")
TEXT_NAMES = (".json", ".txt", ".model", ".jinja", ".tiktoken")


@dataclass(frozen=True)
class FileRow:
    """A file of a cut whose size and sha256 are the manifest's."""

    file: str
    bytes: int
    sha256: str


@unreadable_is(WeightsError)
def verify(dst: str | os.PathLike[str], progress: bool = True) -> list[FileRow]:
    """Read the whole cut `dst` against its manifest: each file's size and sha256, each tensor's name, dtype and shape.

    Raises WeightsError with all that is wrong, or when the cut is not finished. Warns of a manifest
    without a seal.
    """
    root = Path(dst)
    manifest = require_manifest(root)
    total = sum(entry["bytes"] for entry in manifest["files"].values())
    with Meter("verify", total, show=progress) as meter:
        looks = (partial(_damage, root, file, manifest, meter) for file in manifest["files"])
        problems = [problem for problem in at_once(looks) if problem]
    problems += _strangers(root, manifest) + _misfits(root, manifest)
    if problems:
        raise WeightsError(
            f"{root} is not what its manifest says; cut anew:\n  " + "\n  ".join(problems)
        )
    if not is_sealed(manifest):
        log.warning(
            "%s: sealed: no. It was written before manifests were; to have it sealed, cut anew",
            root,
        )
    return [
        FileRow(file, entry["bytes"], entry["sha256"]) for file, entry in manifest["files"].items()
    ]


def require_manifest(root: Path) -> dict[str, Any]:
    manifest = read_manifest(root)
    if manifest is None and (root / JOURNAL).is_file():
        raise WeightsError(f"{root} is not finished: run shard again to resume")
    if manifest is None:
        raise WeightsError(
            f"{root} holds no finished cut: it has no manifest.json of neoxlib; run shard first"
        )
    return manifest


def _damage(root: Path, file: str, manifest: dict[str, Any], meter: Meter) -> str | None:
    path = root / file
    entry = manifest["files"][file]
    if not path.is_file():
        return f"{file} is missing"
    if not has_size(path, entry):
        return f"{file} has {path.stat().st_size} bytes, the manifest says {entry['bytes']}"
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        block = memoryview(bytearray(1 << 20))
        while count := stream.readinto(block):
            digest.update(block[:count])
            meter.add(count)
    return (
        None
        if digest.hexdigest() == entry["sha256"]
        else f"{file} has another sha256 than the manifest says"
    )


def _strangers(root: Path, manifest: dict[str, Any]) -> list[str]:
    """Files that the manifest does not know, but a loader might take."""
    # Of an older cut all but a few companions were left out, and may have been put there by hand.
    taken = WEIGHT_NAMES + (TEXT_NAMES if is_sealed(manifest) else ())
    here = sorted(str(path.relative_to(root)) for path in (root / PARTS).rglob("*"))
    return [
        f"{file} is not in the manifest"
        for file in here
        if file.endswith(taken) and file not in manifest["files"]
    ]


def _misfits(root: Path, manifest: dict[str, Any]) -> list[str]:
    """Where config, manifest and the headers of the files tell different stories."""
    try:
        rules = shard_rules(ModelConfig.from_dir(root / PARTS / "0"), manifest.get("quant"))
        names = [
            file
            for file in manifest["files"]
            if file.endswith(".safetensors") and (root / file).is_file()
        ]
        read = {file: read_header(root / file) for file in names}
    except NeoXError as error:
        return [str(error)]
    headers = {file: pieces for file, (pieces, _) in read.items()}
    listed = manifest["tensors"]
    problems = misplaced(manifest, {file: metadata for file, (_, metadata) in read.items()})
    problems += [
        f"{name} is in the config's model, not in the manifest"
        for name in rules
        if name not in listed
    ]
    for name, entry in listed.items():
        problems += _misfit(name, entry, rules, headers, manifest["world_size"])
    return problems


def _misfit(
    name: str,
    entry: dict[str, Any],
    rules: dict[str, Any],
    headers: dict[str, dict[str, FileTensor]],
    world_size: int,
) -> Iterator[str]:
    shape, rule = rules.get(name, (None, None))
    if rule is None or entry["shape"] != list(shape) or entry["cut"] != rule.dim:
        yield f"{name}: the manifest says {entry['shape']} cut along {entry['cut']}, the config's model another"
        return
    if len(entry["files"]) != world_size:
        yield f"{name} is in {len(entry['files'])} files, the manifest is of {world_size} ranks"
    for rank, file in enumerate(entry["files"]):
        piece = headers.get(file, {}).get(name)
        expected = rule.shape(shape, rank, world_size)
        if piece is None:
            yield f"{name} is not in {file}"
        elif (piece.shape, CODES[piece.dtype]) != (expected, entry["dtype"]):
            yield f"{name} in {file} is {CODES[piece.dtype]} {list(piece.shape)}, not {entry['dtype']} {list(expected)}"
