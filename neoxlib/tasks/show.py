"""Questions and rules as tables that people read: in full, Chinese as Chinese, markup of the data as text."""

import html
from dataclasses import asdict

import pandas as pd

from neoxlib.tasks.data import CHOICES
from neoxlib.tasks.prompts import Profile


class TextTable:
    """A few rows of long text: escaped HTML in a notebook, shortened plain text elsewhere.

    pandas' own HTML cuts long cells and spells line breaks out.
    """

    def __init__(self, rows: pd.DataFrame, note: str) -> None:
        self.rows, self.note = rows.astype(str), note

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.rows.columns)
        cells = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in self.rows.itertuples(index=False))
        body = "".join(f"<tr>{row}</tr>" for row in cells)
        table = f'<table class="dataframe"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        # Line breaks are the data's, and its $…$ is no formula of ours.
        box = '<div class="tex2jax_ignore mathjax_ignore" style="white-space: pre-line">'
        return f"{box}{table}</div><p>{html.escape(self.note)}</p>"

    def __repr__(self) -> str:
        return f"{self.rows.to_string(index=False, max_colwidth=30)}\n{self.note}"


def rules(profile: Profile) -> TextTable:
    """Every rule of a profile, texts in quotes so that blanks and line breaks show."""
    rows = pd.DataFrame([{"rule": name, "value": repr(value)} for name, value in asdict(profile).items()])
    return TextTable(rows, "The average named here is the one that published scores give.")


def browse(results: pd.DataFrame, per_subject: int = 2, most: int = 40) -> TextTable:
    """The first wrong answers of each subject, at most `most` in all; the table of all questions is for a file."""
    wrong = results[~results["correct"]]
    turn = wrong.groupby("subject").cumcount()  # every subject's first before any subject's second
    shown = wrong.loc[turn[turn < per_subject].sort_values(kind="stable").index[:most].sort_values()]
    kind = "wrong answers" if (results["expected"] != "").all() else "answers (this split has no key)"
    note = f"{len(shown)} of {len(wrong)} {kind} among {len(results)} questions; every question is in questions.csv."
    return TextTable(_columns(shown), note)


def _columns(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({
        "subject": rows["name"],
        "id": rows["id"],
        "question": rows["question"],
        "choices": ["\n".join(_choice(row, letter) for letter in CHOICES) for row in rows.to_dict("records")],
        "expected": rows["expected"],
        "chosen": rows["predicted"].where(~rows["too_long"], "too long"),
        "shots": rows["shots_used"],
    })


def _choice(row: dict, letter: str) -> str:
    share = row[f"p_{letter}"]
    return f"{letter}. {row[letter]}" + ("" if pd.isna(share) else f"  ({share:.0%})")
