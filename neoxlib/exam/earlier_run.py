"""An earlier run's answers beside this run's, question by question. The test of the difference is in stats."""

from pathlib import Path

import pandas as pd

from neoxlib.errors import DataError
from neoxlib.exam.data.load import Task
from neoxlib.exam.results import choices
from neoxlib.exam.significance import common, compared, mcnemar
from neoxlib.workbook.table import TextTable

NONE_NAMED = "No earlier run was named in compare_with: nothing to compare."
NEEDED = ("subject", "id", "question", "expected", "predicted", "correct")
YES_OR_NO = ("correct", "hard", "too_long")


def earlier(path: str | Path | None, task: Task, limit: int | None = None) -> pd.DataFrame | None:
    """The table of questions of the run at `path`, its folder or its results.json; None where no path is given.

    Raises DataError, before any question is asked, where that run was asked none of what this one will be, or another
    question under an id of this exam's.
    """
    if not path:
        return None
    before = read_questions(
        (Path(path) if Path(path).is_dir() else Path(path).parent) / "questions.csv"
    )
    asked = (
        task.questions if not limit else task.questions.groupby("subject", sort=False).head(limit)
    )
    mcnemar(before, asked.assign(correct=False))
    return before


def read_questions(path: Path) -> pd.DataFrame:
    """A run's questions.csv as it was saved: ids such as 001 and answers such as NA stay text.

    Raises DataError where the file is missing, no table, lacks a column, or holds a question twice.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a run's table of questions: {error}") from error
    if missing := [name for name in NEEDED if name not in table]:
        raise DataError(
            f"{path} lacks the column(s) {', '.join(missing)}; expected an exam run's questions.csv"
        )
    if (twice := table.duplicated(["subject", "id"])).any():
        raise DataError(
            f"{path} has {twice.sum()} question(s) twice, the first in row {twice.idxmax() + 2}"
        )
    flags = {name: _flags(table[name], path) for name in YES_OR_NO if name in table}
    shares = {
        f"p_{choice}": pd.to_numeric(table[f"p_{choice}"], errors="coerce")
        for choice in choices(table)
    }
    return table.assign(**flags, **shares)


def _flags(texts: pd.Series, path: Path) -> pd.Series:
    if (other := texts[~texts.isin(["True", "False"])]).size:
        row = f"row {other.index[0] + 2}: {texts.name} is {other.iloc[0][:20]!r}"
        raise DataError(f"{path}, {row}; expected True or False, as a run writes them")
    return texts == "True"


def difference(results: pd.DataFrame, before: pd.DataFrame | None) -> TextTable:
    """McNemar's table of the two runs, with its verdict in words."""
    if before is None:
        return TextTable(pd.DataFrame(), NONE_NAMED)
    found = mcnemar(before, results).iloc[0]
    columns = {"right before": ("both_right", "only_a"), "wrong before": ("only_b", "both_wrong")}
    cells = {title: [int(found[name]) for name in names] for title, names in columns.items()}
    rows = pd.DataFrame({"": ["right now", "wrong now"]} | cells)
    return TextTable(
        rows, f"{compared(found)}; difference {found['low']:+.1%} to {found['high']:+.1%} at 95 %."
    )


def changed_answers(
    results: pd.DataFrame, before: pd.DataFrame | None, most: int = 40
) -> TextTable:
    """Questions answered otherwise than `before`, at most `most`: those that changed sides first."""
    if before is None:
        return TextTable(pd.DataFrame(), NONE_NAMED)
    then, both = common(before, results)
    both = both.assign(
        predicted_before=then["predicted"], correct_before=then["correct"]
    ).reset_index(drop=True)
    other = both[both["predicted"] != both["predicted_before"]]
    won = other["correct"] & ~other["correct_before"]
    lost = other["correct_before"] & ~other["correct"]
    change = pd.Series("neither right", other.index).mask(won, "now right").mask(lost, "now wrong")
    shown = (
        other.assign(change=change, aside=~(won | lost))
        .sort_values("aside", kind="stable")
        .head(most)
    )
    columns = {
        "name": "subject",
        "id": "id",
        "question": "question",
        "expected": "expected",
        "predicted_before": "earlier",
        "predicted": "now",
        "change": "change",
    }
    note = f"{len(other):,} of the {len(both):,} questions in both runs are answered otherwise: "
    note += f"{won.sum():,} now right, {lost.sum():,} now wrong"
    note += f"; the first {most} are shown." if len(other) > most else "."
    return TextTable(shown[[*columns]].rename(columns=columns), note)
