"""A subject's records: in a file of its own, in several parts, or in a file of all subjects."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from neoxlib.exam.data.benchmarks import Benchmark
from neoxlib.exam.data.find import WHOLE, find_files
from neoxlib.exam.data.records import File, Record, read_table

NAMES = ("question", "passage", "answer", "explanation")  # in capitals, too, as in CMMLU


class Where(NamedTuple):
    """The place of a record. Problems begin with its `str`; places sort in the order of files."""

    part: int  # which of the subject's files
    row: int
    file: str  # its folder and name

    def __str__(self) -> str:
        return f"{self.file}:{self.row}"


Entries = list[tuple[Where, Record]]
Problems = list[tuple[Where, str]]
Sheet = tuple[Entries, Problems]  # of the files of one subject


@dataclass(frozen=True)
class Source:
    """The records of one subject, in order, or the files to read them from."""

    start: Where
    files: tuple[File, ...] = ()  # not read yet
    entries: Entries = field(default_factory=list)

    def read(self, headerless: tuple[str, ...]) -> Sheet:
        """The records, their columns renamed, and every problem; `headerless`: see `read_table`."""
        entries = list(self.entries)
        problems = []
        for part, path in enumerate(self.files):
            records, found = read_table(path, headerless)
            placed = [(Where(part, row, label(path)), record) for row, record in records]
            entries += [(where, _named(record)) for where, record in placed]
            problems += _clashing(placed)[:1]  # of a CSV all rows have it
            numbered = [problem.partition(": ") for problem in found]
            problems += [(Where(part, int(row), label(path)), text) for row, _, text in numbered]
        return entries, problems


def find_sources(
    root: File, benchmark: Benchmark, split: str, wanted: Collection[str]
) -> tuple[dict[str, Source], list[str]]:
    """The source of each subject of a split, and the problems of a file of all subjects.

    Such a file is read for those `wanted` that have no file of their own.
    """
    files = find_files(root, benchmark, split)
    whole = files.pop(WHOLE, ())
    own = {name: source_of(paths) for name, paths in files.items()}
    if not whole or (own and set(wanted) <= set(own)):
        return own, []
    entries, problems = source_of(whole).read(())
    if own and entries and not any("subject" in record for _, record in entries):
        return own, []
    # The root may be the folder of one subject.
    of_root = root.name if whole[0].parent.name == root.name else None
    others, unclear = _divided(entries, problems, of_root if of_root in wanted else None)
    return {name: (others | own)[name] for name in sorted({*others, *own})}, unclear


def source_of(files: tuple[File, ...]) -> Source:
    """The source of one subject in files of its own."""
    return Source(Where(0, 1, label(files[0])), files)


def _divided(
    entries: Entries, problems: Problems, otherwise: str | None
) -> tuple[dict[str, Source], list[str]]:
    """Divide records by their column `subject`; without it they belong to `otherwise`."""
    if entries and not otherwise and not any("subject" in record for _, record in entries):
        where, record = entries[0]
        found = ", ".join(map(str, record))[:200]
        missing = "column subject missing, which says whose a question is"
        return {}, [f"{where}: {missing}; found: {found}"]
    parts: dict[str, Entries] = {}
    for where, record in entries:
        name = record.get("subject", otherwise)
        if isinstance(name, str) and name.strip():
            parts.setdefault(name, []).append((where, record))
        else:
            problems.append((where, f"subject is {name!r}; expected the name of one"))
    sources = {name: Source(rows[0][0], entries=rows) for name, rows in sorted(parts.items())}
    return sources, [f"{where}: {text}" for where, text in problems]


def label(path: File) -> str:
    """The name of a file in problems: its folder and name."""
    return f"{path.parent.name}/{path.name}"


def counts_from_zero(records: Iterable[Record], choices: tuple[str, ...]) -> bool:
    """Whether answers that are text number the choices from 0: all do, and 0 is among them."""
    answers = [record.get("answer") for record in records]
    given = {
        answer if isinstance(answer, str) else None
        for answer in answers
        if answer not in (None, "")
    }
    return "0" in given and given <= {str(number) for number in range(len(choices))}


def _named(record: Record) -> Record:
    """The record with those column names in lower case that NAMES has."""
    return {_lower(name): value for name, value in record.items()}


def _lower(name: str) -> str:
    return name.lower() if isinstance(name, str) and name.lower() in NAMES else name


def _clashing(entries: Entries) -> Problems:
    """Columns whose names are equal in lower case: all but one would be lost."""
    found: Problems = []
    for where, record in entries:
        for name in NAMES:
            same = sorted(other for other in record if _lower(other) == name)
            if len(same) > 1:
                found.append((where, f"has {' and '.join(same)}, and one is expected"))
    return found
