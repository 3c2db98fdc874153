"""The reports of all seven notebooks, and their index, as a colleague opens them: as files.

`make test-browser` runs the notebooks first; `--runs FOLDER` takes the runs of that folder.
"""

import re
from pathlib import Path

import pytest

from neoxlib.colours import PAPER
from neoxlib.workbook import ci_files, headless
from neoxlib.workbook.parameter_table import NOTEBOOKS
from tests.browser.conftest import SHORT
from tests.support.browser import HEIGHT, SCHEMES, WIDTHS, opened, printed, serious, sideways

pytestmark = pytest.mark.timeout(3600)  # the first test waits for the notebooks
ORDINARY = ("00_setup", "01_shard", "02_inference", "03_ceval", "06_align")
PAGES = [*NOTEBOOKS, "index"]
NAME = re.compile(r"\b[a-z]+_[a-z_]+\b")  # of a variable
OPENED = "document.querySelectorAll('details').forEach(part => { part.open = true; })"


@pytest.fixture(scope="module")
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """A page's name -> its file; 04 runs twice, so that 05 has two runs to compare."""
    named = request.config.getoption("runs", None)
    if not (named or request.config.getoption("lab", False)):
        pytest.skip("minutes long: pytest tests/browser --lab, or make test-browser")
    root = Path(named) if named else tmp_path_factory.mktemp("runs")
    if not named:
        for names, given in (
            (["04_profile"], SHORT),
            (ORDINARY, []),
            (["04_profile"], SHORT),
            (["05_compare"], []),
        ):
            assert headless.report(names, [], given, outputs=root, say=print) == ci_files.OK
    reports = {name: sorted(root.glob(f"{name}/*/report.html"))[-1] for name in NOTEBOOKS}
    return reports | {"index": root / "index.html"}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_needs_no_network_and_is_as_wide_as_its_window(
    found, browser, shots, name, width, scheme
):
    with opened(browser, found[name], width, scheme) as (page, seen):
        page.screenshot(path=shots / f"{name}-{width}-{scheme}.png")
        page.evaluate(OPENED)
        assert sideways(page) <= 0
        assert seen.errors == [] and seen.beyond("file:", "data:") == []
        assert page.locator("h1").count() == page.get_by_role("main").count() == 1


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_serious_with_all_folds_open(found, browser, name, scheme):
    with opened(browser, found[name], scheme=scheme) as (page, _):
        page.evaluate(OPENED)
        assert serious(page) == []


def bottom(part) -> float:
    box = part.bounding_box()
    return box["y"] + box["height"]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_first_screen_has_the_answer_in_whole_words(found, browser, name, width):
    with opened(browser, found[name], width) as (page, _):
        assert bottom(page.locator(".verdict")) <= HEIGHT
        if width == "desk":
            assert bottom(page.locator(".cards li").first) <= HEIGHT
        parts = page.locator(".verdict, .noise, .cards, .checks li")
        words = " ".join(re.sub(r"\S*[/=]\S*", "", text) for text in parts.all_inner_texts())
    notebooks = "|".join(NOTEBOOKS)
    assert words and NAME.findall(re.sub(rf"\b({notebooks})\b", "", words)) == []


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_report_prints_as_an_answer_a_record_and_an_appendix(found, browser, shots, name):
    with opened(browser, found[name], scheme="dark") as (page, _):
        said = page.locator(".verdict .said").inner_text().splitlines()[-1]
        sheets = printed(page, shots / f"{name}.pdf")
    texts = [" ".join(sheet.text.split()) for sheet in sheets]
    assert said.split()[-1] in texts[0] and "Checks" in texts[0] + "Checks" * (name == "05_compare")
    assert texts[1].startswith("Record") and texts[2].startswith(("Result", "Details"))
    assert not [sheet for sheet in sheets if PAPER["dark"] in sheet.colours]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_figure_is_on_the_paper_of_its_page_and_says_what_it_shows(found, browser, name):
    with opened(browser, found[name], scheme="dark") as (page, _):
        page.evaluate(OPENED)
        kinds = page.locator("figure").evaluate_all("all => all.map(each => each.className)")
        texts = page.locator("figure img").evaluate_all("all => all.map(each => each.alt)")
    assert set(kinds) <= {"schemes"} and len(texts) == len(kinds)
    assert all(len(text) > 10 for text in texts)
