"""What belongs to a model folder beside its weights, and whether a source is still what it was."""

import logging
import os
from pathlib import Path

from neoxlib.checkpoint.folder import Checkpoint
from neoxlib.checkpoint.foreign import dead_link
from neoxlib.checkpoint.manifest import JOURNAL
from neoxlib.checkpoint.tensor_file import state_of
from neoxlib.errors import WeightsError

log = logging.getLogger("neoxlib")

# How names end that are no companion's: weights in any format, a trainer's state, a log.
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
LARGEST = 64 << 20  # bytes of a companion


def companions(folder: Path) -> dict[str, Path]:
    """The files, by name, that belong to a model and hold no weights: config, tokenizer, licence.

    Raises WeightsError for links to nothing.
    """
    paths = [
        *folder.iterdir(),
        *folder.glob("additional_chat_templates/*"),
    ]  # where transformers keeps further ones
    names = {
        str(path.relative_to(folder)): path
        for path in sorted(paths)
        if not path.name.startswith(".")
    }
    names = {
        name: path
        for name, path in names.items()
        if not name.endswith(WEIGHTS) and not path.is_dir()
    }
    if dead := [words for path in names.values() if (words := dead_link(path))]:
        raise WeightsError("\n  ".join(dead))
    if large := [name for name, path in names.items() if path.stat().st_size > LARGEST]:
        log.warning(
            "%s: %s are not taken along, being larger than 64 MiB", folder, ", ".join(large)
        )
    return {name: path for name, path in names.items() if name not in large and path.is_file()}


def source_files(checkpoint: Checkpoint) -> dict[str, list[int] | None]:
    """Size, inode and times of change of each file that a cut reads; None for one that is gone.

    The kernel sets them at any write, and at a rename: reading all bytes twice more would tell
    nothing else, and take as long as the cut.
    """
    paths = [*checkpoint.files, *companions(checkpoint.folder).values()]
    return {os.path.relpath(path, checkpoint.folder): _state(path) for path in paths}


def _state(path: Path) -> list[int] | None:
    try:
        return list(state_of(path))
    except FileNotFoundError:
        return None
