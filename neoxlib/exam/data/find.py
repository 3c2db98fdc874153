"""Find a benchmark's files: in its authors' folders, an archive of them, or the hub's exports."""

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neoxlib.errors import DataError
from neoxlib.exam.data.benchmarks import Benchmark
from neoxlib.exam.data.records import DAMAGE, LARGEST, File
from neoxlib.exam.data.tar import LEFT_OUT, InZip, check_names, damaged, is_tar, tar_as_zip
from neoxlib.workbook.param import ARCHIVES

MAPPING = "subject_mapping.json"
# Folders around an exam: the hub's cache has snapshots/<commit>; an archive may have one more.
DEEPEST = 2
WHOLE = "all"  # the hub's folder of all subjects; here, files that name subjects in a column
# Older exports end in a hash.
_PART = re.compile(r"-(\d{5})-of-(\d{5})(?:-[0-9a-f]+)?(?=\.parquet$)")


@contextmanager
def exam_root(data_dir: Path, benchmark: Benchmark, split: str) -> Iterator[File]:
    """Open the exam's folder, given `data_dir`.

    That is the exam's own folder, a folder or archive around it, a folder that holds its archive,
    or the folder of the split in it. Raises DataError for no exam, and for more than one.
    """
    with opened(_place(data_dir, benchmark, split)) as top:
        yield find_root(top, benchmark, split)


def _place(data_dir: Path, benchmark: Benchmark, split: str) -> Path:
    """`data_dir`, the folder around it if it is a split's, or the exam's only archive in it."""
    if not data_dir.is_dir():
        return data_dir
    folder = data_dir.resolve()
    if folder.name in benchmark.spellings[split]:
        files = find_files(folder.parent, benchmark, split).values()
        if any(path.parent == folder for several in files for path in several):
            return folder.parent
    unpacked = _holds(data_dir, benchmark, split)
    if unpacked:
        return data_dir
    packed = {path: _holds(path, benchmark, split) for path in _archives(data_dir)}
    having = [path for path in packed if packed[path]]
    if not having and unpacked is None:  # there is nothing else: take another exam's
        having = [path for path in packed if packed[path] is not None]
    if len(having) > 1:
        what = f"{data_dir} has {len(having)} archives with questions of {split}"
        names = ", ".join(path.name for path in having)
        raise DataError(f"{what} (name one of them): {names}")
    return having[0] if having else data_dir


def _archives(folder: Path) -> list[Path]:
    named = (path for path in _visible(folder) if path.name.lower().endswith(ARCHIVES))
    return [path for path in named if path.is_file()]


def _holds(path: Path, benchmark: Benchmark, split: str) -> bool | None:
    """Whether a folder or archive has the benchmark's own exam.

    False for another's in its form, None for no exam at all.
    """
    with opened(path) as top:
        having = _search(top, benchmark, split).values()
        return all(_is_own(folder, benchmark, split) for folder in having) if having else None


@contextmanager
def opened(data_dir: Path) -> Iterator[File]:
    """Open `data_dir`: the folder itself, or the inside of a zip or tar archive.

    An archive is read in place: nothing is unpacked, so none of its names can lead out of it.
    Raises DataError for anything else, and for an archive with more than an exam has: files of
    questions beyond LARGEST together, more than MOST_MEMBERS files, or deeper folders.
    """
    if data_dir.is_dir():
        yield data_dir
        return
    if not data_dir.is_file():
        raise DataError(f"data_dir {data_dir} does not exist")
    if not is_tar(data_dir) and not zipfile.is_zipfile(data_dir):
        raise DataError(
            f"data_dir {data_dir} is a file, and no zip archive and no tar; "
            "give a folder, or the official archive"
        )
    with tar_as_zip(data_dir, LARGEST) if is_tar(data_dir) else _zip(data_dir) as archive:
        check_names(archive, data_dir, LARGEST)
        yield InZip(archive)


def _zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except DAMAGE as error:
        raise damaged(path, error) from error


def find_root(top: File, benchmark: Benchmark, split: str) -> File:
    """`top`, or the only folder in it with files of the split.

    Raises DataError for none, and for several.
    """
    having = _search(top, benchmark, split)
    if len(having) == 1:
        return next(iter(having.values()))
    if having:
        what = f"{top} has {len(having)} folders with questions of {split}"
        raise DataError(f"{what} (name one of them): {', '.join(having)}")
    raise _no_exam(top, benchmark, split)


def _no_exam(top: File, benchmark: Benchmark, split: str) -> DataError:
    """The error for a folder without questions of the split; it names the splits that it has."""
    found = ", ".join(path.name for path in _visible(top)[:10]) or "nothing"
    others = [other for other in benchmark.spellings if _search(top, benchmark, other)]
    instead = f"; it has questions of split {' and '.join(others)}" if others else ""
    return DataError(
        f"{top} has no questions of {benchmark.title}'s {split}; expected "
        f"{usual_name(benchmark, split)} or the hub's parquet files; found: {found}{instead}"
    )


def _search(top: File, benchmark: Benchmark, split: str) -> dict[str, File]:
    """The folders with the benchmark's own files of the split, nearest to `top`.

    By their paths in it; "" is `top`. Without any, those of another exam in the same form.
    """
    level = {"": top}
    others = {}
    for _ in range(DEEPEST + 1 + isinstance(top, zipfile.Path)):
        having = {name: at for name, at in level.items() if find_files(at, benchmark, split)}
        if own := {name: at for name, at in having.items() if _is_own(at, benchmark, split)}:
            return own
        others = others or having
        level = {
            f"{name}/{path.name}".lstrip("/"): path
            for name, folder in level.items()
            for path in _folders(folder)
        }
    return others


def _is_own(folder: File, benchmark: Benchmark, split: str) -> bool:
    """Whether half of the subjects are the benchmark's, or the folder has a mapping of its own."""
    found = set(find_files(folder, benchmark, split))
    known = found & {*benchmark.subjects, WHOLE}
    return (folder / MAPPING).is_file() or 2 * len(known) >= len(found)


def usual_name(benchmark: Benchmark, split: str, subject: str = "<subject>") -> str:
    """The name of a subject's file, as the benchmark's authors have it."""
    return benchmark.file_name.format(
        subject=subject, split=split, spelling=benchmark.spellings[split][-1]
    )


def find_files(root: File, benchmark: Benchmark, split: str) -> dict[str, tuple[File, ...]]:
    """The files of each subject of a split: subjects sorted by name, files by part.

    `<split>/<subject>_<split>.csv`, also without the folder or the second <split>, also as .jsonl;
    the hub's `<subject>/<split>-00000-of-00001.parquet`, in as many parts as it says; the same
    without <subject> or in all/ or data/, under WHOLE; and for a benchmark of one subject
    `<split>.jsonl` or `<split>-….parquet`, also in data/. Raises DataError for two files of one
    subject, and for a missing part.
    """
    hits: dict[str, list[File]] = {}
    for folder in (root, *_folders(root)):
        inside = folder.name if folder is not root else ""
        for path in _visible(folder):
            if (subject := _subject(path.name, inside, benchmark, split)) and subject != LEFT_OUT:
                hits.setdefault(subject, []).append(path)
    found = sorted(hits.items())
    problems = [problem for subject, paths in found for problem in _unclear(subject, paths)]
    if problems:
        raise DataError(f"{len(problems)} problem(s) in {root}:\n  " + "\n  ".join(problems))
    return {subject: tuple(sorted(paths, key=lambda path: path.name)) for subject, paths in found}


def _subject(name: str, folder: str, benchmark: Benchmark, split: str) -> str:
    """The subject of a file of questions; "" for any other file."""
    spellings = benchmark.spellings[split]
    stem = "|".join(spellings)
    table = _PART.sub("", name)
    if alone := benchmark.alone:
        fits = re.fullmatch(rf"(?:{stem})\.(?:jsonl|parquet)", table)
        return alone if fits and folder in ("", "data") else ""
    if re.fullmatch(rf"(?:{stem})\.parquet", table):
        return WHOLE if folder in ("", WHOLE, "data") else folder
    if folder not in ("", *spellings):
        return ""
    match = re.fullmatch(rf"(.+?)(_(?:{stem}))?\.(?:csv|jsonl)", name)
    return match[1] if match and (folder or match[2]) else ""


def _unclear(subject: str, paths: list[File]) -> list[str]:
    """Why the files of one subject are not one table; empty if they are."""
    names = ", ".join(f"{path.parent.name}/{path.name}" for path in paths)
    if len({(str(path.parent), _PART.sub(r"-of-\2", path.name)) for path in paths}) > 1:
        expected = "and one is expected (move the others away)"
        return [f"{subject} has {len(paths)} files, {expected}: {names}"]
    parts = [part.groups() for path in paths if (part := _PART.search(path.name))]
    if not parts:
        return []
    count = int(parts[0][1])
    lacking = sorted(set(range(count)) - {int(number) for number, _ in parts})
    missing = ", ".join(f"{number:05}-of-{count:05}" for number in lacking)
    return [f"{subject} lacks the part(s) {missing}; found: {names}"] if missing else []


def _folders(folder: File) -> list[File]:
    return [path for path in _visible(folder) if path.is_dir()]


def _visible(folder: File) -> list[File]:
    """The entries of a folder by name, without hidden ones (.DS_Store, __MACOSX)."""
    try:
        entries = [path for path in folder.iterdir() if not path.name.startswith((".", "__"))]
    except PermissionError:  # of another folder beside the exam's
        return []
    return sorted(entries, key=lambda path: path.name)
