"""Compare this run's answers with an earlier run's, question by question.

The test of the difference is in significance.
"""

from pathlib import Path

import pandas as pd

from neoxlib.errors import DataError
from neoxlib.exam.data.load import Task
from neoxlib.exam.results import FLAGS, KEY, choices, share_columns
from neoxlib.exam.significance import common, compared, mcnemar
from neoxlib.workbook.past_run import table_bytes
from neoxlib.workbook.table import NotAsked, TextTable

NONE_NAMED = "No earlier run was named in compare_with: nothing to compare."
NEEDED = (*KEY, "question", "expected", "predicted", "correct")
CHANGED_COLUMNS = {  # of the results -> as the table of changed answers heads them
    "name": "subject",
    "id": "id",
    "question": "question",
    "expected": "expected",
    "predicted_before": "earlier",
    "predicted": "now",
    "change": "change",
}


def read_earlier_run(
    path: str | Path | None, task: Task, limit: int | None = None
) -> pd.DataFrame | None:
    """Read the questions of the run at `path`, its folder or its results.json; None without a path.

    Raises DataError, before any question is asked, if the two runs have no question in common, or
    if that run has another question under an id of this exam.
    """
    if not path:
        return None
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    before = read_questions(folder / "questions.csv")
    mcnemar(before, task.first(limit).assign(correct=False))
    return before


def read_questions(path: Path) -> pd.DataFrame:
    """Read a run's questions.csv as it was saved: ids such as 001 and answers such as NA are text.

    Raises DataError if the file is missing or no table, lacks a column, or has a question twice.
    """
    try:
        table = pd.read_csv(table_bytes(path), dtype=str, keep_default_na=False, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a run's table of questions: {error}") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first cells as names then
        raise DataError(f"{path} has rows of more cells than its first row; copy it anew")
    if missing := [name for name in NEEDED if name not in table]:
        raise DataError(
            f"{path} lacks the column(s) {', '.join(missing)}; expected an exam run's questions.csv"
        )
    if (twice := table.duplicated([*KEY])).any():
        raise DataError(
            f"{path} has {twice.sum()} question(s) twice, the first in row {twice.idxmax() + 2}"
        )
    flags = {name: _flags(table[name], path) for name in FLAGS if name in table}
    shares = share_columns(choices(table))
    return table.assign(
        **flags, **{name: pd.to_numeric(table[name], errors="coerce") for name in shares}
    )


def _flags(texts: pd.Series, path: Path) -> pd.Series:
    if (other := texts[~texts.isin(["True", "False"])]).size:
        row = f"row {other.index[0] + 2}: {texts.name} is {other.iloc[0][:20]!r}"
        raise DataError(f"{path}, {row}; expected True or False, as a run writes them")
    return texts == "True"


def difference(results: pd.DataFrame, before: pd.DataFrame | None) -> TextTable | NotAsked:
    """McNemar's table of the two runs, with a verdict in words."""
    if before is None:
        return NotAsked(NONE_NAMED)
    found = mcnemar(before, results).iloc[0]
    columns = {"right before": ("both_right", "only_a"), "wrong before": ("only_b", "both_wrong")}
    cells = {title: [int(found[name]) for name in names] for title, names in columns.items()}
    rows = pd.DataFrame({"": ["right now", "wrong now"]} | cells)
    interval = f"difference {found['low']:+.1%} to {found['high']:+.1%} at 95 %."
    return TextTable(rows, f"{compared(found)}; {interval}")


def changed_answers(
    results: pd.DataFrame, before: pd.DataFrame | None, most: int = 40
) -> TextTable | NotAsked:
    """At most `most` of the questions whose answer changed; first those now right or now wrong."""
    if before is None:
        return NotAsked(NONE_NAMED)
    then, now = common(before, results)
    changed = _changed(then, now)
    counts = changed["change"].value_counts()
    note = f"{len(changed):,} of the {len(now):,} questions in both runs are answered otherwise: "
    note += ", ".join(f"{counts.get(side, 0):,} {side}" for side in ("now right", "now wrong"))
    note += f"; the first {most} are shown." if len(changed) > most else "."
    ordered = changed.sort_values("change", key=lambda side: side == "neither right", kind="stable")
    shown = ordered.head(most)[[*CHANGED_COLUMNS]]
    return TextTable(shown.rename(columns=CHANGED_COLUMNS), note)


def _changed(then: pd.DataFrame, now: pd.DataFrame) -> pd.DataFrame:
    """Rows of `now` answered otherwise, with predicted_before and change."""
    before = {"predicted_before": then["predicted"], "correct_before": then["correct"]}
    both = now.assign(**before).reset_index(drop=True)
    changed = both[both["predicted"] != both["predicted_before"]]
    won = changed["correct"] & ~changed["correct_before"]
    lost = changed["correct_before"] & ~changed["correct"]
    change = pd.Series("neither right", changed.index).mask(won, "now right")
    return changed.assign(change=change.mask(lost, "now wrong"))
