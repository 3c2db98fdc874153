"""Figures can be read on white and on dark paper; the oracle is WCAG's formula, worked by hand."""

import io
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import colormaps
from matplotlib.figure import Figure

from neoxlib import colours
from neoxlib.align import figures as align_figures
from neoxlib.checkpoint import figures as checkpoint_figures
from neoxlib.exam import figures as exam_figures
from neoxlib.inference import figures as inference_figures
from neoxlib.speed import panels

STYLE = Path(colours.__file__).parent / "workbook" / "templates" / "style.css"
NAMED = {name: value for name, value in vars(colours).items() if re.match("#", str(value))}
HEX = st.from_regex("#[0-9a-f]{6}", fullmatch=True)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [  # of the W3C's own examples and of webaim.org's checker
        ("#000000", "#ffffff", 21.0),
        ("#ffffff", "#ffffff", 1.0),
        ("#777777", "#ffffff", 4.48),
        ("#949494", "#ffffff", 3.03),
        ("#0000ff", "#ffffff", 8.59),
    ],
)
def test_contrast_is_that_of_wcag(one: str, other: str, expected: float):
    assert colours.contrast(one, other) == pytest.approx(expected, abs=0.005)
    assert colours.contrast(other, one) == colours.contrast(one, other)


@pytest.mark.parametrize("name", NAMED)
def test_a_named_colour_stands_out_from_white_and_its_counterpart_from_dark_paper(name: str):
    least = colours.TEXT if name == "REMARK" else colours.LINE
    assert colours.contrast(NAMED[name], "#ffffff") >= least
    assert colours.contrast(colours.on_dark(NAMED[name], least), colours.PAPER["dark"]) >= least


def used() -> set[str]:
    """Every colour that a module of figures names."""
    tables = [
        exam_figures.CLASS_COLOURS.values(),
        exam_figures.OWN_COLOURS,
        inference_figures.PARTS.values(),
        panels.PARTS.values(),
        panels.BOUNDS.values(),
        panels.KINDS.values(),
        panels.VERDICTS.values(),
        colours.SERIES,
    ]
    return {colour for table in tables for colour in table}


def test_figures_take_their_colours_from_the_palette():
    assert used() <= set(NAMED.values())
    for module in (align_figures, checkpoint_figures, exam_figures, inference_figures, panels):
        text = Path(module.__file__).read_text(encoding="utf-8")
        assert not re.findall(r'"#[0-9a-fA-F]{6}"|color="C\d|"C\d', text), module.__name__


def test_the_colours_of_one_figure_differ_on_both_papers():
    tables = [panels.PARTS, panels.BOUNDS, panels.KINDS, panels.VERDICTS]
    tables += [exam_figures.CLASS_COLOURS, inference_figures.PARTS]
    for table in tables:
        found = set(table.values())
        dark = {colours.on_dark(colour, colours.LINE) for colour in found}
        assert len(dark) == len(found) == len(table)


@given(HEX)
def test_every_colour_has_a_counterpart_that_stands_out_and_white_and_black_change_places(hue: str):
    for least in (colours.LINE, colours.TEXT):
        if hue not in (*colours.ON_CELLS, "#ffffff"):
            assert colours.contrast(colours.on_dark(hue, least), colours.PAPER["dark"]) >= least
    assert colours.on_dark("#ffffff", colours.TEXT) == colours.PAPER["dark"]
    assert colours.on_dark("#000000", colours.TEXT) == colours.INK["dark"]


@pytest.mark.parametrize("name", ["cividis", "viridis", "RdYlBu_r"])
def test_text_on_a_cell_of_a_heat_map_can_be_read(name: str):
    for step in range(256):
        cell = matplotlib.colors.to_hex(colormaps[name](step))
        text = colours.on_cell(*colormaps[name](step)[:3])
        assert colours.contrast(text, cell) >= colours.TEXT
        assert colours.on_dark(text, colours.TEXT) == text


def drawing() -> str:
    """A figure with everything that has a colour: lines, text, a band, bars, points, a picture."""
    figure = Figure(figsize=(4, 3))
    axes, right = figure.subplots(1, 2)
    axes.plot([1, 2], color=colours.BLUE)
    axes.bar([1, 2], [1, 2], color="#333333")
    axes.scatter([1], [1], color="black", edgecolors="white")
    axes.text(1, 1, "dark grey", color=colours.REMARK)
    axes.fill_between([1, 2], [0, 1], color="#222222", alpha=0.2)
    right.imshow([[1, 2]])
    right.text(0, 0, "cell", color=colours.ON_CELLS[0])
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg")
    return buffer.getvalue()


def test_a_drawing_keeps_its_own_colours_and_has_a_style_sheet_for_dark_pages():
    before = drawing()
    after = colours.in_both_schemes(before)
    sheet = re.search(r"<style>(@media screen and \(prefers-color-scheme:dark\).*?)</style>", after)
    assert after.replace(f"<style>{sheet[1]}</style>", "") == before
    ET.fromstring(after[after.index("<svg") :])
    assert sheet[1].startswith("@media screen and (prefers-color-scheme:dark){svg{fill:#dfe5ec}")
    assert '[style*="fill: #ffffff"]{fill:#14181d!important}' in sheet[1]
    assert 'text[style*="fill: #555555"]' in sheet[1] and "#010101" not in sheet[1]
    assert len(after) - len(before) < 1500


def test_the_papers_are_those_of_the_pages():
    light, dark = re.findall(r"--paper: (#\w+)", STYLE.read_text(encoding="utf-8"))[:2]
    assert (light, dark) == ("#fff", colours.PAPER["dark"])
    assert f"--ink: {colours.INK['dark']}" in STYLE.read_text(encoding="utf-8")


def test_lines_of_one_colour_differ_in_their_marker():
    found = colours.series(20)
    assert len(set(found)) == 20 and found[0][0] != found[1][0]
