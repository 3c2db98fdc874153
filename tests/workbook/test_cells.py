"""The body of a report: what a cell shows becomes HTML that loads nothing and runs nothing."""

import re

from bs4 import BeautifulSoup
from nbformat import v4

from neoxlib.workbook import cells, results
from tests.support.pages import Loads


def body_of(*outputs, source="1"):
    cell = v4.new_code_cell(source, execution_count=1, outputs=list(outputs))
    nb = v4.new_notebook(cells=[cell], metadata={"language_info": {"name": "python"}})
    cells.label(nb, results.NO_RUN)
    return cells.body_of(nb, "title")[0]


def test_widgets_fall_back_to_what_stays_when_nothing_runs():
    view = {
        "application/vnd.jupyter.widget-view+json": {"model_id": "x"},
        "text/plain": "100 %|###|",
    }
    script = {"application/javascript": "alert(1)", "text/plain": "what stays"}
    text = body_of(v4.new_output("display_data", view), v4.new_output("display_data", script))
    assert (
        "100 %|###|" in text
        and "what stays" in text
        and "model_id" not in text
        and "alert" not in text
    )


def test_tracebacks_keep_their_colours_and_escape():
    text = body_of(
        v4.new_output("error", ename="E", evalue="x", traceback=["\x1b[31mred <b>\x1b[0m"])
    )
    assert (
        re.search(r'<span class="ansi-red-fg">red &lt;b&gt;\s*</span>', text) and "\x1b" not in text
    )


def test_html_of_outputs_loses_everything_that_loads_or_runs():
    html = """<style>@import url(http://a.b/c.css); p {background: url("http://a.b/c.png")}</style>
    <link rel=stylesheet href=http://a.b/c.css><script src=http://a.b/c.js></script>
    <p onclick="x()" style="background: url(http://a.b/x)">text</p>
    <img src="http://a.b/c.png"><img src="data:image/png;base64,AA=="><iframe src=x></iframe>
    <a href="javascript:x()">bad</a><a href="https://a.b">good</a>
    <svg><use xlink:href="#a"/><image href="//a.b"/></svg>"""
    text = body_of(v4.new_output("display_data", {"text/html": html}))
    loads = Loads(text)
    assert (
        loads.found == []
        and loads.scripts == 0
        and "javascript:" not in text
        and "iframe" not in text
    )
    assert (
        'href="https://a.b"' in text and 'src="data:image/png' in text and 'xlink:href="#a"' in text
    )


def test_columns_of_numbers_are_right_aligned_with_their_heads():
    rows = "<tr><td>4 legs</td><td>1e-05</td></tr>"
    table = f"<table><thead><tr><th>text</th><th>p</th></tr></thead><tbody>{rows}</tbody></table>"
    page = BeautifulSoup(
        body_of(v4.new_output("display_data", {"text/html": table})), "html.parser"
    )
    assert [cell.text for cell in page.select(".num")] == ["p", "1e-05"]
