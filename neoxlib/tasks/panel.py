"""Widgets over a `Browser`: filter by subject, mark and text, and page. Nothing here that its table does not have."""

import math
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from neoxlib.tasks.browse import questions_html
from neoxlib.tasks.marks import MARKS

if TYPE_CHECKING:
    from neoxlib.tasks.browse import Browser

PER_PAGE = 5


def panel(browser: "Browser") -> widgets.VBox:
    """Filters and pages above the questions that they leave."""
    filters = _filters(browser)
    page = widgets.BoundedIntText(value=1, min=1, max=1, description="page", layout={"width": "10rem"})
    back, on = (widgets.Button(description=sign, layout={"width": "3rem"}) for sign in ("‹", "›"))
    found, table = widgets.Label(), widgets.HTML()

    def show(_: Any = None) -> None:
        rows = browser.select(**{name: widget.value for name, widget in filters.items()})
        page.max = max(1, math.ceil(len(rows) / PER_PAGE))  # a page beyond it becomes the last
        start = (page.value - 1) * PER_PAGE
        found.value = f"of {page.max:,}: {len(rows):,} of {len(browser.results):,} questions"
        table.value = questions_html(rows.iloc[start : start + PER_PAGE]) if len(rows) else "<p>No such question.</p>"

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
    return widgets.VBox([widgets.HBox(list(filters.values())), widgets.HBox([page, back, on, found]), table])


def _filters(browser: "Browser") -> dict[str, widgets.Widget]:
    """By the names of `Browser.select`'s arguments."""
    results = browser.results
    names = results.drop_duplicates("subject").set_index("subject")["name"]
    counts = results["mark"].value_counts()
    every = [("all", ""), *((f"{mark} ({counts[mark]:,})", mark) for mark in MARKS if mark in counts)]
    subjects = [("all", ""), *((name, subject) for subject, name in names.items())]
    text = widgets.Text(placeholder="in question, choices or id", description="text", continuous_update=False)
    return {
        "subject": widgets.Dropdown(options=subjects, description="subject"),
        "mark": widgets.Dropdown(options=every, description="answer"),
        "text": text,
    }
