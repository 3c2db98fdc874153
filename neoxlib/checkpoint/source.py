"""The files of a model folder beside its weights, and the state of all files that a cut reads."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neoxlib.checkpoint.folder import Checkpoint, fingerprint, open_checkpoint
from neoxlib.checkpoint.foreign import dead_link
from neoxlib.checkpoint.manifest import JOURNAL
from neoxlib.checkpoint.tensor_file import state_of
from neoxlib.errors import NeoXError, WeightsError

log = logging.getLogger("neoxlib")

# Endings of names that are not companions: weights in any format, a trainer's state, a log.
WEIGHTS = (
    ".safetensors",
    ".bin",
    ".index.json",
    ".pt",
    ".pth",
    ".ckpt",
    ".h5",
    ".msgpack",
    ".gguf",
    ".onnx",
    ".ot",
    ".npz",
    ".npy",
    ".pkl",
    ".distcp",
    ".tmp",
    ".log",
    ".out",
    JOURNAL,
)
LFS_POINTER = b"version https://git-lfs"
LARGEST = 64 << 20  # bytes of a companion
MOST_BYTES = 256 << 20  # of all, which a cut holds in memory
TEMPLATES = "additional_chat_templates/*"  # where transformers keeps further chat templates


def companions(folder: Path) -> dict[str, Path]:
    """The files of a model, by name, that hold no weights: config, tokenizer, licence.

    Leaves out files over 64 MiB, with a warning. Raises WeightsError for dead links.
    """
    found = {
        str(path.relative_to(folder)): path
        for path in sorted([*folder.iterdir(), *folder.glob(TEMPLATES)])
        if not path.name.startswith(".") and not path.name.endswith(WEIGHTS) and not path.is_dir()
    }
    if dead := [words for path in found.values() if (words := dead_link(path))]:
        raise WeightsError("\n  ".join(dead))
    if large := [name for name, path in found.items() if path.stat().st_size > LARGEST]:
        log.warning(
            "%s: %s are not taken along, being larger than 64 MiB", folder, ", ".join(large)
        )
    return {name: path for name, path in found.items() if name not in large and path.is_file()}


def read_companions(folder: Path) -> dict[str, bytes]:
    """The content of each companion.

    Raises WeightsError for git-lfs pointers in their place, and for more than 256 MiB together.
    """
    paths = companions(folder)
    if sum(path.stat().st_size for path in paths.values()) > MOST_BYTES:
        raise WeightsError(
            f"the {len(paths)} files beside the weights in {folder} are larger than 256 MiB "
            "together; move those that are not the model's elsewhere"
        )
    found = {name: path.read_bytes() for name, path in paths.items()}
    pointers = [name for name, data in found.items() if data.startswith(LFS_POINTER)]
    if pointers:
        raise WeightsError(
            f"in {folder} some are git-lfs pointers, not the files they stand for: "
            f"{', '.join(pointers)}; run `git lfs pull`, or download the files"
        )
    return found


def source_files(checkpoint: Checkpoint) -> dict[str, list[int] | None]:
    """Size, inode, mtime and ctime of each file that a cut reads; None for one that is gone.

    The kernel changes them at any write and rename: reading all bytes again would find no more, and
    take as long as the cut.
    """
    paths = [*checkpoint.files, *companions(checkpoint.folder).values()]
    return {os.path.relpath(path, checkpoint.folder): _state(path) for path in paths}


def _state(path: Path) -> list[int] | None:
    try:
        return list(state_of(path))
    except FileNotFoundError:
        return None


def source_of(cut: Path, manifest: Mapping[str, Any]) -> tuple[Checkpoint | None, str]:
    """The checkpoint that `cut` was made of; else None, and why it cannot be compared."""
    said = manifest.get("source_folder")
    if not said:
        return None, "the manifest does not say where the source is"
    try:
        folder = Path(said).expanduser()
        if folder.resolve().is_relative_to(cut.resolve()):
            return None, f"the manifest names the cut itself, {said}, as its source"
        source = open_checkpoint(folder)
        if fingerprint(source) == manifest["source_fingerprint"]:
            return source, ""
    except (NeoXError, OSError, RuntimeError):  # the last of a home that nobody has
        return None, f"the source, {said}, is not here"
    return None, f"the source, {said}, has changed since"
