"""A cut's description of itself: the sealed manifest.json, and the marks in its files."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neoxlib.errors import WeightsError, unreadable_is
from neoxlib.files import read_whole
from neoxlib.forms import INSIDE, SIZE, TEXT, Maybe, Named, one_of, parse, problems, whole

MANIFEST = "manifest.json"
JOURNAL = "shard.progress.jsonl"
PARTS = "part_model"
# Keys in a safetensors header.
PART_KEY = "neoxlib_part"  # "1/2" in the files of part_model/1 of two ranks
QUANT_KEY = "neoxlib_quant"  # the scheme, if the file's weights are quantized
FORMAT = "neoxlib-shards"
VERSION = 2  # version 1, which is still read, has no seal
MOST_BYTES = 1 << 28  # of a manifest or an index
MOST_RANKS = 4096
TENSOR = {
    "cut": one_of(None, 0, 1),
    "shape": [SIZE],
    "dtype": TEXT,
    "source_name": TEXT,
    "files": [INSIDE],
}
FORM = {
    "source_fingerprint": TEXT,
    "source_folder": Maybe(TEXT),  # since it is written; the home folder as ~
    "world_size": whole(1, MOST_RANKS),
    "quant": Maybe(TEXT),
    "files": Named({"bytes": SIZE, "sha256": TEXT}),
    "tensors": Named(TENSOR),
}


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
    if wrong := _problems(manifest):
        raise WeightsError(f"{path} cannot be used; cut anew:\n  " + "\n  ".join(wrong))
    if is_sealed(manifest) and path.read_bytes() != manifest_bytes(seal(manifest)):
        raise WeightsError(
            f"{path} is not as it was written (its seal does not fit): copy it anew, or cut anew"
        )
    return manifest


def is_sealed(manifest: Mapping[str, Any]) -> bool:
    """Whether the manifest should have a seal; version 1 was written without."""
    return manifest["version"] != 1 or "seal" in manifest


def _problems(manifest: Mapping[str, Any]) -> list[str]:
    """Entries of another form, files outside the folder or at the place of another rank."""
    if wrong := problems(manifest, FORM):
        return wrong
    if outside := [file for file in manifest["files"] if not INSIDE.fits(file)]:
        return [f"it names files outside its folder, which is refused: {', '.join(outside)}"]
    return [line for each in manifest["tensors"].items() for line in _misplaced_pieces(*each)]


def _misplaced_pieces(name: str, entry: Mapping[str, Any]) -> Iterator[str]:
    if entry["cut"] is not None and entry["cut"] >= len(entry["shape"]):
        yield f"{name} is cut along dimension {entry['cut']} of {len(entry['shape'])}"
    if not entry["files"]:
        yield f"{name} is in no file"
    for rank, file in enumerate(entry["files"]):
        if not file.startswith(f"{PARTS}/{rank}/"):
            yield f"{name}: {file} stands where the file of rank {rank} belongs"


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
    wrong = []
    # Version 1 did not mark the only part of world size 1.
    unmarked = "0/1" if manifest["version"] == 1 else None
    for file, marks in metadata.items():
        rank = [*file.split("/"), ""][1]
        expected = f"{rank}/{manifest['world_size']}", manifest.get("quant")
        found = marks.get(PART_KEY, unmarked), marks.get(QUANT_KEY)
        if found != expected:
            wrong.append(f"{file} is marked as {_mark(*found)}, expected {_mark(*expected)}")
    return wrong


def _mark(part: str | None, quant: str | None) -> str:
    return f"part {part}, packed as {quant}" if quant else f"part {part}"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file. Raises WeightsError if it is not one."""
    try:
        value = parse(read_whole(path, MOST_BYTES), halves=True)
    except (ValueError, OSError) as error:
        raise WeightsError(f"{path} is not readable JSON ({error}); copy it anew") from error
    if not isinstance(value, dict):
        raise WeightsError(f"{path} holds a {type(value).__name__}, not an object; copy it anew")
    return value
