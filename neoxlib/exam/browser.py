"""Widgets over a `Browser`: filter by subject, mark and text, and page. Nothing here that its table does not have."""

import math
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import pandas as pd

from neoxlib.exam.results import ANSWERED, MARKS, RIGHT, choices, marks
from neoxlib.workbook import markup
from neoxlib.workbook.progress import in_lab

if TYPE_CHECKING:
    from neoxlib.exam.browser import Browser


PER_PAGE = 5


def panel(browser: "Browser") -> widgets.VBox:
    """Filters and pages above the questions that they leave."""
    filters = _filters(browser)
    page = widgets.BoundedIntText(
        value=1, min=1, max=1, description="page", layout={"width": "10rem"}
    )
    back, on = (widgets.Button(description=sign, layout={"width": "3rem"}) for sign in ("‹", "›"))
    found = widgets.Label()
    table = widgets.HTML()

    def show(_: Any = None) -> None:
        rows = browser.select(**{name: widget.value for name, widget in filters.items()})
        page.max = max(1, math.ceil(len(rows) / PER_PAGE))  # a page beyond it becomes the last
        start = (page.value - 1) * PER_PAGE
        found.value = f"of {page.max:,}: {len(rows):,} of {len(browser.results):,} questions"
        table.value = (
            questions_html(rows.iloc[start : start + PER_PAGE])
            if len(rows)
            else "<p>No such question.</p>"
        )

    def restart(_: Any) -> None:
        page.value = 1
        show()

    def turn(by: int) -> None:
        page.value = min(max(page.value + by, 1), page.max)

    for widget in filters.values():
        widget.observe(restart, "value")
    page.observe(show, "value")
    back.on_click(lambda _: turn(-1))
    on.on_click(lambda _: turn(1))
    show()
    return widgets.VBox(
        [widgets.HBox(list(filters.values())), widgets.HBox([page, back, on, found]), table]
    )


def _filters(browser: "Browser") -> dict[str, widgets.Widget]:
    """By the names of `Browser.select`'s arguments."""
    results = browser.results
    names = results.drop_duplicates("subject").set_index("subject")["name"]
    counts = results["mark"].value_counts()
    every = [
        ("all", ""),
        *((f"{mark} ({counts[mark]:,})", mark) for mark in MARKS if mark in counts),
    ]
    subjects = [("all", ""), *((name, subject) for subject, name in names.items())]
    text = widgets.Text(
        placeholder="in question, choices or id", description="text", continuous_update=False
    )
    return {
        "subject": widgets.Dropdown(options=subjects, description="subject"),
        "mark": widgets.Dropdown(options=every, description="answer"),
        "text": text,
    }


CLIP = 2000  # characters of a text that a table shows; a few such rows must not make a page of megabytes
COLUMNS = ["subject", "question", "choices", "expected", "chosen"]
WIDE = "min-width:14rem;overflow-wrap:anywhere"  # a formula may be one long word
SIGNS = {RIGHT: "✓", ANSWERED: ""}  # every other mark says what it is


class Browser:
    """All questions of a run: `select` filters them, a notebook shows them.

    JupyterLab shows widgets to filter and page; the HTML beside them, which reports and saved notebooks show, is a
    plain table of at most `most` questions that says how many it leaves out.
    """

    def __init__(self, results: pd.DataFrame, most: int = 60) -> None:
        self.results = results.assign(mark=marks(results))
        self.most = most

    def select(self, subject: str = "", mark: str = "", text: str = "") -> pd.DataFrame:
        """Rows of a subject, with a mark, with a text in their question, choices or id; "" is any."""
        rows = self.results
        rows = rows[(rows["subject"] == subject) | (subject == "")]
        rows = rows[(rows["mark"] == mark) | (mark == "")]
        texts = [name for name in ("id", "passage", "question", *choices(rows)) if name in rows]
        found = [
            any(text.casefold() in str(cell).casefold() for cell in row)
            for row in rows[texts].to_numpy()
        ]
        return rows[pd.Series(found, index=rows.index, dtype=bool)]

    def sample(self) -> pd.DataFrame:
        """At most `most` questions in the exam's order: in turn from every subject, wrong ones first."""
        ordered = self.results.sort_values("correct", kind="stable")
        turn = ordered.groupby("subject").cumcount()
        return self.results.loc[sorted(turn.sort_values(kind="stable").index[: self.most])]

    def _repr_html_(self) -> str:
        shown = self.sample()
        return questions_html(shown) + markup.paragraph(self._note(shown))

    def __repr__(self) -> str:
        shown = self.sample()
        table = shown[["name", "id", "question", "expected", "predicted", "mark"]]
        return f"{table.to_string(index=False, max_colwidth=30)}\n{self._note(shown)}"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        bundle = {"text/plain": repr(self), "text/html": self._repr_html_()}
        if not in_lab():  # papermill has nobody to click
            return bundle
        from neoxlib.exam.browser import panel

        return panel(self)._repr_mimebundle_() | bundle

    def _note(self, shown: pd.DataFrame) -> str:
        counts = self.results["mark"].value_counts()
        parts = [
            f"{(shown['mark'] == mark).sum():,} of the {n:,} {mark}" for mark, n in counts.items()
        ]
        left = len(self.results) - len(shown)
        rest = (
            f"in turn from every subject; {left:,} more are not shown here"
            if left
            else "which is all"
        )
        return f"{len(shown):,} questions ({', '.join(parts)}), {rest}; every question is in questions.csv."


def questions_html(rows: pd.DataFrame) -> str:
    """A row per question: its text, each choice with its share as a bar, what was expected and chosen, its prompt."""
    cells = [_cells(row, choices(rows)) for row in rows.to_dict("records")]
    return markup.html_table(COLUMNS, cells)


def _cells(row: dict, letters: tuple[str, ...]) -> list[str]:
    mark = SIGNS.get(row["mark"], row["mark"])
    bars = "".join(_bar(row, letter) for letter in letters)
    folded = _folded("passage", row["passage"]) if "passage" in row else ""
    folded += _folded(
        f"prompt: {row['prompt_tokens']} tokens, {row['shots_used']} examples", row["prompt"]
    )
    return [
        f"{_text(row['name'])}\n<small>{_text(row['id'])}</small>",
        f'<div style="{WIDE};max-width:26rem">{_text(row["question"])}{folded}</div>',
        f'<div style="{WIDE};max-width:20rem">{bars}{_answer(row)}</div>',
        _text(row["expected"]),
        _text(f"{row['predicted']} {mark}".strip()),
    ]


def _folded(title: str, text: str) -> str:
    return f"<details><summary><small>{markup.text(title)}</small></summary>{_text(text)}</details>"


def _bar(row: dict, letter: str) -> str:
    """A choice on a ground as wide as its share; the right one is bold."""
    share = row[f"p_{letter}"]
    text = _text(f"{letter}. {row[letter]}" if letter in row else letter)
    text = f"<b>{text}</b>" if letter == row["expected"] else text
    if pd.isna(share):
        return f"<div>{text}</div>"
    style = f"background:linear-gradient(to right,rgba(0,114,178,.22) {share:.0%},transparent {share:.0%});margin:1px 0"
    return f'<div style="{style}">{text}  <small>{share:.0%}</small></div>'


def _answer(row: dict) -> str:
    """What the model wrote, where it wrote."""
    text = str(row.get("answer_text", "")).strip()
    return f"<div><small>wrote:</small> {_text(text)}</div>" if text else ""


def _text(value: Any) -> str:
    text = str(value)
    more = f" … ({len(text) - CLIP:,} more characters in questions.csv)" if len(text) > CLIP else ""
    return markup.text(text[:CLIP] + more)
