"""The body of a report: what a cell shows becomes HTML that loads nothing and runs nothing."""

import re
from base64 import b64decode
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from nbformat import v4

from neoxlib.workbook import cells, results
from tests.support.dangers import dangers, elements, text_of
from tests.support.pages import Loads

IMG = "<img src=x onerror=x()>"
HOLES = (  # HTML that other parsers than a browser's read as a comment, a text or a style sheet
    f"<![CDATA[{IMG}]]>",
    f"<svg><![CDATA[</svg>{IMG}]]></svg>",
    f"<!-->{IMG}-->",
    f"<!--->{IMG}-->",
    f"<!-- --!>{IMG}-->",
    f"<? {IMG} ?>",
    f"<svg><style>{IMG}</style></svg>",
    "<svg><animate onbegin=x() /></svg><svg><set attributeName=href to=javascript:x()></svg>",
    "<svg><a xlink:href='javascript:x()'><text>a</text></a></svg>",
    "<math><mtext><table><mglyph><style><!--</style>"
    "<img title='--&gt;&lt;img src=x onerror=x()&gt;'></table></mtext></math>",
    f"<noscript><p title='</noscript>{IMG}'></p></noscript>",
    f"<template><script>x()</script>{IMG}</template>",
    f"<textarea><p title='</textarea>{IMG}'></p></textarea>",
    f"<title><p title='</title>{IMG}'></p></title>",
    f"<xmp><p title='</xmp>{IMG}'></p></xmp>",
    "<p style='background:\\75rl(http://a.b/c)'>a</p>",
    "<a href='java\tscript:x()'>a</a><a href='&#1;javascript:x()'>a</a>",
    "<a href='data:text/html,<script>x()</script>'>a</a>",
    "<form action=javascript:x()><button formaction=javascript:x()>a</button></form>",
    "<p/onclick=x()>a</p><img/src='x'/onerror=x()>",
    "<meta http-equiv=refresh content=0;url=javascript:x()><base href=http://a.b>",
    "<object data=javascript:x()></object><embed src=javascript:x()>",
    "</div></section></main><script>x()</script>",
    "<plaintext>",
)


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
    <a href="javascript:x()">bad</a><a href="https://a.b">good</a><a href="#a">here</a>
    <svg><use xlink:href="#a"/><image href="//a.b"/></svg>"""
    text = body_of(v4.new_output("display_data", {"text/html": html}))
    loads = Loads(text)
    assert (
        loads.found == []
        and loads.scripts == 0
        and "javascript:" not in text
        and "iframe" not in text
    )
    assert 'href="https://a.b"' in text and 'src="data:image/png' in text and 'href="#a"' in text


@pytest.mark.parametrize("html", HOLES)
@pytest.mark.parametrize("kind", ["text/html", "text/markdown", "image/svg+xml"])
def test_no_output_runs_anything_as_a_browser_reads_it(kind, html):
    text = body_of(v4.new_output("display_data", {kind: html}), v4.new_output("stream", text="end"))
    assert dangers(text) == [] and text_of(text).strip().endswith("end")


def test_an_output_closes_no_element_of_the_page():
    output = v4.new_output("display_data", {"text/html": "</div></div></section><h1>forged</h1>"})
    assert elements(body_of(output))[-1].tag == "h1"
    section = BeautifulSoup(body_of(output), "html.parser").find("section")
    assert section.find("h1") is not None


def test_text_with_an_angle_bracket_is_not_lost():
    texts = ("1 < 2", "a<b and c>d", "<!-- x", "<![CDATA[ x", "<x", "</pre>", "甲<乙")
    stream = [v4.new_output("stream", text=text + "\n") for text in texts]
    plain = [v4.new_output("display_data", {"text/plain": text}) for text in texts]
    error = v4.new_output("error", ename="E", evalue="x", traceback=list(texts))
    shown = text_of(body_of(*stream, *plain, error, source="'<x' < '<!-- y'"))
    assert [text for text in texts if shown.count(text) < 3] == []
    assert "'<x' < '<!-- y'" in shown


def test_drawings_are_images_with_their_text_for_those_who_do_not_see_them():
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg"><title>1 &lt; 2</title><script>x()</script></svg>'
    )
    for metadata, alt in (({}, "1 < 2"), ({"alt": 'own "text"'}, 'own "text"')):
        output = v4.new_output("display_data", {"image/svg+xml": svg}, metadata=metadata)
        image = BeautifulSoup(body_of(output), "html.parser").select_one("figure img")
        assert image["alt"] == alt
        assert b64decode(image["src"].removeprefix("data:image/svg+xml;base64,")).decode() == svg


def test_a_drawing_without_a_title_is_told_by_what_is_written_in_it():
    texts = "<text x='1'>a &lt; b</text><text>1.5</text><text>c</text><text>c</text>"
    for svg, alt in ((f"<svg>{texts}</svg>", "figure: a < b; c"), ("<svg></svg>", "figure")):
        output = v4.new_output("display_data", {"image/svg+xml": svg})
        assert BeautifulSoup(body_of(output), "html.parser").select_one("img")["alt"] == alt


def test_what_no_reader_sees_is_shown_by_its_number():
    outputs = [
        v4.new_output("stream", text="a\u202eb"),
        v4.new_output("display_data", {"text/plain": "c\u2066d\x07"}),
        v4.new_output("display_data", {"text/html": "<p title='e\u200b'>f&#x202e;\ufeff</p>"}),
    ]
    text = body_of(*outputs, source="'g\u200f'")
    assert not set(text) & set("\u202e\u2066\x07\u200b\ufeff\u200f")
    assert all(
        shown in text
        for shown in ("a⟨U+202E⟩b", "c⟨U+2066⟩d⟨U+0007⟩", "e⟨U+200B⟩", "f⟨U+202E⟩⟨U+FEFF⟩")
    )


def test_columns_of_numbers_are_right_aligned_with_their_heads():
    rows = "<tr><td>4 legs</td><td>1e-05</td></tr>"
    table = f"<table><thead><tr><th>text</th><th>p</th></tr></thead><tbody>{rows}</tbody></table>"
    page = BeautifulSoup(
        body_of(v4.new_output("display_data", {"text/html": table})), "html.parser"
    )
    assert [cell.text for cell in page.select(".num")] == ["p", "1e-05"]


def test_a_cell_is_named_by_its_first_line_that_says_what_is_done():
    codes = ("# why\nwith load:\n    batch = ask()\n", "x = 1\nwith load:\n    y()", "# a", "")
    named = [cells.cell_name(v4.new_code_cell(code)) for code in codes]
    assert named == ["batch = ask()", "x = 1", "# a", ""]


@pytest.mark.parametrize("found", ["e6c6698f465a6999", "fe68c31fa362fdde"])
def test_a_notebook_that_nbformat_trips_over_is_none_that_can_be_read(found):
    path = Path(__file__).parents[1] / "fuzz" / "found" / "notebook" / found
    with pytest.raises(ValueError, match=f"{found} is no notebook that can be read"):
        cells.read_notebook(path)
