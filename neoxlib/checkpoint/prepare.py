"""Prepare a model folder as the guide does: links to the weights, copies of the small files.

No file is edited.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from neoxlib.checkpoint.folder import open_checkpoint
from neoxlib.checkpoint.manifest import read_manifest
from neoxlib.checkpoint.source import companions
from neoxlib.errors import WeightsError, unreadable_is
from neoxlib.files import replace

if TYPE_CHECKING:
    import pandas as pd


@unreadable_is(WeightsError, "read or written")
def prepare_model(src: str | Path, dst: str | Path) -> "pd.DataFrame":
    """Make `dst` a model folder on the files of `src`; returns a row per file: file, how, bytes.

    Weights are linked, not copied; config.json and the tokenizer are copied as they are. May be
    repeated. Raises WeightsError if `src` has no weights, is a cut or cannot be read, or if `dst`
    has other files of the same names, which are all named and left alone.
    """
    import pandas as pd

    src = Path(src).resolve()
    dst = Path(dst).absolute()
    weights = _weights(src, dst)
    small = _small_files(src)
    _check_free(src, dst, weights, small)
    for path in (*weights, *small):
        path.open("rb").close()  # before anything is written
    dst.mkdir(parents=True, exist_ok=True)
    for path in weights:
        if not (dst / path.name).is_symlink():
            (dst / path.name).symlink_to(path)
    for path in small:
        (dst / path.relative_to(src)).parent.mkdir(exist_ok=True)
        replace(dst / path.relative_to(src), path.read_bytes(), ".part")
    rows = [(path.name, "link", path.stat().st_size) for path in weights]
    rows += [(str(path.relative_to(src)), "copy", path.stat().st_size) for path in small]
    return pd.DataFrame(rows, columns=["file", "how", "bytes"])


def _small_files(src: Path) -> list[Path]:
    """Companions and indexes, without the code that some checkpoints bring for other libraries."""
    found = [path for path in companions(src).values() if path.suffix != ".py"]
    return sorted([*found, *src.glob("*.index.json")])


def _check_free(src: Path, dst: Path, weights: list[Path], small: list[Path]) -> None:
    """Raise WeightsError with every file of `dst` that a link or a copy would replace."""
    strange = [
        path.name
        for path in (*weights, *small)
        if _other(path, dst / path.relative_to(src), path in weights)
    ]
    if strange:
        raise WeightsError(
            f"{dst} has other files of these names: {', '.join(strange)}; "
            "give an empty or a new folder"
        )


def _weights(src: Path, dst: Path) -> list[Path]:
    """The weight files of a checkpoint. Raises WeightsError if either folder is not usable."""
    if dst.resolve() == src:
        raise WeightsError(f"{dst} is the checkpoint itself; it can be used as it is")
    if src.is_dir() and read_manifest(src) is not None:
        raise WeightsError(
            f"{src} was written by `shard` and can be used as it is; give a checkpoint"
        )
    files = list(open_checkpoint(src).files)
    if not (src / "config.json").is_file():
        raise WeightsError(f"{src} has weights but no config.json; copy it from the checkpoint")
    return files


def _other(source: Path, target: Path, linked: bool) -> bool:
    """Whether `target` exists and is not the link or the copy of `source`."""
    if not target.exists() and not target.is_symlink():
        return False
    if linked:
        return not target.is_symlink() or target.resolve() != source.resolve()
    return target.is_symlink() or not target.is_file() or target.read_bytes() != source.read_bytes()
