"""A folder or archive of multiple-choice questions → a checked `Task`. No prompts, models or scores here."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from neoxlib.errors import DataError
from neoxlib.tasks.benchmarks import Benchmark, did_you_mean, get_benchmark
from neoxlib.tasks.layout import find_files, find_root, opened, usual_name
from neoxlib.tasks.mmlu import CLASS_NAMES
from neoxlib.tasks.rows import Row, label, read_rows
from neoxlib.tasks.subjects import CLASSES, Subject
from neoxlib.tasks.table import File

MAPPING = "subject_mapping.json"


@dataclass(frozen=True)
class Task:
    """Checked questions and the examples shown before them.

    `questions` has one row per question: subject, name (English), class, hard, id, the benchmark's texts (question,
    A, B, C, D; or passage, question), expected; all text as in the file, `expected` empty in a split without answers.
    `examples[subject]` are the rows shown before a question, with their `answer`.
    """

    name: str
    title: str
    root: Path
    split: str
    shots: int
    choices: tuple[str, ...]
    subjects: dict[str, Subject]
    questions: pd.DataFrame
    examples: dict[str, list[Row]]
    absent: tuple[str, ...]  # subjects of the mapping that the folder has no file for

    @property
    def labelled(self) -> bool:
        """Whether the split has answers, so that it can be scored here."""
        return bool((self.questions["expected"] != "").all())

    def counts(self) -> pd.DataFrame:
        """Subjects and questions of each class that has any."""
        grouped = self.questions.groupby("class", sort=False)
        table = grouped.agg(subjects=("subject", "nunique"), questions=("id", "size"), hard=("hard", "sum"))
        order = dict.fromkeys((*CLASSES, *table.index))
        return table.reindex([c for c in order if c in table.index]).rename_axis(None)


def load_task(
    task: str, data_dir: str | Path, split: str = "val", subjects: Iterable[str] | None = None, shots: int = 5,
    explained: bool = False,
) -> Task:
    """Read and check every file that a run needs.

    `data_dir` is the benchmark's folder as its authors or the hub lay it out (see `layout.find_files`), one folder that
    holds it, or the official zip. `subjects` None or empty means every subject with a file; `shots` examples come from
    dev, `explained` ones with their explanation, for a chain of thought.
    Raises SettingsError for an unknown task or split, and DataError with all problems of all files as `file:row: …`,
    rows counted as a spreadsheet does (the header is row 1).
    """
    benchmark = get_benchmark(task, split, shots)
    with opened(Path(data_dir)) as top:
        root = find_root(top, benchmark, split)
        mapping, problems = _mapping(root, benchmark)
        files = find_files(root, benchmark, split)
        chosen, more = _choose(files, mapping, list(subjects or ()), usual_name(benchmark, split, "{}"))
        shown = _examples(root, chosen, benchmark, shots, explained)
        read = {s: read_rows(files[s], benchmark, split not in benchmark.unlabelled) for s in chosen}
        where = Path(str(root))
    problems += more + [p for s in chosen for p in (*read[s][1], *shown[s][1])]
    questions = [_question(s, mapping[s], s in benchmark.hard, row) for s in chosen for row in read[s][0]]
    problems += _half_labelled(questions, files) if split in benchmark.unlabelled else []
    if problems:
        raise DataError(f"{len(problems)} problem(s) in {where}:\n  " + "\n  ".join(problems))
    subjects, examples = {s: mapping[s] for s in chosen}, {s: rows for s, (rows, _) in shown.items()}
    absent = tuple(s for s in mapping if s not in files)
    return Task(task, benchmark.title, where, split, shots, benchmark.choices, subjects, pd.DataFrame(questions),
                examples, absent)  # fmt: skip


def _mapping(root: File, benchmark: Benchmark) -> tuple[dict[str, Subject], list[str]]:
    """The folder's own subject_mapping.json {subject: [English, Chinese, class]} wins over the built-in table."""
    path = root / MAPPING
    if not path.is_file():
        return benchmark.subjects, []
    try:
        raw = json.loads(path.read_bytes().decode("utf-8-sig"))
    except ValueError as error:
        return {}, [f"{MAPPING}:{getattr(error, 'lineno', 1)}: is not JSON in UTF-8: {error}"]
    if not isinstance(raw, dict):
        return {}, [f"{MAPPING}:1: expected {{subject: [English, Chinese, class]}}, found a {type(raw).__name__}"]
    found = {name: _subject(name, entry) for name, entry in raw.items()}
    wanted = f"expected [English, Chinese, class] with a class of {', '.join(CLASSES)}"
    bad = [name for name, subject in found.items() if subject is None]
    problems = [f"{MAPPING}: {name}: {wanted}, found {raw[name]!r:.80}" for name in bad]
    return {name: subject for name, subject in found.items() if subject}, problems


def _subject(name: str, entry: object) -> Subject | None:
    """An entry of a mapping; a bare class is MMLU's form."""
    if isinstance(entry, str):
        entry = [name.replace("_", " ").title(), name, CLASS_NAMES.get(entry, entry)]
    texts = isinstance(entry, list) and len(entry) == 3 and all(isinstance(x, str) and x.strip() for x in entry)
    return Subject(*entry) if texts and entry[2] in CLASSES else None


def _choose(
    files: dict[str, File], mapping: dict[str, Subject], asked: list[str], form: str
) -> tuple[list[str], list[str]]:
    """Subjects to read, in the mapping's order, and what is wrong with the choice."""
    problems = []
    for name in asked or files:
        if name not in mapping:
            what = f"subjects: {name!r}" if asked else f"{label(files[name])}:1: subject {name!r}"
            problems.append(f"{what} is not in the subject mapping{did_you_mean(name, mapping)}")
        elif name not in files:
            problems.append(f"subjects: {name!r} has no file {form.replace('{}', name)}")
    wanted = set(asked or files) & set(files)
    return [name for name in mapping if name in wanted], problems


def _examples(
    root: File, chosen: list[str], benchmark: Benchmark, shots: int, explained: bool
) -> dict[str, tuple[list[Row], list[str]]]:
    """The first `shots` rows of each subject's examples, with problems; none are read where none are wanted."""
    files = find_files(root, benchmark, "dev") if shots else {}
    found: dict[str, tuple[list[Row], list[str]]] = {}
    for subject in chosen:
        if not shots:
            found[subject] = [], []
        elif subject not in files:
            need = usual_name(benchmark, "dev", subject)
            found[subject] = [], [f"{need}:1: is missing, and shots is {shots}; add the file or ask for 0 shots"]
        else:
            path = files[subject]
            rows, problems = read_rows(path, benchmark, explained=explained)
            if len(rows) < shots and not problems:
                short = f"ends after {len(rows)} example(s), and shots is {shots}"
                problems = [f"{label(path)}:{len(rows) + 1}: {short}"]
            found[subject] = rows[:shots], problems
    return found


def _question(subject: str, known: Subject, hard: bool, row: Row) -> dict[str, object]:
    text = {name: cell for name, cell in row.items() if name != "answer"}
    about = {"subject": subject, "name": known.english, "class": known.category, "hard": hard}
    return {**about, **text, "expected": row["answer"]}


def _half_labelled(questions: list[dict[str, object]], files: dict[str, File]) -> list[str]:
    """A split is scored or submitted as a whole: answers in some rows or files only are a mistake."""
    without = sorted({str(q["subject"]) for q in questions if not q["expected"]})
    if not without or all(not q["expected"] for q in questions):
        return []
    return [f"{label(files[s])}:1: has questions without an answer, other questions have them" for s in without]
