"""Load a folder or archive of multiple-choice questions as a checked `Task`.

No prompts, models or scores here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from neoxlib.errors import DataError, did_you_mean
from neoxlib.exam.data.benchmarks import Benchmark, get_benchmark
from neoxlib.exam.data.find import MAPPING, exam_root, usual_name
from neoxlib.exam.data.questions import QuestionRow, read_rows
from neoxlib.exam.data.records import DAMAGE, MOST_ROWS, File, json_value, read_file, reason
from neoxlib.exam.data.sources import Sheet, Source, counts_from_zero, find_sources
from neoxlib.exam.data.subjects import CLASS_NAMES, CLASSES, Subject

MOST_TOLD = 200  # problems
TAKEN = ("Hard", "Avg", "Avg(Hard)")  # tables and result files have these beside the classes
# The class by any spelling of it in a mapping, in lower case.
_CLASSES = {name.casefold(): name for name in CLASSES} | CLASS_NAMES


@dataclass(frozen=True)
class Task:
    """Checked questions and the examples shown before them.

    `questions` has one row per question: the columns of `results.RESULT_COLUMNS` up to expected,
    which is empty in a split without answers. `examples[subject]` are the rows shown before a
    question, with their `answer`.
    """

    name: str
    title: str
    root: Path
    split: str
    shots: int
    choices: tuple[str, ...]
    subjects: dict[str, Subject]
    questions: pd.DataFrame
    examples: dict[str, list[QuestionRow]]
    absent: tuple[str, ...]  # subjects of the mapping without a file

    @property
    def labelled(self) -> bool:
        """Whether the split has answers, so that it can be scored."""
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

    `data_dir`: as for `find.exam_root`. `subjects`: None or empty means all with a file. `shots`:
    examples per subject, from dev; `explained`: with their explanation, for a chain of thought.
    Raises SettingsError for an unknown task or split, and DataError with all problems of all files
    as `file:row: …`, MOST_TOLD in words; the header is row 1.
    """
    benchmark = get_benchmark(task, split, shots)
    with exam_root(Path(data_dir), benchmark, split) as root:
        paper = _read(root, benchmark, split, list(subjects or ()), shots)
    read, shown = _checked(paper, explained)
    questions = _questions(read, paper.mapping, benchmark)
    problems = [*paper.problems, *(p for s in read for p in (*read[s][1], *shown[s][1]))]
    problems += _half_labelled(questions, paper.sources) if split in benchmark.unlabelled else []
    if problems:
        more = ["…"] * (len(problems) > MOST_TOLD)
        told = "\n  ".join([*problems[:MOST_TOLD], *more])
        raise DataError(f"{len(problems)} problem(s) in {paper.root}:\n  {told}")
    examples = {subject: rows for subject, (rows, _) in shown.items()}
    return _task(task, paper, pd.DataFrame(questions), examples)


@dataclass(frozen=True)
class Paper:
    """An exam's folder, read but not checked."""

    benchmark: Benchmark
    split: str
    shots: int
    root: Path
    mapping: dict[str, Subject]
    sources: dict[str, Source]
    asked: dict[str, Sheet]  # questions of the chosen subjects
    shown: dict[str, Sheet]  # their examples; a subject without any is not in it
    problems: list[str]


def _read(root: File, benchmark: Benchmark, split: str, asked: list[str], shots: int) -> Paper:
    """Read the questions of the subjects that are asked, and their examples if there are shots."""
    mapping, problems = _mapping(root, benchmark)
    sources, unclear = find_sources(root, benchmark, split, mapping)
    form = usual_name(benchmark, split, "{}")
    chosen, wrong = _choose(sources, mapping, asked, form) if mapping or not problems else ([], [])
    if sources and not chosen and not asked and mapping is benchmark.subjects:
        wrong.append(
            f"{MAPPING}: is missing, and no subject is {benchmark.title}'s; an exam of your own "
            "needs it, beside the files of questions: {subject: [English, Chinese, class]}"
        )
    dev, unclear_dev = find_sources(root, benchmark, "dev", mapping) if shots else ({}, [])
    names = (*benchmark.columns, "answer") if benchmark.headerless else ()
    sheets = [_sheets(found, chosen, names) for found in (sources, dev)]
    root_path = Path(str(root))
    problems = [*problems, *unclear, *unclear_dev, *wrong]
    return Paper(benchmark, split, shots, root_path, mapping, sources, *sheets, problems)


def _sheets(
    sources: dict[str, Source], chosen: list[str], names: tuple[str, ...]
) -> dict[str, Sheet]:
    """The sheets of the chosen subjects that have one. Raises DataError beyond MOST_ROWS."""
    sheets = {}
    rows = 0
    for subject in chosen:
        if subject in sources:
            sheets[subject] = sources[subject].read(names)
            rows += len(sheets[subject][0])
        if rows > MOST_ROWS:
            what = f"there are more than {MOST_ROWS:,} questions up to subject {subject!r}"
            raise DataError(f"{what}; name fewer in subjects")
    return sheets


QuestionRows = tuple[list[QuestionRow], list[str]]  # of one subject, with their problems
Checked = dict[str, QuestionRows]  # by subject


def _checked(paper: Paper, explained: bool) -> tuple[Checked, Checked]:
    """The questions and the examples of each subject."""
    benchmark = paper.benchmark
    shots = paper.shots
    sheets = [*paper.asked.values(), *paper.shown.values()]
    records = [record for entries, _ in sheets for _, record in entries]
    from_zero = counts_from_zero(records, benchmark.choices)
    labelled = paper.split not in benchmark.unlabelled
    read = {
        subject: read_rows(sheet, benchmark, labelled, from_zero=from_zero)
        for subject, sheet in paper.asked.items()
    }
    if not shots:
        return read, {subject: ([], []) for subject in read}
    shown = {
        subject: read_rows(sheet, benchmark, explained=explained, from_zero=from_zero)
        for subject, sheet in paper.shown.items()
    }
    return read, {
        subject: _first(*shown[subject], paper.shown[subject], shots)
        if subject in shown
        else _no_examples(usual_name(benchmark, "dev", subject), shots)
        for subject in read
    }


def _task(
    name: str, paper: Paper, questions: pd.DataFrame, examples: dict[str, list[QuestionRow]]
) -> Task:
    return Task(
        name=name,
        title=paper.benchmark.title,
        root=paper.root,
        split=paper.split,
        shots=paper.shots,
        choices=paper.benchmark.choices,
        subjects={subject: paper.mapping[subject] for subject in paper.asked},
        questions=questions,
        examples=examples,
        absent=tuple(subject for subject in paper.mapping if subject not in paper.sources),
    )


def _no_examples(file: str, shots: int) -> QuestionRows:
    return [], [f"{file}:1: is missing, and shots is {shots}; add the file or ask for 0 shots"]


def _first(rows: list[QuestionRow], problems: list[str], sheet: Sheet, shots: int) -> QuestionRows:
    """The first `shots` examples; fewer are a problem."""
    if len(rows) < shots and not problems:
        last, _ = sheet[0][-1]
        problems = [f"{last}: ends after {len(rows)} example(s), and shots is {shots}"]
    return rows[:shots], problems


def _mapping(root: File, benchmark: Benchmark) -> tuple[dict[str, Subject], list[str]]:
    """The folder's {subject: [English, Chinese, class]}, or the built-in table; and problems."""
    path = root / MAPPING
    if not path.is_file():
        return benchmark.subjects, []
    try:
        data = read_file(path)
    except DAMAGE as error:
        return {}, [f"{MAPPING}:1: cannot be read: {reason(error)}"]
    try:
        raw = json_value(data.decode("utf-8-sig"))
    except ValueError as error:
        return {}, [f"{MAPPING}:{getattr(error, 'lineno', 1)}: is not JSON in UTF-8: {error}"]
    if not isinstance(raw, dict):
        form = "{subject: [English, Chinese, class]}"
        return {}, [f"{MAPPING}:1: expected {form}, found a {type(raw).__name__}"]
    found = {name: _subject(name, entry) for name, entry in raw.items()}
    wanted = f"expected [English, Chinese, class], the class none of {', '.join(TAKEN)}"
    bad = [name for name, subject in found.items() if subject is None]
    problems = [f"{MAPPING}: {name}: {wanted}, found {raw[name]!r:.80}" for name in bad]
    return {name: subject for name, subject in found.items() if subject}, problems


def _subject(name: str, entry: object) -> Subject | None:
    """An entry of a mapping; a class alone is MMLU's form. None for anything else."""
    if isinstance(entry, str):
        entry = [name.replace("_", " ").title(), name, entry]
    if not isinstance(entry, list) or len(entry) != 3:
        return None
    if not all(isinstance(text, str) and text.strip() for text in entry):
        return None
    english, chinese, category = entry
    category = _CLASSES.get(category.strip().casefold(), category.strip())
    taken = category.casefold() in map(str.casefold, TAKEN)
    return None if taken else Subject(english, chinese, category)


def _choose(
    files: dict[str, Source], mapping: dict[str, Subject], asked: list[str], form: str
) -> tuple[list[str], list[str]]:
    """Subjects to read, in the mapping's order, and problems with the choice."""
    problems = []
    for name in asked or files:
        if name not in mapping:
            what = f"subjects: {name!r}" if asked else f"{files[name].start}: subject {name!r}"
            problems.append(f"{what} is not in the subject mapping{did_you_mean(name, mapping)}")
        elif name not in files:
            problems.append(f"subjects: {name!r} has no file {form.replace('{}', name)}")
    wanted = set(asked or files) & set(files)
    return [name for name in mapping if name in wanted], problems


def _questions(
    read: Checked, mapping: dict[str, Subject], benchmark: Benchmark
) -> list[dict[str, object]]:
    """The rows of `Task.questions`."""
    questions = []
    for subject, (rows, _) in read.items():
        known = mapping[subject]
        about = {"subject": subject, "name": known.english, "class": known.category}
        about["hard"] = subject in benchmark.hard
        for row in rows:
            texts = {name: cell for name, cell in row.items() if name != "answer"}
            questions.append({**about, **texts, "expected": row["answer"]})
    return questions


def _half_labelled(questions: list[dict[str, object]], files: dict[str, Source]) -> list[str]:
    """Problems of a split with answers in some rows only: it is scored or submitted as a whole."""
    without = sorted({str(q["subject"]) for q in questions if not q["expected"]})
    if not without or all(not q["expected"] for q in questions):
        return []
    return [
        f"{files[s].start}: has questions without an answer, other questions have them"
        for s in without
    ]
