"""Browse the questions of a run: widgets in JupyterLab, bounded plain tables elsewhere.

The surest wrong answers come first: they say the most about what a model has learned wrongly.
"""

import math
from typing import Any

import ipywidgets as widgets
import pandas as pd

from neoxlib.errors import show_controls
from neoxlib.exam.results import (
    ANSWERED,
    MARKS,
    RIGHT,
    TEXTS,
    WRONG,
    choices,
    confidence,
    marks,
    share_columns,
)
from neoxlib.languages import label, page, said, settled
from neoxlib.workbook import markup
from neoxlib.workbook.progress import in_lab

CLIP = 2000  # characters of a text in a table; whole texts would make a page of megabytes
COLUMNS = ["subject", "question", "choices", "expected", "chosen", "sure"]
PER_PAGE = 5
SUREST = "surest wrong first"
ORDERS = (SUREST, "as asked")
STRIP = 10  # of the surest wrong answers in a table of their own; a report folds longer ones
SIGNS = {RIGHT: "✓", ANSWERED: ""}  # every other mark is shown as its word
WIDE = "min-width:14rem;overflow-wrap:anywhere"  # a formula may be one long word


class Browser:
    """All questions of a run: `select` filters and sorts them, a notebook shows them.

    JupyterLab shows widgets to filter, sort and page. The HTML beside them, for reports and saved
    notebooks, is a table of the surest wrong answers and one of others, at most `most` questions
    together; it says how many it leaves out.
    """

    def __init__(self, results: pd.DataFrame, most: int = 60) -> None:
        self.results = results.assign(mark=marks(results), sure=confidence(results))
        self.most = most

    def select(
        self, subject: str = "", mark: str = "", text: str = "", order: str = SUREST
    ) -> pd.DataFrame:
        """Rows of a subject, with a mark, with a text in question, choices or id; "" is any."""
        rows = self.results
        rows = rows[(rows["subject"] == subject) | (subject == "")]
        rows = rows[(rows["mark"] == mark) | (mark == "")]
        texts = rows[[name for name in ("id", *TEXTS) if name in rows]].to_numpy()
        wanted = text.casefold()
        found = [any(wanted in str(cell).casefold() for cell in row) for row in texts]
        rows = rows[pd.Series(found, index=rows.index, dtype=bool)]
        return surest_first(rows) if order == SUREST else rows

    def wrong(self) -> pd.DataFrame:
        """At most STRIP of the wrong answers, the surest first."""
        rows = self.results
        return surest_first(rows[rows["mark"] == WRONG]).head(min(STRIP, self.most))

    def others(self) -> pd.DataFrame:
        """Others, with `wrong` at most `most`, in the exam's order: of subjects in turn."""
        surest = self.wrong()
        ordered = self.results.drop(surest.index).sort_values("correct", kind="stable")
        turn = ordered.groupby("subject").cumcount().sort_values(kind="stable")
        return self.results.loc[sorted(turn.index[: self.most - len(surest)])]

    def _repr_html_(self) -> str:
        surest, others = self.wrong(), self.others()
        html = ""
        if len(surest):
            html = markup.paragraph(self._title(surest)) + questions_html(surest)
        if len(others):
            html += markup.paragraph("Others, of every subject:") if html else ""
            html += questions_html(others)
        return html + markup.paragraph(self._note(pd.concat([surest, others])))

    def __repr__(self) -> str:
        shown = pd.concat([self.wrong(), self.others()])
        table = shown[["name", "id", "question", "expected", "predicted", "mark", "sure"]]
        text = f"{table.to_string(index=False, max_colwidth=30)}\n{self._note(shown)}"
        return show_controls(text)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        bundle = {"text/plain": repr(self), "text/html": self._repr_html_()}
        # In a run without a front end nobody can click.
        with settled():
            return panel(self)._repr_mimebundle_() | bundle if in_lab() else bundle

    def _title(self, surest: pd.DataFrame) -> str:
        every = int((self.results["mark"] == WRONG).sum())
        if every == 1:
            return "The wrong answer:"
        if len(surest) < every:
            return f"The {len(surest)} surest of the {every:,} wrong answers, the surest first:"
        return f"The {every:,} wrong answers, the surest first:"

    def _note(self, shown: pd.DataFrame) -> str:
        counts = self.results["mark"].value_counts()
        parts = [
            f"{(shown['mark'] == mark).sum():,} of the {n:,} {mark}" for mark, n in counts.items()
        ]
        rest = "which is all"
        if left := len(self.results) - len(shown):
            rest = f"in turn from every subject; {left:,} more are not shown here"
        size = f"{len(shown):,} questions ({', '.join(parts)})"
        return f"{size}, {rest}; every question is in questions.csv."


def surest_first(rows: pd.DataFrame) -> pd.DataFrame:
    """Wrong answers by the share of the choice taken, largest first; then the others as they are.

    A wrong answer that was written, and so has no share, comes after those that have one.
    """
    sure = rows["sure"].fillna(0.0).where(rows["mark"] == WRONG, -1.0)
    return rows.loc[sure.sort_values(ascending=False, kind="stable").index]


def panel(browser: Browser) -> widgets.VBox:
    """Filters and a pager, above a page of the questions that the filters leave."""
    return Panel(browser).box


class Panel:
    """The widgets of a Browser."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.filters = _filters(browser)
        self.page = widgets.BoundedIntText(
            value=1, min=1, max=1, description=label("label: page"), layout={"width": "10rem"}
        )
        self.found = widgets.Label()
        self.table = widgets.HTML()
        for widget in self.filters.values():
            widget.observe(self._restart, "value")
        self.page.observe(self._show, "value")
        pager = widgets.HBox([self.page, self._button("‹", -1), self._button("›", 1), self.found])
        self._show()
        self.box = widgets.VBox([widgets.HBox([*self.filters.values()]), pager, self.table])

    def _button(self, sign: str, by: int) -> widgets.Button:
        """A button that turns the page by `by`."""
        button = widgets.Button(description=sign, layout={"width": "3rem"})
        button.on_click(lambda _: self._turn(by))
        return button

    def _turn(self, by: int) -> None:
        self.page.value = min(max(self.page.value + by, 1), self.page.max)

    def _restart(self, _: Any) -> None:
        self.page.value = 1
        self._show()

    def _show(self, _: Any = None) -> None:
        chosen = {name: widget.value for name, widget in self.filters.items()}
        rows = self.browser.select(**chosen)
        self.page.max = max(1, math.ceil(len(rows) / PER_PAGE))  # clips the page's number, too
        start = (self.page.value - 1) * PER_PAGE
        size = f"{len(rows):,} of {len(self.browser.results):,} questions"
        self.found.value = said(f"of {self.page.max:,}: {size}")
        shown = rows.iloc[start : start + PER_PAGE]
        self.table.value = page(questions_html(shown) if len(rows) else "<p>No such question.</p>")


def _filters(browser: Browser) -> dict[str, widgets.Widget]:
    """Widgets by the names of the arguments of `Browser.select`."""
    results = browser.results
    names = results.drop_duplicates("subject").set_index("subject")["name"]
    subjects = [(show_controls(name), subject) for subject, name in names.items()]
    counts = results["mark"].value_counts()
    every = [(f"{said(mark)} ({counts[mark]:,})", mark) for mark in MARKS if mark in counts]
    text = widgets.Text(
        placeholder=said("in question, choices or id"),
        description=label("label: text"),
        continuous_update=False,
    )
    any_one = (label("label: all"), "")
    orders = [(said(order), order) for order in ORDERS]
    return {
        "subject": widgets.Dropdown(options=[any_one, *subjects], description=said("subject")),
        "mark": widgets.Dropdown(options=[any_one, *every], description=said("answer")),
        "text": text,
        "order": widgets.Dropdown(options=orders, description=label("label: order")),
    }


def questions_html(rows: pd.DataFrame) -> str:
    """A table with a row per question: text, prompt, choices with bars, expected, chosen, sure."""
    cells = [_cells(row, choices(rows)) for row in rows.to_dict("records")]
    return markup.html_table(COLUMNS, cells)


def _cells(row: dict, among: tuple[str, ...]) -> list[str]:
    mark = SIGNS.get(row["mark"], row["mark"])
    shares = [row[name] for name in share_columns(among)]
    bars = "".join(_bar(row, *each) for each in zip(among, shares, strict=True))
    size = f"prompt: {row['prompt_tokens']} tokens, {row['shots_used']} examples"
    folded = _folded("passage", row["passage"]) if "passage" in row else ""
    folded += _folded(size, row["prompt"])
    return [
        f"{_text(row['name'])}\n<small>{_text(row['id'])}</small>",
        f'<div style="{WIDE};max-width:26rem">{_text(row["question"])}{folded}</div>',
        f'<div style="{WIDE};max-width:20rem">{bars}{_answer(row)}</div>',
        _text(row["expected"]),
        _text(f"{row['predicted']} {mark}".strip()),
        "" if pd.isna(row["sure"]) else f"{row['sure']:.0%}",
    ]


def _folded(title: str, text: str) -> str:
    return f"<details><summary><small>{markup.text(title)}</small></summary>{_text(text)}</details>"


def _bar(row: dict, choice: str, share: float) -> str:
    """A choice on a bar as wide as its share; the expected one is bold."""
    text = _text(f"{choice}. {row[choice]}" if choice in row else choice)
    text = f"<b>{text}</b>" if choice == row["expected"] else text
    if pd.isna(share):
        return f"<div>{text}</div>"
    colours = f"#0072b238 {share:.0%},transparent {share:.0%}"
    style = f"background:linear-gradient(to right,{colours});margin:1px 0"
    return f'<div style="{style}">{text}  <small>{share:.0%}</small></div>'


def _answer(row: dict) -> str:
    """The text that the model wrote, if it did."""
    text = str(row.get("answer_text", "")).strip()
    return f"<div><small>wrote:</small> {_text(text)}</div>" if text else ""


def _text(value: Any) -> str:
    text = str(value)
    more = f" … ({len(text) - CLIP:,} more characters in questions.csv)" if len(text) > CLIP else ""
    return markup.text(text[:CLIP] + more)
