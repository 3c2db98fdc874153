"""The index over a thousand runs: it opens, it fits a phone, it finds, sorts and compares."""

import time
from pathlib import Path

import pytest

from neoxlib.workbook import pages
from tests.support.browser import SCHEMES, WIDTHS, opened, serious, sideways
from tests.support.made_up_runs import write_runs

COUNT = 1000
SHOWN = "[...document.querySelectorAll('#runs tbody tr')].filter(row => row.offsetParent).length"
READY = """() => {
    const [page] = performance.getEntriesByType('navigation');
    return page.loadEventEnd > 0 && document.body.classList.contains('live') && page.loadEventEnd;
}"""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("many")
    write_runs(root, COUNT)
    begun = time.perf_counter()
    path = pages.write_index(root)
    seconds, size = time.perf_counter() - begun, path.stat().st_size / 1e6
    print(f"index of {COUNT} runs: made in {seconds:.2f} s, {size:.2f} MB")
    return path


@pytest.mark.parametrize("width", WIDTHS)
def test_it_opens_whole_and_fits_its_window(index, browser, shots, width):
    with opened(browser, index, width) as (page, seen):
        ms = page.wait_for_function(READY).json_value()
        print(f"index of {COUNT} runs, {width}: open after {ms:.0f} ms")
        page.screenshot(path=shots / f"index-{COUNT}-{width}.png")
        assert sideways(page) <= 0 and seen.errors == []
        assert f"{COUNT} of {COUNT} runs" in page.locator("#count").inner_text()
        assert page.evaluate(SHOWN) == 100
        page.get_by_role("button", name="Show 100 more of 900").click()
        assert page.evaluate(SHOWN) == 200


def test_it_filters_sorts_and_names_the_command_that_compares_two(index, browser):
    with opened(browser, index, "phone") as (page, _):
        page.get_by_label("filter").fill("1555 tokens/s MODEL-6")  # run 555 of models 0 to 8
        assert page.locator("#count").inner_text() == f"1 of {COUNT} runs"
        page.get_by_label("filter").fill("")
        page.get_by_label("notebook").select_option("04_profile")
        boxes = page.get_by_role("checkbox")
        boxes.nth(0).check()
        boxes.nth(1).check()
        assert "report 05_compare -p run_a" in page.locator("#command").inner_text()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_finds_nothing_serious_in_it(index, browser, scheme):
    with opened(browser, index, scheme=scheme) as (page, _):
        assert serious(page) == []
