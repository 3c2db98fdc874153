"""The sections of a report: what is first, what is folded, and what is left out."""

import json
import re
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from nbformat import v4

from neoxlib.workbook.report_body import CHAPTERS, LONG, polished, sections
from neoxlib.workbook.results import NO_RUN
from neoxlib.workbook.table import NotAsked, Note

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
RUN = NO_RUN | {"notebook": "04_profile", "status": "ok"}


def shown(html):
    return v4.new_output("display_data", {"text/html": html, "text/plain": "x"})


def book(*cells):
    """A labelled notebook of texts, and of (source, *outputs) as code."""
    made = []
    for cell in cells:
        if isinstance(cell, str):
            made.append(v4.new_markdown_cell(cell))
            continue
        source, *outputs = cell
        code = v4.new_code_cell(source, outputs=outputs, execution_count=1)
        code.metadata["report"] = {
            "number": len(made),
            "seconds": None,
            "failed": source == "fails",
            "skipped": "skipped because of plan_only" if source == "skipped" else "",
        }
        made.append(code)
    return v4.new_notebook(cells=made)


def parts(*cells, run=RUN):
    return {section.name: section for section in sections(book(*cells), run, "T")}


def test_the_result_is_first_and_open_and_the_rest_is_folded():
    found = parts(
        "# T\n\nwords",
        ("start",),
        "## The plan",
        ("a", shown("<p>planned</p>")),
        "## First and next token",
        ("b", shown("<p>measured</p>")),
        "## Anything else",
        ("c", shown("<p>more</p>")),
    )
    assert list(found) == ["Result", "About this notebook", "Details", "Plan", "How it was run"]
    assert [name for name in found if found[name].open] == ["Result"]
    assert "measured" in found["Result"].body and "planned" in found["Plan"].body
    assert found["Details"].headings == (("Anything-else", "Anything else"),)


def test_another_notebook_stays_in_its_own_order():
    run = RUN | {"notebook": "mine"}
    found = parts("## Speed", ("a", shown("<p>1</p>")), "## The plan", ("b",), run=run)
    assert list(found) == ["Details"] and found["Details"].open
    assert [text for _, text in found["Details"].headings] == ["Speed", "The plan"]


def test_what_the_first_screen_says_is_not_said_again():
    check = v4.new_output("execute_result", {"text/plain": "PASS  the model fits: yes"})
    found = parts(
        "## First and next token",
        ("run = start\nrun.params", shown("<table><tr><td>echo</td></tr></table>")),
        ("run.check(a)", check),
        ("c", shown("<p>kept</p>")),
        "## Verdict",
        ("run.verdict(x(y))", shown("<p>answered</p>")),
        ("run.finish()", shown("<p>checks</p>")),
    )
    text = "".join(section.body for section in found.values())
    assert "kept" in text
    assert not re.search("echo|PASS|answered|checks", text)


def test_what_was_not_asked_for_is_left_out_with_its_text():
    found = parts(
        "## Inside a step\n\nYellow is the prefill.",
        ("a", shown(NotAsked("No trace was asked for.")._repr_html_())),
        "## Against an earlier run\n\nFaster or slower.",
        ("b", shown(NotAsked("none")._repr_html_())),
        ("c", shown(Note("but this is said")._repr_html_())),
        "## More ranks",
        ("run.stop_if_plan_only()", v4.new_output("stream", name="stdout", text="Stopped here")),
        ("skipped",),
    )
    text = "".join(section.body for section in found.values())
    assert not re.search("Yellow|More ranks|Stopped here", text)
    assert "Faster or slower" in text and "but this is said" in text


def test_a_section_with_the_cell_that_failed_is_open_even_the_last():
    error = v4.new_output("error", ename="E", evalue="v", traceback=["E: v"])
    found = parts("## Verdict", ("fails", error))
    assert found["Details"].open and "E: v" in found["Details"].body
    assert not parts("## Verdict", ("fine",))


def table(rows):
    lines = "".join(f"<tr><td>{n}</td></tr>" for n in range(rows))
    return f'<div class="scroll"><table><thead><tr><th>n</th></tr></thead><tbody>{lines}</tbody>'


def test_long_tables_are_folded_behind_what_they_hold():
    page = BeautifulSoup(polished(table(LONG + 1) + "</table></div>"), "html.parser")
    assert page.details.summary.text == f"Table of {LONG + 1} rows: n"
    assert len(page.select("details td")) == LONG + 1
    assert "<details" not in polished(table(LONG) + "</table></div>")
    inside = f"<details><summary>s</summary>{table(LONG + 1)}</table></div></details>"
    assert polished(inside).count("<details") == 1


def test_headings_are_below_the_sections_and_there_is_no_second_h1():
    page = BeautifulSoup(polished("<h1>a</h1><h2>b</h2><h3>c</h3><h6>d</h6>"), "html.parser")
    assert [(tag.name, tag.text) for tag in page.find_all(True)] == [
        ("h3", "a"),
        ("h3", "b"),
        ("h4", "c"),
        ("h6", "d"),
    ]


def test_figures_have_words_and_what_scrolls_takes_keys():
    page = BeautifulSoup(polished("<svg></svg><img><pre>x</pre>" + table(1)), "html.parser")
    assert page.svg["aria-label"] and page.img["alt"] and page.pre["tabindex"] == "0"
    assert page.div["tabindex"] == "0" and page.div["aria-label"] == "table: n"
    kept = polished('<svg role="img" aria-label="latency over length"></svg>')
    assert 'aria-label="latency over length"' in kept


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_has_a_result(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    headings = re.findall("^## (.+)", "\n".join(texts), re.M)
    assert "Result" in {CHAPTERS.get(heading) for heading in headings}


def test_every_chapter_of_the_table_is_one_of_a_notebook():
    texts = "".join(path.read_text(encoding="utf-8") for path in NOTEBOOKS)
    assert [name for name in CHAPTERS if f'"## {name}' not in texts] == []
