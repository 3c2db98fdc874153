"""Check a cut: each file's sha256, rank and world size, the manifest's seal, and equal copies."""

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
from neoxlib.checkpoint.stored_tensor import StoredTensor, same_bits
from neoxlib.checkpoint.tensor_file import FileTensor, read_header, run_in_threads
from neoxlib.errors import NeoXError, WeightsError, unreadable_is
from neoxlib.model.config import ModelConfig
from neoxlib.model.parameters import shard_rules
from neoxlib.workbook.progress import Meter

log = logging.getLogger("neoxlib")
WEIGHT_NAMES = (".safetensors", ".bin", ".index.json")
TEXT_NAMES = (".json", ".txt", ".model", ".jinja", ".tiktoken")


@dataclass(frozen=True)
class FileRow:
    """A file of a cut whose size and sha256 agree with the manifest."""

    file: str
    bytes: int
    sha256: str


@unreadable_is(WeightsError)
def verify(dst: str | os.PathLike[str], progress: bool = True) -> list[FileRow]:
    """Read the whole cut `dst` and compare it with its manifest.

    Compares each file's size and sha256, each tensor's name, dtype and shape, and the ranks' copies
    of tensors that are not cut. Raises WeightsError with all problems, or if the cut is not
    finished. Warns of a manifest without a seal.
    """
    root = Path(dst)
    manifest = require_manifest(root)
    total = sum(entry["bytes"] for entry in manifest["files"].values())
    with Meter("verify", total, show=progress) as meter:
        checks = (partial(_damage, root, file, manifest, meter) for file in manifest["files"])
        problems = [problem for problem in run_in_threads(checks) if problem]
    problems += _strangers(root, manifest) + _misfits(root, manifest)
    problems = problems or unlike_copies(root, manifest)
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
    """The manifest of a finished cut. Raises WeightsError for any other folder."""
    manifest = read_manifest(root)
    if manifest is None and (root / JOURNAL).is_file():
        raise WeightsError(f"{root} is not finished: run shard again to resume")
    if manifest is None:
        raise WeightsError(
            f"{root} holds no finished cut: it has no manifest.json of neoxlib; run shard first"
        )
    return manifest


def _damage(root: Path, file: str, manifest: dict[str, Any], meter: Meter) -> str | None:
    """How a file differs from its entry in the manifest; None if it does not."""
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
    if digest.hexdigest() != entry["sha256"]:
        return f"{file} has another sha256 than the manifest says"
    return None


def _strangers(root: Path, manifest: dict[str, Any]) -> list[str]:
    """Files that the manifest does not list, but that a loader might read."""
    # Older cuts left out most companions; a user may have added them by hand.
    taken = WEIGHT_NAMES + (TEXT_NAMES if is_sealed(manifest) else ())
    here = sorted(str(path.relative_to(root)) for path in (root / PARTS).rglob("*"))
    return [
        f"{file} is not in the manifest"
        for file in here
        if file.endswith(taken) and file not in manifest["files"]
    ]


def _misfits(root: Path, manifest: dict[str, Any]) -> list[str]:
    """Contradictions between the config, the manifest and the headers of the files."""
    names = [file for file in manifest["files"] if file.endswith(".safetensors")]
    try:
        rules = shard_rules(ModelConfig.from_dir(root / PARTS / "0"), manifest.get("quant"))
        read = {file: read_header(root / file) for file in names if (root / file).is_file()}
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
    """How one tensor's entry in the manifest differs from the config's rule and from the files."""
    shape, rule = rules.get(name, (None, None))
    if rule is None or entry["shape"] != list(shape) or entry["cut"] != rule.dim:
        cut = f"{entry['shape']} cut along {entry['cut']}"
        yield f"{name}: the manifest says {cut}, the config's model another"
        return
    if len(entry["files"]) != world_size:
        yield f"{name} is in {len(entry['files'])} files, the manifest is of {world_size} ranks"
    for rank, file in enumerate(entry["files"]):
        piece = headers.get(file, {}).get(name)
        expected = rule.shape(shape, rank, world_size)
        if piece is None:
            yield f"{name} is not in {file}"
        elif (piece.shape, CODES[piece.dtype]) != (expected, entry["dtype"]):
            found = f"{CODES[piece.dtype]} {list(piece.shape)}"
            yield f"{name} in {file} is {found}, not {entry['dtype']} {list(expected)}"


def unlike_copies(root: Path, manifest: dict[str, Any]) -> list[str]:
    """What every rank has whole, but not the same: a file was edited, hash and all.

    These are tensors that are not cut, and files beside the weights, as config.json. The files must
    be those of the manifest.
    """
    copied = {name: entry for name, entry in manifest["tensors"].items() if entry["cut"] is None}
    files = {file for entry in copied.values() for file in entry["files"]}
    headers = {file: read_header(root / file)[0] for file in files}
    tensors = [
        f"{name} of {file} is another than that of {entry['files'][0]}"
        for name, entry in copied.items()
        for file in entry["files"][1:]
        if not same_bits(*(StoredTensor((headers[f][name],)) for f in (entry["files"][0], file)))
    ]
    return [*_unlike_companions(manifest["files"]), *tensors]


def _unlike_companions(files: dict[str, dict[str, Any]]) -> list[str]:
    first = f"{PARTS}/0/"
    return [
        f"{file} is another than {first}{name}"
        for file, entry in files.items()
        for name in ("/".join(file.split("/")[2:]),)
        if not name.endswith(WEIGHT_NAMES) and first + name in files
        if entry["sha256"] != files[first + name]["sha256"]
    ]
