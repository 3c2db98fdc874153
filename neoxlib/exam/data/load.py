"""A folder or archive of multiple-choice questions → a checked `Task`. No prompts, models or scores here."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from neoxlib.errors import DataError, did_you_mean
from neoxlib.exam.data.benchmarks import Benchmark, get_benchmark
from neoxlib.exam.data.find import MAPPING, exam_root, usual_name
from neoxlib.exam.data.questions import Row, read_rows
from neoxlib.exam.data.records import DAMAGE, File, json_value
from neoxlib.exam.data.sources import Sheet, Source, counts_from_zero, find_sources
from neoxlib.exam.data.subjects import CLASS_NAMES, CLASSES, Subject

TAKEN = ("Hard", "Avg", "Avg(Hard)")  # tables and result files have these beside the classes
_CLASSES = {
    name.casefold(): name for name in CLASSES
} | CLASS_NAMES  # however a mapping spells them


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

    def first(self, limit: int | None) -> pd.DataFrame:
        """The questions that a run asks: `limit` of each subject, or all if it is 0 or None."""
        if not limit:
            return self.questions
        return self.questions.groupby("subject", sort=False).head(limit)

    def counts(self) -> pd.DataFrame:
        """Subjects and questions of each class that has any."""
        grouped = self.questions.groupby("class", sort=False)
        table = grouped.agg(
            subjects=("subject", "nunique"), questions=("id", "size"), hard=("hard", "sum")
        )
        order = dict.fromkeys((*CLASSES, *table.index))
        return table.reindex([c for c in order if c in table.index]).rename_axis(None)


def load_task(
    task: str,
    data_dir: str | Path,
    split: str = "val",
    subjects: Iterable[str] | None = None,
    shots: int = 5,
    explained: bool = False,
) -> Task:
    """Read and check every file that a run needs.

    `data_dir` is the benchmark's folder as its authors or the hub lay it out (see `layout.find_files`), a folder around
    it, the folder of the split in it, or its archive, zip or tar; `subjects` None or empty means every subject with a
    file; `shots` examples come from dev, `explained` ones with their explanation, for a chain of thought.
    Raises SettingsError for an unknown task or split, and DataError with all problems of all files as `file:row: …`,
    rows counted as a spreadsheet does (the header is row 1).
    """
    benchmark = get_benchmark(task, split, shots)
    with exam_root(Path(data_dir), benchmark, split) as root:
        paper = _read(root, benchmark, split, list(subjects or ()), shots)
    read, shown = _checked(paper, benchmark, split, shots, explained)
    mapping = paper.mapping
    problems = [*paper.problems]
    problems += [p for s in read for p in (*read[s][1], *shown[s][1])]
    questions = [
        _question(s, mapping[s], s in benchmark.hard, row) for s in read for row in read[s][0]
    ]
    problems += _half_labelled(questions, paper.sources) if split in benchmark.unlabelled else []
    if problems:
        raise DataError(f"{len(problems)} problem(s) in {paper.root}:\n  " + "\n  ".join(problems))
    chosen = {s: mapping[s] for s in read}
    examples = {s: rows for s, (rows, _) in shown.items()}
    absent = tuple(s for s in mapping if s not in paper.sources)
    return Task(
        task,
        benchmark.title,
        paper.root,
        split,
        shots,
        benchmark.choices,
        chosen,
        pd.DataFrame(questions),
        examples,
        absent,
    )


@dataclass(frozen=True)
class Paper:
    """What an exam's folder has, read and not checked: `asked` and `shown` are the sheets of the chosen subjects."""

    root: Path
    mapping: dict[str, Subject]
    sources: dict[str, Source]
    asked: dict[str, Sheet]
    shown: dict[str, Sheet]  # none of a subject without examples
    problems: list[str]


def _read(root: File, benchmark: Benchmark, split: str, asked: list[str], shots: int) -> Paper:
    """The records of every subject that is asked; examples only where some are wanted."""
    mapping, problems = _mapping(root, benchmark)
    sources, unclear = find_sources(root, benchmark, split, mapping)
    chosen, wrong = _choose(sources, mapping, asked, usual_name(benchmark, split, "{}"))
    if sources and not chosen and not asked and mapping is benchmark.subjects:
        wrong.append(
            f"{MAPPING}: is missing, and no subject is {benchmark.title}'s; an exam of your own needs it, "
            "beside the files of questions: {subject: [English, Chinese, class]}"
        )
    dev, unclear_dev = find_sources(root, benchmark, "dev", mapping) if shots else ({}, [])
    names = (*benchmark.columns, "answer") if benchmark.headerless else ()
    sheets = [{s: found[s].read(names) for s in chosen if s in found} for found in (sources, dev)]
    return Paper(
        Path(str(root)), mapping, sources, *sheets, [*problems, *unclear, *unclear_dev, *wrong]
    )


Checked = dict[str, tuple[list[Row], list[str]]]  # rows of each subject, with their problems


def _checked(
    paper: Paper, benchmark: Benchmark, split: str, shots: int, explained: bool
) -> tuple[Checked, Checked]:
    """The questions and the examples of each subject."""
    sheets = [*paper.asked.values(), *paper.shown.values()]
    from_zero = counts_from_zero(
        [record for entries, _ in sheets for _, record in entries], benchmark.choices
    )
    labelled = split not in benchmark.unlabelled
    read = {
        s: read_rows(sheet, benchmark, labelled, from_zero=from_zero)
        for s, sheet in paper.asked.items()
    }
    shown: Checked = {}
    for subject in read:
        if not shots:
            shown[subject] = [], []
        elif subject not in paper.shown:
            need = usual_name(benchmark, "dev", subject)
            shown[subject] = (
                [],
                [f"{need}:1: is missing, and shots is {shots}; add the file or ask for 0 shots"],
            )
        else:
            found = read_rows(
                paper.shown[subject], benchmark, explained=explained, from_zero=from_zero
            )
            shown[subject] = _first(*found, paper.shown[subject], shots)
    return read, shown


def _first(
    rows: list[Row], problems: list[str], sheet: Sheet, shots: int
) -> tuple[list[Row], list[str]]:
    """The first `shots` examples; fewer are a problem."""
    if len(rows) < shots and not problems:
        last, _ = sheet[0][-1]
        problems = [f"{last}: ends after {len(rows)} example(s), and shots is {shots}"]
    return rows[:shots], problems


def _mapping(root: File, benchmark: Benchmark) -> tuple[dict[str, Subject], list[str]]:
    """The folder's own subject_mapping.json {subject: [English, Chinese, class]} wins over the built-in table."""
    path = root / MAPPING
    if not path.is_file():
        return benchmark.subjects, []
    try:
        raw = json_value(path.read_bytes().decode("utf-8-sig"))
    except DAMAGE as error:
        return {}, [f"{MAPPING}:{getattr(error, 'lineno', 1)}: is not JSON in UTF-8: {error}"]
    if not isinstance(raw, dict):
        return {}, [
            f"{MAPPING}:1: expected {{subject: [English, Chinese, class]}}, found a {type(raw).__name__}"
        ]
    found = {name: _subject(name, entry) for name, entry in raw.items()}
    wanted = f"expected [English, Chinese, class], the class none of {', '.join(TAKEN)}"
    bad = [name for name, subject in found.items() if subject is None]
    problems = [f"{MAPPING}: {name}: {wanted}, found {raw[name]!r:.80}" for name in bad]
    return {name: subject for name, subject in found.items() if subject}, problems


def _subject(name: str, entry: object) -> Subject | None:
    """An entry of a mapping; a bare class is MMLU's form. A class of one's own is any that is not in TAKEN."""
    if isinstance(entry, str):
        entry = [name.replace("_", " ").title(), name, entry]
    texts = (
        isinstance(entry, list)
        and len(entry) == 3
        and all(isinstance(x, str) and x.strip() for x in entry)
    )
    if not texts:
        return None
    english, chinese, category = entry
    category = _CLASSES.get(category.strip().casefold(), category.strip())
    return (
        Subject(english, chinese, category)
        if category.casefold() not in map(str.casefold, TAKEN)
        else None
    )


def _choose(
    files: dict[str, Source], mapping: dict[str, Subject], asked: list[str], form: str
) -> tuple[list[str], list[str]]:
    """Subjects to read, in the mapping's order, and what is wrong with the choice."""
    problems = []
    for name in asked or files:
        if name not in mapping:
            what = f"subjects: {name!r}" if asked else f"{files[name].start}: subject {name!r}"
            problems.append(f"{what} is not in the subject mapping{did_you_mean(name, mapping)}")
        elif name not in files:
            problems.append(f"subjects: {name!r} has no file {form.replace('{}', name)}")
    wanted = set(asked or files) & set(files)
    return [name for name in mapping if name in wanted], problems


def _question(subject: str, known: Subject, hard: bool, row: Row) -> dict[str, object]:
    text = {name: cell for name, cell in row.items() if name != "answer"}
    about = {"subject": subject, "name": known.english, "class": known.category, "hard": hard}
    return {**about, **text, "expected": row["answer"]}


def _half_labelled(questions: list[dict[str, object]], files: dict[str, Source]) -> list[str]:
    """A split is scored or submitted as a whole: answers in some rows or files only are a mistake."""
    without = sorted({str(q["subject"]) for q in questions if not q["expected"]})
    if not without or all(not q["expected"] for q in questions):
        return []
    return [
        f"{files[s].start}: has questions without an answer, other questions have them"
        for s in without
    ]
