"""Where a benchmark's files are in what a user has: its authors' folders, an archive of them, or the hub's exports."""

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neoxlib.errors import DataError
from neoxlib.tasks.benchmarks import Benchmark
from neoxlib.tasks.table import File

LARGEST = 1 << 28  # bytes of one file in an archive; a real one has a few hundred thousand
EVERYTHING = ("all", "auxiliary_train")  # folders of the hub's MMLU that are no subject


@contextmanager
def opened(data_dir: Path) -> Iterator[File]:
    """`data_dir` itself, or the inside of the zip archive that it is.

    An archive is read in place: nothing is unpacked, so none of its names can lead anywhere. Raises DataError for what
    is neither, and for an archive with a file beyond LARGEST.
    """
    if data_dir.is_dir():
        yield data_dir
        return
    if not data_dir.is_file():
        raise DataError(f"data_dir {data_dir} does not exist")
    if not zipfile.is_zipfile(data_dir):
        raise DataError(f"data_dir {data_dir} is a file, and no zip archive; give a folder or the official zip")
    with zipfile.ZipFile(data_dir) as archive:
        large = [info.filename for info in archive.infolist() if info.file_size > LARGEST]
        if large:
            raise DataError(f"{data_dir} has files of more than {LARGEST >> 20} MB: {', '.join(large)[:200]}")
        yield zipfile.Path(archive)


def find_root(top: File, benchmark: Benchmark, split: str) -> File:
    """`top`, or the only folder in it that has files of the split. Raises DataError where there are none or several."""
    if find_files(top, benchmark, split):
        return top
    folders = [path for path in _visible(top) if path.is_dir()]
    having = [path for path in folders if find_files(path, benchmark, split)]
    if len(having) == 1:
        return having[0]
    if having:
        names = ", ".join(path.name for path in having)
        raise DataError(f"{top} has {len(having)} folders with questions of {split} (name one of them): {names}")
    found = ", ".join(path.name for path in _visible(top)[:10]) or "nothing"
    raise DataError(f"{top} has no questions of {benchmark.title}'s {split}; expected "
                    f"{usual_name(benchmark, split)} or the hub's parquet files; found: {found}")  # fmt: skip


def usual_name(benchmark: Benchmark, split: str, subject: str = "<subject>") -> str:
    """What the benchmark's authors call the file of a subject."""
    alone = len(benchmark.subjects) == 1
    return f"{benchmark.spellings[split][-1]}.jsonl" if alone else f"{split}/{subject}_{split}.csv"


def find_files(root: File, benchmark: Benchmark, split: str) -> dict[str, File]:
    """The file of each subject of a split, by subject, in the order of names.

    `<split>/<subject>_<split>.csv`, also without the folder; the hub's `<subject>/<split>-00000-of-00001.parquet`; and
    for a benchmark of one subject `<split>.jsonl` or `<split>-….parquet`, also in data/.
    """
    split_name = "|".join(benchmark.spellings[split])
    alone = next(iter(benchmark.subjects)) if len(benchmark.subjects) == 1 else ""
    found: dict[str, File] = {}
    for folder in (root, *(path for path in _visible(root) if path.is_dir())):
        inside = folder.name if folder is not root else ""
        for path in _visible(folder):
            subject = _subject(path.name, inside, split_name, alone)
            if subject and subject not in EVERYTHING:
                found.setdefault(subject, path)
    return dict(sorted(found.items()))


def _subject(name: str, folder: str, split_name: str, alone: str) -> str:
    """The subject whose questions the file has; "" for any other file."""
    if alone:
        whole = rf"(?:{split_name})(?:\.jsonl|(?:-00000-of-00001)?\.parquet)"
        return alone if folder in ("", "data") and re.fullmatch(whole, name) else ""
    if folder and re.fullmatch(rf"(?:{split_name})-00000-of-00001\.parquet", name):
        return folder
    match = re.fullmatch(rf"(.+)_({split_name})\.csv", name)
    return match.group(1) if match and folder in ("", *split_name.split("|")) else ""


def _visible(folder: File) -> list[File]:
    """Its entries by name, without those that systems hide (.DS_Store, __MACOSX)."""
    return sorted((p for p in folder.iterdir() if not p.name.startswith((".", "__"))), key=lambda path: path.name)
