"""A cut's description of itself: the sealed manifest.json, and the marks in its files."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neoxlib.errors import WeightsError, unreadable_is
from neoxlib.files import read_whole

MANIFEST = "manifest.json"
JOURNAL = "shard.progress.jsonl"
PARTS = "part_model"
# Keys in a safetensors header.
PART_KEY = "neoxlib_part"  # "1/2" in the files of part_model/1 of two ranks
QUANT_KEY = "neoxlib_quant"  # the scheme, if the file's weights are quantized
FORMAT = "neoxlib-shards"
VERSION = 2  # version 1, which is still read, has no seal
MOST_BYTES = 1 << 28  # of a manifest or an index
NEEDED = ("source_fingerprint", "world_size", "files", "tensors")


def seal(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with its format, its version and the sha256 of all other entries."""
    rest = {
        key: value for key, value in manifest.items() if key not in ("format", "version", "seal")
    }
    found = {"format": FORMAT, "version": VERSION, **rest}
    return {**found, "seal": hashlib.sha256(manifest_bytes(found)).hexdigest()}


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest's file. Other bytes of the same meaning do not pass the seal."""
    return (json.dumps(manifest, indent=2) + "\n").encode()


@unreadable_is(WeightsError)
def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder that `shard` finished; None if the folder has none of neoxlib's.

    Raises WeightsError for another version, or a manifest that was changed since.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    manifest = read_json(path)
    if manifest.get("format") != FORMAT:
        return None
    version = manifest.get("version")
    if version not in (1, VERSION) or isinstance(version, bool | float):
        raise WeightsError(
            f"{path} has version {version!r}; this neoxlib reads versions 1 and {VERSION}: cut anew"
        )
    if problems := _problems(manifest):
        raise WeightsError(f"{path} cannot be used; cut anew:\n  " + "\n  ".join(problems))
    if is_sealed(manifest) and path.read_bytes() != manifest_bytes(seal(manifest)):
        raise WeightsError(
            f"{path} is not as it was written (its seal does not fit): copy it anew, or cut anew"
        )
    return manifest


def is_sealed(manifest: Mapping[str, Any]) -> bool:
    """Whether the manifest should have a seal; version 1 was written without."""
    return manifest["version"] != 1 or "seal" in manifest


def _problems(manifest: Mapping[str, Any]) -> list[str]:
    """Missing entries, files outside the folder, and files at the place of another rank."""
    if lost := [key for key in NEEDED if key not in manifest]:
        return [f"it lacks {', '.join(lost)}"]
    files = manifest["files"]
    tensors = manifest["tensors"]
    is_table = _table(tensors, shape=list, dtype=str, files=list)
    if not (is_table and _table(files, bytes=int, sha256=str)):
        return ["it has no table of files (bytes, sha256) and one of tensors (shape, dtype, files)"]
    if outside := [file for file in files if file.startswith("/") or ".." in file.split("/")]:
        return [f"it names files outside its folder, which is refused: {', '.join(outside)}"]
    return [
        f"{name}: {file} stands where the file of rank {rank} belongs"
        for name, entry in tensors.items()
        for rank, file in enumerate(entry["files"])
        if not str(file).startswith(f"{PARTS}/{rank}/")
    ]


def _table(value: Any, **fields: type) -> bool:
    """Whether this is an object of objects that all have fields of these types."""
    rows = value.values() if isinstance(value, dict) else [None]
    return all(
        isinstance(row, dict) and all(isinstance(row.get(k), t) for k, t in fields.items())
        for row in rows
    )


def part_of(metadata: dict[str, str], file: Path) -> tuple[int, int]:
    """Rank and world size of the tensors in a file; (0, 1) if it is not marked."""
    mark = metadata.get(PART_KEY, "0/1")
    rank, _, size = str(mark).partition("/")
    if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
        raise WeightsError(
            f"{file} is marked as part {mark!r}, expected rank/world size; copy it, or cut anew"
        )
    return int(rank), int(size)


def misplaced(manifest: dict[str, Any], metadata: dict[str, dict[str, str]]) -> list[str]:
    """Weight files of a cut that are marked as another rank's, world size's or packing's.

    `metadata` has the safetensors metadata of each file.
    """
    problems = []
    # Version 1 did not mark the only part of world size 1.
    unmarked = "0/1" if manifest["version"] == 1 else None
    for file, marks in metadata.items():
        expected = f"{file.split('/')[1]}/{manifest['world_size']}", manifest.get("quant")
        found = marks.get(PART_KEY, unmarked), marks.get(QUANT_KEY)
        if found != expected:
            problems.append(f"{file} is marked as {_mark(*found)}, expected {_mark(*expected)}")
    return problems


def _mark(part: str | None, quant: str | None) -> str:
    return f"part {part}, packed as {quant}" if quant else f"part {part}"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file. Raises WeightsError if it is not one."""
    try:
        value = json.loads(read_whole(path, MOST_BYTES).decode())
    except (UnicodeDecodeError, json.JSONDecodeError, OSError) as error:
        raise WeightsError(f"{path} is not readable JSON ({error}); copy it anew") from error
    if not isinstance(value, dict):
        raise WeightsError(f"{path} holds a {type(value).__name__}, not an object; copy it anew")
    return value
