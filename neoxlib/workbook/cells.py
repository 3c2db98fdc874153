"""The body of a report: an executed notebook as HTML that loads nothing and runs nothing."""

import logging
import re
from collections.abc import Iterator
from copy import deepcopy
from html import unescape
from pathlib import Path
from typing import Any

import nbformat
from bs4 import BeautifulSoup, Tag
from nbconvert import HTMLExporter
from traitlets.config import Config

from neoxlib.colours import DARK_SCREEN
from neoxlib.languages import said_whole
from neoxlib.workbook import markup

log = logging.getLogger("neoxlib")

TEMPLATES = Path(__file__).parent / "templates"
SHOWN_AS = [  # neither widgets nor JavaScript
    "text/html",
    "image/svg+xml",
    "text/markdown",
    "image/png",
    "image/jpeg",
    "text/plain",
]

NONE_KEPT = """\
## What was kept

This run kept no notebook: it was broken off before its first cell ended, or no notebook ran it.
Its figures follow, if it drew any; its tables are among the files at the end.
"""


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """Read a notebook; ValueError if it is none: nbformat checks little and raises many kinds."""
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:
        raise ValueError(f"{path.name} is no notebook that can be read ({error!r})") from error


def notebook_of(folder: Path) -> nbformat.NotebookNode:
    """Return a run's notebook; of a run that kept none, one that shows the figures it kept.

    Raises ValueError if it is none.
    """
    path = folder / "notebook.ipynb"
    if path.is_file():  # a pipe would give no end
        return read_notebook(path)
    drawings = sorted(path for path in folder.glob("figures/*.svg") if path.is_file())
    kinds = [{"image/svg+xml": path.read_text(encoding="utf-8")} for path in drawings]
    shown = [nbformat.v4.new_output("display_data", data=data) for data in kinds]
    text = nbformat.v4.new_markdown_cell(NONE_KEPT)
    cell = nbformat.v4.new_code_cell("", execution_count=1, outputs=shown)
    return nbformat.v4.new_notebook(cells=[text, *([cell] if shown else [])])


def title_of(notebook: nbformat.NotebookNode, otherwise: str) -> str:
    """Return `metadata.title`, else the first heading, else `otherwise`."""
    texts = (cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    headings = (
        match[1].strip()
        for text in texts
        if (match := re.search(r"^#+\s+(.+)$", text, re.MULTILINE))
    )
    return notebook.metadata.get("title") or next(headings, otherwise)


def cell_name(cell: nbformat.NotebookNode) -> str:
    """Name a cell by its first line of code that says what is done, or as the parameters."""
    for tag, name in (("parameters", "parameters"), ("injected-parameters", "given parameters")):
        if tag in cell.metadata.get("tags", []):
            return name
    lines = [line.strip() for line in cell.source.splitlines() if line.strip()]
    code = (line for line in lines if not line.startswith(("#", "with ")))
    return next(code, lines[0] if lines else "")[:80]


def label(notebook: nbformat.NotebookNode, run: dict[str, Any]) -> list[dict[str, Any]]:
    """Number the code cells, note what the report shows beside each, drop papermill's own."""
    dropped = {"remove-cell", "papermill-error-cell-tag"}
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    seconds = [cell.metadata.get("papermill", {}).get("duration") or 0 for cell in code]
    longest = max([*seconds, 1e-9])
    for number, (cell, took) in enumerate(zip(code, seconds, strict=True), start=1):
        ran = cell.execution_count is not None
        failed = bool(run["error"]) and run["error"].get("cell") == number
        cell.outputs = [output for output in cell.outputs if not _is_clean_stop(output)]
        cell.metadata["report"] = {
            "number": number,
            "name": cell_name(cell),
            "seconds": f"{took:.2f} s" if ran else None,
            "share": round(100 * took / longest, 1),
            "failed": failed,
            "skipped": "" if ran else _why_skipped(run),
        }
    notebook.cells = [
        cell for cell in notebook.cells if not dropped & set(cell.metadata.get("tags", []))
    ]
    return [cell.metadata["report"] for cell in code]


def _why_skipped(run: dict[str, Any]) -> str:
    planned = run["status"] in ("ok", "noisy") and run["parameters"].get("plan_only")
    return "skipped because of plan_only" if planned else "not run: the run ended above"


def _is_clean_stop(output: nbformat.NotebookNode) -> bool:
    """Find the SystemExit(0) of plan_only, and Jupyter's message about it."""
    if output.output_type == "error":
        return output.ename == "SystemExit" and output.evalue in ("", "0")
    return output.output_type == "stream" and "To exit: use 'exit'" in output.text


def body_of(notebook: nbformat.NotebookNode, title: str) -> tuple[str, list[tuple[str, str, str]]]:
    """Return the cells as clean HTML, and their headings as (level, anchor, text).

    Each output is cleaned by itself, so that none closes an element of the page, and the whole
    once more at the end.
    """
    soup = BeautifulSoup(_exporter().from_notebook_node(_drawn(notebook))[0], "html.parser")
    for table in soup.select("table"):
        _align(table)
        table.wrap(soup.new_tag("div", attrs={"class": "scroll"}))
    for anchor in soup.select("a.anchor-link"):
        anchor.decompose()
    if (first := soup.find("h1")) and first.get_text(strip=True) in (title, said_whole(title)):
        first.decompose()  # the page has it as its own title
    headings = soup.select("h2, h3")
    return markup.clean(str(soup)), [
        (tag.name, tag["id"], tag.get_text(strip=True)) for tag in headings if tag.get("id")
    ]


def _drawn(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a notebook whose drawings are images, in which no browser runs a script.

    Its prose is in the language that is spoken.
    """
    drawn = deepcopy(notebook)
    for cell in drawn.cells:
        if cell.cell_type == "markdown":
            cell.source = said_whole(cell.source)
    for output in _outputs(drawn):
        svg = output.get("data", {}).get("image/svg+xml")
        if svg is not None and "text/html" not in output.data:
            picture = markup.picture(svg, _alt(output, svg))
            kind = "schemes" if DARK_SCREEN in svg else "on-white"
            output.data["text/html"] = f'<figure class="{kind}">{picture}</figure>'
    return drawn


def _outputs(notebook: nbformat.NotebookNode) -> Iterator[nbformat.NotebookNode]:
    for cell in notebook.cells:
        yield from cell.get("outputs", [])


def _alt(output: nbformat.NotebookNode, svg: str) -> str:
    """Return a drawing's text for those who do not see it."""
    about = output.get("metadata", {})
    own = about.get("alt") or about.get("image/svg+xml", {}).get("alt")
    said = re.search(r'<svg\b[^>]*\baria-label="([^"]*)"', svg)
    own = own or (unescape(said[1]) if said else "")
    return own or next(iter(_texts(svg, "title")), "") or _words(svg)


def _words(svg: str) -> str:
    """Return what is written in a drawing but for the numbers of its scales, each once."""
    words = (text for text in _texts(svg, "text") if not markup.NUMBER.fullmatch(text))
    return ": ".join(["figure", *filter(None, ["; ".join(dict.fromkeys(words))])])


def _texts(svg: str, element: str) -> list[str]:
    found = re.findall(rf"<{element}\b[^>]*>([^<]*)</{element}>", svg)
    return [text for part in found if (text := unescape(part).strip())]


def _align(table: Tag) -> None:
    """Align columns of numbers, with their heads, to the right."""
    rows = [row.find_all(["td", "th"]) for row in table.select("tr")]
    body = [row.find_all(["td", "th"]) for row in table.select("tbody tr")]
    if not body or len({len(row) for row in rows}) != 1:
        return  # merged cells: leave them as they are
    for heads_and_cells, cells in zip(
        zip(*rows, strict=True), zip(*body, strict=True), strict=True
    ):
        if all(markup.NUMBER.fullmatch(cell.get_text(strip=True)) for cell in cells):
            for cell in heads_and_cells:
                cell["class"] = [*cell.get("class", []), "num"]


def _exporter() -> HTMLExporter:
    config = Config()
    config.NbConvertBase.display_data_priority = SHOWN_AS
    exporter = HTMLExporter(
        config=config,
        sanitize_html=True,
        template_name="classic",
        template_file="cells.html.j2",
        extra_template_paths=[str(TEMPLATES)],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        embed_images=True,
        log=log,
    )
    exporter.register_filter("clean_html", markup.clean)
    return exporter
