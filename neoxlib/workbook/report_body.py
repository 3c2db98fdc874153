"""The sections of a report: an executed notebook's chapters, the answers first.

A chapter is what stands below one "## heading". What the first screen says already, or what was
not asked for, is left out; long tables are folded.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import nbformat
from bs4 import BeautifulSoup, Tag

from neoxlib.languages import said
from neoxlib.workbook.cells import body_of
from neoxlib.workbook.parameter_table import NOTEBOOKS
from neoxlib.workbook.results import CHECK_WORDS

HEADS = 6  # of a table, that name it to who does not see it
LONG = 12  # rows of a table that is shown unfolded
RESULT, DETAILS, CORRECTNESS, PLAN, HOW, ON_TOP = (
    "Result",
    "Details",
    "Correctness",
    "Plan",
    "How it was run",
    "the first screen",
)
ABOUT = "About this notebook"
CHAPTERS = {  # heading in our notebooks -> section of the report; any other is a detail
    "The checks of this machine": RESULT,
    "Does it run": RESULT,
    "The cut": RESULT,
    "The cut at work": RESULT,
    "One prompt": RESULT,
    "All prompts in one batch": RESULT,
    "Where the time goes": RESULT,
    "The score": RESULT,
    "How sure is it, and rightly so?": RESULT,
    "Beside an earlier run": RESULT,
    "What holds each case back": RESULT,
    "First and next token": RESULT,
    "Against an earlier run": RESULT,
    "What was asked differently": RESULT,
    "Speed": RESULT,
    "Accuracy": RESULT,
    "Over time": RESULT,
    "The strip": RESULT,
    "A reproduction": RESULT,
    "Is the split model the model?": CORRECTNESS,
    "Is it the model that was scored?": CORRECTNESS,
    "The plan": PLAN,
    "Will it fit": PLAN,
    "Other machines": PLAN,
    "The machine": HOW,
    "The environment of the ranks": HOW,
    "Load": HOW,
    "The capture": HOW,
    "What runs, and on what": HOW,
    "Next": HOW,
    "The headline": ON_TOP,
    "Verdict": ON_TOP,
}
# The last line of a cell, whose output the page has at its top or elsewhere.
SHOWN_ABOVE = re.compile(r"(^|\n)run\.(params|finish\(\)|verdict\(.*\)|stop_if_\w+\(\))\s*\Z")
ENDS_HERE = ("run.stop_if_plan_only()", "run.stop_if_failed()")
A_CHECK = re.compile(rf"({'|'.join(CHECK_WORDS.values())})  ")
Cell = nbformat.NotebookNode


@dataclass
class Chapter:
    """A heading of a notebook, and the cells below it."""

    heading: str
    cells: list[Cell] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether a cell of it ended the run."""
        return any(cell.metadata.get("report", {}).get("failed") for cell in self.cells)


@dataclass(frozen=True)
class Section:
    """A section of the report: its name and anchor, its body as HTML, its headings."""

    name: str
    body: str
    headings: tuple[tuple[str, str], ...] = ()  # anchor, text
    open: bool = False

    @property
    def anchor(self) -> str:
        """The section's address on the page."""
        return self.name.lower().replace(" ", "-")


def sections(notebook: nbformat.NotebookNode, run: dict[str, Any], title: str) -> list[Section]:
    """Return the sections of a labelled notebook; empty ones are left out.

    A notebook that is not ours is one section, in its own order.
    """
    ours = run["notebook"] in NOTEBOOKS
    for cell in notebook.cells:
        if cell.cell_type == "code" and SHOWN_ABOVE.search(cell.source):
            cell.outputs = [output for output in cell.outputs if output.output_type == "error"]
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_check(output)]
    notebook.cells = _without_unasked(notebook.cells, ours)
    places: dict[str, list[Cell]] = {}
    for chapter in _chapters(notebook.cells):
        places.setdefault(_section(chapter, ours), []).extend(chapter.cells)
    names = (RESULT, ABOUT, DETAILS, CORRECTNESS, PLAN, HOW)
    failed = {chapter for chapter in places if any(_is_failed(cell) for cell in places[chapter])}
    found = (
        _made(name, places[name], notebook, title, name in (RESULT, *failed) or not ours)
        for name in names
        if name in places
    )
    return [section for section in found if section.body]


def _section(chapter: Chapter, ours: bool) -> str:
    if not ours:
        return DETAILS
    if not chapter.heading:
        return ABOUT if all(cell.cell_type == "markdown" for cell in chapter.cells) else HOW
    place = CHAPTERS.get(chapter.heading, DETAILS)
    return DETAILS if place == ON_TOP and chapter.failed else place


def _chapters(cells: list[Cell]) -> list[Chapter]:
    """Split cells at their headings of the second level; what comes first has none."""
    found = [Chapter("")]
    for cell in cells:
        text = cell.cell_type == "markdown"
        heading = re.search(r"^##\s+(.+?)\s*$", cell.source, re.MULTILINE) if text else None
        after_words = not found[-1].heading and not text and found[-1].cells
        if heading or (after_words and found[-1].cells[-1].cell_type == "markdown"):
            found.append(Chapter(heading[1] if heading else ""))
        found[-1].cells.append(cell)
    return [chapter for chapter in found if chapter.cells]


def _without_unasked(cells: list[Cell], ours: bool) -> list[Cell]:
    """Leave out the cells that say only that something was not asked for, and their texts.

    A text goes if every code cell below it goes, up to the next text.
    """
    gone = {number for number, cell in enumerate(cells) if _is_unasked(cell, ours)}
    for number, cell in enumerate(cells):
        if cell.cell_type == "markdown":
            below = number + 1
            while below in gone:
                below += 1
            if below > number + 1 and (below == len(cells) or cells[below].cell_type != "code"):
                gone.add(number)
    return [cell for number, cell in enumerate(cells) if number not in gone]


def _is_unasked(cell: Cell, ours: bool) -> bool:
    """Whether a cell says only that something was not asked for, or did not run.

    The record's list of cells has those that did not run; a notebook that is not ours shows them.
    """
    if cell.cell_type != "code":
        return False
    if cell.metadata.get("report", {}).get("skipped"):
        return ours
    if ours and cell.source.strip().endswith(ENDS_HERE) and not cell.outputs:
        return True
    texts = [str(output.get("data", {}).get("text/html", "")) for output in cell.outputs]
    return bool(texts) and all(text.startswith('<div class="not-asked">') for text in texts)


def _is_failed(cell: Cell) -> bool:
    return bool(cell.metadata.get("report", {}).get("failed"))


def _is_check(output: Cell) -> bool:
    """Whether an output is the line of a check, which the first screen has."""
    return bool(A_CHECK.match(str(output.get("data", {}).get("text/plain", ""))))


def _made(
    name: str, cells: list[Cell], notebook: nbformat.NotebookNode, title: str, is_open: bool
) -> Section:
    part = nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata)
    body, headings = body_of(part, title)
    here = tuple((anchor, text) for level, anchor, text in headings if level == "h2")
    return Section(name, polished(body), here, is_open)


def polished(html: str) -> str:
    """Return a body with its headings below the section's, long tables folded, figures named."""
    soup = BeautifulSoup(html, "html.parser")
    for level in (5, 4, 3, 2):
        for tag in soup.select(f"h{level}"):
            tag.name = f"h{level + 1}"
    for tag in soup.select("h1"):
        tag.name = "h3"
    for head in soup.select("th"):
        head.name = "th" if head.get_text(strip=True) else "td"  # an empty head names nothing
    for box in soup.select("div.scroll"):
        _fold(soup, box)
    for svg in soup.select("svg:not([aria-label])"):
        svg["role"], svg["aria-label"] = "img", "figure"
    for image in soup.select("img:not([alt])"):
        image["alt"] = "figure"
    for pre in soup.select("pre"):
        pre["tabindex"] = "0"  # one that scrolls is scrolled by keys
    return str(soup)


def _names(box: Tag, selector: str) -> list[str]:
    """What stands in the heads of a table, in the language that is spoken."""
    heads = (head.get_text(" ", strip=True) for head in box.select(selector))
    return [said(name) for name in heads if name]


def _fold(soup: BeautifulSoup, box: Tag) -> None:
    """Let a table be scrolled by keys, and fold a long one behind what it has."""
    rows = len(box.select("tbody tr"))
    first, columns = ", ".join(_names(box, "th")[:HEADS]), ", ".join(_names(box, "thead th"))
    box["tabindex"], box["role"], box["aria-label"] = "0", "region", f"table: {first}"
    if rows <= LONG or box.find_parent("details") or box.find_parent("table"):
        return
    fold = box.wrap(soup.new_tag("details", attrs={"class": "long"}))
    if any(cell.get_text(strip=True) in ("FAIL", "failed") for cell in box.select("td")):
        fold["open"] = ""  # what failed is not searched for
    summary = soup.new_tag("summary")
    summary.string = f"Table of {rows} rows: {columns}" if columns else f"Table of {rows} rows"
    fold.insert(0, summary)
