"""A folder of multiple-choice questions → a checked `Task`. No prompts, models or scores here."""

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from neoxlib.errors import DataError, SettingsError
from neoxlib.tasks.subjects import CEVAL, CEVAL_HARD, CLASSES, Subject
from neoxlib.tasks.table import read_table

SPLITS = ("dev", "val", "test")
CHOICES = ("A", "B", "C", "D")
MAPPING = "subject_mapping.json"


@dataclass(frozen=True)
class Benchmark:
    """What is known of a benchmark before its folder is opened."""

    title: str
    subjects: dict[str, Subject]  # used where the folder brings no subject_mapping.json of its own
    hard: frozenset[str]
    unlabelled: tuple[str, ...]  # splits whose answers may be missing


BENCHMARKS = {"ceval": Benchmark("C-Eval", CEVAL, CEVAL_HARD, unlabelled=("test",))}


@dataclass(frozen=True)
class Task:
    """Checked questions and the examples shown before them.

    `questions` has one row per question: subject, name (English), class, hard, id, question, A, B, C, D, expected;
    all text as in the file, `expected` empty in a split without answers. `examples[subject]` are the dev rows in use.
    """

    name: str
    title: str
    root: Path
    split: str
    shots: int
    subjects: dict[str, Subject]
    questions: pd.DataFrame
    examples: dict[str, list[dict[str, str]]]
    absent: tuple[str, ...]  # subjects of the mapping that the folder has no file for

    @property
    def labelled(self) -> bool:
        """Whether the split has answers, so that it can be scored here."""
        return bool((self.questions["expected"] != "").all())

    def counts(self) -> pd.DataFrame:
        """Subjects and questions of each class that has any."""
        grouped = self.questions.groupby("class", sort=False)
        table = grouped.agg(subjects=("subject", "nunique"), questions=("id", "size"), hard=("hard", "sum"))
        return table.reindex([c for c in CLASSES if c in table.index]).rename_axis(None)


def load_task(
    task: str, data_dir: str | Path, split: str = "val", subjects: Iterable[str] | None = None, shots: int = 5
) -> Task:
    """Read and check every file that a run needs.

    `data_dir` holds dev/, val/, test/ with `<subject>_<split>.csv`, or one folder that does (as the official archive
    unpacks). `subjects` None or empty means every subject with a file; `shots` examples come from dev/.
    Raises SettingsError for an unknown task or split, and DataError with all problems of all files as `file:row: …`,
    rows counted as a spreadsheet does (the header is row 1).
    """
    benchmark = _benchmark(task, split, shots)
    root = _root(Path(data_dir), split)
    mapping, problems = _mapping(root, benchmark)
    chosen, more = _choose(root, split, mapping, list(subjects or ()))
    problems += more
    questions, examples = [], {}
    for subject in chosen:
        rows, more = _questions(root, subject, split, benchmark)
        questions += [_row(subject, mapping[subject], subject in benchmark.hard, row) for row in rows]
        examples[subject], shot_problems = _examples(root, subject, shots)
        problems += more + shot_problems
    problems += _half_labelled(questions, split)
    if problems:
        raise DataError(f"{len(problems)} problem(s) in {root}:\n  " + "\n  ".join(problems))
    absent = tuple(s for s in mapping if not _path(root, s, split).is_file())
    known = {s: mapping[s] for s in chosen}
    return Task(task, benchmark.title, root, split, shots, known, pd.DataFrame(questions), examples, absent)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean …?` where something known is near, else nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _benchmark(task: str, split: str, shots: int) -> Benchmark:
    if task not in BENCHMARKS:
        hint = did_you_mean(task, BENCHMARKS)
        raise SettingsError(f"task {task!r} is not known{hint}; known: {', '.join(BENCHMARKS)}")
    if split not in SPLITS:
        raise SettingsError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    if shots < 0:
        raise SettingsError(f"shots is {shots}; it counts the examples before each question: 0 or more")
    return BENCHMARKS[task]


def _root(data_dir: Path, split: str) -> Path:
    """`data_dir`, or the only folder inside it that has the split."""
    if not data_dir.is_dir():
        what = "is a file, not a folder: unpack it first" if data_dir.is_file() else "does not exist"
        raise DataError(f"data_dir {data_dir} {what}")
    if (data_dir / split).is_dir():
        return data_dir
    inside = sorted(p for p in data_dir.iterdir() if (p / split).is_dir())
    if len(inside) != 1:
        found = ", ".join(p.name for p in inside or sorted(data_dir.iterdir())[:10]) or "nothing"
        which = f"{len(inside)} folders with a {split}/ (name one of them)" if inside else f"no {split}/ folder"
        raise DataError(f"data_dir {data_dir} has {which}; expected dev/, val/, test/ with CSV files; found: {found}")
    return inside[0]


def _mapping(root: Path, benchmark: Benchmark) -> tuple[dict[str, Subject], list[str]]:
    """The folder's own subject_mapping.json {subject: [English, Chinese, class]} wins over the built-in table."""
    path = root / MAPPING
    if not path.is_file():
        return benchmark.subjects, []
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        return {}, [f"{MAPPING}:{getattr(error, 'lineno', 1)}: is not JSON in UTF-8: {error}"]
    if not isinstance(raw, dict):
        return {}, [f"{MAPPING}:1: expected {{subject: [English, Chinese, class]}}, found a {type(raw).__name__}"]
    bad = {name: entry for name, entry in raw.items() if not _is_subject(entry)}
    expected = f"expected [English, Chinese, class] with a class of {', '.join(CLASSES)}"
    problems = [f"{MAPPING}: {name}: {expected}, found {entry!r:.80}" for name, entry in bad.items()]
    return {name: Subject(*entry) for name, entry in raw.items() if name not in bad}, problems


def _is_subject(entry: object) -> bool:
    texts = isinstance(entry, list) and len(entry) == 3 and all(isinstance(x, str) and x.strip() for x in entry)
    return texts and entry[2] in CLASSES


def _path(root: Path, subject: str, split: str) -> Path:
    return root / split / f"{subject}_{split}.csv"


def _choose(root: Path, split: str, mapping: dict[str, Subject], asked: list[str]) -> tuple[list[str], list[str]]:
    """Subjects to read, in the mapping's order, and what is wrong with the choice."""
    ending = f"_{split}.csv"
    files = sorted(p.name.removesuffix(ending) for p in (root / split).glob(f"[!.]*{ending}"))
    if not asked and not files:
        return [], [f"{split}/: has no file named <subject>{ending}"]
    problems = []
    for name in asked or files:
        if name not in mapping:
            what = f"subjects: {name!r}" if asked else f"{split}/{name}{ending}:1: subject {name!r}"
            problems.append(f"{what} is not in the subject mapping{did_you_mean(name, mapping)}")
        elif name not in files:
            problems.append(f"subjects: {name!r} has no file {split}/{name}{ending}")
    wanted = set(asked or files) & set(files)
    return [name for name in mapping if name in wanted], problems


def _questions(root: Path, subject: str, split: str, benchmark: Benchmark) -> tuple[list[dict[str, str]], list[str]]:
    optional = ("answer",) if split in benchmark.unlabelled else ()
    return read_table(_path(root, subject, split), ("id", "question", *CHOICES, "answer"), optional)


def _examples(root: Path, subject: str, shots: int) -> tuple[list[dict[str, str]], list[str]]:
    """The first `shots` dev rows; none are read where none are wanted."""
    path = _path(root, subject, "dev")
    if shots == 0:
        return [], []
    if not path.is_file():
        return [], [f"dev/{path.name}:1: is missing, and shots is {shots}; add the file or ask for 0 shots"]
    rows, problems = read_table(path, ("id", "question", *CHOICES, "answer"))
    if len(rows) < shots and not problems:
        problems = [f"dev/{path.name}:{len(rows) + 1}: ends after {len(rows)} example(s), and shots is {shots}"]
    return rows[:shots], problems


def _row(subject: str, known: Subject, hard: bool, row: dict[str, str]) -> dict[str, object]:
    text = {key: row[key] for key in ("id", "question", *CHOICES)}
    about = {"subject": subject, "name": known.english, "class": known.category, "hard": hard}
    return {**about, **text, "expected": row.get("answer", "")}


def _half_labelled(questions: list[dict[str, object]], split: str) -> list[str]:
    """A split is scored or submitted as a whole: answers in some files only are a mistake."""
    without = sorted({str(q["subject"]) for q in questions if not q["expected"]})
    if not without or all(not q["expected"] for q in questions):
        return []
    return [f"{split}/{s}_{split}.csv:1: has questions without an answer, other files have them" for s in without]
