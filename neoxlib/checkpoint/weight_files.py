"""Find the weight files of a published folder: one file, or the files that an index lists."""

import logging
from pathlib import Path

from neoxlib.checkpoint.foreign import adapter_beside, dead_link, folder_kind
from neoxlib.checkpoint.manifest import MANIFEST, PARTS, read_json
from neoxlib.errors import WeightsError
from neoxlib.forms import INSIDE, TEXT, Named, problems

log = logging.getLogger("neoxlib")

# In order of preference: the first one that a folder has is read.
LAYOUTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def choose_layout(folder: Path) -> Path:
    """The file of weights, or the index, that is read.

    Raises WeightsError for a folder without one, a dead link, or an adapter beside the model.
    """
    found = [folder / layout for layout in LAYOUTS]
    found = [path for path in found if path.is_file() or path.is_symlink()]
    for path, later in zip(found, [*found[1:], None], strict=False):
        if problem := dead_link(path) or adapter_beside(folder):
            raise WeightsError(problem)
        if not (later and _is_stray(path)):
            return path
        log.warning("%s names weight files of which none is here; %s is read", path, later.name)
    raise WeightsError(_nothing_found(folder))


def read_index(path: Path) -> dict[str, str]:
    """An index's tensor -> file, once every file is known to be present and beside the index."""
    listed = _weight_map(path)
    files = sorted(set(listed.values()))
    # A link out of the folder is fine (download caches consist of them); a name leading out is not.
    if outside := [file for file in files if _leads_out(file)]:
        raise WeightsError(
            f"{path} names files that are not beside it, which is refused: {', '.join(outside)}"
        )
    missing = [file for file in files if not (path.parent / file).is_file()]
    if missing:
        links = [dead_link(path.parent / file) for file in missing]
        cure = "".join(f"\n  {link}" for link in links if link) or "; copy them, too"
        raise WeightsError(
            f"{path.parent} lacks {len(missing)} of {len(files)} weight files: "
            f"{', '.join(missing)}{cure}"
        )
    return listed


def _leads_out(file: str) -> bool:
    return "/" in file or "\\" in file or not INSIDE.fits(file)


def _is_stray(path: Path) -> bool:
    """Whether this is an index without any of its files."""
    if not path.name.endswith(".index.json"):
        return False
    files = [path.parent / name for name in set(_weight_map(path).values())]
    return not any(file.exists() or file.is_symlink() for file in files)


def _weight_map(path: Path) -> dict[str, str]:
    """An index's tensor -> file, as it says."""
    index = read_json(path)
    wrong = problems(index, {"weight_map": Named(TEXT)})
    if wrong or not index["weight_map"]:
        why = "; ".join(wrong or ["weight_map is empty"])
        raise WeightsError(
            f"{path} has no weight_map of tensor and file name ({why}); copy it anew"
        )
    return index["weight_map"]


def _nothing_found(folder: Path) -> str:
    here = ", ".join(sorted(path.name for path in folder.iterdir())[:20]) or "nothing"
    if (folder / PARTS).is_dir():
        return (
            f"{folder} has {PARTS}/ but no {MANIFEST}: a cut not finished (run shard again) "
            "or not made by neoxlib"
        )
    if (folder.parent / MANIFEST).is_file():
        parent = folder.absolute().parent
        return f"{folder} is inside a cut; give {parent}, which is read at any world size"
    looked = f"looked for {', '.join(LAYOUTS)} and {MANIFEST}; found {here}"
    return f"{folder} holds no weights that neoxlib reads{folder_kind(folder)} ({looked})"
