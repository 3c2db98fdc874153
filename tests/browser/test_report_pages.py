"""A report and the index as files in a browser without a network: both widths, both schemes."""

import pytest
from click.testing import CliRunner

from neoxlib.__main__ import cli
from neoxlib.colours import PAPER
from tests.support.browser import (
    SCHEMES,
    WIDTHS,
    ground,
    opened,
    printed,
    serious,
    sideways,
)
from tests.support.small_notebooks import start, write

PARAMETERS = """\
world_size: int = 2  # ranks
prompts: list = []  # texts"""

CELLS = (
    """\
import matplotlib.pyplot as plt
fig, ax = plt.subplots(figsize=(9, 3))
ax.plot([1, 2, 3], label="月亮")
ax.set_title("Next token over the input length")
run.figure("times", fig)""",
    """\
import pandas as pd
long = " ".join(["a very long sentence of an answer that must be broken"] * 8)
run.save("answers", pd.DataFrame({"prompt": ["月亮", "x" * 300], "text": [long, long]}))""",
    """\
run.metrics(first_token_ms=2.5, next_token_ms=0.64)
run.noisy("other processes used 1.3 of 2 cores")
run.check("parity with the unsplit model", True, "1e-06 of the spread, limit 1e-04")
run.verdict("Right, and 0.64 ms for a next token.")""",
    "run.finish()",
)
FAILS = ("raise ValueError('<b>the moon</b> is missing')",)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The report of a run that went well, of one that failed, and the index."""
    folder = tmp_path_factory.mktemp("browser")
    good = write(folder, "good", "# Does it run?", PARAMETERS, start("good"), *CELLS)
    bad = write(folder, "bad", "# Does it fail?", PARAMETERS, start("bad"), *FAILS)
    outputs = folder / "outputs"
    CliRunner().invoke(cli, ["report", good, bad, "--outputs", str(outputs)])
    found = {name: next(outputs.glob(f"{name}/*/report.html")) for name in ("good", "bad")}
    return found | {"index": outputs / "index.html"}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["good", "bad", "index"])
def test_a_page_needs_no_network_and_does_not_scroll_sideways(
    pages, browser, shots, name, width, scheme
):
    with opened(browser, pages[name], width, scheme) as (page, seen):
        page.screenshot(path=shots / f"{name}-{width}-{scheme}.png")
        assert sideways(page) <= 0
        assert seen.errors == []
        assert seen.beyond("file:", "data:") == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["good", "bad", "index"])
def test_axe_finds_nothing_serious(pages, browser, name, scheme):
    with opened(browser, pages[name], scheme=scheme) as (page, _):
        assert serious(page) == []


@pytest.mark.parametrize("name", ["good", "bad", "index"])
def test_a_page_has_one_first_heading_and_one_main_part(pages, browser, name):
    with opened(browser, pages[name]) as (page, _):
        assert page.locator("h1").count() == 1
        assert page.get_by_role("main").count() == 1


@pytest.mark.parametrize(
    ("scheme", "media", "paper"),
    [("light", "screen", "light"), ("dark", "screen", "dark"), ("dark", "print", "light")],
)
def test_a_figure_is_on_the_paper_of_its_page(pages, browser, scheme, media, paper):
    with opened(browser, pages["good"], scheme=scheme) as (page, _):
        page.emulate_media(media=media, color_scheme=scheme)
        figure = page.locator("figure img")
        page.locator("details.part:has(figure)").evaluate_all("all => all.forEach(e => e.open = 1)")
        assert ground(figure.screenshot()) == PAPER[paper]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_report_prints_dark_on_white_whatever_the_screen_is(pages, browser, shots, scheme):
    with opened(browser, pages["good"], scheme=scheme) as (page, _):
        sheets = printed(page, shots / f"good-{scheme}.pdf")
    assert "Right, and 0.64 ms" in sheets[0].text
    most = [max(sheet.colours, key=sheet.colours.get) for sheet in sheets]
    assert most[0] == "#ffffff" and set(most) <= {"#ffffff", "#f5f7fa"}, "paper, or a light panel"
    assert not [sheet for sheet in sheets if PAPER["dark"] in sheet.colours]
